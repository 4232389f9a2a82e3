//! A device on the QUIC carrier.

use adit_model::Refusal;
use adit_transport::quic::{self, Limits, QuicReader, QuicWriter};
use adit_transport::{Duplex, ReadChunk, WriteChunk, tls};
use adit_wire::device::{self, Event};
use adit_wire::tunnel::{ConnectRequest, ConnectResponse, ConnectionType, Metadata};
use bytes::{Bytes, BytesMut};
use quinn::{Connection, Endpoint};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::AsyncReadExt;
use uuid::Uuid;

use super::{Chain, DEADLINE, KEY};

type Stream = Duplex<QuicReader, QuicWriter>;

impl Chain {
    pub(crate) async fn quic_device(&self) -> QuicDevice {
        self.try_quic_device("edge.test").await.unwrap()
    }

    pub(crate) async fn quic_device_of(&self, instance: Uuid) -> QuicDevice {
        QuicDevice { instance, ..self.quic_device().await }
    }

    pub(crate) async fn try_quic_device(&self, name: &str) -> Result<QuicDevice, quinn::ConnectionError> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(KEY.with(|key| key.1.clone())));
        let roots = tls::roots_from_pem(&self.authority).unwrap();
        let tls = tls::device_client_config(roots, &key, device::ALPN).unwrap();
        let endpoint = quic::dialer("127.0.0.1:0".parse().unwrap()).unwrap();
        let config = quic::client_config_with(tls, Limits::EDGE).unwrap();
        let quic = endpoint.connect_with(config, self.edge.https(), name).unwrap().await?;
        Ok(QuicDevice { quic, instance: Uuid::new_v4(), _endpoint: endpoint })
    }
}

pub(crate) struct QuicDevice {
    pub(crate) quic: Connection,
    instance: Uuid,
    _endpoint: Endpoint,
}

impl QuicDevice {
    /// A flow, or why there is none.
    pub(crate) async fn connect(&self, destination: &str) -> Result<Stream, Option<Refusal>> {
        self.ask(ConnectionType::Tcp, destination, Vec::new()).await.map(|(stream, _)| stream)
    }

    pub(crate) async fn events(&self) -> QuicEvents {
        let metadata = vec![Metadata::new(device::INSTANCE_HEADER, self.instance.to_string())];
        let (stream, _) = self.ask(ConnectionType::Http, device::EVENTS_PATH, metadata).await.unwrap();
        QuicEvents { stream, line: BytesMut::new() }
    }

    async fn ask(
        &self,
        kind: ConnectionType,
        dest: &str,
        metadata: Vec<Metadata>,
    ) -> Result<(Stream, quinn::StreamId), Option<Refusal>> {
        let (mut send, mut receive) = self.quic.open_bi().await.unwrap();
        let id = send.id();
        let mut bytes = BytesMut::new();
        ConnectRequest { dest: dest.into(), kind, metadata }.encode(&mut bytes).unwrap();
        send.write_chunk(bytes.freeze()).await.unwrap();
        let mut bytes = BytesMut::new();
        loop {
            if let Some((response, consumed)) = ConnectResponse::decode(&bytes).unwrap() {
                if response.error.is_empty() {
                    let ahead = bytes.split_off(consumed).freeze();
                    return Ok((quic::duplex(send, receive, ahead), id));
                }
                return Err(response.metadata(device::REFUSAL_METADATA).map(|name| name.parse().unwrap()));
            }
            let read = tokio::time::timeout(DEADLINE, receive.read_buf(&mut bytes)).await.unwrap();
            assert!(read.map_err(|_| None)? > 0, "an answer comes whole");
        }
    }
}

/// The event stream.
pub(crate) struct QuicEvents {
    stream: Stream,
    line: BytesMut,
}

impl QuicEvents {
    /// The next event that is no ping.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        loop {
            while let Some(end) = self.line.iter().position(|byte| *byte == b'\n') {
                let line = self.line.split_to(end + 1);
                match Event::from_line(&line[..end]).unwrap() {
                    Some(Event::Ping) | None => {}
                    Some(event) => return Some(event),
                }
            }
            let chunk = tokio::time::timeout(DEADLINE, self.stream.reader.read_chunk()).await.unwrap();
            self.line.extend_from_slice(&chunk.ok()??);
        }
    }
}

/// Sends all, ends, and reads to the end.
pub(crate) async fn request(stream: &mut Stream, bytes: &'static [u8]) -> Option<Vec<u8>> {
    stream.writer.write_chunk(Bytes::from_static(bytes)).await.ok()?;
    stream.writer.finish().await.ok()?;
    read_all(stream).await
}

pub(crate) async fn read_all(stream: &mut Stream) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(chunk) = tokio::time::timeout(DEADLINE, stream.reader.read_chunk()).await.unwrap().ok()? {
        all.extend_from_slice(&chunk);
    }
    Some(all)
}
