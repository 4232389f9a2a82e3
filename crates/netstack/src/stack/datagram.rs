//! Flows of datagrams: UDP by source and destination, ICMP echo by source, destination and identifier.
//!
//! The first datagram asks for the flow. It waits, as do those that follow it, until the caller has decided; a refusal is
//! told by ICMP and leaves nothing behind, so that the next datagram asks again.

use std::cmp::Reverse;
use std::task::{Context, Poll};
use std::time::Instant;

use adit_model::Protocol;
use bytes::Bytes;

use super::{Stack, short};
use crate::datagram::{DatagramFlow, DatagramPhase};
use crate::interface::{AcceptError, Event, Offload, Refusal, SendError, Transmit};
use crate::packet::datagram::{Datagram, UDP_CHECKSUM_OFFSET, UDP_HEADER, write_udp};
use crate::packet::header_len;
use crate::packet::icmp::write_echo_reply;
use crate::table::{FlowId, State};

impl Stack {
    /// The next datagram from the device on an accepted flow: what UDP carries, or a whole ICMP message. Nothing once the
    /// flow has ended, which it does by itself when neither side has sent anything for a while.
    pub fn poll_receive(&mut self, context: &mut Context<'_>, id: FlowId) -> Poll<Option<Bytes>> {
        let Some(flow) = self.datagrams(id) else { return Poll::Ready(None) };
        flow.poll_receive(context).map(|next| {
            let (datagram, cost) = next?;
            self.datagrams_waiting -= cost;
            Some(datagram)
        })
    }

    /// Sends a datagram to the device on an accepted flow. On an ICMP flow it is an echo reply, which is given the flow's
    /// identifier and a right checksum.
    ///
    /// # Errors
    /// The datagram is dropped, for the reason given.
    pub fn send(&mut self, id: FlowId, datagram: Bytes, now: Instant) -> Result<(), SendError> {
        let limit = self.datagram_limit();
        let flow = self.datagrams(id).ok_or(SendError::UnknownFlow)?;
        match flow.send(datagram, limit, now) {
            Ok(cost) => self.datagrams_waiting += cost,
            Err(error) => {
                self.counters.queue_full += u64::from(error == SendError::QueueFull);
                return Err(error);
            }
        }
        self.enqueue(id);
        Ok(())
    }

    /// Tells the device that what it sent last on an open flow did not arrive, and why. The flow goes on.
    pub fn refuse_datagram(&mut self, id: FlowId, refusal: Refusal) {
        if let Some(flow) = self.datagrams(id) {
            let error = flow.error(refusal);
            self.reply(error);
        }
    }

    pub(super) fn handle_datagram(&mut self, datagram: &Datagram<'_>, now: Instant) {
        let key = (datagram.protocol, datagram.source, datagram.destination);
        let Some(id) = self.table.find(&key) else { return self.request_datagrams(datagram, now) };
        let limit = self.datagram_limit();
        let Some(flow) = self.datagrams(id) else { return };
        match flow.handle(datagram, limit, now) {
            Some(cost) => self.datagrams_waiting += cost,
            None => self.counters.queue_full += 1,
        }
    }

    fn request_datagrams(&mut self, first: &Datagram<'_>, now: Instant) {
        if self.counts.datagram >= self.config.max_datagram_flows
            || self.datagrams_waiting >= self.config.datagram_total
        {
            self.counters.over_limit += 1;
            return;
        }
        let mut flow = DatagramFlow::new(first, now);
        flow.timer = now + self.config.request_timeout;
        let timer = flow.timer;
        let cost = flow.handle(first, self.config.datagram_queue, now);
        self.datagrams_waiting += cost.expect("an empty queue takes a datagram of any length");
        let key = (first.protocol, first.source, first.destination);
        let id = self.table.insert(key, State::Datagrams(Box::new(flow)));
        self.counts.datagram += 1;
        self.timers.push(Reverse((timer, id)));
        self.events.push_back(Event::FlowRequested {
            flow: id,
            protocol: first.protocol,
            source: first.source,
            destination: first.destination,
        });
    }

    pub(super) fn accept_datagrams(&mut self, id: FlowId, now: Instant) -> Result<(), AcceptError> {
        let flow = self.datagrams(id).filter(|flow| flow.phase == DatagramPhase::Requested);
        let flow = flow.ok_or(AcceptError::UnknownFlow)?;
        flow.phase = DatagramPhase::Open;
        flow.timer = flow.deadline().max(now);
        let timer = flow.timer;
        self.timers.push(Reverse((timer, id)));
        Ok(())
    }

    /// Turns down a request. An open flow is not concerned.
    pub(super) fn refuse_datagrams(&mut self, id: FlowId, refusal: Refusal) {
        let Some(flow) = self.datagrams(id) else { return };
        if flow.phase == DatagramPhase::Requested {
            let error = flow.error(refusal);
            self.forget(id);
            self.reply(error);
        }
    }

    pub(super) fn handle_datagram_timeout(&mut self, id: FlowId, at: Instant, now: Instant) {
        let Some(flow) = self.datagrams(id).filter(|flow| flow.timer == at) else { return };
        match flow.phase {
            DatagramPhase::Requested => {
                self.events.push_back(Event::FlowWithdrawn { flow: id });
                self.refuse_datagrams(id, Refusal::Unreachable);
            }
            DatagramPhase::Open if flow.deadline() > now => {
                flow.timer = flow.deadline();
                let timer = flow.timer;
                self.timers.push(Reverse((timer, id)));
            }
            DatagramPhase::Open => {
                flow.end();
                self.table.unlink(id);
            }
            DatagramPhase::Ended => {}
        }
    }

    /// Ends a flow because everything ends.
    pub(super) fn end_datagrams(&mut self, id: FlowId) {
        let Some(flow) = self.datagrams(id) else { return };
        if flow.phase == DatagramPhase::Requested {
            self.refuse_datagrams(id, Refusal::Unreachable);
        } else {
            flow.end();
            self.table.unlink(id);
        }
    }

    pub(super) fn transmit_datagram(&mut self, id: FlowId, buffer: &mut [u8]) -> Option<Transmit> {
        let flow = self.datagrams(id)?;
        flow.queued = false;
        let (payload, cost) = flow.next_to_send()?;
        let (from, to) = (flow.destination, flow.source);
        let (protocol, again) = (flow.protocol, flow.has_to_send());
        self.datagrams_waiting -= cost;
        self.counters.sent += 1;
        if again {
            self.enqueue(id);
        }
        Some(match protocol {
            Protocol::Icmp => {
                let len = write_echo_reply(buffer, (from.ip(), to.ip()), to.port(), &payload);
                Transmit { len, offload: None }
            }
            Protocol::Udp | Protocol::Tcp => {
                let checksum_start = header_len(from.ip());
                let offload = Offload {
                    checksum_start: short(checksum_start),
                    checksum_offset: short(UDP_CHECKSUM_OFFSET),
                    header_len: short(checksum_start + UDP_HEADER),
                    segment_size: None,
                };
                Transmit { len: write_udp(buffer, from, to, &payload), offload: Some(offload) }
            }
        })
    }

    fn datagrams(&mut self, id: FlowId) -> Option<&mut DatagramFlow> {
        match self.table.state_mut(id)? {
            State::Datagrams(flow) => Some(flow),
            State::Requested { .. } | State::Refused { .. } | State::Open(_) => None,
        }
    }

    /// What may wait in one direction of one flow: nothing more when all flows together hold too much.
    fn datagram_limit(&self) -> usize {
        if self.datagrams_waiting < self.config.datagram_total { self.config.datagram_queue } else { 0 }
    }
}
