//! SOCKS5 UDP ASSOCIATE: datagrams of one program, for as long as its connection stays.
//!
//! Each target is a flow of its own. What finds a full queue, or one target too many, is dropped; a refusal cannot be told
//! by this protocol.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use adit_model::Protocol;
use adit_transport::StreamError;
use adit_transport::datagram::{Exchanged, Packet, ReceivePacket, SendPacket, exchange};
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::target::Target;
use super::{Door, socks};
use crate::carrier::Carrier;

/// Targets of one association at once.
const MAX_TARGETS: usize = 256;
/// Datagrams that wait for one target's flow.
const MAX_WAITING: usize = 64;
/// How long a target may be silent both ways.
const IDLE: Duration = Duration::from_mins(3);
/// Longest datagram with its header, in bytes.
const MAX_DATAGRAM: usize = 65535;

/// Serves one association until the program closes its connection.
pub(super) async fn serve<C: Carrier + Clone>(mut stream: TcpStream, door: Door<C>) -> io::Result<()> {
    let peer = stream.peer_addr()?;
    let socket = Rc::new(UdpSocket::bind((stream.local_addr()?.ip(), 0)).await?);
    stream.write_all(&socks::success(Some(socket.local_addr()?))).await?;
    let mut association =
        Association { socket, door, client: None, targets: HashMap::new(), flows: JoinSet::new() };
    let mut buffer = vec![0; MAX_DATAGRAM];
    let mut byte = [0];
    loop {
        tokio::select! {
            read = stream.read(&mut byte) => if read? == 0 { return Ok(()) },
            received = association.socket.recv_from(&mut buffer) => {
                let (length, from) = received?;
                if from.ip() == peer.ip() {
                    association.handle(&buffer[..length], from);
                }
            }
            Some(ended) = association.flows.join_next() => {
                if let Ok(target) = ended {
                    association.targets.remove(&target);
                }
            }
        }
    }
}

struct Association<C> {
    socket: Rc<UdpSocket>,
    door: Door<C>,
    /// The first that has sent here; nobody else is served.
    client: Option<SocketAddr>,
    targets: HashMap<Target, mpsc::Sender<Bytes>>,
    flows: JoinSet<Target>,
}

impl<C: Carrier + Clone> Association<C> {
    fn handle(&mut self, bytes: &[u8], from: SocketAddr) {
        if *self.client.get_or_insert(from) != from {
            return;
        }
        let Some((target, header)) = socks::datagram(bytes) else { return };
        let payload = Bytes::copy_from_slice(&bytes[header..]);
        if let Some(flow) = self.targets.get(&target) {
            // A full queue, or a flow that is just ending, loses a datagram as a network would.
            let _ = flow.try_send(payload);
        } else if self.targets.len() < MAX_TARGETS {
            let (sender, receiver) = mpsc::channel(MAX_WAITING);
            let _ = sender.try_send(payload);
            self.targets.insert(target.clone(), sender);
            self.flows.spawn_local(carry(self.door.clone(), target, receiver, Rc::clone(&self.socket), from));
        }
    }
}

async fn carry<C: Carrier + Clone>(
    mut door: Door<C>,
    target: Target,
    receiver: mpsc::Receiver<Bytes>,
    socket: Rc<UdpSocket>,
    client: SocketAddr,
) -> Target {
    let opened = door.open(&target, async |carrier, address| {
        carrier.open_datagrams(Protocol::Udp, address).await.map(|flow| (flow, address))
    });
    match opened.await {
        Ok((mut far, from)) => {
            let mut near = (FromProgram(receiver), ToProgram { socket, client, from });
            let ends = ((&mut near.0, &mut near.1), (&mut far.receiver, &mut far.sender));
            let mut passed = Exchanged::default();
            let end = exchange(ends.0, ends.1, IDLE, &mut passed).await;
            tracing::debug!(%target, up = passed.bytes_up, down = passed.bytes_down, ?end, "flow ended");
        }
        Err(failure) => tracing::debug!(%target, ?failure, "flow refused"),
    }
    target
}

struct FromProgram(mpsc::Receiver<Bytes>);

struct ToProgram {
    socket: Rc<UdpSocket>,
    client: SocketAddr,
    from: SocketAddr,
}

impl ReceivePacket for FromProgram {
    async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        Ok(self.0.recv().await.map(Packet::Datagram))
    }

    fn stop(&mut self) {
        self.0.close();
    }
}

impl SendPacket for ToProgram {
    async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        if let Packet::Datagram(datagram) = packet {
            // What does not fit with its header, or has no room, is lost.
            let _ = self.socket.try_send_to(&socks::encode_datagram(self.from, &datagram), self.client);
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        Ok(())
    }

    fn reset(&mut self) {}
}
