//! UDP sessions with an unmodified connector: by RPC in the first two generations, by datagram in the third.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::Refusal;
use adit_transport::StreamError;
use adit_transport::datagram::Packet;
use adit_wire::datagram::{
    DEFAULT_IDLE, Generation, Registration, Response, ResponseCode, SessionId, V2, V3, encode_v1,
};
use adit_wire::rpc::{RegisterUdpSession, ServiceAnswer, ServiceClient, UnregisterUdpSession};
use bytes::{Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{FarDatagrams, FarPacketReceiver, FarPacketSender, SessionTable, send_frame, too_large};
use crate::dial::Failure;
use crate::tunnel::{CallError, call};

/// Opens a session to `destination`.
pub(crate) async fn session(
    tasks: &TaskTracker,
    quic: &quinn::Connection,
    table: &Arc<SessionTable>,
    destination: SocketAddr,
) -> Result<FarDatagrams, Failure> {
    let id = SessionId::from_bytes(Uuid::new_v4().into_bytes());
    let (answered, response) = oneshot::channel();
    let full = || Failure::Answered(Refusal::TooManyFlows, "the connection has no room".into());
    let (queue, receiver) = table.begin(id, Some(answered)).ok_or_else(full)?;
    // From here on, what is registered is taken back.
    let entry =
        Entry { table: Arc::clone(table), quic: quic.clone(), id, tasks: tasks.clone(), registered: false };
    let mut sender = SessionSender { entry, queue, destination, sent: Instant::now() };
    match table.generation {
        Generation::V1 | Generation::V2 => sender.entry.call(destination).await?,
        Generation::V3 => sender.ask(response).await?,
    }
    sender.entry.registered = true;
    Ok(FarDatagrams {
        receiver: FarPacketReceiver::Queue(receiver),
        sender: FarPacketSender::Session(sender),
    })
}

/// The sending half of a session.
#[derive(Debug)]
pub(crate) struct SessionSender {
    entry: Entry,
    queue: mpsc::WeakSender<Packet>,
    destination: SocketAddr,
    /// When something was sent last.
    sent: Instant,
}

/// A session in the table, until it is dropped.
#[derive(Debug)]
struct Entry {
    table: Arc<SessionTable>,
    quic: quinn::Connection,
    id: SessionId,
    tasks: TaskTracker,
    registered: bool,
}

impl SessionSender {
    #[cfg(test)]
    pub(super) fn id(&self) -> SessionId {
        self.entry.id
    }

    pub(super) fn send(&mut self, payload: Bytes) -> Result<(), StreamError> {
        let generation = self.entry.table.generation;
        // In the third generation nobody says that a session has ended for want of traffic: it is registered again.
        if generation == Generation::V3 && self.sent.elapsed() > ABOUT_IDLE {
            send_frame(&self.entry.quic, self.registration())?;
        }
        self.sent = Instant::now();
        let mut frame = BytesMut::new();
        let session = self.entry.id;
        let encoded = match generation {
            Generation::V1 => encode_v1(session, &payload, &mut frame),
            Generation::V2 => V2::Udp { session, payload }.encode(&mut frame),
            Generation::V3 => V3::Payload { session, payload }.encode(&mut frame),
        };
        if encoded.is_err() || !send_frame(&self.entry.quic, frame.freeze())? {
            too_large(&self.queue);
        }
        Ok(())
    }

    /// Registers by datagram, again and again, since one may be lost.
    async fn ask(&self, mut response: oneshot::Receiver<Response>) -> Result<(), Failure> {
        for pause in REPEATS {
            match send_frame(&self.entry.quic, self.registration()) {
                Ok(true) => {}
                Ok(false) => return Err(Failure::connector("the connection takes no datagrams")),
                Err(_) => return Err(Failure::Lost),
            }
            match tokio::time::timeout(pause, &mut response).await {
                Ok(Ok(response)) => return outcome(&response),
                // The table was emptied with the connection.
                Ok(Err(_)) => return Err(Failure::Lost),
                Err(_) => {}
            }
        }
        Err(Failure::Answered(Refusal::TimedOut, "no answer to a registration".into()))
    }

    /// Never with a payload, which connectors lose, and whole, since they do not look (tunnel protocol, 4.4).
    fn registration(&self) -> Bytes {
        let registration = Registration {
            session: self.entry.id,
            destination: self.destination,
            idle_seconds: u16::try_from(DEFAULT_IDLE.as_secs()).unwrap_or(0),
            traced: false,
            bundled: None,
        };
        let mut frame = BytesMut::new();
        let encoded = V3::Registration(registration).encode(&mut frame);
        debug_assert!(encoded.is_ok(), "a registration without a payload is never too large");
        frame.freeze()
    }
}

fn outcome(response: &Response) -> Result<(), Failure> {
    let words = |text: &str| if response.text.is_empty() { text.to_owned() } else { response.text.clone() };
    Err(match response.code {
        ResponseCode::Ok => return Ok(()),
        ResponseCode::DestinationUnreachable => {
            Failure::Answered(Refusal::HostUnreachable, words("destination unreachable"))
        }
        ResponseCode::TooManyActiveFlows => {
            Failure::Answered(Refusal::TooManyFlows, words("too many active flows"))
        }
        ResponseCode::UnableToBindSocket => Failure::in_words(words("unable to bind a socket")),
        ResponseCode::ErrorWithMessage => Failure::in_words(words("an error without a message")),
    })
}

impl Entry {
    /// Registers by RPC.
    async fn call(&mut self, destination: SocketAddr) -> Result<(), Failure> {
        // A call that is given up may still register.
        self.registered = true;
        let request = RegisterUdpSession {
            session: self.uuid(),
            destination,
            close_after_idle: DEFAULT_IDLE,
            trace_context: String::new(),
        };
        let client = ServiceClient::register_udp_session(&request)
            .map_err(|error| Failure::connector(error.to_string()))?;
        let answer = call(&self.quic, client).await;
        let failure = match answer {
            Ok(ServiceAnswer::UdpSession(Ok(()))) => return Ok(()),
            Ok(ServiceAnswer::UdpSession(Err(words)) | ServiceAnswer::Failed { reason: words }) => {
                Failure::in_words(words)
            }
            Ok(ServiceAnswer::UdpSessionEnded | ServiceAnswer::Configuration { .. }) => {
                Failure::connector("an answer to another call")
            }
            Err(CallError::Lost) => Failure::Lost,
            Err(CallError::TimedOut) => {
                return Err(Failure::Answered(Refusal::TimedOut, "no answer to a registration".into()));
            }
            Err(error @ (CallError::Ended | CallError::Protocol(_))) => Failure::connector(error.to_string()),
        };
        self.registered = false;
        Err(failure)
    }

    fn uuid(&self) -> Uuid {
        Uuid::from_bytes(self.id.to_bytes())
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let here = self.table.forget(self.id);
        // The third generation has no farewell: a session ends for want of traffic.
        if !here || !self.registered || self.table.generation == Generation::V3 {
            return;
        }
        let request = UnregisterUdpSession { session: self.uuid(), message: "flow ended".to_owned() };
        let Ok(client) = ServiceClient::unregister_udp_session(&request) else { return };
        let quic = self.quic.clone();
        self.tasks.spawn(async move {
            if let Err(error) = call(&quic, client).await {
                tracing::debug!(error = %error, "a session was not taken back");
            }
        });
    }
}

/// Pauses after registrations by datagram: five in all, for as long as a call may take.
const REPEATS: [Duration; 5] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_millis(1500),
    Duration::from_millis(1750),
];
/// A session from which nothing was sent for so long may have ended for want of traffic.
const ABOUT_IDLE: Duration = Duration::from_secs(200);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_connector_says_of_a_registration_is_a_refusal() {
        let said = |code, text: &str| {
            let session = SessionId::from_bytes([0; 16]);
            match outcome(&Response { session, code, text: text.into() }) {
                Ok(()) => None,
                Err(Failure::Answered(refusal, _)) => Some(refusal),
                Err(Failure::Lost) => panic!("an answer is an answer"),
            }
        };
        assert_eq!(said(ResponseCode::Ok, ""), None);
        assert_eq!(said(ResponseCode::DestinationUnreachable, ""), Some(Refusal::HostUnreachable));
        assert_eq!(said(ResponseCode::TooManyActiveFlows, ""), Some(Refusal::TooManyFlows));
        assert_eq!(said(ResponseCode::UnableToBindSocket, ""), Some(Refusal::ConnectorError));
        let words = "dial udp: connect: network is unreachable";
        assert_eq!(said(ResponseCode::ErrorWithMessage, words), Some(Refusal::NetworkUnreachable));
    }
}
