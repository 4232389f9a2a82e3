//! What goes in and out of a [`Stack`](crate::Stack) besides packets and bytes.

use std::net::SocketAddr;

use adit_model::Protocol;

use crate::FlowId;

/// What the caller has to act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The device wants a connection, or has sent the first datagram to somewhere. Answer with [`Stack::accept`](crate::Stack::accept) or
    /// [`Stack::refuse`](crate::Stack::refuse).
    FlowRequested {
        /// The new flow.
        flow: FlowId,
        /// What it is.
        protocol: Protocol,
        /// The device's end. The port of an ICMP flow is its echo identifier.
        source: SocketAddr,
        /// What the application dialled. The port of an ICMP flow is 0.
        destination: SocketAddr,
    },
    /// A requested flow was not decided in time, or the device gave it up. Its id is void.
    FlowWithdrawn {
        /// The flow that was requested.
        flow: FlowId,
    },
}

/// How a requested flow, or a datagram of an open one, is turned down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// TCP reset, or ICMP port unreachable: the application sees "connection refused". For an echo request, which has no
    /// port, host unreachable.
    Refused,
    /// ICMP host unreachable: the application sees "no route to host" at once.
    Unreachable,
    /// ICMP administratively prohibited: "no route to host" on IPv4, "permission denied" on IPv6.
    Prohibited,
    /// ICMP fragmentation needed, or packet too big: "message too long". For TCP, which has no message, host unreachable.
    TooLarge,
}

/// Why [`Stack::accept`](crate::Stack::accept) did not accept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    /// The request was withdrawn, refused or accepted before.
    #[error("no such request")]
    UnknownFlow,
    /// TCP found the SYN malformed; it was answered with a reset.
    #[error("the SYN is malformed")]
    Malformed,
    /// [`Config::max_flows`](crate::Config::max_flows) are open; the SYN is forgotten and the device will repeat it.
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

/// Why a datagram was not sent to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The flow is not open.
    #[error("no such flow")]
    UnknownFlow,
    /// No IP packet can hold it.
    #[error("the datagram is longer than an IP packet")]
    TooLong,
    /// Only echo replies go back on a flow of echo requests.
    #[error("not an echo reply")]
    NotAReply,
    /// Too much waits already: the datagram is dropped, as on any network.
    #[error("the queue is full")]
    QueueFull,
}

/// A packet that [`Stack::poll_transmit`](crate::Stack::poll_transmit) has written, and what the device has to do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// Length of the packet in bytes.
    pub len: usize,
    /// Set for TCP and UDP: the checksum is still to be computed.
    pub offload: Option<Offload>,
}

/// What a `virtio_net_hdr` says of a TCP or UDP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// Where the checksum starts: the length of the IP header.
    pub checksum_start: u16,
    /// Where it goes, counted from `checksum_start`. The field holds the pseudo-header's sum.
    pub checksum_offset: u16,
    /// Length of all headers together.
    pub header_len: u16,
    /// Set if TCP's payload is longer than the peer's segments: cut it into pieces of this many bytes.
    pub segment_size: Option<u16>,
}

/// What happened to packets, in numbers since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets given to [`Stack::handle_packet`](crate::Stack::handle_packet).
    pub received: u64,
    /// Packets written by [`Stack::poll_transmit`](crate::Stack::poll_transmit).
    pub sent: u64,
    /// Dropped: lengths or addresses that make no sense, and fragments that fit into no packet.
    pub malformed: u64,
    /// Dropped: what is neither TCP nor UDP nor an ICMP echo request.
    pub other_protocol: u64,
    /// SYNs and datagrams of new flows dropped because of a limit.
    pub over_limit: u64,
    /// Datagrams of open flows, either way, dropped because of a full queue.
    pub queue_full: u64,
}

/// How many flows there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// SYNs that wait for a decision, or whose refusal is not yet over.
    pub requested: usize,
    /// TCP flows accepted and not yet gone.
    pub open: usize,
    /// UDP and ICMP flows, asked for or open.
    pub datagram: usize,
}
