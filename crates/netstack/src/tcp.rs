//! One accepted TCP flow: a smoltcp interface with exactly one socket, and what smoltcp does not keep for us.
//!
//! An interface per flow costs some hundred bytes and makes every operation independent of the number of other flows;
//! smoltcp's own socket set is walked from end to end on every poll.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config as InterfaceConfig, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant as SmoltcpInstant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};

use crate::packet::header_len;
use crate::packet::tcp::{Segment, TCP_HEADER};

/// Below this peer MSS no super-segments are made: a device would have to cut one into too many pieces.
const MIN_SEGMENTATION_MSS: usize = 536;
/// smoltcp's lower bound of a peer's MSS.
const MIN_MSS: usize = 48;
/// Longest IP packet with TCP in it, in bytes: what the length field of IPv4 can say.
const MAX_TCP_PACKET: usize = 65535;
/// How long an unanswered flow is kept: Linux gives up a connection with unacknowledged data after some 15 minutes, but
/// here the peer is on the same host, where two minutes of silence mean that it is gone.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_mins(2);
/// How long the last acknowledgement is repeated for a peer on the same host. smoltcp itself would hold the buffers for
/// ten seconds.
pub(crate) const TIME_WAIT: Duration = Duration::from_secs(1);
/// How long a flow that nobody reads or writes any more may take to close. Linux: `tcp_fin_timeout`.
pub(crate) const ORPHAN_LIMIT: Duration = Duration::from_mins(1);

/// Where a flow stands, seen from the caller's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The handshake is not finished.
    Opening,
    /// At least one direction is open or has unacknowledged bytes.
    Open,
    /// Both ends have closed and acknowledged; only a repeated FIN may still come.
    TimeWait,
    /// Nothing will be sent or taken any more.
    Ended,
}

/// Whether the caller has bytes to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSide {
    Open,
    /// No more, but the handshake is not over, and smoltcp sends no FIN before.
    FinishPending,
    Finished,
}

pub(crate) struct TcpFlow {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    capabilities: DeviceCapabilities,
    /// Largest TCP payload that the peer takes in one segment.
    pub(crate) max_segment_size: u16,
    /// In the queue of flows that may have something to send.
    pub(crate) queued: bool,
    /// The deadline in the stack's heap, if any: one entry per flow.
    pub(crate) scheduled: Option<Instant>,
    /// When the peer was last heard.
    pub(crate) last_heard: Instant,
    /// Nobody holds this flow any more; from here on it is only closed in good order, until this deadline.
    pub(crate) released_until: Option<Instant>,
    write_side: WriteSide,
    /// The peer's FIN was reached.
    peer_finished: bool,
}

impl fmt::Debug for TcpFlow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpFlow").field("state", &self.socket().state()).finish_non_exhaustive()
    }
}

impl TcpFlow {
    /// A flow that listens on exactly the destination of `syn`.
    pub(crate) fn listen(
        syn: &Segment<'_>,
        buffers: (usize, usize),
        seed: u64,
        now: Instant,
        at: SmoltcpInstant,
    ) -> Self {
        let header = header_len(syn.destination.ip()) + TCP_HEADER;
        let room = MAX_TCP_PACKET - header;
        let max_segment_size = usize::from(syn.max_segment_size()).clamp(MIN_MSS, room);
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        // What we take: any segment that an IP packet can hold. What we give is bounded by the peer's MSS.
        capabilities.max_transmission_unit = MAX_TCP_PACKET;
        // The kernel leaves the checksums of local packets half done, and completes ours. IPv4 headers have their own.
        capabilities.checksum.tcp = Checksum::None;
        if max_segment_size >= MIN_SEGMENTATION_MSS {
            // Whole segments only, so that cutting a super-segment leaves no small rest.
            let super_segment = NonZeroUsize::new(header + room / max_segment_size * max_segment_size);
            capabilities.segmentation.tcpv4 = super_segment;
            capabilities.segmentation.tcpv6 = super_segment;
        }
        let mut config = InterfaceConfig::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut no_reply = Sink::Full;
        let mut device = Exchange { capabilities: &capabilities, input: None, output: &mut no_reply };
        let mut interface = Interface::new(config, &mut device, at);
        let address = IpAddress::from(syn.destination.ip());
        interface.update_ip_addrs(|addresses| {
            addresses.push(IpCidr::new(address, if syn.destination.is_ipv4() { 32 } else { 128 })).ok();
        });
        let (receive, send) = buffers;
        let mut socket =
            tcp::Socket::new(tcp::SocketBuffer::new(vec![0; receive]), tcp::SocketBuffer::new(vec![0; send]));
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        socket
            .listen(IpListenEndpoint { addr: Some(address), port: syn.destination.port() })
            .expect("a fresh socket listens on any port but 0, which Segment::parse refuses");
        let mut sockets = SocketSet::new(Vec::with_capacity(1));
        let handle = sockets.add(socket);
        Self {
            interface,
            sockets,
            handle,
            capabilities,
            max_segment_size: u16::try_from(max_segment_size).expect("clamped to a packet"),
            queued: false,
            scheduled: None,
            last_heard: now,
            released_until: None,
            write_side: WriteSide::Open,
            peer_finished: false,
        }
    }

    fn socket(&self) -> &tcp::Socket<'static> {
        self.sockets.get(self.handle)
    }

    pub(crate) fn socket_mut(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    pub(crate) fn phase(&self) -> Phase {
        let socket = self.socket();
        match socket.state() {
            // A reset in answer to our SYN+ACK sends a smoltcp socket back to listening.
            tcp::State::Listen => Phase::Ended,
            tcp::State::Closed if socket.remote_endpoint().is_none() => Phase::Ended,
            tcp::State::SynSent | tcp::State::SynReceived => Phase::Opening,
            tcp::State::TimeWait => Phase::TimeWait,
            tcp::State::Closed
            | tcp::State::Established
            | tcp::State::FinWait1
            | tcp::State::FinWait2
            | tcp::State::CloseWait
            | tcp::State::Closing
            | tcp::State::LastAck => Phase::Open,
        }
    }

    /// Takes one packet of this flow. Answers that TCP gives at once go to `replies`.
    pub(crate) fn handle(
        &mut self,
        packet: &[u8],
        now: Instant,
        at: SmoltcpInstant,
        replies: &mut VecDeque<Vec<u8>>,
    ) {
        self.last_heard = now;
        let mut output = Sink::Queue(replies);
        let mut device =
            Exchange { capabilities: &self.capabilities, input: Some(packet), output: &mut output };
        self.interface.poll_ingress_single(at, &mut device, &mut self.sockets);
        self.peer_finished |= matches!(
            self.socket().state(),
            tcp::State::CloseWait | tcp::State::Closing | tcp::State::LastAck | tcp::State::TimeWait
        );
        if self.write_side == WriteSide::FinishPending {
            self.finish();
        }
    }

    /// Writes the next packet of this flow into `buffer` and tells its length, or nothing if there is none to send now.
    pub(crate) fn transmit(&mut self, buffer: &mut [u8], at: SmoltcpInstant) -> Option<usize> {
        let mut output = Sink::Buffer { buffer, written: 0 };
        let mut device = Exchange { capabilities: &self.capabilities, input: None, output: &mut output };
        match self.interface.poll_egress(at, &mut device, &mut self.sockets) {
            PollResult::None => None,
            PollResult::SocketStateChanged => match output {
                Sink::Buffer { written, .. } if written > 0 => Some(written),
                Sink::Buffer { .. } | Sink::Queue(_) | Sink::Full => None,
            },
        }
    }

    /// When TCP itself wants to be asked again.
    pub(crate) fn poll_at(&mut self, at: SmoltcpInstant) -> Option<SmoltcpInstant> {
        self.interface.poll_at(at, &self.sockets)
    }

    /// Ends our direction once everything written is sent.
    pub(crate) fn finish(&mut self) {
        if self.phase() == Phase::Opening {
            self.write_side = WriteSide::FinishPending;
        } else {
            self.write_side = WriteSide::Finished;
            self.socket_mut().close();
        }
    }

    pub(crate) fn abort(&mut self) {
        self.socket_mut().abort();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.write_side != WriteSide::Open
    }

    pub(crate) fn is_peer_finished(&self) -> bool {
        self.peer_finished
    }

    /// Both ends have finished, ours last, and only the acknowledgement of that is missing.
    pub(crate) fn awaits_last_acknowledgement(&self) -> bool {
        self.socket().state() == tcp::State::LastAck
    }

    /// Bytes, a SYN or a FIN of ours wait for an acknowledgement.
    pub(crate) fn awaits_peer(&self) -> bool {
        let socket = self.socket();
        socket.send_queue() > 0
            || matches!(
                socket.state(),
                tcp::State::SynReceived | tcp::State::FinWait1 | tcp::State::Closing | tcp::State::LastAck
            )
    }
}

/// What smoltcp takes for a network card: one packet to take, one place for what it sends.
struct Exchange<'a, 'b> {
    capabilities: &'a DeviceCapabilities,
    input: Option<&'a [u8]>,
    output: &'a mut Sink<'b>,
}

enum Sink<'a> {
    Buffer { buffer: &'a mut [u8], written: usize },
    Queue(&'a mut VecDeque<Vec<u8>>),
    Full,
}

struct Input<'a>(&'a [u8]);

struct Output<'a, 'b>(&'a mut Sink<'b>);

impl<'b> Device for Exchange<'_, 'b> {
    type RxToken<'t>
        = Input<'t>
    where
        Self: 't;
    type TxToken<'t>
        = Output<'t, 'b>
    where
        Self: 't;

    fn receive(&mut self, _: SmoltcpInstant) -> Option<(Input<'_>, Output<'_, 'b>)> {
        let input = self.input.take()?;
        Some((Input(input), Output(self.output)))
    }

    fn transmit(&mut self, _: SmoltcpInstant) -> Option<Output<'_, 'b>> {
        match self.output {
            Sink::Buffer { written: 0, .. } | Sink::Queue(_) => Some(Output(self.output)),
            Sink::Buffer { .. } | Sink::Full => None,
        }
    }

    fn capabilities(&self) -> DeviceCapabilities {
        self.capabilities.clone()
    }
}

impl RxToken for Input<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl TxToken for Output<'_, '_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        match self.0 {
            Sink::Buffer { buffer, written } if len <= buffer.len() => {
                *written = len;
                f(&mut buffer[..len])
            }
            Sink::Queue(queue) if queue.len() < crate::stack::MAX_REPLIES => {
                let mut packet = vec![0; len];
                let result = f(&mut packet);
                queue.push_back(packet);
                result
            }
            // Lost, as on any network: TCP sends it again.
            Sink::Buffer { .. } | Sink::Queue(_) | Sink::Full => f(&mut vec![0; len]),
        }
    }
}
