//! [`Stack`]: finds the flow of a packet, holds SYNs until the caller has decided, and asks each flow for packets.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use smoltcp::socket::tcp::RecvError;
use smoltcp::time::Instant as SmoltcpInstant;

use crate::flow::{Flow, FlowId, ORPHAN_LIMIT, Phase, SILENCE_LIMIT, TIME_WAIT};
use crate::packet::{self, NotASegment, Segment, TCP_CHECKSUM_OFFSET, Unreachable};

/// Longest IP packet taken or given, in bytes: what the length field of IPv4 can say.
pub const MAX_PACKET: usize = 65535;
/// Packets made in answer to others (resets, ICMP errors, immediate acknowledgements) that may wait for
/// [`Stack::poll_transmit`]. More are dropped: whoever floods us gets no answer.
pub(crate) const MAX_REPLIES: usize = 1024;
/// Longest SYN kept, in bytes: 40 of IPv6 and 60 of TCP with all options, rounded up. A SYN with more has data in it (TCP
/// Fast Open); it is dropped, and systems then repeat it without.
const MAX_SYN: usize = 128;
/// When a destination unreachable is said again. Linux forgets one that arrives while the application is still inside
/// `connect` (*tcp_v4_err*, `sock_owned_by_user`), and would then repeat its SYN only after a second.
const SAY_AGAIN: Duration = Duration::from_millis(20);
/// If TCP says "now" but has sent nothing, it is asked again after this time.
const AGAIN: Duration = Duration::from_millis(1);

/// Sizes and limits of a [`Stack`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that the device may have in flight towards us, per flow. Memory is touched only as far as it is filled.
    pub receive_buffer: usize,
    /// Bytes that we may have in flight towards the device, per flow. Touched only as far as it is filled.
    pub send_buffer: usize,
    /// Flows open at once. A SYN beyond it is dropped, so that the device tries again.
    pub max_flows: usize,
    /// SYNs that wait for a decision at once. A SYN beyond it is dropped, so that the device tries again.
    pub max_requests: usize,
    /// How long a SYN waits for a decision before it is told that the host is unreachable.
    pub request_timeout: Duration,
    /// Seed of initial sequence numbers; take it from the system's randomness.
    pub seed: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            receive_buffer: 1 << 20,
            send_buffer: 1 << 20,
            max_flows: 16_384,
            max_requests: 4096,
            request_timeout: Duration::from_secs(15),
            seed: 0,
        }
    }
}

/// What the caller has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The device wants a connection. Answer with [`Stack::accept`] or [`Stack::refuse`].
    FlowRequested {
        /// The new flow.
        flow: FlowId,
        /// The device's end.
        source: SocketAddr,
        /// What the application dialled.
        destination: SocketAddr,
    },
    /// A requested flow was not decided in time, or the device gave it up. Its id is void.
    FlowWithdrawn {
        /// The flow that was requested.
        flow: FlowId,
    },
}

/// How a requested flow is turned down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// TCP reset: the application sees "connection refused".
    Reset,
    /// ICMP host unreachable: the application sees "no route to host" at once.
    Unreachable,
    /// ICMP administratively prohibited: "no route to host" on IPv4, "permission denied" on IPv6.
    Prohibited,
}

/// Why [`Stack::accept`] did not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The request was withdrawn, refused or accepted before.
    #[error("no such request")]
    UnknownFlow,
    /// TCP found the SYN malformed; it was answered with a reset.
    #[error("the SYN is malformed")]
    Malformed,
    /// [`Config::max_flows`] are open; the SYN is forgotten and the device will repeat it.
    #[error("too many open flows")]
    TooManyFlows,
}

/// Why a read gave nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The device's end reset the connection, or went silent.
    #[error("connection reset by the device")]
    Reset,
    /// The flow is not open.
    #[error("no such flow")]
    UnknownFlow,
}

/// Why a write took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The device's end reset the connection, or went silent.
    #[error("connection reset by the device")]
    Reset,
    /// The write side was finished before.
    #[error("the write side is finished")]
    Finished,
    /// The flow is not open.
    #[error("no such flow")]
    UnknownFlow,
}

/// A packet that [`Stack::poll_transmit`] has written, and what the device has to do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// Length of the packet in bytes.
    pub len: usize,
    /// Set for TCP: the checksum is still to be computed.
    pub tcp: Option<TcpOffload>,
}

/// The part of a `virtio_net_hdr` that concerns TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOffload {
    /// Where the checksum starts: the length of the IP header.
    pub checksum_start: u16,
    /// Where it goes, counted from `checksum_start`. The field holds the pseudo-header's sum.
    pub checksum_offset: u16,
    /// Length of IP and TCP headers together.
    pub header_len: u16,
    /// Set if the payload is longer than the peer's segments: cut it into pieces of this many bytes.
    pub segment_size: Option<u16>,
}

/// What happened to packets, in numbers since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets given to [`Stack::handle_packet`].
    pub received: u64,
    /// Packets written by [`Stack::poll_transmit`].
    pub sent: u64,
    /// Dropped: lengths or addresses that make no sense, and IP fragments.
    pub malformed: u64,
    /// Dropped: UDP, ICMP and everything else that is not TCP.
    pub other_protocol: u64,
    /// SYNs dropped because of a limit.
    pub over_limit: u64,
}

/// How many flows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// SYNs that wait for a decision, or whose refusal is not yet over.
    pub requested: usize,
    /// Flows accepted and not yet gone.
    pub open: usize,
}

/// User-space TCP; see the crate's documentation.
#[derive(Debug)]
pub struct Stack {
    config: Config,
    origin: Instant,
    slots: Vec<Slot>,
    vacant: Vec<u32>,
    /// Source and destination of every requested and open flow.
    by_addresses: HashMap<(SocketAddr, SocketAddr), u32>,
    /// Flows that may have a packet to send; see `Flow::queued`.
    ready: VecDeque<u32>,
    timers: BinaryHeap<Reverse<(Instant, FlowId)>>,
    events: VecDeque<Event>,
    replies: VecDeque<Vec<u8>>,
    /// Waits in [`Stack::poll_transmit_ready`].
    waker: Option<Waker>,
    counts: FlowCounts,
    counters: Counters,
}

#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Vacant,
    Requested {
        syn: Box<[u8]>,
        addresses: (SocketAddr, SocketAddr),
    },
    /// Turned down by ICMP, which is said once more.
    Refused {
        syn: Box<[u8]>,
        addresses: (SocketAddr, SocketAddr),
        reason: Unreachable,
    },
    Open {
        flow: Box<Flow>,
        addresses: (SocketAddr, SocketAddr),
    },
}

impl Stack {
    /// An empty stack whose time begins `now`.
    pub fn new(config: Config, now: Instant) -> Self {
        Self {
            config,
            origin: now,
            slots: Vec::new(),
            vacant: Vec::new(),
            by_addresses: HashMap::new(),
            ready: VecDeque::new(),
            timers: BinaryHeap::new(),
            events: VecDeque::new(),
            replies: VecDeque::new(),
            waker: None,
            counts: FlowCounts::default(),
            counters: Counters::default(),
        }
    }

    /// Takes one IP packet, without any device header. Its TCP checksum is not looked at.
    pub fn handle_packet(&mut self, packet: &[u8], now: Instant) {
        self.counters.received += 1;
        let segment = match Segment::parse(packet) {
            Ok(segment) => segment,
            Err(NotASegment::OtherProtocol) => {
                self.counters.other_protocol += 1;
                return;
            }
            Err(NotASegment::Malformed | NotASegment::Fragment | NotASegment::Address) => {
                self.counters.malformed += 1;
                return;
            }
        };
        let addresses = (segment.source, segment.destination);
        if let Some(&slot) = self.by_addresses.get(&addresses) {
            match &self.slots[slot as usize].state {
                State::Requested { .. } => {
                    // A repeated SYN finds its request still undecided; only a reset says something new.
                    if segment.resets() {
                        self.withdraw(slot);
                    }
                    return;
                }
                State::Refused { reason, .. } => {
                    if segment.opens() {
                        let unreachable = segment.unreachable(*reason);
                        self.reply(unreachable);
                    }
                    return;
                }
                State::Open { flow, .. } if segment.opens() && flow.phase() == Phase::TimeWait => {
                    // The device's port came round again.
                    self.by_addresses.remove(&addresses);
                }
                State::Open { .. } => return self.handle_segment(slot, &segment, now),
                State::Vacant => unreachable!("a vacant slot has no addresses"),
            }
        }
        if segment.opens() {
            self.request(&segment, now);
        } else if !segment.resets() {
            let reset = segment.reset();
            self.reply(reset);
        }
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
            return Some(self.complete(buffer, reply.len(), None));
        }
        let at = self.smoltcp_time(now);
        while let Some(slot) = self.ready.pop_front() {
            let State::Open { flow, .. } = &mut self.slots[slot as usize].state else { continue };
            if !std::mem::take(&mut flow.queued) {
                continue;
            }
            // smoltcp's own end of TIME-WAIT would throw away what the caller has not read yet.
            let sent = if flow.phase() == Phase::TimeWait && now > flow.last_heard + TIME_WAIT {
                None
            } else {
                flow.transmit(buffer, at)
            };
            let max_segment_size = flow.max_segment_size;
            if let Some(len) = sent {
                flow.queued = true;
                self.ready.push_back(slot);
                self.settle(slot, now);
                return Some(self.complete(buffer, len, Some(max_segment_size)));
            }
            self.schedule(slot, now);
            self.settle(slot, now);
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
        self.timers.peek().map(|Reverse((at, _))| *at)
    }

    /// Lets time pass: retransmissions, requests that nobody decided, flows that nobody holds.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(&Reverse((at, id))) = self.timers.peek() {
            if at > now {
                break;
            }
            self.timers.pop();
            if self.slots[id.slot as usize].generation != id.generation {
                continue;
            }
            match &mut self.slots[id.slot as usize].state {
                State::Vacant => {}
                State::Requested { .. } => {
                    self.events.push_back(Event::FlowWithdrawn { flow: id });
                    self.refuse(id, Refusal::Unreachable, now);
                }
                State::Refused { syn, reason, .. } => {
                    if let Ok(segment) = Segment::parse(syn) {
                        let unreachable = segment.unreachable(*reason);
                        self.reply(unreachable);
                    }
                    self.forget(id.slot);
                }
                State::Open { flow, .. } => {
                    // An entry that was superseded by an earlier one.
                    if flow.scheduled.is_none_or(|scheduled| scheduled > now) {
                        continue;
                    }
                    flow.scheduled = None;
                    let silent = flow.awaits_peer() && now >= flow.last_heard + SILENCE_LIMIT;
                    let orphaned = flow.released_until.is_some_and(|until| now >= until);
                    if silent || (orphaned && flow.phase() != Phase::TimeWait) {
                        flow.abort();
                    }
                    self.enqueue(id.slot);
                    self.settle(id.slot, now);
                }
            }
        }
    }

    /// Answers the SYN of a requested flow.
    pub fn accept(&mut self, id: FlowId, now: Instant) -> Result<(), AcceptError> {
        let Some(State::Requested { syn, addresses }) = self.state(id) else {
            return Err(AcceptError::UnknownFlow);
        };
        let (syn, addresses) = (syn.clone(), *addresses);
        if self.counts.open >= self.config.max_flows {
            self.counters.over_limit += 1;
            self.forget(id.slot);
            return Err(AcceptError::TooManyFlows);
        }
        let Ok(segment) = Segment::parse(&syn) else { return Err(AcceptError::Malformed) };
        let at = self.smoltcp_time(now);
        let buffers = (self.config.receive_buffer, self.config.send_buffer);
        let mut flow = Box::new(Flow::listen(&segment, buffers, self.flow_seed(id), now, at));
        flow.handle(&syn, now, at, &mut self.replies);
        if flow.phase() != Phase::Opening {
            let reset = segment.reset();
            self.reply(reset);
            self.forget(id.slot);
            return Err(AcceptError::Malformed);
        }
        self.slots[id.slot as usize].state = State::Open { flow, addresses };
        self.counts.requested -= 1;
        self.counts.open += 1;
        self.enqueue(id.slot);
        Ok(())
    }

    /// Turns a requested flow down and forgets it. Does nothing if it was withdrawn meanwhile.
    pub fn refuse(&mut self, id: FlowId, refusal: Refusal, now: Instant) {
        let Some(State::Requested { syn, addresses }) = self.state(id) else { return };
        let Ok(segment) = Segment::parse(syn) else { return };
        let reason = match refusal {
            Refusal::Reset => {
                let reset = segment.reset();
                self.reply(reset);
                self.forget(id.slot);
                return;
            }
            Refusal::Unreachable => Unreachable::Host,
            Refusal::Prohibited => Unreachable::Prohibited,
        };
        let unreachable = segment.unreachable(reason);
        let refused = State::Refused { syn: syn.clone(), addresses: *addresses, reason };
        self.reply(unreachable);
        self.slots[id.slot as usize].state = refused;
        self.timers.push(Reverse((now + SAY_AGAIN, id)));
    }

    /// Appends up to `limit` received bytes (at least one is allowed) to `buffer` and tells how many; 0 means that the
    /// device's end has finished and everything was read.
    pub fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        id: FlowId,
        buffer: &mut BytesMut,
        limit: usize,
    ) -> Poll<Result<usize, ReadError>> {
        let Some(State::Open { flow, .. }) = self.state_mut(id) else {
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
                self.enqueue(id.slot);
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
        let Some(State::Open { flow, .. }) = self.state_mut(id) else {
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
                self.enqueue(id.slot);
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
        if let Some(State::Open { flow, .. }) = self.state_mut(id) {
            flow.finish();
            self.enqueue(id.slot);
        }
    }

    /// Resets the connection; both directions end at once.
    pub fn abort(&mut self, id: FlowId) {
        if let Some(State::Open { flow, .. }) = self.state_mut(id) {
            flow.abort();
            self.enqueue(id.slot);
        }
    }

    /// Gives up the id: nobody reads or writes this flow any more. A flow that both ends have finished is closed in good
    /// order; one whose write side was finished gets [`ORPHAN_LIMIT`] for it; every other is reset.
    pub fn release(&mut self, id: FlowId, now: Instant) {
        let Some(State::Open { flow, .. }) = self.state_mut(id) else {
            self.refuse(id, Refusal::Reset, now);
            return;
        };
        let unread = flow.socket_mut().can_recv();
        let linger = if flow.phase() == Phase::TimeWait { TIME_WAIT } else { ORPHAN_LIMIT };
        flow.released_until = Some(now + linger);
        if flow.phase() != Phase::Ended && (unread || !flow.is_finished()) {
            flow.abort();
        }
        self.enqueue(id.slot);
        self.settle(id.slot, now);
    }

    /// Resets every open flow and turns every request down as unreachable, for when the device's routes go away. What
    /// [`Self::poll_transmit`] gives afterwards is the last that the device hears.
    pub fn abort_all(&mut self, now: Instant) {
        let flow = |(entry, slot): (&Slot, u32)| FlowId { slot, generation: entry.generation };
        let flows: Vec<FlowId> = self.slots.iter().zip(0..).map(flow).collect();
        for flow in flows {
            if let Some(State::Requested { syn, .. } | State::Refused { syn, .. }) = self.state(flow)
                && let Ok(segment) = Segment::parse(syn)
            {
                // The kernel drops an ICMP message that meets its socket inside a system call, and there is no later to
                // say it again in. A reset it keeps; where the message was heard, it changes nothing.
                let reset = segment.reset();
                self.refuse(flow, Refusal::Unreachable, now);
                self.reply(reset);
            }
            self.abort(flow);
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

    fn handle_segment(&mut self, slot: u32, segment: &Segment<'_>, now: Instant) {
        let at = self.smoltcp_time(now);
        let State::Open { flow, .. } = &mut self.slots[slot as usize].state else { return };
        flow.handle(segment.packet, now, at, &mut self.replies);
        if let Some(until) = flow.released_until {
            if flow.phase() == Phase::TimeWait {
                flow.released_until = Some(until.min(now + TIME_WAIT));
            } else if flow.socket_mut().can_recv() {
                // Nobody will read it.
                flow.abort();
            }
        }
        self.enqueue(slot);
        self.settle(slot, now);
    }

    fn request(&mut self, segment: &Segment<'_>, now: Instant) {
        if self.counts.requested >= self.config.max_requests
            || self.counts.open >= self.config.max_flows
            || segment.packet.len() > MAX_SYN
        {
            self.counters.over_limit += 1;
            return;
        }
        let addresses = (segment.source, segment.destination);
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, state: State::Vacant });
            u32::try_from(self.slots.len() - 1).expect("slots are bounded by max_requests and max_flows")
        });
        let entry = &mut self.slots[slot as usize];
        entry.state = State::Requested { syn: segment.packet.into(), addresses };
        let flow = FlowId { slot, generation: entry.generation };
        self.by_addresses.insert(addresses, slot);
        self.counts.requested += 1;
        self.timers.push(Reverse((now + self.config.request_timeout, flow)));
        self.events.push_back(Event::FlowRequested {
            flow,
            source: segment.source,
            destination: segment.destination,
        });
    }

    fn withdraw(&mut self, slot: u32) {
        let flow = FlowId { slot, generation: self.slots[slot as usize].generation };
        self.forget(slot);
        self.events.push_back(Event::FlowWithdrawn { flow });
    }

    /// Frees a slot; its id is void from here on.
    fn forget(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let addresses = match std::mem::replace(&mut entry.state, State::Vacant) {
            State::Vacant => return,
            State::Requested { addresses, .. } | State::Refused { addresses, .. } => {
                self.counts.requested -= 1;
                addresses
            }
            State::Open { addresses, .. } => {
                self.counts.open -= 1;
                addresses
            }
        };
        entry.generation = entry.generation.wrapping_add(1);
        self.vacant.push(slot);
        // A newer flow may have taken over the addresses of one in TIME-WAIT.
        if self.by_addresses.get(&addresses) == Some(&slot) {
            self.by_addresses.remove(&addresses);
        }
    }

    /// Notices that a flow has come to its end.
    fn settle(&mut self, slot: u32, now: Instant) {
        let State::Open { flow, addresses } = &self.slots[slot as usize].state else { return };
        let (ended, addresses) = match flow.phase() {
            Phase::Ended => (true, *addresses),
            Phase::TimeWait => (flow.released_until.is_some_and(|until| now >= until), *addresses),
            Phase::Opening | Phase::Open => return,
        };
        if ended && flow.released_until.is_some() {
            self.forget(slot);
        } else if ended && self.by_addresses.get(&addresses) == Some(&slot) {
            // The caller still has something to read or to learn; the device may use the addresses again.
            self.by_addresses.remove(&addresses);
        }
    }

    /// Puts the flow's next deadline into the heap, unless an earlier one is there.
    fn schedule(&mut self, slot: u32, now: Instant) {
        let at = self.smoltcp_time(now);
        let origin = self.origin;
        let entry = &mut self.slots[slot as usize];
        let State::Open { flow, .. } = &mut entry.state else { return };
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
            self.timers.push(Reverse((deadline, FlowId { slot, generation: entry.generation })));
        }
    }

    fn enqueue(&mut self, slot: u32) {
        let State::Open { flow, .. } = &mut self.slots[slot as usize].state else { return };
        if !std::mem::replace(&mut flow.queued, true) {
            self.ready.push_back(slot);
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

    fn complete(&mut self, buffer: &mut [u8], len: usize, max_segment_size: Option<u16>) -> Transmit {
        self.counters.sent += 1;
        let short = |length: usize| u16::try_from(length).expect("headers are shorter than a packet");
        let tcp =
            packet::start_tcp_checksum(&mut buffer[..len]).map(|(checksum_start, header_len)| TcpOffload {
                checksum_start: short(checksum_start),
                checksum_offset: short(TCP_CHECKSUM_OFFSET),
                header_len: short(header_len),
                segment_size: max_segment_size.filter(|&size| len - header_len > usize::from(size)),
            });
        Transmit { len, tcp }
    }

    fn state(&self, id: FlowId) -> Option<&State> {
        let slot = self.slots.get(id.slot as usize)?;
        (slot.generation == id.generation).then_some(&slot.state)
    }

    fn state_mut(&mut self, id: FlowId) -> Option<&mut State> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        (slot.generation == id.generation).then_some(&mut slot.state)
    }

    /// SplitMix64 over the seed and the flow's id.
    fn flow_seed(&self, id: FlowId) -> u64 {
        let mut z = self.config.seed.wrapping_add(
            (u64::from(id.generation) << 32 | u64::from(id.slot)).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        );
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn smoltcp_time(&self, now: Instant) -> SmoltcpInstant {
        let elapsed = now.saturating_duration_since(self.origin).as_micros();
        SmoltcpInstant::from_micros(i64::try_from(elapsed).unwrap_or(i64::MAX))
    }
}
