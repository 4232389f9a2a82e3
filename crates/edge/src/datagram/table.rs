//! Who gets the datagrams of one connection of an unmodified connector.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use adit_transport::datagram::{MAX_QUEUED_DATAGRAMS, Packet};
use adit_wire::datagram::{Generation, Response, SessionId, V2, V3, decode_v1};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::echo;
use crate::limits::MAX_SESSIONS_PER_CONNECTION;

/// The sessions and the echoes of one connection.
#[derive(Debug)]
pub(crate) struct SessionTable {
    pub(super) generation: Generation,
    sessions: Mutex<HashMap<SessionId, Session>>,
    echoes: Mutex<Echoes>,
}

#[derive(Debug)]
struct Session {
    queue: mpsc::Sender<Packet>,
    /// Who waits for the connector's answer, in the third generation.
    response: Option<oneshot::Sender<Response>>,
}

#[derive(Debug, Default)]
struct Echoes {
    by_id: HashMap<u16, Echo>,
    next: u16,
}

/// Who sent an echo request by an id of ours.
#[derive(Debug, Clone)]
pub(super) struct Echo {
    pub(super) queue: mpsc::WeakSender<Packet>,
    /// The device's id.
    pub(super) original: u16,
    pub(super) destination: IpAddr,
}

impl SessionTable {
    pub(crate) fn new(generation: Generation) -> Self {
        Self { generation, sessions: Mutex::default(), echoes: Mutex::default() }
    }

    /// Takes datagrams to their sessions until the connection ends.
    pub(crate) async fn run(&self, quic: &quinn::Connection) {
        while let Ok(datagram) = quic.read_datagram().await {
            self.route(datagram);
        }
        // Whoever waits for a datagram finds its session ended.
        self.sessions().clear();
    }

    /// The connector has ended a session.
    pub(crate) fn end(&self, session: SessionId) {
        self.sessions().remove(&session);
    }

    /// Makes room for a session; `None` if there is none.
    pub(super) fn begin(
        &self,
        id: SessionId,
        response: Option<oneshot::Sender<Response>>,
    ) -> Option<(mpsc::WeakSender<Packet>, mpsc::Receiver<Packet>)> {
        let mut sessions = self.sessions();
        if sessions.len() >= MAX_SESSIONS_PER_CONNECTION {
            return None;
        }
        let (queue, receiver) = mpsc::channel(MAX_QUEUED_DATAGRAMS);
        let weak = queue.downgrade();
        sessions.insert(id, Session { queue, response });
        Some((weak, receiver))
    }

    /// Ends a session from our side; whether it was still there.
    pub(super) fn forget(&self, session: SessionId) -> bool {
        self.sessions().remove(&session).is_some()
    }

    /// Gives echo requests an id that no other has; `None` if there is none left.
    pub(super) fn begin_echo(&self, echo: Echo) -> Option<u16> {
        let mut echoes = self.echoes();
        if echoes.by_id.len() >= MAX_SESSIONS_PER_CONNECTION {
            return None;
        }
        // The table is at most a quarter full.
        loop {
            echoes.next = echoes.next.wrapping_add(1);
            let id = echoes.next;
            if let Entry::Vacant(free) = echoes.by_id.entry(id) {
                free.insert(echo);
                return Some(id);
            }
        }
    }

    pub(super) fn forget_echo(&self, id: u16) {
        self.echoes().by_id.remove(&id);
    }

    fn route(&self, datagram: Bytes) {
        match self.generation {
            Generation::V1 => {
                if let Ok((session, payload)) = decode_v1(datagram) {
                    self.deliver(session, payload);
                }
            }
            Generation::V2 => match V2::decode(datagram) {
                Ok(V2::Udp { session, payload }) => self.deliver(session, payload),
                Ok(V2::Ip { packet, traced: _ }) => self.answer_echo(&packet),
                Ok(V2::Spans { .. }) => {}
                Err(error) => tracing::trace!(error = %error, "a datagram of a connector"),
            },
            Generation::V3 => match V3::decode(datagram) {
                Ok(V3::Payload { session, payload }) => self.deliver(session, payload),
                Ok(V3::Icmp(packet)) => self.answer_echo(&packet),
                Ok(V3::Response(response)) => {
                    let mut sessions = self.sessions();
                    let waiting = sessions.get_mut(&response.session).and_then(|entry| entry.response.take());
                    if let Some(waiting) = waiting {
                        // Nobody waits any more: the flow has ended.
                        let _ = waiting.send(response);
                    }
                }
                // Edges register, not connectors.
                Ok(V3::Registration(_)) => {}
                Err(error) => tracing::trace!(error = %error, "a datagram of a connector"),
            },
        }
    }

    fn deliver(&self, session: SessionId, payload: Bytes) {
        if let Some(entry) = self.sessions().get(&session) {
            // A full queue drops, as a network does.
            let _ = entry.queue.try_send(Packet::Datagram(payload));
        }
    }

    fn answer_echo(&self, packet: &[u8]) {
        let Some(reply) = echo::read_reply(packet) else { return };
        let echo = self.echoes().by_id.get(&reply.id).cloned();
        let Some(echo) = echo.filter(|echo| echo.destination == reply.source) else { return };
        if let Some(queue) = echo.queue.upgrade() {
            // A full queue drops, as a network does.
            let _ = queue.try_send(Packet::Datagram(reply.with_id(echo.original)));
        }
    }

    fn sessions(&self) -> MutexGuard<'_, HashMap<SessionId, Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn echoes(&self) -> MutexGuard<'_, Echoes> {
        self.echoes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
