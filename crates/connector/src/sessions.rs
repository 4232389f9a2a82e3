//! UDP sessions and ICMP packets in DATAGRAM frames, as an edge that is not ours asks for them (contract, 4.3 to 4.5).
//!
//! A session is a UDP socket with an id that the edge made: asked for by RPC in the second generation of datagrams, by a
//! datagram in the third. A packet is an echo request, answered by what the destination replies. What always holds:
//! sessions count as flows and end when they are idle; a frame that finds a full queue, no session or no sense is dropped
//! without a word; nothing is dialled that is not permitted.

mod echo;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::Refusal;
use adit_transport::datagram::{Packet, ReceivePacket, SendPacket};
use adit_wire::datagram::{
    DEFAULT_IDLE, Generation, MAX_PAYLOAD_BYTES, Registration, Response, ResponseCode, SessionId, V2, V3,
};
use bytes::{Bytes, BytesMut};
use quinn::Connection;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::dial::NotDialled;
use crate::flow;
use crate::process::Process;
use crate::udp::{self, UdpReceiver, UdpSender};

pub(crate) use echo::EchoPeers;

/// The sessions of a connector.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    by_id: Mutex<HashMap<SessionId, Session>>,
}

/// What others hold of a session.
#[derive(Debug, Clone)]
struct Session {
    to_origin: mpsc::Sender<Bytes>,
    /// Where its datagrams go; another connection when the edge asks for the session there.
    connection: watch::Sender<Connection>,
    /// Asks it to end, without a word to the edge.
    ending: CancellationToken,
}

impl Sessions {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Session>> {
        // Every change is a single call: there is no half-made state to fear.
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: SessionId) -> Option<Session> {
        self.lock().get(&id).cloned()
    }

    /// Ends a session, as the edge asked.
    pub(crate) fn end(&self, id: SessionId) {
        if let Some(session) = self.find(id) {
            session.ending.cancel();
        }
    }
}

/// Takes a frame that belongs to no flow of ours.
pub(crate) fn handle_frame(process: &Arc<Process>, connection: &Connection, frame: Bytes) {
    match process.generation() {
        Generation::V3 => match V3::decode(frame) {
            Ok(V3::Registration(registration)) => {
                let (registering, connection) = (Arc::clone(process), connection.clone());
                process.flows.spawn(async move { answer(&registering, connection, registration).await });
            }
            Ok(V3::Payload { session, payload }) => deliver(process, session, payload),
            Ok(V3::Icmp(packet)) => echo::handle_packet(process, connection, &packet),
            // Nothing that an edge says.
            Ok(V3::Response(_)) | Err(_) => {}
        },
        Generation::V1 | Generation::V2 => match V2::decode(frame) {
            Ok(V2::Udp { session, payload }) => deliver(process, session, payload),
            Ok(V2::Ip { packet, .. }) => echo::handle_packet(process, connection, &packet),
            Ok(V2::Spans { .. }) | Err(_) => {}
        },
    }
}

fn deliver(process: &Process, id: SessionId, payload: Bytes) {
    if let Some(session) = process.sessions.find(id) {
        // A full queue drops it, as a network would.
        let _ = session.to_origin.try_send(payload);
    }
}

/// Registers a session by datagram, and answers.
async fn answer(process: &Arc<Process>, connection: Connection, registration: Registration) {
    let Registration { session, destination, .. } = registration;
    let registered = register(process, connection.clone(), session, destination, registration.idle()).await;
    let (code, text) = match registered {
        Ok(()) => (ResponseCode::Ok, String::new()),
        Err(why) => match why.refusal {
            Refusal::TooManyFlows => (ResponseCode::TooManyActiveFlows, String::new()),
            Refusal::HostUnreachable | Refusal::NetworkUnreachable | Refusal::Refused => {
                (ResponseCode::DestinationUnreachable, String::new())
            }
            Refusal::Blocked | Refusal::NeverDialled => (ResponseCode::ErrorWithMessage, why.text),
            Refusal::Unroutable
            | Refusal::NoConnection
            | Refusal::TimedOut
            | Refusal::Revoked
            | Refusal::TooLarge
            | Refusal::Stale
            | Refusal::ConnectorError => (ResponseCode::UnableToBindSocket, String::new()),
        },
    };
    send_v3(&connection, &V3::Response(Response { session, code, text }));
}

/// Makes a session, or moves it to this connection if it is there already.
pub(crate) async fn register(
    process: &Arc<Process>,
    connection: Connection,
    id: SessionId,
    destination: SocketAddr,
    idle: Duration,
) -> Result<(), NotDialled> {
    if let Some(session) = process.sessions.find(id) {
        session.connection.send_replace(connection);
        return Ok(());
    }
    let idle = if idle.is_zero() { DEFAULT_IDLE } else { idle };
    let (registered, told) = oneshot::channel();
    let serving = Arc::clone(process);
    process.flows.spawn(async move { serve(&serving, connection, id, destination, idle, registered).await });
    told.await.unwrap_or_else(|_| {
        let text = "the session ended before it began".to_owned();
        Err(NotDialled { refusal: Refusal::ConnectorError, text })
    })
}

async fn serve(
    process: &Arc<Process>,
    connection: Connection,
    id: SessionId,
    destination: SocketAddr,
    idle: Duration,
    registered: oneshot::Sender<Result<(), NotDialled>>,
) {
    let begun = Instant::now();
    let begin = async {
        let guard = flow::begin(process, "udp")?;
        Ok::<_, NotDialled>((guard, udp::connect_to(process, destination).await?))
    };
    let (_guard, origin) = match begin.await {
        Ok(begun) => begun,
        Err(why) => {
            tracing::info!(session = %id, dst = %destination, error = why.text, "session refused");
            // Whoever asked may have gone.
            let _ = registered.send(Err(why));
            return;
        }
    };
    let _shown = process.metrics.udp_session(begun.elapsed());
    let (to_origin, from_edge) = mpsc::channel(MAX_QUEUED);
    let (sender, connection) = watch::channel(connection);
    let ending = CancellationToken::new();
    let session = Session { to_origin, connection: sender, ending: ending.clone() };
    process.sessions.lock().insert(id, session);
    let _ = registered.send(Ok(()));
    tracing::debug!(session = %id, dst = %destination, "session registered");
    let generation = process.generation();
    let mut carried = Carried { id, generation, idle, origin, from_edge, connection };
    let end = tokio::select! {
        end = carried.run() => Some(end),
        () = ending.cancelled() => None,
        () = process.closing.cancelled() => None,
    };
    process.sessions.lock().remove(&id);
    tracing::debug!(session = %id, end = ?end, "session ended");
    if let (Some(message), Generation::V1 | Generation::V2) = (end, generation) {
        let connection = carried.connection.borrow().clone();
        flow::rpc::unregister(&connection, id, message).await;
    }
}

/// A session that is carried.
struct Carried {
    id: SessionId,
    generation: Generation,
    idle: Duration,
    origin: (UdpReceiver, UdpSender),
    from_edge: mpsc::Receiver<Bytes>,
    connection: watch::Receiver<Connection>,
}

impl Carried {
    /// Passes datagrams both ways until the session has ended, and says why.
    async fn run(&mut self) -> String {
        let (receiver, sender) = &mut self.origin;
        loop {
            let lost = {
                let (connection, by_rpc) =
                    (self.connection.borrow().clone(), self.generation != Generation::V3);
                async move {
                    connection.closed().await;
                    if !by_rpc {
                        // The edge may ask for it on another connection.
                        std::future::pending::<()>().await;
                    }
                }
            };
            tokio::select! {
                Some(payload) = self.from_edge.recv() => {
                    if sender.send(Packet::Datagram(payload)).await.is_err() {
                        return "the socket failed".to_owned();
                    }
                }
                packet = receiver.receive() => match packet {
                    Ok(Some(Packet::Datagram(payload))) => {
                        let connection = self.connection.borrow().clone();
                        send_payload(&connection, self.generation, self.id, payload);
                    }
                    // There is no way to say it.
                    Ok(Some(Packet::Refusal(refusal))) => {
                        tracing::debug!(session = %self.id, refusal, "a datagram did not arrive");
                    }
                    Ok(None) => return "terminated without error".to_owned(),
                    Err(error) => return crate::error_chain(&error),
                },
                // Asked for again: as good as traffic.
                Ok(()) = self.connection.changed() => {}
                () = lost => return "the connection is lost".to_owned(),
                () = tokio::time::sleep(self.idle) => {
                    return format!("session idle for {}s", self.idle.as_secs());
                }
            }
        }
    }
}

fn send_payload(connection: &Connection, generation: Generation, session: SessionId, payload: Bytes) {
    if payload.len() > MAX_PAYLOAD_BYTES {
        tracing::debug!(session = %session, bytes = payload.len(), "a datagram that is too large for the edge");
        return;
    }
    match generation {
        Generation::V3 => send_v3(connection, &V3::Payload { session, payload }),
        Generation::V1 | Generation::V2 => send_v2(connection, &V2::Udp { session, payload }),
    }
}

fn send_v2(connection: &Connection, datagram: &V2) {
    let mut frame = BytesMut::new();
    if datagram.encode(&mut frame).is_ok() {
        send_frame(connection, frame);
    }
}

fn send_v3(connection: &Connection, datagram: &V3) {
    let mut frame = BytesMut::new();
    if datagram.encode(&mut frame).is_ok() {
        send_frame(connection, frame);
    }
}

fn send_frame(connection: &Connection, frame: BytesMut) {
    // Too large for the path, or the connection is lost: dropped, as a network would.
    if let Err(error) = connection.send_datagram(frame.freeze()) {
        tracing::trace!(error = %error, "datagram dropped");
    }
}

/// Datagrams of one session that wait to be sent to the origin.
const MAX_QUEUED: usize = 256;
