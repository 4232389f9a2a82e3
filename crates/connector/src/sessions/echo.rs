//! Echo requests that come as IP packets, and their replies (contract, 4.5).

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use adit_model::Protocol;
use adit_transport::datagram::{Packet, ReceivePacket, SendPacket};
use adit_wire::datagram::{Generation, V2, V3};
use adit_wire::icmp::{self, MAX_HOPS};
use bytes::Bytes;
use quinn::Connection;
use tokio::sync::mpsc;

use super::{send_v2, send_v3};
use crate::flow::datagrams::echo_flow;
use crate::process::Process;

/// How long a pair of addresses is kept without a packet.
const IDLE: Duration = Duration::from_secs(10);
/// Pairs of addresses at once; packets of more are dropped.
const MAX_PAIRS: usize = 1024;
/// Requests of a pair that wait to be sent.
const MAX_QUEUED: usize = 64;

/// Who asks, over which connection, and whom.
type Pair = (usize, IpAddr, IpAddr);

/// Those who ask, each with a task.
#[derive(Debug, Default)]
pub(crate) struct EchoPeers(Mutex<HashMap<Pair, mpsc::Sender<Bytes>>>);

impl EchoPeers {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Pair, mpsc::Sender<Bytes>>> {
        // Every change is a single call: there is no half-made state to fear.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes an IP packet of the edge's.
pub(super) fn handle_packet(process: &Arc<Process>, connection: &Connection, bytes: &Bytes) {
    let Some(packet) = icmp::Packet::read(bytes) else { return };
    if packet.hops <= 1 {
        let router = address_towards(packet.destination);
        if let Some(answer) = router.and_then(|router| icmp::Packet::time_exceeded(router, bytes)) {
            send_packet(connection, process.generation(), &answer);
        }
        return;
    }
    let pair = (connection.stable_id(), packet.source, packet.destination);
    let mut peers = process.echo_peers.lock();
    if let Some(queue) = peers.get(&pair) {
        // A full queue drops it, as a network would.
        let _ = queue.try_send(packet.message);
        return;
    }
    if peers.len() >= MAX_PAIRS
        || process.check(Protocol::Icmp, SocketAddr::new(packet.destination, 0)).is_err()
    {
        return;
    }
    let (sender, queue) = mpsc::channel(MAX_QUEUED);
    let _ = sender.try_send(packet.message);
    peers.insert(pair, sender);
    let (serving, connection) = (Arc::clone(process), connection.clone());
    process.flows.spawn(async move {
        serve(&serving, &connection, pair, queue).await;
        serving.echo_peers.lock().remove(&pair);
    });
}

async fn serve(
    process: &Process,
    connection: &Connection,
    (_, source, destination): Pair,
    mut queue: mpsc::Receiver<Bytes>,
) {
    let Ok((mut receiver, mut sender)) = echo_flow(process, destination.to_canonical()) else { return };
    loop {
        tokio::select! {
            Some(message) = queue.recv() => {
                if sender.send(Packet::Datagram(message)).await.is_err() {
                    return;
                }
            }
            reply = receiver.receive() => match reply {
                Ok(Some(Packet::Datagram(message))) => {
                    let reply =
                        icmp::Packet { source: destination, destination: source, hops: MAX_HOPS, message };
                    send_packet(connection, process.generation(), &reply);
                }
                // There is no way to say it.
                Ok(Some(Packet::Refusal(_))) => {}
                Ok(None) | Err(_) => return,
            },
            () = tokio::time::sleep(IDLE) => return,
            _ = connection.closed() => return,
            () = process.closing.cancelled() => return,
        }
    }
}

/// This host's address on the way to another. Nothing is sent to find it.
fn address_towards(destination: IpAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(destination, 1)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

fn send_packet(connection: &Connection, generation: Generation, packet: &icmp::Packet) {
    let Some(packet) = packet.write() else { return };
    match generation {
        Generation::V3 => send_v3(connection, &V3::Icmp(packet)),
        Generation::V1 | Generation::V2 => send_v2(connection, &V2::Ip { packet, traced: None }),
    }
}
