//! Log, `exec` and `port-forward`: the long streams, over HTTP and WebSocket.

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};
use http::header::{
    CONNECTION, CONTENT_TYPE, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::workload::{self, ExecStreams};
use super::{Failure, parameter, query, streamed, whole};
use crate::https::Body;
use crate::spdy;

/// Subprotocols of `exec`, the preferred one first. The fifth can say that one stream has ended.
const EXEC_PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Subprotocol of `port-forward`: SPDY frames inside.
const PORT_FORWARD_PROTOCOLS: [&str; 1] = ["SPDY/3.1+portforward.k8s.io"];
/// Largest WebSocket message taken.
const MAX_MESSAGE_BYTES: usize = 1 << 20;
/// Bytes in flight per stream and direction.
const PIPE_BYTES: usize = 64 << 10;

/// What a container runtime takes to start a command, at the least.
const COMMAND_START: Duration = Duration::from_millis(30);

/// First byte of a message of `exec`.
mod channel {
    pub(super) const STDIN: u8 = 0;
    pub(super) const STDOUT: u8 = 1;
    pub(super) const STDERR: u8 = 2;
    pub(super) const ERROR: u8 = 3;
    pub(super) const CLOSE: u8 = 255;
}

/// The log of a pod, with `follow` for as long as the client wants.
pub fn log_response(pod: &str, query_text: &str) -> Response<Body> {
    let query = query(query_text);
    let follow = parameter(&query, "follow") == Some("true");
    let tail = parameter(&query, "tailLines").and_then(|lines| lines.parse().ok());
    let mut response = Response::new(streamed(workload::log(pod.to_owned(), follow, tail)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response
}

/// `exec` for kubectl: streams are told apart by the first byte of each message.
pub(super) fn exec_websocket(request: Request<Incoming>) -> Result<Response<Body>, Failure> {
    let query = query(request.uri().query().unwrap_or_default());
    let command: Vec<String> =
        query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    let wanted = |name: &str| matches!(parameter(&query, name), Some("true" | "1"));
    let (stdin, stdout, stderr) = (wanted("stdin"), wanted("stdout"), wanted("stderr"));
    accept(request, &EXEC_PROTOCOLS, move |socket| async move {
        let (messages, outgoing) = mpsc::channel(16);
        let (stdin_write, stdin) = pipe(stdin);
        let (stdout_read, stdout) = pipe(stdout);
        let (stderr_read, stderr) = pipe(stderr);
        let run = async {
            // No container starts a command at once; kubectl discards what comes before it has made its streams, and sends
            // nothing that would say that it has.
            tokio::time::sleep(COMMAND_START).await;
            let streams = ExecStreams { stdin, stdout, stderr };
            let (status, (), ()) = tokio::join!(
                workload::exec(&command, streams),
                send_channel(channel::STDOUT, stdout_read, &messages),
                send_channel(channel::STDERR, stderr_read, &messages),
            );
            let mut message = BytesMut::from(&[channel::ERROR][..]);
            message.extend_from_slice(status.to_string().as_bytes());
            // The client may have gone.
            let _ = messages.send(Message::Binary(message.freeze())).await;
            let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
            let _ = messages.send(Message::Close(Some(normal))).await;
            drop(messages);
            std::future::pending::<()>().await;
        };
        let (sink, stream) = socket.split();
        // The end of the output is the end: the client closes after the status.
        tokio::select! {
            () = run => {}
            () = send(sink, outgoing) => {}
            () = receive_channels(stream, stdin_write) => {}
        }
    })
}

/// `exec` between an API server and a kubelet: each stream is one of SPDY's, told apart by its header `streamtype`.
pub async fn exec_spdy(query_text: &str, mut incoming: mpsc::Receiver<spdy::Stream>) {
    let query = query(query_text);
    let command: Vec<String> =
        query.iter().filter(|(key, _)| key == "command").map(|(_, value)| value.clone()).collect();
    let wanted = |name: &str| matches!(parameter(&query, name), Some("true" | "1"));
    // The error stream is always there; a terminal adds one for its size.
    let count = 1 + ["input", "output", "error", "tty"].into_iter().filter(|name| wanted(name)).count();
    let (mut streams, mut error, mut others) = (ExecStreams::default(), None, Vec::new());
    for _ in 0..count {
        let Some(stream) = incoming.recv().await else { return };
        match stream.header("streamtype") {
            Some("stdin") => streams.stdin = Some(stream.io),
            Some("stdout") => streams.stdout = Some(stream.io),
            Some("stderr") => streams.stderr = Some(stream.io),
            Some("error") => error = Some(stream.io),
            _ => others.push(stream.io),
        }
    }
    let status = workload::exec(&command, streams).await;
    if let Some(mut error) = error {
        // The client may have gone.
        let _ = error.write_all(status.to_string().as_bytes()).await;
        let _ = error.shutdown().await;
    }
    // The client closes the connection once it has the status.
    while incoming.recv().await.is_some() {}
}

fn pipe(wanted: bool) -> (Option<DuplexStream>, Option<DuplexStream>) {
    wanted.then(|| tokio::io::duplex(PIPE_BYTES)).unzip()
}

type Socket = WebSocketStream<TokioIo<Upgraded>>;

async fn send_channel(number: u8, from: Option<DuplexStream>, messages: &mpsc::Sender<Message>) {
    let Some(mut from) = from else { return };
    loop {
        let mut message = BytesMut::with_capacity(PIPE_BYTES);
        message.extend_from_slice(&[number]);
        match from.read_buf(&mut message).await {
            Ok(n) if n > 0 => {}
            _ => return,
        }
        if messages.send(Message::Binary(message.freeze())).await.is_err() {
            return;
        }
    }
}

async fn send(
    mut sink: futures_util::stream::SplitSink<Socket, Message>,
    mut messages: mpsc::Receiver<Message>,
) {
    while let Some(message) = messages.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

async fn receive_channels(
    mut stream: futures_util::stream::SplitStream<Socket>,
    mut stdin: Option<DuplexStream>,
) {
    while let Some(Ok(message)) = stream.next().await {
        let Message::Binary(message) = message else { continue };
        match (message.first(), &mut stdin) {
            // A program that does not read any more is no error of the client's.
            (Some(&channel::STDIN), Some(stdin)) => drop(stdin.write_all(&message[1..]).await),
            (Some(&channel::CLOSE), Some(_)) if message.get(1) == Some(&channel::STDIN) => stdin = None,
            // Resize, and channels that only we write.
            _ => {}
        }
    }
}

/// `port-forward` for kubectl: SPDY inside binary messages.
pub(super) fn port_forward_websocket(
    request: Request<Incoming>,
    pod: String,
) -> Result<Response<Body>, Failure> {
    accept(request, &PORT_FORWARD_PROTOCOLS, move |socket| async move {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let forward = forward_ports(pod, spdy::serve(theirs));
        tokio::join!(forward, tunnel(socket, ours));
    })
}

/// Serves the streams of a port-forward: each connection is a pair, one for data and one for an error.
pub async fn forward_ports(pod: String, mut streams: mpsc::Receiver<spdy::Stream>) {
    /// Connections of which one half has come.
    const MAX_HALVES: usize = 128;
    let mut halves: HashMap<String, spdy::Stream> = HashMap::new();
    while let Some(stream) = streams.recv().await {
        let id = stream.header("requestid").unwrap_or_default().to_owned();
        let Some(other) = halves.remove(&id) else {
            if halves.len() < MAX_HALVES {
                halves.insert(id, stream);
            }
            continue;
        };
        let (data, mut error) = match stream.header("streamtype") {
            Some("data") => (stream, other),
            _ => (other, stream),
        };
        let port = data.header("port").and_then(|port| port.parse().ok()).unwrap_or(0);
        let pod = pod.clone();
        tokio::spawn(async move {
            if let Err(message) = workload::port(&pod, port, data.io).await {
                // Nobody to tell when the client is gone.
                let _ = error.io.write_all(message.as_bytes()).await;
            }
        });
    }
}

/// Bytes of `io` as binary messages, both ways, until either side ends.
async fn tunnel(socket: Socket, io: DuplexStream) {
    let (mut sink, mut stream) = socket.split();
    let (mut read, mut write) = tokio::io::split(io);
    let inbound = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Binary(data) = message
                && write.write_all(&data).await.is_err()
            {
                return;
            }
        }
    };
    let outbound = async {
        let mut buffer = BytesMut::with_capacity(PIPE_BYTES);
        while let Ok(1..) = read.read_buf(&mut buffer).await {
            let data: Bytes = buffer.split().freeze();
            if sink.send(Message::Binary(data)).await.is_err() {
                return;
            }
            buffer.reserve(PIPE_BYTES);
        }
        // The peer may have closed first.
        let _ = sink.close().await;
    };
    tokio::select! {
        () = inbound => {}
        () = outbound => {}
    }
}

/// Answers a WebSocket handshake (RFC 6455 § 4.2) and runs `f` on what comes of it.
fn accept<F: Future<Output = ()> + Send + 'static>(
    mut request: Request<Incoming>,
    protocols: &[&'static str],
    f: impl FnOnce(Socket) -> F + Send + 'static,
) -> Result<Response<Body>, Failure> {
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|key| {
        base64::engine::general_purpose::STANDARD.decode(key.as_bytes()).is_ok_and(|key| key.len() == 16)
    });
    let key = key.ok_or_else(|| Failure::bad_request("you must specify a WebSocket upgrade"))?;
    let offered: Vec<&str> = headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        .collect();
    let protocol = protocols.iter().find(|protocol| offered.contains(protocol)).ok_or_else(|| {
        Failure::bad_request(format!("none of the subprotocols {offered:?} is one of {protocols:?}"))
    })?;
    let accepted = derive_accept_key(key.as_bytes());
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => {
                let config = WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE_BYTES));
                f(WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await)
                    .await;
            }
            Err(error) => tracing::warn!(%error, "upgrade"),
        }
    });
    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
    if let Ok(value) = HeaderValue::try_from(accepted) {
        headers.insert(SEC_WEBSOCKET_ACCEPT, value);
    }
    Ok(response)
}
