//! TCP flows: the SYN is held until the caller has decided; then a machine of their own takes over.

use std::cmp::Reverse;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use adit_model::Protocol;
use bytes::BytesMut;
use smoltcp::socket::tcp::RecvError;

use super::Stack;
use crate::interface::{AcceptError, Event, ReadError, Refusal, Transmit, WriteError};
use crate::packet::icmp::Unreachable;
use crate::packet::tcp::Segment;
use crate::table::{FlowId, State};
use crate::tcp::{ORPHAN_LIMIT, Phase, SILENCE_LIMIT, TIME_WAIT, TcpFlow};

/// Longest SYN kept, in bytes: 40 of IPv6 and 60 of TCP with all options, rounded up. A SYN with more has data in it (TCP
/// Fast Open); it is dropped, and systems then repeat it without.
const MAX_SYN: usize = 128;
/// When a destination unreachable is said again. Linux forgets one that arrives while the application is still inside
/// `connect` (*tcp_v4_err*, `sock_owned_by_user`), and would then repeat its SYN only after a second.
const SAY_AGAIN: Duration = Duration::from_millis(20);
/// If TCP says "now" but has sent nothing, it is asked again after this time.
const AGAIN: Duration = Duration::from_millis(1);

impl Stack {
    /// Appends up to `limit` received bytes (at least one is allowed) to `buffer` and tells how many; 0 means that the
    /// device's end has finished and everything was read.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        id: FlowId,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<Result<usize, ReadError>> {
        let Some(flow) = self.tcp(id) else {
            return Poll::Ready(Err(ReadError::UnknownFlow));
        };
        let phase = flow.phase();
        let peer_finished = flow.is_peer_finished();
        let socket = flow.socket_mut();
        let mut read = 0;
        // Twice, because the bytes may go round the end of the ring.
        while phase != Phase::Opening && read < limit && socket.can_recv() {
            let taken = socket.recv(|bytes| {
                let take = bytes.len().min(limit - read);
                buffer.extend_from_slice(&bytes[..take]);
                (take, take)
            });
            match taken {
                Ok(taken) => read += taken,
                Err(RecvError::Finished | RecvError::InvalidState) => break,
            }
        }
        if read > 0 {
            // There may be a larger window to tell.
            if !matches!(phase, Phase::TimeWait | Phase::Ended) {
                self.enqueue(id);
            }
            return Poll::Ready(Ok(read));
        }
        if peer_finished {
            return Poll::Ready(Ok(0));
        }
        if phase == Phase::Ended || !(phase == Phase::Opening || socket.may_recv()) {
            return Poll::Ready(Err(ReadError::Reset));
        }
        socket.register_recv_waker(context.waker());
        Poll::Pending
    }

    /// Takes as many of `data` as there is room for, at least one, and tells how many.
    pub fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        id: FlowId,
        data: &[u8],
    ) -> Poll<Result<usize, WriteError>> {
        let Some(flow) = self.tcp(id) else {
            return Poll::Ready(Err(WriteError::UnknownFlow));
        };
        let opening = match flow.phase() {
            Phase::Ended => return Poll::Ready(Err(WriteError::Reset)),
            Phase::Opening => true,
            Phase::Open | Phase::TimeWait => false,
        };
        if flow.is_finished() {
            return Poll::Ready(Err(WriteError::Finished));
        }
        let socket = flow.socket_mut();
        if !opening && !socket.may_send() {
            return Poll::Ready(Err(WriteError::Reset));
        }
        match socket.send_slice(data) {
            Ok(written) if written > 0 || data.is_empty() => {
                self.enqueue(id);
                Poll::Ready(Ok(written))
            }
            Ok(_) | Err(_) => {
                socket.register_send_waker(context.waker());
                Poll::Pending
            }
        }
    }

    /// Ends our direction: FIN, once everything written is sent. The other direction goes on.
    pub fn finish(&mut self, id: FlowId) {
        if let Some(flow) = self.tcp(id) {
            flow.finish();
            self.enqueue(id);
        }
    }

    /// Resets the connection; both directions end at once.
    pub fn abort(&mut self, id: FlowId) {
        if let Some(flow) = self.tcp(id) {
            flow.abort();
            self.enqueue(id);
        }
    }

    pub(super) fn handle_tcp(&mut self, segment: &Segment<'_>, now: Instant) {
        let key = (Protocol::Tcp, segment.source, segment.destination);
        if let Some(id) = self.table.find(&key) {
            match self.table.state(id) {
                Some(State::Requested { .. }) => {
                    // A repeated SYN finds its request still undecided; only a reset says something new.
                    if segment.resets() {
                        self.forget(id);
                        self.events.push_back(Event::FlowWithdrawn { flow: id });
                    }
                    return;
                }
                Some(State::Refused { reason, .. }) => {
                    if segment.opens() {
                        let unreachable = segment.unreachable(*reason);
                        self.reply(unreachable);
                    }
                    return;
                }
                Some(State::Open(flow)) if segment.opens() && flow.phase() == Phase::TimeWait => {
                    // The device's port came round again.
                    self.table.unlink(id);
                }
                Some(State::Open(_)) => return self.handle_segment(id, segment, now),
                Some(State::Datagrams(_)) | None => unreachable!("the key is of a TCP flow"),
            }
        }
        if segment.opens() {
            self.request_tcp(segment, now);
        } else if !segment.resets() {
            let reset = segment.reset();
            self.reply(reset);
        }
    }

    fn request_tcp(&mut self, segment: &Segment<'_>, now: Instant) {
        if self.counts.requested >= self.config.max_requests
            || self.counts.open >= self.config.max_flows
            || segment.packet.len() > MAX_SYN
        {
            self.counters.over_limit += 1;
            return;
        }
        let key = (Protocol::Tcp, segment.source, segment.destination);
        let flow = self.table.insert(key, State::Requested { syn: segment.packet.into() });
        self.counts.requested += 1;
        self.timers.push(Reverse((now + self.config.request_timeout, flow)));
        self.events.push_back(Event::FlowRequested {
            flow,
            protocol: Protocol::Tcp,
            source: segment.source,
            destination: segment.destination,
        });
    }

    pub(super) fn accept_tcp(&mut self, id: FlowId, now: Instant) -> Result<(), AcceptError> {
        let Some(State::Requested { syn }) = self.table.state(id) else {
            return Err(AcceptError::UnknownFlow);
        };
        let syn = syn.clone();
        if self.counts.open >= self.config.max_flows {
            self.counters.over_limit += 1;
            self.forget(id);
            return Err(AcceptError::TooManyFlows);
        }
        let Ok(segment) = Segment::of(&syn) else { return Err(AcceptError::Malformed) };
        let at = self.smoltcp_time(now);
        let buffers = (self.config.receive_buffer, self.config.send_buffer);
        let mut flow = Box::new(TcpFlow::listen(&segment, buffers, self.flow_seed(id), now, at));
        flow.handle(&syn, now, at, &mut self.replies);
        if flow.phase() != Phase::Opening {
            let reset = segment.reset();
            self.reply(reset);
            self.forget(id);
            return Err(AcceptError::Malformed);
        }
        if let Some(state) = self.table.state_mut(id) {
            *state = State::Open(flow);
        }
        self.counts.requested -= 1;
        self.counts.open += 1;
        self.enqueue(id);
        Ok(())
    }

    pub(super) fn refuse_tcp(&mut self, id: FlowId, refusal: Refusal, now: Instant) {
        let Some(State::Requested { syn }) = self.table.state(id) else { return };
        let Ok(segment) = Segment::of(syn) else { return };
        let reason = match refusal {
            Refusal::Refused => {
                let reset = segment.reset();
                self.reply(reset);
                self.forget(id);
                return;
            }
            Refusal::Unreachable | Refusal::TooLarge => Unreachable::Host,
            Refusal::Prohibited => Unreachable::Prohibited,
        };
        let unreachable = segment.unreachable(reason);
        let refused = State::Refused { syn: syn.clone(), reason };
        self.reply(unreachable);
        if let Some(state) = self.table.state_mut(id) {
            *state = refused;
        }
        self.timers.push(Reverse((now + SAY_AGAIN, id)));
    }

    /// Repeats a refusal, and forgets it.
    pub(super) fn say_again(&mut self, id: FlowId) {
        let Some(State::Refused { syn, reason }) = self.table.state(id) else { return };
        if let Ok(segment) = Segment::of(syn) {
            let unreachable = segment.unreachable(*reason);
            self.reply(unreachable);
        }
        self.forget(id);
    }

    /// Turns down a request for good, whether it was refused before or not.
    pub(super) fn turn_tcp_away(&mut self, id: FlowId, now: Instant) {
        let Some(State::Requested { syn } | State::Refused { syn, .. }) = self.table.state(id) else {
            return;
        };
        let Ok(segment) = Segment::of(syn) else { return };
        // The kernel drops an ICMP message that meets its socket inside a system call, and there is no later to say it again
        // in. A reset it keeps; where the message was heard, it changes nothing.
        let reset = segment.reset();
        self.refuse_tcp(id, Refusal::Unreachable, now);
        self.reply(reset);
    }

    pub(super) fn release_tcp(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.tcp(id) else { return };
        let unread = flow.socket_mut().can_recv();
        let linger = if flow.phase() == Phase::TimeWait { TIME_WAIT } else { ORPHAN_LIMIT };
        flow.released_until = Some(now + linger);
        if flow.phase() != Phase::Ended && (unread || !flow.is_finished()) {
            flow.abort();
        }
        self.enqueue(id);
        self.settle(id, now);
    }

    fn handle_segment(&mut self, id: FlowId, segment: &Segment<'_>, now: Instant) {
        let at = self.smoltcp_time(now);
        let Some(State::Open(flow)) = self.table.state_mut(id) else { return };
        let was_last = flow.awaits_last_acknowledgement();
        flow.handle(segment.packet, now, at, &mut self.replies);
        let acknowledged = was_last && flow.phase() == Phase::Ended && !segment.resets();
        if let Some(until) = flow.released_until {
            if flow.phase() == Phase::TimeWait {
                flow.released_until = Some(until.min(now + TIME_WAIT));
            } else if flow.socket_mut().can_recv() {
                // Nobody will read it.
                flow.abort();
            }
        }
        if acknowledged {
            // The device's kernel is in TIME-WAIT now, and would keep its port from new connections to the same destination
            // for a minute: some 28,000 ports, some 470 flows a second. What TIME-WAIT is for, late packets of this
            // connection, cannot be on a hop inside one host; a reset ends it (*RFC 1337 § 3*, here on purpose).
            let reset = segment.reset();
            self.reply(reset);
        }
        self.enqueue(id);
        self.settle(id, now);
    }

    pub(super) fn transmit_tcp(&mut self, id: FlowId, buffer: &mut [u8], now: Instant) -> Option<Transmit> {
        let at = self.smoltcp_time(now);
        let flow = self.tcp(id)?;
        if !std::mem::take(&mut flow.queued) {
            return None;
        }
        // smoltcp's own end of TIME-WAIT would throw away what the caller has not read yet.
        let sent = if flow.phase() == Phase::TimeWait && now > flow.last_heard + TIME_WAIT {
            None
        } else {
            flow.transmit(buffer, at)
        };
        let max_segment_size = flow.max_segment_size;
        if sent.is_some() {
            flow.queued = true;
            self.ready.push_back(id);
        } else {
            self.schedule(id, now);
        }
        self.settle(id, now);
        sent.map(|len| self.complete_tcp(buffer, len, Some(max_segment_size)))
    }

    pub(super) fn handle_tcp_timeout(&mut self, id: FlowId, now: Instant) {
        let Some(flow) = self.tcp(id) else { return };
        // An entry that was superseded by an earlier one.
        if flow.scheduled.is_none_or(|scheduled| scheduled > now) {
            return;
        }
        flow.scheduled = None;
        let silent = flow.awaits_peer() && now >= flow.last_heard + SILENCE_LIMIT;
        let orphaned = flow.released_until.is_some_and(|until| now >= until);
        if silent || (orphaned && flow.phase() != Phase::TimeWait) {
            flow.abort();
        }
        self.enqueue(id);
        self.settle(id, now);
    }

    /// Notices that a flow has come to its end.
    fn settle(&mut self, id: FlowId, now: Instant) {
        let Some(State::Open(flow)) = self.table.state(id) else { return };
        let ended = match flow.phase() {
            Phase::Ended => true,
            Phase::TimeWait => flow.released_until.is_some_and(|until| now >= until),
            Phase::Opening | Phase::Open => false,
        };
        if ended && flow.released_until.is_some() {
            self.forget(id);
        } else if ended {
            // The caller still has something to read or to learn; the device may use the addresses again.
            self.table.unlink(id);
        }
    }

    /// Puts the flow's next deadline into the heap, unless an earlier one is there.
    fn schedule(&mut self, id: FlowId, now: Instant) {
        let at = self.smoltcp_time(now);
        let origin = self.origin;
        let Some(flow) = self.tcp(id) else { return };
        let tcp = match flow.phase() {
            Phase::TimeWait | Phase::Ended => None,
            Phase::Opening | Phase::Open => flow.poll_at(at),
        };
        let tcp = tcp.map(|deadline| {
            let micros = u64::try_from(deadline.total_micros()).unwrap_or_default();
            (origin + Duration::from_micros(micros)).max(now + AGAIN)
        });
        let Some(deadline) = tcp.into_iter().chain(flow.released_until).min() else { return };
        if flow.scheduled.is_none_or(|scheduled| deadline < scheduled) {
            flow.scheduled = Some(deadline);
            self.timers.push(Reverse((deadline, id)));
        }
    }

    fn tcp(&mut self, id: FlowId) -> Option<&mut TcpFlow> {
        match self.table.state_mut(id)? {
            State::Open(flow) => Some(flow),
            State::Requested { .. } | State::Refused { .. } | State::Datagrams(_) => None,
        }
    }

    /// SplitMix64 over the seed and the flow's id.
    fn flow_seed(&self, id: FlowId) -> u64 {
        let mut z = self.config.seed.wrapping_add(id.number().wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
