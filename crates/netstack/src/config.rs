//! Sizes and limits of a [`Stack`](crate::Stack).

use std::time::Duration;

/// Sizes and limits of a [`Stack`](crate::Stack).
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes that the device may have in flight towards us, per flow. Memory is touched only as far as it is filled.
    pub receive_buffer: usize,
    /// Bytes that we may have in flight towards the device, per flow. Touched only as far as it is filled.
    pub send_buffer: usize,
    /// TCP flows open at once. A SYN beyond it is dropped, so that the device tries again.
    pub max_flows: usize,
    /// SYNs that wait for a decision at once. A SYN beyond it is dropped, so that the device tries again.
    pub max_requests: usize,
    /// Bytes of datagrams that may wait, per flow and direction; more are dropped. At least one of any length is kept.
    pub datagram_queue: usize,
    /// Bytes of datagrams that may wait in all flows together; more are dropped.
    pub datagram_total: usize,
    /// UDP and ICMP flows at once, asked for or open. A datagram of another one is dropped.
    pub max_datagram_flows: usize,
    /// How long a SYN, or a first datagram, waits for a decision before it is told that the host is unreachable.
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
            datagram_queue: 1 << 19,
            datagram_total: 64 << 20,
            max_datagram_flows: 16_384,
            request_timeout: Duration::from_secs(15),
            seed: 0,
        }
    }
}
