//! What a connection's streams travel on: QUIC, or HTTP/2 over TLS in which the edge is the client (tunnel protocol, 2 and 5).

use std::sync::{Arc, Mutex, PoisonError};

use adit_transport::datagram::DatagramRouter;
use adit_transport::quic::NO_ERROR;
use adit_transport::splice::HalfClose;
use adit_wire::datagram::Generation;
use adit_wire::device::{DATAGRAMS_FEATURE, HALF_CLOSE_FEATURE};
use bytes::Bytes;
use h2::client::SendRequest;
use tokio_util::sync::CancellationToken;

use crate::datagram::SessionTable;

/// One of the two.
#[derive(Debug)]
pub(crate) enum Carrier {
    Quic(QuicCarrier),
    Http2(Http2Carrier),
}

/// A QUIC connection.
#[derive(Debug)]
pub(crate) struct QuicCarrier {
    pub(crate) connection: quinn::Connection,
    pub(crate) datagrams: Datagrams,
}

/// Who gets a QUIC connection's DATAGRAM frames.
#[derive(Debug, Clone)]
pub(crate) enum Datagrams {
    /// Streams of our own connector.
    Streams(DatagramRouter),
    /// Sessions with an unmodified one.
    Sessions(Arc<SessionTable>),
}

/// An HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct Http2Carrier {
    /// `None` once it is to close: as long as there is one, HTTP/2 does not say farewell.
    requests: Mutex<Option<SendRequest<Bytes>>>,
    closing: CancellationToken,
}

impl Http2Carrier {
    pub(crate) fn new(requests: SendRequest<Bytes>, closing: CancellationToken) -> Self {
        Self { requests: Mutex::new(Some(requests)), closing }
    }

    /// What requests are made with, unless the connection closes.
    pub(crate) fn requests(&self) -> Option<SendRequest<Bytes>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Carrier {
    /// Whether streams can be opened on it.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::Quic(carrier) => carrier.connection.close_reason().is_none(),
            Self::Http2(carrier) => !carrier.closing.is_cancelled(),
        }
    }

    /// Whether one more stream fits beside this many flows. A connector's HTTP/2 allows a few hundred; of QUIC's streams
    /// there are more than flows.
    pub(crate) fn has_room(&self, flows: usize) -> bool {
        match self {
            Self::Quic(_) => true,
            Self::Http2(carrier) => carrier
                .requests()
                .is_some_and(|requests| flows + CONTROL_STREAMS < requests.current_max_send_streams()),
        }
    }

    /// Waits until no stream can be opened on it any more.
    pub(crate) async fn ended(&self) {
        match self {
            Self::Quic(carrier) => drop(carrier.connection.closed().await),
            Self::Http2(carrier) => carrier.closing.cancelled().await,
        }
    }

    /// Closes it: streams that are open are lost.
    pub(crate) fn close(&self, reason: &'static str) {
        match self {
            Self::Quic(carrier) => carrier.connection.close(NO_ERROR, reason.as_bytes()),
            Self::Http2(carrier) => {
                carrier.closing.cancel();
                carrier.requests.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
        }
    }

    /// For logs.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Quic(_) => "quic",
            Self::Http2(_) => "http2",
        }
    }
}

/// What of a connector's features the edge goes by (tunnel protocol, 2.3).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Features {
    /// Whether a flow's directions end one by one.
    pub(crate) half_close: HalfClose,
    /// Whether UDP and ICMP flows are streams to it.
    pub(crate) datagram_streams: bool,
    /// The form of its datagrams, where they are none of a stream.
    pub(crate) generation: Generation,
}

impl Features {
    pub(crate) fn of(features: &[String]) -> Self {
        let has = |name: &str| features.iter().any(|feature| feature == name);
        Self {
            half_close: if has(HALF_CLOSE_FEATURE) { HalfClose::Kept } else { HalfClose::Held },
            datagram_streams: has(DATAGRAMS_FEATURE),
            generation: Generation::of(features.iter().map(String::as_str)),
        }
    }
}

/// Streams that are no flows: the control stream, and a push of a configuration.
const CONTROL_STREAMS: usize = 2;
