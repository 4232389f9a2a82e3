//! Asking a resolver past the edge: for the edge's own names, and for fallback domains.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use adit_transport::messages::{Frames, frame};
use adit_wire::dns::hickory_proto::op::Message;
use adit_wire::dns::{MAX_MESSAGE_BYTES, answer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How it is asked: as the program asks, so that what does not fit into a datagram is asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Over {
    Udp,
    Tcp,
}

/// For one resolver; two fit into the time that programs wait.
const EACH: Duration = Duration::from_millis(2200);
/// After which a datagram is sent again.
const REPEAT: Duration = Duration::from_secs(1);
/// Resolvers that are asked for one name.
const MAX_ASKED: usize = 2;

/// Asks one after another, with the program's own query.
pub(super) async fn ask(
    resolvers: &[SocketAddr],
    bytes: &[u8],
    query: &Message,
    over: Over,
) -> Option<Vec<u8>> {
    for address in resolvers.iter().filter(|address| !super::is_resolver(**address)).take(MAX_ASKED) {
        let asked = async {
            match over {
                Over::Udp => datagram(*address, bytes, query).await,
                Over::Tcp => stream(*address, bytes, query).await,
            }
        };
        match timeout(EACH, asked).await {
            Ok(Ok(found)) => return Some(found),
            Ok(Err(error)) => tracing::debug!(resolver = %address, %error, "no answer"),
            Err(_) => tracing::debug!(resolver = %address, "no answer in time"),
        }
    }
    None
}

async fn datagram(address: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    let mut buffer = vec![0; MAX_MESSAGE_BYTES];
    loop {
        socket.send(bytes).await?;
        let received = async {
            loop {
                let length = socket.recv(&mut buffer).await?;
                if answer(&buffer[..length], query).is_some() {
                    return Ok(buffer[..length].to_vec());
                }
            }
        };
        if let Ok(received) = timeout(REPEAT, received).await {
            return received;
        }
    }
}

async fn stream(address: SocketAddr, bytes: &[u8], query: &Message) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(&frame(bytes).ok_or(io::ErrorKind::InvalidInput)?).await?;
    let (mut frames, mut buffer) = (Frames::default(), [0; 4096]);
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        frames.push(&buffer[..read]);
        match frames.pop(MAX_MESSAGE_BYTES) {
            Ok(Some(message)) if answer(&message, query).is_some() => return Ok(message.to_vec()),
            Ok(_) => {}
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}
