//! Asking resolvers: UDP, then TCP where an answer does not fit; from this node, or through a tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_model::{
    AccountId, DnsResolvers, FlowId, Protocol, RuleId, TunnelId, VirtualNetworkId, never_dialled,
};
use adit_policy::Snapshot;
use adit_transport::datagram::{Packet, ReceivePacket, SendPacket};
use adit_transport::messages::{Frames, frame};
use adit_transport::{ReadChunk, WriteChunk};
use adit_wire::dns::hickory_proto::op::Message;
use adit_wire::dns::{CONNECTOR_RESOLVER, MAX_MESSAGE_BYTES, answer};
use adit_wire::peer::RelayedFlow;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;
use uuid::Uuid;

use crate::Shared;
use crate::dial::{Order, Reach, dial, dial_datagrams};

/// Who is asked. Answers are kept apart by it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Choice {
    /// The installation's own resolvers.
    Own,
    /// Those that a rule of this account gives.
    Given(AccountId, Vec<Place>),
}

/// Where a resolver of a rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    /// Where its route is looked up.
    network: Option<VirtualNetworkId>,
    /// Whether it is reached by a route or not at all.
    private: bool,
    /// The tunnel whose connectors' resolver it is.
    tunnel: Option<TunnelId>,
}

impl Choice {
    /// The resolvers of a rule, IPv4 first, each in the virtual network that it names or in the account's default one.
    pub(crate) fn given(snapshot: &Snapshot, account: AccountId, resolvers: &DnsResolvers) -> Self {
        let default = snapshot.default_network(account);
        let places = resolvers.ipv4.iter().chain(&resolvers.ipv6).map(|resolver| Place {
            address: SocketAddr::new(resolver.ip, resolver.port.unwrap_or(adit_wire::dns::PORT)),
            network: resolver.vnet_id.or(default),
            private: resolver.route_through_private_network == Some(true),
            tunnel: None,
        });
        Self::Given(account, places.collect())
    }

    /// The resolver of a tunnel's connectors, for names of hostname routes.
    pub(crate) fn of_tunnel(account: AccountId, tunnel: TunnelId) -> Self {
        let address = SocketAddr::from((CONNECTOR_RESOLVER, adit_wire::dns::PORT));
        Self::Given(account, vec![Place { address, network: None, private: true, tunnel: Some(tunnel) }])
    }
}

/// For whom a resolver is asked, for the flow that reaches it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behalf<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) account: AccountId,
    pub(crate) rule: Option<RuleId>,
    pub(crate) source: IpAddr,
}

/// An answer, and who gave it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) message: Message,
    pub(crate) bytes: usize,
    pub(crate) by: SocketAddr,
}

/// Nobody answered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error("no resolver is configured")]
    NoResolver,
    #[error("{address} did not answer in time")]
    Silent { address: SocketAddr },
    #[error("{address} cannot be reached: {words}")]
    Unreachable { address: SocketAddr, words: String },
    #[error("{address} is a private address that no route holds")]
    Private { address: SocketAddr },
}

impl NoAnswer {
    /// Who was asked last.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::NoResolver => None,
            Self::Silent { address } | Self::Unreachable { address, .. } | Self::Private { address } => {
                Some(*address)
            }
        }
    }
}

/// Asks one resolver after another until one answers. A server failure is no answer as long as there is another to ask.
pub(crate) async fn ask(
    shared: &Shared,
    behalf: Behalf<'_>,
    choice: &Choice,
    query: &Message,
) -> Result<Answered, NoAnswer> {
    let Ok(bytes) = query.to_vec() else { return Err(NoAnswer::NoResolver) };
    let question = Question { query, bytes: bytes.into() };
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let mut last = Err(NoAnswer::NoResolver);
    for place in places(shared, choice) {
        let asked =
            timeout(EACH.min(deadline - tokio::time::Instant::now()), question.ask(shared, behalf, place))
                .await;
        let address = place.address;
        match asked.unwrap_or(Err(NoAnswer::Silent { address })) {
            Ok(answered) if is_final(&answered.message) => return Ok(answered),
            Ok(answered) => last = Ok(answered),
            Err(error) => {
                tracing::debug!(%error, "a resolver does not answer");
                if last.is_err() {
                    last = Err(error);
                }
            }
        }
    }
    last
}

fn places(shared: &Shared, choice: &Choice) -> Vec<Place> {
    match choice {
        Choice::Own => {
            let own = shared.dns.upstreams.iter();
            own.map(|address| Place { address: *address, network: None, private: false, tunnel: None })
                .collect()
        }
        Choice::Given(_, places) => places.clone(),
    }
}

fn is_final(message: &Message) -> bool {
    use adit_wire::dns::hickory_proto::op::ResponseCode;
    !matches!(message.metadata.response_code, ResponseCode::ServFail | ResponseCode::Refused)
}

/// How a resolver is reached.
enum Way {
    Direct,
    Tunnel(TunnelId),
}

struct Question<'q> {
    query: &'q Message,
    bytes: Bytes,
}

impl Question<'_> {
    async fn ask(&self, shared: &Shared, behalf: Behalf<'_>, place: Place) -> Result<Answered, NoAnswer> {
        let address = place.address;
        let found = match way(shared, behalf, place)? {
            Way::Direct => self.direct(address).await.map_err(|error| error.to_string()),
            Way::Tunnel(tunnel) => self.through(shared, behalf, tunnel, address).await,
        };
        let (message, bytes) = found.map_err(|words| NoAnswer::Unreachable { address, words })?;
        Ok(Answered { message, bytes, by: address })
    }

    async fn direct(&self, address: SocketAddr) -> io::Result<(Message, usize)> {
        let found = self.datagram(address).await?;
        if !found.0.metadata.truncation {
            return Ok(found);
        }
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(&frame(&self.bytes).ok_or(io::ErrorKind::InvalidInput)?).await?;
        let mut frames = Frames::default();
        let mut buffer = [0; 4096];
        loop {
            let read = stream.read(&mut buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            frames.push(&buffer[..read]);
            if let Some(found) = self.popped(&mut frames) {
                return Ok(found);
            }
        }
    }

    /// From a port of its own for each query, which is as much to be guessed as the query's number.
    async fn datagram(&self, address: SocketAddr) -> io::Result<(Message, usize)> {
        let any = match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(address).await?;
        let mut buffer = vec![0; MAX_MESSAGE_BYTES];
        loop {
            socket.send(&self.bytes).await?;
            let received = async {
                loop {
                    let length = socket.recv(&mut buffer).await?;
                    if let Some(found) = self.answered(&buffer[..length]) {
                        return io::Result::Ok(found);
                    }
                }
            };
            if let Ok(received) = timeout(REPEAT, received).await {
                return received;
            }
        }
    }

    /// Not every connector carries UDP: what it does not, TCP may.
    async fn through(
        &self,
        shared: &Shared,
        behalf: Behalf<'_>,
        tunnel: TunnelId,
        address: SocketAddr,
    ) -> Result<(Message, usize), String> {
        let order = |protocol| Order {
            flow: RelayedFlow {
                flow: FlowId::from_uuid(Uuid::new_v4()),
                account: behalf.account,
                tunnel,
                protocol,
                rule: behalf.rule,
                snapshot: behalf.snapshot.number(),
                source: Some(behalf.source),
            },
            reach: Reach::AnyNode,
        };
        match self.datagram_through(shared, order(Protocol::Udp), address).await {
            Ok(found) if !found.0.metadata.truncation => Ok(found),
            Ok(_) => self.stream_through(shared, order(Protocol::Tcp), address).await,
            Err(words) => {
                tracing::debug!(words, "no datagrams to the resolver");
                self.stream_through(shared, order(Protocol::Tcp), address).await
            }
        }
    }

    async fn datagram_through(
        &self,
        shared: &Shared,
        order: Order,
        address: SocketAddr,
    ) -> Result<(Message, usize), String> {
        let dialled = dial_datagrams(shared, order, address).await;
        let mut far = dialled.map_err(|not| format!("{} ({})", not.refusal.as_str(), not.detail))?;
        loop {
            let sent = far.far.sender.send(Packet::Datagram(self.bytes.clone())).await;
            sent.map_err(|error| error.to_string())?;
            let received = async {
                loop {
                    match far.far.receiver.receive().await {
                        Ok(Some(Packet::Datagram(bytes))) => {
                            if let Some(found) = self.answered(&bytes) {
                                return Ok(found);
                            }
                        }
                        Ok(Some(Packet::Refusal(name))) => return Err(name),
                        Ok(None) => return Err("the flow has ended".to_owned()),
                        Err(error) => return Err(error.to_string()),
                    }
                }
            };
            if let Ok(received) = timeout(REPEAT, received).await {
                // What is left of the flow goes with it.
                let _ = far.far.sender.finish().await;
                return received;
            }
        }
    }

    async fn stream_through(
        &self,
        shared: &Shared,
        order: Order,
        address: SocketAddr,
    ) -> Result<(Message, usize), String> {
        let dialled = dial(shared, order, address).await;
        let mut far = dialled.map_err(|not| format!("{} ({})", not.refusal.as_str(), not.detail))?;
        let framed = frame(&self.bytes).ok_or("the query is too long")?;
        far.stream.writer.write_chunk(framed).await.map_err(|error| error.to_string())?;
        let mut frames = Frames::default();
        loop {
            match far.stream.reader.read_chunk().await {
                Ok(Some(chunk)) => frames.push(&chunk),
                Ok(None) => return Err("the flow has ended".to_owned()),
                Err(error) => return Err(error.to_string()),
            }
            if let Some(found) = self.popped(&mut frames) {
                far.stream.reset();
                return Ok(found);
            }
        }
    }

    fn popped(&self, frames: &mut Frames) -> Option<(Message, usize)> {
        let bytes = frames.pop(MAX_MESSAGE_BYTES).ok()??;
        self.answered(&bytes)
    }

    fn answered(&self, bytes: &[u8]) -> Option<(Message, usize)> {
        answer(bytes, self.query).map(|message| (message, bytes.len()))
    }
}

/// A resolver inside a route is reached by it. Of others, those of the installation are where its operator says, and an
/// account's are public or nowhere (design, section 4).
fn way(shared: &Shared, behalf: Behalf<'_>, place: Place) -> Result<Way, NoAnswer> {
    let address = place.address;
    if let Some(tunnel) = place.tunnel {
        return Ok(Way::Tunnel(tunnel));
    }
    if shared.dns.upstreams.contains(&address) && !place.private {
        return Ok(Way::Direct);
    }
    let routed =
        place.network.and_then(|network| behalf.snapshot.tunnel_to(behalf.account, network, address.ip()));
    match routed {
        Some(tunnel) => Ok(Way::Tunnel(tunnel)),
        None if !place.private && is_public(address.ip()) => Ok(Way::Direct),
        None => Err(NoAnswer::Private { address }),
    }
}

/// Whether an address may be dialled for an account by the edge itself: not private, shared, reserved or the edge's own.
fn is_public(address: IpAddr) -> bool {
    if never_dialled(address).is_some() {
        return false;
    }
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            let shared = a == 100 && (b & 0xc0) == 64;
            !(v4.is_private() || shared || a >= 240 || a == 198 && (b & 0xfe) == 18)
        }
        IpAddr::V6(v6) => (v6.segments()[0] & 0xe000) == 0x2000,
    }
}

/// For all resolvers of a query together: those who ask give up after five seconds.
const DEADLINE: Duration = Duration::from_millis(4500);
/// For one resolver.
const EACH: Duration = Duration::from_millis(2500);
/// After which a datagram is sent again.
const REPEAT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_dials_public_addresses_only_for_an_account() {
        for public in ["9.9.9.9", "192.0.2.53", "2001:db8::53", "2620:fe::fe"] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "127.0.0.53",
            "169.254.169.254",
            "0.0.0.0",
            "240.0.0.1",
            "198.18.0.1",
            "::1",
            "fd00::1",
            "fe80::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
