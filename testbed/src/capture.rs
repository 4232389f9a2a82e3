//! What a link really carried: an AF_PACKET reader that counts bytes per pair of endpoints.
//!
//! It sees what a tap on the link would. It keeps headers only, and counts a super-segment (segmentation offload) as one
//! packet. A packet that is neither IPv4 nor IPv6 (ARP) is counted by its EtherType.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, bind, recv, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use crate::net::Host;

/// Enough for Ethernet, an IPv6 header and the ports after it.
const SNAP_BYTES: usize = 128;
/// What waits in the kernel for this reader; the default loses packets of a bulk transfer.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;

/// One direction of traffic between two endpoints.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Sender; port 0 where the protocol has none.
    pub src: SocketAddr,
    /// Receiver; port 0 where the protocol has none.
    pub dst: SocketAddr,
    /// IP protocol number: 6 TCP, 17 UDP, 1 ICMP, 58 ICMPv6.
    pub protocol: u8,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", protocol_name(self.protocol), self.src, self.dst)
    }
}

fn protocol_name(protocol: u8) -> String {
    match protocol {
        6 => "tcp".to_owned(),
        17 => "udp".to_owned(),
        1 => "icmp".to_owned(),
        58 => "icmpv6".to_owned(),
        other => format!("ip protocol {other}"),
    }
}

/// An endpoint without its port where that is a client's ephemeral one (or the protocol has none).
fn service(end: SocketAddr) -> String {
    /// First ephemeral port of Linux, `net.ipv4.ip_local_port_range`.
    const EPHEMERAL: u16 = 32768;
    match (end, end.port()) {
        (_, 1..EPHEMERAL) => end.to_string(),
        (SocketAddr::V4(_), _) => format!("{}:*", end.ip()),
        (SocketAddr::V6(_), _) => format!("[{}]:*", end.ip()),
    }
}

/// Packets and bytes, link headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Packets; a super-segment is one.
    pub packets: u64,
    /// Bytes, link headers included.
    pub bytes: u64,
}

/// What was seen on a link.
#[derive(Clone, Debug, Default)]
pub struct Traffic {
    /// By pair of endpoints.
    pub pairs: BTreeMap<Pair, Count>,
    /// Neither IPv4 nor IPv6, by EtherType.
    pub others: BTreeMap<u16, Count>,
}

impl Traffic {
    /// Every address that appears as a sender or receiver.
    pub fn addresses(&self) -> std::collections::BTreeSet<IpAddr> {
        self.pairs.keys().flat_map(|pair| [pair.src.ip(), pair.dst.ip()]).collect()
    }

    /// The same traffic with the clients' ephemeral ports left out, so that a person can read it.
    pub fn by_service(&self) -> BTreeMap<String, Count> {
        let mut services: BTreeMap<String, Count> = BTreeMap::new();
        for (pair, count) in &self.pairs {
            let text =
                format!("{} {} > {}", protocol_name(pair.protocol), service(pair.src), service(pair.dst));
            services.entry(text).or_default().add(count.packets, count.bytes);
        }
        services
    }

    fn note(&mut self, frame: &[u8], bytes: u64) {
        let count = if let Some(pair) = parse(frame) {
            self.pairs.entry(pair).or_default()
        } else {
            let ether_type = frame.get(12..14).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
            self.others.entry(ether_type).or_default()
        };
        count.add(1, bytes);
    }
}

impl Count {
    fn add(&mut self, packets: u64, bytes: u64) {
        self.packets += packets;
        self.bytes += bytes;
    }
}

/// A running capture on one link of one host.
#[derive(Debug)]
pub struct Capture {
    traffic: Arc<Mutex<Traffic>>,
    stopping: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Begins to count what passes `link` of `host`, both directions.
    pub fn start(host: &Host, link: &str) -> Result<Self> {
        let link = link.to_owned();
        let socket = host.within(move || open(&link)).context("open a packet socket")?;
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let stopping = Arc::new(AtomicBool::new(false));
        let reader = std::thread::spawn({
            let (traffic, stopping) = (traffic.clone(), stopping.clone());
            move || read(&socket, &traffic, &stopping)
        });
        Ok(Self { traffic, stopping, reader: Some(reader) })
    }

    /// What was seen so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Ends the capture, once the kernel has nothing more for it.
    pub fn stop(mut self) -> Traffic {
        self.join();
        self.traffic()
    }

    fn join(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            // It cannot panic on input; a lost capture shows as missing traffic.
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.join();
    }
}

fn open(link: &str) -> io::Result<OwnedFd> {
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    // So that the reader sees that it should stop.
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50))?;
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == link)
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no link {link}")))?;
    bind(socket.as_raw_fd(), &address)?;
    Ok(socket)
}

fn read(socket: &OwnedFd, traffic: &Mutex<Traffic>, stopping: &AtomicBool) {
    let mut frame = [0; SNAP_BYTES];
    loop {
        // MSG_TRUNC: the length on the wire, however little of it fits.
        match recv(socket.as_raw_fd(), &mut frame, MsgFlags::MSG_TRUNC) {
            Ok(length) => {
                let kept = &frame[..length.min(SNAP_BYTES)];
                traffic.lock().unwrap_or_else(PoisonError::into_inner).note(kept, length as u64);
            }
            Err(nix::errno::Errno::EINTR) => {}
            Err(_) if stopping.load(Ordering::Relaxed) => return,
            Err(nix::errno::Errno::EAGAIN) => {}
            // The link is gone.
            Err(_) => return,
        }
    }
}

/// The endpoints of an Ethernet frame that holds an IP packet. Extension headers of IPv6 are not walked.
fn parse(frame: &[u8]) -> Option<Pair> {
    let packet = frame.get(14..)?;
    let (src, dst, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match (&frame[12..14], packet.first()? >> 4)
    {
        ([0x08, 0x00], 4) => {
            let header = usize::from(packet[0] & 0x0f) * 4;
            let address = |at: usize| -> Option<Ipv4Addr> {
                Some(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?.into())
            };
            (address(12)?.into(), address(16)?.into(), *packet.get(9)?, packet.get(header..)?)
        }
        ([0x86, 0xdd], 6) => {
            let address = |at: usize| -> Option<Ipv6Addr> {
                Some(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?.into())
            };
            (address(8)?.into(), address(24)?.into(), *packet.get(6)?, packet.get(40..)?)
        }
        _ => return None,
    };
    let port = |at: usize| match (protocol, rest.get(at..at + 2)) {
        (6 | 17, Some(bytes)) => u16::from_be_bytes([bytes[0], bytes[1]]),
        _ => 0,
    };
    Some(Pair { src: SocketAddr::new(src, port(0)), dst: SocketAddr::new(dst, port(2)), protocol })
}
