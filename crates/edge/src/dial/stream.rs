//! Streams to a connector, or to a peer node that holds one: TCP, and the datagrams of our own programs.

use std::net::SocketAddr;

use adit_model::{ConnectionId, FlowId, Protocol, Refusal};
use adit_transport::datagram::{DatagramFlow, DatagramReceiver};
use adit_transport::{Duplex, http2, quic};
use adit_wire::device::{PROTOCOL_HEADER, REFUSAL_HEADER};
use adit_wire::http2::{RESPONSE_META_HEADER, ResponseMeta, SOURCE_HEADER};
use adit_wire::peer::{self, RelayedFlow};
use adit_wire::tunnel::{ConnectRequest, ConnectResponse, ConnectionType, METADATA_FLOW_ID, Metadata};
use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::{Request, Response, StatusCode};
use quinn::SendStream;
use tokio::io::AsyncReadExt;

use super::{Failure, refusal_of};
use crate::carrier::{Carrier, Datagrams, Http2Carrier, QuicCarrier};
use crate::connections::Connection;
use crate::far::{FarReader, FarWriter};
use crate::limits::MAX_RESPONSE_BYTES;
use crate::peer::Link;

/// A stream that the connector has joined to a TCP connection.
pub(super) async fn tcp(
    connection: &Connection,
    flow: FlowId,
    destination: SocketAddr,
) -> Result<Duplex<FarReader, FarWriter>, Failure> {
    match &connection.carrier {
        Carrier::Quic(carrier) => {
            let streams = carrier.connection.open_bi().await.map_err(|_| Failure::Lost)?;
            Ok(over_quic(streams, request(flow, Protocol::Tcp, destination)).await?.0)
        }
        Carrier::Http2(carrier) => over_http2(carrier, Protocol::Tcp, destination).await,
    }
}

/// A stream that our connector has joined to a UDP or ICMP socket.
pub(super) async fn datagrams(
    connection: &Connection,
    flow: FlowId,
    protocol: Protocol,
    destination: SocketAddr,
) -> Result<DatagramFlow<FarReader, FarWriter>, Failure> {
    match &connection.carrier {
        Carrier::Quic(carrier) => {
            let streams = carrier.connection.open_bi().await.map_err(|_| Failure::Lost)?;
            // Before the request, which may be answered by a datagram at once.
            let (id, registered) = (streams.0.id(), register(carrier, &streams.0));
            let (stream, _) = over_quic(streams, request(flow, protocol, destination)).await?;
            Ok(match registered {
                Some(registered) => DatagramFlow::with_frames(stream, id, registered),
                None => DatagramFlow::on_stream(stream),
            })
        }
        Carrier::Http2(carrier) => {
            Ok(DatagramFlow::on_stream(over_http2(carrier, protocol, destination).await?))
        }
    }
}

/// A stream that a peer node has joined to one of its connector's, and the connection that carries it there.
pub(super) async fn relayed(
    link: &Link,
    flow: &RelayedFlow,
    destination: SocketAddr,
) -> Result<(Duplex<FarReader, FarWriter>, Option<ConnectionId>), Failure> {
    let streams = link.quic.open_bi().await.map_err(|_| Failure::Lost)?;
    let (stream, response) = over_quic(streams, relay_request(flow, destination)).await?;
    Ok((stream, peer::connection_of(&response)))
}

/// The same, for datagrams.
pub(super) async fn relayed_datagrams(
    link: &Link,
    flow: &RelayedFlow,
    destination: SocketAddr,
) -> Result<(DatagramFlow<FarReader, FarWriter>, Option<ConnectionId>), Failure> {
    let streams = link.quic.open_bi().await.map_err(|_| Failure::Lost)?;
    // Before the request, which may be answered by a datagram at once.
    let (id, registered) = (streams.0.id(), link.router.register(streams.0.id()));
    let (stream, response) = over_quic(streams, relay_request(flow, destination)).await?;
    Ok((DatagramFlow::with_frames(stream, id, registered), peer::connection_of(&response)))
}

fn relay_request(flow: &RelayedFlow, destination: SocketAddr) -> ConnectRequest {
    let (dest, kind) = (destination.to_string(), ConnectionType::Tcp);
    let mut request = ConnectRequest { dest, kind, metadata: Vec::new() };
    flow.write(&mut request);
    request
}

fn register(carrier: &QuicCarrier, send: &SendStream) -> Option<DatagramReceiver> {
    match &carrier.datagrams {
        Datagrams::Streams(router) => Some(router.register(send.id())),
        Datagrams::Sessions(_) => None,
    }
}

fn request(flow: FlowId, protocol: Protocol, destination: SocketAddr) -> ConnectRequest {
    let mut metadata = vec![Metadata::new(METADATA_FLOW_ID, flow.to_string())];
    if protocol != Protocol::Tcp {
        metadata.push(Metadata::new(PROTOCOL_HEADER, protocol.as_str()));
    }
    ConnectRequest { dest: destination.to_string(), kind: ConnectionType::Tcp, metadata }
}

async fn over_quic(
    (mut send, mut receive): (SendStream, quinn::RecvStream),
    request: ConnectRequest,
) -> Result<(Duplex<FarReader, FarWriter>, ConnectResponse), Failure> {
    send_request(&mut send, &request).await?;
    let (response, ahead) = read_response(&mut receive).await?;
    if !response.error.is_empty() {
        return Err(refusal_of(response));
    }
    let (reader, writer) = (quic::reader(receive, ahead), quic::writer(send));
    Ok((Duplex::new(FarReader::Quic(reader), FarWriter::Quic(writer)), response))
}

/// Sends the head of a flow.
pub(super) async fn send_request(send: &mut SendStream, request: &ConnectRequest) -> Result<(), Failure> {
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes).map_err(|error| Failure::connector(error.to_string()))?;
    // One write: an unmodified connector reads the version with a single call (tunnel protocol, 3.1).
    send.write_chunk(bytes.freeze()).await.map_err(|error| match error {
        // It takes no streams of this kind, or leaves.
        quinn::WriteError::Stopped(_) => Failure::connector("the connector refused the stream"),
        quinn::WriteError::ConnectionLost(_)
        | quinn::WriteError::ClosedStream
        | quinn::WriteError::ZeroRttRejected => Failure::Lost,
    })
}

/// Reads the answer to a request, and what came behind it.
pub(super) async fn read_response(
    receive: &mut quinn::RecvStream,
) -> Result<(ConnectResponse, Bytes), Failure> {
    let mut bytes = BytesMut::with_capacity(512);
    loop {
        match ConnectResponse::decode(&bytes) {
            Ok(Some((response, consumed))) => {
                let ahead = bytes.split_off(consumed).freeze();
                return Ok((response, ahead));
            }
            Ok(None) if bytes.len() >= MAX_RESPONSE_BYTES => {
                return Err(Failure::connector("the answer is too long"));
            }
            Ok(None) => {}
            Err(error) => return Err(Failure::connector(format!("the answer cannot be read: {error}"))),
        }
        match receive.read_buf(&mut bytes).await {
            // 2022.5.3 closes a failed dial without an answer (tunnel protocol, 3.5).
            Ok(0) => return Err(Failure::connector("the connector closed the stream without an answer")),
            Ok(_) => {}
            Err(error) if lost(&error) => return Err(Failure::Lost),
            Err(_) => return Err(Failure::connector("the connector reset the stream without an answer")),
        }
    }
}

fn lost(error: &std::io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<quinn::ReadError>());
    matches!(inner, Some(quinn::ReadError::ConnectionLost(_)))
}

async fn over_http2(
    carrier: &Http2Carrier,
    protocol: Protocol,
    destination: SocketAddr,
) -> Result<Duplex<FarReader, FarWriter>, Failure> {
    // The destination is the authority (tunnel protocol, 5.2).
    let mut request = Request::get(format!("https://{destination}/")).header(SOURCE_HEADER, "edge");
    if protocol != Protocol::Tcp {
        request = request.header(PROTOCOL_HEADER, protocol.as_str());
    }
    let request = request.body(()).map_err(|error| Failure::connector(error.to_string()))?;
    let (response, send) = ask(carrier, request, false).await?;
    let response = answer(response).await?;
    if response.status() != StatusCode::OK {
        return Err(http2_refusal(&response));
    }
    let reader = http2::reader(response.into_body());
    Ok(Duplex::new(FarReader::Http2(reader), FarWriter::Http2(http2::writer(send))))
}

/// Sends the head of a request.
pub(super) async fn ask(
    carrier: &Http2Carrier,
    request: Request<()>,
    is_whole: bool,
) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), Failure> {
    let requests = carrier.requests().ok_or(Failure::Lost)?;
    let mut requests = requests.ready().await.map_err(|_| Failure::Lost)?;
    requests.send_request(request, is_whole).map_err(|error| {
        // What cannot be sent at all is no better on another connection.
        if error.is_io() || error.is_go_away() {
            Failure::Lost
        } else {
            Failure::connector(error.to_string())
        }
    })
}

/// Waits for the head of the answer.
pub(super) async fn answer(response: h2::client::ResponseFuture) -> Result<Response<RecvStream>, Failure> {
    response.await.map_err(|error| match error.reason() {
        // Not looked at (RFC 9113, 8.7).
        Some(h2::Reason::REFUSED_STREAM) => Failure::Lost,
        _ if error.is_reset() => Failure::connector("the connector reset the stream without an answer"),
        _ => Failure::Lost,
    })
}

/// Of a failed dial an unmodified connector says no more than that (tunnel protocol, 5.6).
pub(super) fn http2_refusal(response: &Response<RecvStream>) -> Failure {
    let header = |name: &str| response.headers().get(name).map(http::HeaderValue::as_bytes);
    let named = header(REFUSAL_HEADER).and_then(|name| std::str::from_utf8(name).ok()?.parse().ok());
    let limited =
        header(RESPONSE_META_HEADER).and_then(ResponseMeta::parse) == Some(ResponseMeta::RateLimited);
    let refusal = named.unwrap_or(if limited { Refusal::TooManyFlows } else { Refusal::ConnectorError });
    Failure::Answered(refusal, format!("the connector answered {}", response.status()))
}
