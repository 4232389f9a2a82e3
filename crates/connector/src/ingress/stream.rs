//! A WebSocket that ends here and goes on as a TCP connection: `tcp://` and its kin, `bastion`, `socks-proxy` (contract,
//! 3.3 and 8.1).
//!
//! Where a rule names the destination, it is dialled before the WebSocket is accepted. Where the request or the client
//! names it, every address that it resolves to is checked, and one that may not be dialled is not.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_model::Refusal;
use adit_transport::stream::{ReadChunk, StreamError, WriteChunk};
use adit_transport::tcp::{self, TcpReader, TcpWriter};
use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderMap, HeaderValue};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::connect::{self, ConnectError};
use super::go_url::GoUrl;
use super::rule::Rule;
use super::service::Service;
use super::socks::{Destination, Negotiation, Reply, Step, reply};
use super::websocket::{self, Decoder, Event, WebSocketError};
use super::{Answer, AnswerWriter, OriginRequest};
use crate::config::IpRule;
use crate::process::Process;

/// How often an idle WebSocket shows that it lives (contract, 3.3).
const PING_INTERVAL: Duration = Duration::from_secs(54);
/// Pings of a client that wait to be answered; of more the last ones are not.
const PONGS_AHEAD: usize = 4;
/// How long a client may take to say in SOCKS5 where it wants to go.
const NEGOTIATION_DEADLINE: Duration = Duration::from_secs(30);
/// Most that a client may send before its destination has answered, in bytes.
const MAX_EARLY_BYTES: usize = 64 << 10;

/// A stream ended early.
#[derive(Debug, thiserror::Error)]
pub(super) enum StreamServiceError {
    /// The edge's side.
    #[error("the edge's stream ended")]
    Edge(#[from] StreamError),
    /// The destination's side.
    #[error("the destination's connection ended")]
    Destination(#[source] StreamError),
    /// It was not dialled.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The client speaks something else.
    #[error("the client broke the WebSocket protocol")]
    WebSocket(#[from] WebSocketError),
    /// The client named no destination.
    #[error("{0}")]
    Destinationless(String),
    /// The client's SOCKS5 request led nowhere.
    #[error("no destination by SOCKS5")]
    Socks,
    /// The connector stops, or nobody waits.
    #[error("nobody waits for it")]
    Abandoned,
}

/// Serves a request by a stream service.
pub(super) async fn serve<R: ReadChunk, A: Answer>(
    process: &Arc<Process>,
    rule: &Rule,
    request: &OriginRequest,
    body: R,
    mut answer: A,
) -> Result<(), StreamServiceError> {
    let begun = Instant::now();
    let dialled = tokio::select! {
        dialled = dial(process, rule, &request.headers) => dialled,
        () = answer.abandoned() => return Err(StreamServiceError::Abandoned),
        () = process.closing.cancelled() => return Err(StreamServiceError::Abandoned),
    };
    let dialled = match dialled {
        Ok(dialled) => dialled,
        Err(error) => {
            process.metrics.stream_failed();
            answer.fail(error.to_string()).await;
            return Err(error);
        }
    };
    let writer = answer.respond(StatusCode::SWITCHING_PROTOCOLS, &upgrade(&request.headers)).await?;
    process.metrics.response(StatusCode::SWITCHING_PROTOCOLS);
    let mut socket = Socket::new(body, writer);
    let negotiates = matches!(rule.service(), Service::SocksProxy) || rule.settings().proxy_type == "socks";
    let (stream, early) = if negotiates {
        let negotiated =
            tokio::time::timeout(NEGOTIATION_DEADLINE, negotiate(process, rule, &mut socket, dialled));
        match process.closing.child_token().run_until_cancelled(negotiated).await {
            Some(Ok(Ok(negotiated))) => negotiated,
            Some(Ok(Err(error))) => {
                socket.end().await;
                return Err(error);
            }
            Some(Err(_)) | None => {
                socket.writer.reset();
                return Err(StreamServiceError::Abandoned);
            }
        }
    } else {
        // Only SOCKS5 dials later.
        (dialled.ok_or(StreamServiceError::Socks)?, Bytes::new())
    };
    let _session = process.metrics.dialled(begun.elapsed());
    socket.carry(stream, early, process).await
}

/// Dials what is known before the client has said anything.
async fn dial(
    process: &Process,
    rule: &Rule,
    headers: &HeaderMap,
) -> Result<Option<TcpStream>, StreamServiceError> {
    match rule.service() {
        Service::Stream(service) => {
            let missing = || format!("dial tcp: address {}: missing port in address", service.host);
            let port = service.port.ok_or_else(|| StreamServiceError::Destinationless(missing()))?;
            let limits = rule.limits();
            let check = |address| limits.check(address);
            Ok(Some(connect::tcp(&service.host, port, rule.settings(), check).await?))
        }
        Service::Bastion => {
            let (host, port) = jump_destination(headers).map_err(StreamServiceError::Destinationless)?;
            let rules = Some(rule.ip_rules()).filter(|rules| !rules.is_empty());
            let check = |address| permitted(process, rules, address);
            Ok(Some(connect::tcp(&host, port, rule.settings(), check).await?))
        }
        Service::Http(_)
        | Service::Unix { .. }
        | Service::SocksProxy
        | Service::HelloWorld
        | Service::Status(_) => Ok(None),
    }
}

/// Says why an address that somebody else named is not dialled, if it is not.
fn permitted(process: &Process, rules: Option<&[IpRule]>, address: SocketAddr) -> Result<(), String> {
    if let Some(kind) = process.never_dialled(address.ip()) {
        return Err(format!("{kind} addresses are never dialled"));
    }
    if !process.config.allow_networks.permits(address.ip(), address.port()) {
        return Err("not in allow-networks".into());
    }
    match rules {
        Some(rules) if !IpRule::permits(rules, address.ip(), address.port()) => {
            Err("denied by ipRules".into())
        }
        _ => Ok(()),
    }
}

/// Where the request says that it wants to go: `HOST:PORT`, or a URL with such.
fn jump_destination(headers: &HeaderMap) -> Result<(String, u16), String> {
    let said = headers.get("cf-access-jump-destination").and_then(|value| value.to_str().ok());
    let said = said.filter(|said| !said.is_empty()).ok_or(NO_DESTINATION)?;
    let authority = match GoUrl::parse(said) {
        Ok(url) if !url.authority.is_empty() => url.authority,
        _ => said.split('/').next().unwrap_or_default().to_owned(),
    };
    let parts = authority.rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        Some((bare.to_owned(), port.parse().ok()?)).filter(|(bare, _)| !bare.is_empty())
    });
    let shown: String = authority.chars().take(MAX_SHOWN_CHARS).collect();
    parts.ok_or_else(|| format!("dial tcp: address {shown}: missing port in address"))
}

const NO_DESTINATION: &str = "Did not receive final destination from client. The --destination flag is likely not set on the client side";
/// As much of a wrong destination as an answer repeats.
const MAX_SHOWN_CHARS: usize = 100;

/// The head of the answer that accepts a WebSocket.
fn upgrade(headers: &HeaderMap) -> HeaderMap {
    let mut answer = HeaderMap::new();
    let key = headers.get(header::SEC_WEBSOCKET_KEY).map(|key| websocket::accept_key(key.as_bytes()));
    if let Some(Ok(accept)) = key.map(HeaderValue::try_from) {
        answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        answer.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        answer.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    answer
}

/// Speaks SOCKS5 until there is a connection. A rule that names the destination (`proxyType: socks`) has dialled it
/// already: the client then gets that one, whatever it asks for.
async fn negotiate<R: ReadChunk, W: AnswerWriter>(
    process: &Process,
    rule: &Rule,
    socket: &mut Socket<R, W>,
    dialled: Option<TcpStream>,
) -> Result<(TcpStream, Bytes), StreamServiceError> {
    let mut negotiation = Negotiation::default();
    let mut received = 0;
    let destination = loop {
        match negotiation.step() {
            Step::Read => match socket.receive().await? {
                Some(data) => {
                    received += data.len();
                    if received > MAX_EARLY_BYTES {
                        return Err(StreamServiceError::Socks);
                    }
                    negotiation.handle_input(&data);
                }
                None => return Err(StreamServiceError::Socks),
            },
            Step::Send(bytes) => socket.send(bytes).await?,
            Step::Refuse(bytes) => {
                socket.send(bytes).await?;
                return Err(StreamServiceError::Socks);
            }
            Step::Connect(destination) => break destination,
        }
    };
    let stream = match dialled {
        Some(stream) => stream,
        None => match dial_destination(process, rule, &destination).await {
            Ok(stream) => stream,
            Err(error) => {
                process.metrics.stream_failed();
                socket.send(reply(reason(&error), None)).await?;
                return Err(error.into());
            }
        },
    };
    socket.send(reply(Reply::Succeeded, stream.local_addr().ok())).await?;
    Ok((stream, negotiation.into_rest()))
}

async fn dial_destination(
    process: &Process,
    rule: &Rule,
    destination: &Destination,
) -> Result<TcpStream, ConnectError> {
    let check = |address| permitted(process, Some(rule.ip_rules()), address);
    connect::tcp(&destination.host.to_string(), destination.port, rule.settings(), check).await
}

fn reason(error: &ConnectError) -> Reply {
    match error {
        ConnectError::NotPermitted { .. } => Reply::NotAllowed,
        ConnectError::Dial { refusal: Refusal::Refused, .. } => Reply::Refused,
        ConnectError::Dial { refusal: Refusal::NetworkUnreachable, .. } => Reply::NetworkUnreachable,
        ConnectError::Dial { .. }
        | ConnectError::Resolve { .. }
        | ConnectError::TimedOut(_)
        | ConnectError::TlsTimedOut
        | ConnectError::Tls(_)
        | ConnectError::ServerName(_) => Reply::HostUnreachable,
    }
}

/// The edge's stream with a WebSocket on it.
struct Socket<R, W> {
    incoming: Incoming<R>,
    writer: W,
    pongs: mpsc::Receiver<Bytes>,
}

struct Incoming<R> {
    body: R,
    decoder: Decoder,
    events: VecDeque<Event>,
    pongs: mpsc::Sender<Bytes>,
    /// Of the frames' payload.
    closed: bool,
}

impl<R: ReadChunk> Incoming<R> {
    /// The client's next bytes; `None` at its end. May be cancelled.
    async fn receive(&mut self) -> Result<Option<Bytes>, StreamServiceError> {
        loop {
            match self.events.pop_front() {
                Some(Event::Data(data)) if data.is_empty() => {}
                Some(Event::Data(data)) => return Ok(Some(data)),
                // A client that sends more pings than are answered gets no answer to the last ones.
                Some(Event::Ping(payload)) => drop(self.pongs.try_send(websocket::pong(&payload))),
                Some(Event::Close) => self.closed = true,
                None if self.closed => return Ok(None),
                None => match self.body.read_chunk().await? {
                    Some(chunk) => self.decoder.handle_input(chunk, &mut self.events)?,
                    None => self.closed = true,
                },
            }
        }
    }
}

impl<R: ReadChunk, W: AnswerWriter> Socket<R, W> {
    fn new(body: R, writer: W) -> Self {
        let (sender, pongs) = mpsc::channel(PONGS_AHEAD);
        let incoming = Incoming {
            body,
            decoder: Decoder::default(),
            events: VecDeque::new(),
            pongs: sender,
            closed: false,
        };
        Self { incoming, writer, pongs }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, StreamServiceError> {
        self.incoming.receive().await
    }

    async fn send(&mut self, data: Bytes) -> Result<(), StreamServiceError> {
        if !data.is_empty() {
            send(&mut self.writer, data).await?;
        }
        Ok(())
    }

    /// Says goodbye.
    async fn end(&mut self) {
        // Nobody is left to be told that it did not arrive.
        let _ = self.writer.write_chunk(websocket::close()).await;
        let _ = self.writer.finish_with(&HeaderMap::new()).await;
        self.writer.delivered().await;
    }

    /// Carries bytes until either end has ended: a WebSocket has no half-close (contract, 3.4).
    async fn carry(
        &mut self,
        stream: TcpStream,
        early: Bytes,
        process: &Process,
    ) -> Result<(), StreamServiceError> {
        let closing = process.closing.child_token();
        let mut destination = tcp::duplex(stream);
        let carried = {
            let up = up(&mut self.incoming, &mut destination.writer, early);
            let down = down(&mut destination.reader, &mut self.writer, &mut self.pongs);
            tokio::select! {
                carried = up => carried,
                carried = down => carried,
                () = closing.cancelled() => Err(StreamServiceError::Abandoned),
            }
        };
        if carried.is_ok() {
            // What the client sent before it ended is on its way and arrives.
            let _ = destination.writer.finish().await;
            self.end().await;
        } else {
            self.writer.reset();
            self.incoming.body.stop();
            destination.reset();
        }
        carried
    }
}

async fn up<R: ReadChunk>(
    incoming: &mut Incoming<R>,
    writer: &mut TcpWriter,
    early: Bytes,
) -> Result<(), StreamServiceError> {
    if !early.is_empty() {
        writer.write_chunk(early).await.map_err(StreamServiceError::Destination)?;
    }
    while let Some(data) = incoming.receive().await? {
        writer.write_chunk(data).await.map_err(StreamServiceError::Destination)?;
    }
    Ok(())
}

async fn down<W: AnswerWriter>(
    reader: &mut TcpReader,
    writer: &mut W,
    pongs: &mut mpsc::Receiver<Bytes>,
) -> Result<(), StreamServiceError> {
    let mut pings = tokio::time::interval_at(tokio::time::Instant::now() + PING_INTERVAL, PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            chunk = reader.read_chunk() => match chunk.map_err(StreamServiceError::Destination)? {
                Some(chunk) => send(writer, chunk).await?,
                None => return Ok(()),
            },
            Some(pong) = pongs.recv() => writer.write_chunk(pong).await?,
            _ = pings.tick() => writer.write_chunk(websocket::ping()).await?,
            () = writer.abandoned() => return Err(StreamServiceError::Abandoned),
        }
    }
}

/// One frame.
async fn send<W: WriteChunk>(writer: &mut W, data: Bytes) -> Result<(), StreamError> {
    writer.write_chunk(websocket::binary_header(data.len())).await?;
    writer.write_chunk(data).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jump_destination_is_a_host_and_a_port_in_many_spellings() {
        for (said, expected) in [
            ("10.0.0.1:22", Ok(("10.0.0.1", 22))),
            ("ssh://host.example:22/path", Ok(("host.example", 22))),
            ("host.example:22/path", Ok(("host.example", 22))),
            ("[2001:db8::1]:22", Ok(("2001:db8::1", 22))),
            ("tcp://[2001:db8::1]:22", Ok(("2001:db8::1", 22))),
            ("host.example", Err("dial tcp: address host.example: missing port in address")),
            (":22", Err("dial tcp: address :22: missing port in address")),
            ("", Err(NO_DESTINATION)),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("cf-access-jump-destination", HeaderValue::from_static(said));
            let expected = expected.map(|(host, port)| (host.to_owned(), port)).map_err(str::to_owned);
            assert_eq!(jump_destination(&headers), expected, "{said}");
        }
        assert_eq!(jump_destination(&HeaderMap::new()), Err(NO_DESTINATION.to_owned()));
    }
}
