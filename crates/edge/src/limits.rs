//! The edge's limits and deadlines, each with its reason.

use std::time::Duration;

/// A TLS or QUIC handshake: generous for a bad path, short for an idle socket that holds a place.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// From a connector's handshake to its registration; connectors give up after 5 s themselves (tunnel protocol, 2.2).
pub(crate) const REGISTRATION_DEADLINE: Duration = Duration::from_secs(10);
/// From opening a stream to the connector's answer: its own dial takes up to 5 s (tunnel protocol, 3.4).
pub(crate) const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// How long a flow is held for its client's first bytes, if a rule asks what they say (policy language, section 8).
pub(crate) const FIRST_BYTES_DEADLINE: Duration = Duration::from_millis(300);
/// Connections that one flow is tried on: the best, and another when that was lost before it carried a byte.
pub(crate) const DIAL_ATTEMPTS: usize = 2;
/// From asking a peer node to its answer: its own dial, through two connections of which the first is lost, fits.
pub(crate) const RELAY_DEADLINE: Duration = Duration::from_secs(12);
/// How long a flow waits for a connection to a peer node that is being made.
pub(crate) const PEER_WAIT: Duration = Duration::from_secs(3);
/// Between two tries to reach a peer node, at first and at most.
pub(crate) const PEER_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Streams that a peer node may open at first, and at most: they are more as it uses them.
pub(crate) const STREAMS_PER_PEER: (u32, u32) = (256, 16_384);
/// Largest request that a peer node relays, in bytes: a request's header lines travel in it.
pub(crate) const MAX_RELAYED_REQUEST_BYTES: usize = 512 << 10;
/// How long a relayed request waits for its origin once its body moves no more. The node that relays it gives up after 100 s.
pub(crate) const RELAYED_ANSWER_DEADLINE: Duration = Duration::from_mins(2);
/// A connector that has shown no life for so long gets no new flows. It shows some every second; an old one every 2.5 s.
pub(crate) const SILENT_AFTER: Duration = Duration::from_millis(3500);
/// An HTTP/2 connection on which nothing came for so long is closed, as QUIC's is (tunnel protocol, 2.1).
pub(crate) const GONE_AFTER: Duration = Duration::from_secs(6);
/// How often it is seen to that connectors answer.
pub(crate) const PULSE: Duration = Duration::from_millis(250);
/// How often an HTTP/2 connection is probed.
pub(crate) const HTTP2_PING: Duration = Duration::from_secs(1);
/// A connector that has said farewell may keep its connection for its flows so long: its longest grace period is 3 minutes
/// (tunnel protocol, 2.5).
pub(crate) const LINGER: Duration = Duration::from_secs(190);
/// A flow of datagrams on which nothing passed for so long is ended, if its ends have not ended it after 210 s.
pub(crate) const DATAGRAM_IDLE: Duration = Duration::from_mins(4);
/// UDP sessions of one connection at once, with a connector that is not ours.
pub(crate) const MAX_SESSIONS_PER_CONNECTION: usize = 16_384;
/// Largest answer to a request on a stream, in bytes: some hundred header lines.
pub(crate) const MAX_RESPONSE_BYTES: usize = 64 << 10;
/// TLS handshakes at once; more wait in the listen queue.
pub(crate) const MAX_TLS_HANDSHAKES: usize = 512;
/// QUIC handshakes at once from which on a client has to prove its address first (RFC 9000, 8.1.2).
pub(crate) const RETRY_ABOVE_HANDSHAKES: usize = 64;
/// QUIC handshakes at once above which new ones are refused.
pub(crate) const MAX_QUIC_HANDSHAKES: usize = 512;
/// Live connections of one tunnel: 25 connectors of four, with room for restarts.
pub(crate) const MAX_CONNECTIONS_PER_TUNNEL: usize = 256;
/// Connections of one device at once.
pub(crate) const MAX_CONNECTIONS_PER_DEVICE: usize = 16;
/// Open flows of one device at once.
pub(crate) const MAX_FLOWS_PER_DEVICE: usize = 8192;
/// How often a device's connection is probed, and how long an answer may take.
pub(crate) const DEVICE_PING: Duration = Duration::from_secs(10);
/// A device that answers no probe within this is gone.
pub(crate) const DEVICE_PONG_DEADLINE: Duration = Duration::from_secs(15);
/// Largest request on a device's QUIC stream, in bytes: a destination and a few names.
pub(crate) const MAX_REQUEST_BYTES: usize = 4 << 10;
/// Streams that a device may open on QUIC at first. They are more as it uses them, since each has its place from the start.
pub(crate) const FIRST_STREAMS_PER_DEVICE: u32 = 256;
/// From stop to exit, for connections to close.
pub(crate) const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// For the last words of a connection that is being closed to leave.
pub(crate) const FAREWELL: Duration = Duration::from_millis(200);
/// How long a connector whose registration is refused may take to notice, before its connection ends.
pub(crate) const REFUSED_LINGER: Duration = Duration::from_secs(2);
