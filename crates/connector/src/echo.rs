//! ICMP echo into the private network (contract, 4.5; RFC 792, RFC 4443).
//!
//! Unprivileged ping sockets where the system lets this process have them (`net.ipv4.ping_group_range`), raw sockets where
//! it has `CAP_NET_RAW`, and neither otherwise, which [`Echoes::new`] says once and clearly. Each echo identifier of a flow
//! has a socket of its own, for which the system (or we, on a raw socket) chooses an identifier that is unique on this
//! host; replies get the flow's own identifier back. What always holds: only echo requests are sent and only their replies
//! come back, from the address that was asked; the number of identifiers of a flow is bounded. The checksum of an ICMPv6
//! message needs the addresses that its reader will see, and is left to it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use adit_transport::StreamError;
use adit_transport::datagram::{Packet, ReceivePacket, SendPacket};
use adit_wire::icmp::{self, Echo, Family};
use bytes::Bytes;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::udp::{receive, refusal};

/// How this process sends echo requests.
#[derive(Debug)]
pub(crate) struct Echoes {
    v4: Option<Means>,
    v6: Option<Means>,
    /// For raw sockets: the next identifier.
    next: AtomicU16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Means {
    Ping,
    Raw,
}

impl Echoes {
    /// Finds out what the system permits.
    pub(crate) fn new() -> Self {
        let means =
            |family| [Means::Ping, Means::Raw].into_iter().find(|means| socket(*means, family).is_ok());
        let next = AtomicU16::new(u16::try_from(std::process::id() & 0xffff).unwrap_or_default());
        Self { v4: means(Family::V4), v6: means(Family::V6), next }
    }

    /// Says which families cannot be pinged, and what to do.
    pub(crate) fn report(&self) {
        for (family, means) in [("IPv4", self.v4), ("IPv6", self.v6)] {
            if means.is_none() {
                tracing::warn!(
                    family,
                    hint = "widen net.ipv4.ping_group_range to this process's group, or give it CAP_NET_RAW",
                    "ICMP proxy feature is disabled"
                );
            } else {
                tracing::debug!(family, means = ?means, "ICMP echo is proxied");
            }
        }
    }

    fn means(&self, family: Family) -> Option<Means> {
        match family {
            Family::V4 => self.v4,
            Family::V6 => self.v6,
        }
    }

    /// A flow of echo requests to `destination`; `None` if the system permits none.
    pub(crate) fn flow(self: &Arc<Self>, destination: IpAddr) -> Option<(EchoReceiver, EchoSender)> {
        self.means(Family::of(destination))?;
        let (sender, packets) = mpsc::channel(MAX_REPLIES);
        let sender = EchoSender {
            echoes: Arc::clone(self),
            destination,
            sockets: Vec::new(),
            replies: sender,
            readers: JoinSet::new(),
        };
        Some((EchoReceiver { packets }, sender))
    }

    fn open(&self, destination: IpAddr) -> io::Result<EchoSocket> {
        let family = Family::of(destination);
        let means = self.means(family).ok_or(io::ErrorKind::PermissionDenied)?;
        let socket = socket(means, family)?;
        socket.connect(&SocketAddr::new(destination, 0).into())?;
        let id = match means {
            // Where others have ports, ping sockets have identifiers.
            Means::Ping => socket.local_addr()?.as_socket().map_or(0, |address| address.port()),
            Means::Raw => self.next.fetch_add(1, Ordering::Relaxed),
        };
        let socket = UdpSocket::from_std(socket.into())?;
        Ok(EchoSocket { socket, means, family, id })
    }
}

fn socket(means: Means, family: Family) -> io::Result<Socket> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let kind = match means {
        Means::Ping => Type::DGRAM,
        Means::Raw => Type::RAW,
    };
    let socket = Socket::new(domain, kind, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Sends requests of one identifier, and hears the replies.
#[derive(Debug)]
struct EchoSocket {
    socket: UdpSocket,
    means: Means,
    family: Family,
    /// The identifier on the wire.
    id: u16,
}

impl EchoSocket {
    async fn send(&self, request: &Echo) -> io::Result<()> {
        let message = request.with_id(self.id).message(self.family);
        self.socket.send(&message).await.map(drop)
    }

    /// The next reply, with `original` as its identifier.
    async fn receive(&self, original: u16) -> io::Result<Bytes> {
        loop {
            let received = receive(&self.socket).await?;
            // Raw IPv4 sockets give the IP header too.
            let message = match (self.means, self.family) {
                (Means::Raw, Family::V4) => icmp::behind_v4_header(&received),
                (Means::Ping, _) | (Means::Raw, Family::V6) => Some(received),
            };
            let reply = message.and_then(|message| Echo::reply(self.family, &message));
            if let Some(reply) = reply.filter(|reply| reply.id == self.id) {
                return Ok(reply.with_id(original).message(self.family).freeze());
            }
        }
    }
}

/// To the destination.
#[derive(Debug)]
pub(crate) struct EchoSender {
    echoes: Arc<Echoes>,
    destination: IpAddr,
    /// By the flow's identifiers, the oldest first.
    sockets: Vec<(u16, Arc<EchoSocket>, tokio::task::AbortHandle)>,
    replies: mpsc::Sender<Packet>,
    readers: JoinSet<()>,
}

/// From the destination.
#[derive(Debug)]
pub(crate) struct EchoReceiver {
    packets: mpsc::Receiver<Packet>,
}

impl ReceivePacket for EchoReceiver {
    async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        Ok(self.packets.recv().await)
    }

    fn stop(&mut self) {
        self.packets.close();
    }
}

impl SendPacket for EchoSender {
    async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        let Packet::Datagram(message) = packet else { return Ok(()) };
        let Some(request) = Echo::request(Family::of(self.destination), &message) else {
            tracing::debug!("an ICMP message that is no echo request");
            return Ok(());
        };
        let socket = match self.socket(request.id) {
            Ok(socket) => socket,
            Err(error) => {
                self.refuse(&error);
                return Ok(());
            }
        };
        // The first error may be that of the request before.
        for _ in 0..2 {
            let Err(error) = socket.send(&request).await else { break };
            self.refuse(&error);
            if error.raw_os_error() == Some(libc::EMSGSIZE) {
                break;
            }
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn reset(&mut self) {}
}

impl EchoSender {
    fn socket(&mut self, id: u16) -> io::Result<Arc<EchoSocket>> {
        if let Some((_, socket, _)) = self.sockets.iter().find(|(known, ..)| *known == id) {
            return Ok(Arc::clone(socket));
        }
        if self.sockets.len() >= MAX_IDS_PER_FLOW {
            let (_, _, reader) = self.sockets.remove(0);
            reader.abort();
        }
        while self.readers.try_join_next().is_some() {}
        let socket = Arc::new(self.echoes.open(self.destination)?);
        let (hearing, replies) = (Arc::clone(&socket), self.replies.clone());
        let reader = self.readers.spawn(async move {
            loop {
                let packet = match hearing.receive(id).await {
                    Ok(reply) => Packet::Datagram(reply),
                    Err(error) => match refusal(&error) {
                        Some(refusal) => Packet::Refusal(refusal.as_str().to_owned()),
                        None => return,
                    },
                };
                // A full queue drops it, as a network would.
                let _ = replies.try_send(packet);
            }
        });
        self.sockets.push((id, Arc::clone(&socket), reader));
        Ok(socket)
    }

    fn refuse(&self, error: &io::Error) {
        if let Some(refusal) = refusal(error) {
            let _ = self.replies.try_send(Packet::Refusal(refusal.as_str().to_owned()));
        } else {
            tracing::debug!(error = %error, "echo request not sent");
        }
    }
}

/// Identifiers of one flow at once; the oldest goes for a new one. A `ping` has one.
const MAX_IDS_PER_FLOW: usize = 8;
/// Replies of one flow that wait to be taken.
const MAX_REPLIES: usize = 64;
