//! Packets to flows: user-space TCP, UDP and ICMP echo over any packet source.
//!
//! A device's kernel routes private networks into a TUN interface; somebody has to be the other end of the
//! connections that arrive there. [`Stack`] is that end: IP packets in ([`Stack::handle_packet`]), IP packets out
//! ([`Stack::poll_transmit`]), and between them one [`FlowId`] per TCP connection with a read side and a write
//! side, or per exchange of datagrams.
//!
//! What always holds:
//!
//! - **A SYN is not answered before the caller says so.** It is read before TCP sees it, kept, and reported as
//!   [`Event::FlowRequested`]; [`Stack::accept`] answers it, [`Stack::refuse`] turns it down in the way that the
//!   application would see from the real network (reset, or ICMP destination unreachable).
//! - **No sockets, no threads, no clock.** Time is an argument; randomness is a seed in [`Config`].
//! - **The cost of a packet does not depend on the number of flows**: each flow is a TCP machine of its own, found by
//!   hash, and only flows with something to do are looked at.
//! - **Large packets stay whole.** Segments of up to 64 KiB are taken and given; TCP checksums of incoming packets are
//!   not verified and those of outgoing ones hold only the pseudo-header's sum, as a device with checksum offload
//!   (`virtio_net_hdr`) expects. That is worth a factor of 2 to 20 in throughput.
//!
//! - **Datagrams are flows too.** UDP between one pair of ends, and the echo requests of one `ping`: the first datagram asks,
//!   and is held until the caller has decided; what finds a full queue is dropped. Silent flows end by themselves.
//!
//! What it does not do: other ICMP than echo (counted and dropped, see [`Counters`]), fragments of its own making (the
//! local kernel takes packets longer than its interface's MTU), and congestion control (the hop is the local kernel, without
//! loss or delay).

mod config;
mod datagram;
mod fuzz;
mod interface;
mod packet;
mod reassembly;
mod stack;
mod table;
mod tcp;

pub use config::Config;
#[doc(hidden)]
pub use fuzz::fuzz_packets;
pub use interface::{
    AcceptError, Counters, Event, FlowCounts, Offload, ReadError, Refusal, SendError, Transmit, WriteError,
};
pub use stack::{MAX_PACKET, Stack};
pub use table::FlowId;
