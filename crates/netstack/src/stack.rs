//! [`Stack`]: finds the flow of a packet, and asks each flow that has something to send for packets.

mod datagram;
mod tcp;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use smoltcp::time::Instant as SmoltcpInstant;

use crate::config::Config;
use crate::interface::{AcceptError, Counters, Event, FlowCounts, Offload, Refusal, Transmit};
use crate::packet::datagram::Datagram;
use crate::packet::tcp::{Segment, TCP_CHECKSUM_OFFSET, start_tcp_checksum};
use crate::packet::{IPV6_HEADER, PROTOCOL_TCP, Packet, Parsed, Unusable};
use crate::reassembly::Reassembly;
use crate::table::{FlowId, State, Table};

/// Longest IP packet given, in bytes: what the length field of IPv6 can say, and its header.
pub const MAX_PACKET: usize = IPV6_HEADER + 65535;
/// Packets made in answer to others (resets, ICMP errors, immediate acknowledgements) that may wait for
/// [`Stack::poll_transmit`]. More are dropped: whoever floods us gets no answer.
pub(crate) const MAX_REPLIES: usize = 1024;

/// User-space TCP, and flows of datagrams; see the crate's documentation.
#[derive(Debug)]
pub struct Stack {
    config: Config,
    origin: Instant,
    table: Table,
    reassembly: Reassembly,
    /// Flows that may have a packet to send; each is marked as queued.
    ready: VecDeque<FlowId>,
    timers: BinaryHeap<Reverse<(Instant, FlowId)>>,
    events: VecDeque<Event>,
    replies: VecDeque<Vec<u8>>,
    /// Waits in [`Stack::poll_transmit_ready`].
    waker: Option<Waker>,
    counts: FlowCounts,
    counters: Counters,
    /// What datagrams wait, in bytes; see [`Config::datagram_total`].
    datagrams_waiting: usize,
}

impl Stack {
    /// An empty stack whose time begins `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            origin: now,
            table: Table::default(),
            reassembly: Reassembly::default(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            events: VecDeque::new(),
            replies: VecDeque::new(),
            waker: None,
            counts: FlowCounts::default(),
            counters: Counters::default(),
            datagrams_waiting: 0,
        }
    }

    /// Takes one IP packet, without any device header. Its checksums are not looked at.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.counters.received += 1;
        let handled = match Packet::parse(packet) {
            Ok(Parsed::Whole(packet)) => self.handle_whole(&packet, now),
            // TCP never sends what has to be cut.
            Ok(Parsed::Fragment(fragment)) if fragment.id.protocol == PROTOCOL_TCP => {
                Err(Unusable::Malformed)
            }
            Ok(Parsed::Fragment(fragment)) => match self.reassembly.handle(&fragment, now) {
                Ok(None) => Ok(()),
                Ok(Some(packet)) => Packet::whole(&packet).and_then(|packet| self.handle_whole(&packet, now)),
                Err(_) => Err(Unusable::Malformed),
            },
            Err(unusable) => Err(unusable),
        };
        match handled {
            Ok(()) => {}
            Err(Unusable::OtherProtocol) => self.counters.other_protocol += 1,
            Err(Unusable::Malformed | Unusable::Address) => self.counters.malformed += 1,
        }
    }

    fn handle_whole(&mut self, packet: &Packet<'_>, now: Instant) -> Result<(), Unusable> {
        if packet.protocol == PROTOCOL_TCP {
            self.handle_tcp(&Segment::parse(packet)?, now);
        } else {
            self.handle_datagram(&Datagram::parse(packet)?, now);
        }
        Ok(())
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Writes the next packet into `buffer`, which must have room for [`MAX_PACKET`] bytes. Call it until there is none
    /// after every packet handled and whenever [`Self::poll_transmit_ready`] says so.
    pub fn poll_transmit(&mut self, buffer: &mut [u8], now: Instant) -> Option<Transmit> {
        if let Some(reply) = self.replies.pop_front() {
            buffer[..reply.len()].copy_from_slice(&reply);
            return Some(self.complete_tcp(buffer, reply.len(), None));
        }
        while let Some(id) = self.ready.pop_front() {
            let transmit = match self.table.state(id) {
                Some(State::Open(_)) => self.transmit_tcp(id, buffer, now),
                Some(State::Datagrams(_)) => self.transmit_datagram(id, buffer),
                Some(State::Requested { .. } | State::Refused { .. }) | None => None,
            };
            if transmit.is_some() {
                return transmit;
            }
        }
        None
    }

    /// Ready when [`Self::poll_transmit`] may have a packet. For the task that drives this stack; one waiter only.
    pub fn poll_transmit_ready(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.ready.is_empty() && self.replies.is_empty() {
            self.waker = Some(context.waker().clone());
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    }

    /// When to call [`Self::handle_timeout`] next, if ever.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        timer.into_iter().chain(self.reassembly.poll_timeout()).min()
    }

    /// Lets time pass: retransmissions, requests that nobody decided, flows that nobody holds or uses.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.reassembly.handle_timeout(now);
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            match self.table.state(id) {
                None => {}
                Some(State::Requested { .. }) => {
                    self.events.push_back(Event::FlowWithdrawn { flow: id });
                    self.refuse(id, Refusal::Unreachable, now);
                }
                Some(State::Refused { .. }) => self.say_again(id),
                Some(State::Open(_)) => self.handle_tcp_timeout(id, now),
                Some(State::Datagrams(_)) => self.handle_datagram_timeout(id, at, now),
            }
        }
    }

    /// Answers the SYN of a requested flow, or lets its datagrams be taken.
    pub fn accept(&mut self, id: FlowId, now: Instant) -> Result<(), AcceptError> {
        match self.table.state(id) {
            Some(State::Requested { .. }) => self.accept_tcp(id, now),
            Some(State::Datagrams(_)) => self.accept_datagrams(id, now),
            Some(State::Refused { .. } | State::Open(_)) | None => Err(AcceptError::UnknownFlow),
        }
    }

    /// Turns a requested flow down and forgets it. Does nothing if it was withdrawn meanwhile.
    pub fn refuse(&mut self, id: FlowId, refusal: Refusal, now: Instant) {
        match self.table.state(id) {
            Some(State::Requested { .. }) => self.refuse_tcp(id, refusal, now),
            Some(State::Datagrams(_)) => self.refuse_datagrams(id, refusal),
            Some(State::Refused { .. } | State::Open(_)) | None => {}
        }
    }

    /// Gives up the id: nobody reads or writes this flow any more. A TCP flow that both ends have finished is closed in good
    /// order; one whose write side was finished gets a minute for it; every other is reset.
    pub fn release(&mut self, id: FlowId, now: Instant) {
        match self.table.state(id) {
            Some(State::Requested { .. }) => self.refuse_tcp(id, Refusal::Refused, now),
            Some(State::Open(_)) => self.release_tcp(id, now),
            Some(State::Datagrams(_)) => self.forget(id),
            Some(State::Refused { .. }) | None => {}
        }
    }

    /// Resets every open flow and turns every request down as unreachable, for when the device's routes go away. What
    /// [`Self::poll_transmit`] gives afterwards is the last that the device hears.
    pub fn abort_all(&mut self, now: Instant) {
        for id in self.table.ids() {
            match self.table.state(id) {
                Some(State::Requested { .. } | State::Refused { .. }) => self.turn_tcp_away(id, now),
                Some(State::Open(_)) => self.abort(id),
                Some(State::Datagrams(_)) => self.end_datagrams(id),
                None => {}
            }
        }
    }

    /// Packets in numbers.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Flows in numbers.
    pub fn flow_counts(&self) -> FlowCounts {
        self.counts
    }

    /// Frees a flow; its id is void from here on.
    fn forget(&mut self, id: FlowId) {
        match self.table.remove(id) {
            None => {}
            Some(State::Requested { .. } | State::Refused { .. }) => self.counts.requested -= 1,
            Some(State::Open(_)) => self.counts.open -= 1,
            Some(State::Datagrams(flow)) => {
                self.counts.datagram -= 1;
                self.datagrams_waiting -= flow.waiting();
            }
        }
    }

    /// Has the flow asked for packets, if it is not in the queue for that already.
    fn enqueue(&mut self, id: FlowId) {
        let queued = match self.table.state_mut(id) {
            Some(State::Open(flow)) => &mut flow.queued,
            Some(State::Datagrams(flow)) => &mut flow.queued,
            Some(State::Requested { .. } | State::Refused { .. }) | None => return,
        };
        if !std::mem::replace(queued, true) {
            self.ready.push_back(id);
            self.wake();
        }
    }

    fn reply(&mut self, packet: Vec<u8>) {
        if self.replies.len() < MAX_REPLIES {
            self.replies.push_back(packet);
            self.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn complete_tcp(&mut self, buffer: &mut [u8], len: usize, max_segment_size: Option<u16>) -> Transmit {
        self.counters.sent += 1;
        let offload = start_tcp_checksum(&mut buffer[..len]).map(|(checksum_start, header_len)| Offload {
            checksum_start: short(checksum_start),
            checksum_offset: short(TCP_CHECKSUM_OFFSET),
            header_len: short(header_len),
            segment_size: max_segment_size.filter(|&size| len - header_len > usize::from(size)),
        });
        Transmit { len, offload }
    }

    fn smoltcp_time(&self, now: Instant) -> SmoltcpInstant {
        let elapsed = now.saturating_duration_since(self.origin).as_micros();
        SmoltcpInstant::from_micros(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}

fn short(length: usize) -> u16 {
    u16::try_from(length).expect("headers are shorter than a packet")
}
