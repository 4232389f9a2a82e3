//! UDP and ICMP through connectors: streams of datagrams with ours, sessions and packets with those that are not
//! (tunnel protocol, 4.3 to 4.5).
//!
//! [`FarDatagrams`] is one or the other, and whoever carries a flow need not know which. What always holds: nothing is
//! registered that is not taken back when its flow ends; a datagram that does not fit is answered with a refusal and one
//! that finds a full queue is dropped; no datagram is sent that the path or an unmodified connector does not take.

mod echo;
mod session;
mod table;

use adit_transport::StreamError;
use adit_transport::datagram::{
    DatagramFlow, Packet, PacketReceiver, PacketSender, ReceivePacket, SendPacket,
};
use tokio::sync::mpsc;

pub use echo::fuzz_echo_reply;

pub(crate) use echo::echoes;
pub(crate) use session::session;
pub(crate) use table::SessionTable;

use crate::far::{FarReader, FarWriter};
use echo::EchoSender;
use session::SessionSender;

/// The connector's side of a flow of datagrams.
#[derive(Debug)]
pub(crate) struct FarDatagrams {
    pub(crate) receiver: FarPacketReceiver,
    pub(crate) sender: FarPacketSender,
}

/// From the connector.
#[derive(Debug)]
pub(crate) enum FarPacketReceiver {
    Stream(PacketReceiver<FarReader>),
    /// Of a session or of echoes.
    Queue(mpsc::Receiver<Packet>),
}

/// To the connector.
#[derive(Debug)]
pub(crate) enum FarPacketSender {
    Stream(PacketSender<FarWriter>),
    Session(SessionSender),
    Echo(EchoSender),
}

impl FarDatagrams {
    pub(crate) fn of_stream(flow: DatagramFlow<FarReader, FarWriter>) -> Self {
        let (receiver, sender) = flow.split();
        Self { receiver: FarPacketReceiver::Stream(receiver), sender: FarPacketSender::Stream(sender) }
    }

    /// The session's id with a connector that is not ours.
    #[cfg(test)]
    pub(crate) fn session_id(&self) -> Option<adit_wire::datagram::SessionId> {
        match &self.sender {
            FarPacketSender::Session(sender) => Some(sender.id()),
            FarPacketSender::Stream(_) | FarPacketSender::Echo(_) => None,
        }
    }

    /// Ends both directions at once.
    pub(crate) fn reset(&mut self) {
        self.sender.reset();
        self.receiver.stop();
    }
}

impl ReceivePacket for FarPacketReceiver {
    async fn receive(&mut self) -> Result<Option<Packet>, StreamError> {
        match self {
            Self::Stream(receiver) => receiver.receive().await,
            Self::Queue(queue) => Ok(queue.recv().await),
        }
    }

    fn stop(&mut self) {
        match self {
            Self::Stream(receiver) => receiver.stop(),
            Self::Queue(queue) => queue.close(),
        }
    }
}

impl SendPacket for FarPacketSender {
    async fn send(&mut self, packet: Packet) -> Result<(), StreamError> {
        match (self, packet) {
            (Self::Stream(sender), packet) => sender.send(packet).await,
            (Self::Session(sender), Packet::Datagram(payload)) => sender.send(payload),
            (Self::Echo(sender), Packet::Datagram(message)) => sender.send(&message),
            // An unmodified connector cannot be told.
            (Self::Session(_) | Self::Echo(_), Packet::Refusal(_)) => Ok(()),
        }
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        match self {
            Self::Stream(sender) => sender.finish().await,
            // What was registered is taken back when the sender is dropped.
            Self::Session(_) | Self::Echo(_) => Ok(()),
        }
    }

    fn reset(&mut self) {
        if let Self::Stream(sender) = self {
            sender.reset();
        }
    }
}

/// Sends a DATAGRAM frame, or says by `false` that it does not fit into one.
fn send_frame(quic: &quinn::Connection, frame: bytes::Bytes) -> Result<bool, StreamError> {
    match quic.send_datagram(frame) {
        Ok(()) => Ok(true),
        Err(
            quinn::SendDatagramError::TooLarge
            | quinn::SendDatagramError::UnsupportedByPeer
            | quinn::SendDatagramError::Disabled,
        ) => Ok(false),
        Err(quinn::SendDatagramError::ConnectionLost(error)) => {
            Err(StreamError::ConnectionLost(Box::new(error)))
        }
    }
}

/// What a flow hears of a datagram that does not fit. Where its queue is full it hears nothing, as from a network.
fn too_large(queue: &mpsc::WeakSender<Packet>) {
    if let Some(queue) = queue.upgrade() {
        let _ = queue.try_send(Packet::Refusal(TOO_LARGE.to_owned()));
    }
}

/// Name of the refusal of a datagram that does not fit.
const TOO_LARGE: &str = "too-large";
