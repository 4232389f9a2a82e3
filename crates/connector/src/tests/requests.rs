//! Requests for HTTP and WebSocket, from an edge's stream to origins in the same process.

use adit_wire::tunnel::Metadata;

use super::*;

/// An HTTP server that answers its first request with `answer`; what it was sent is the task's result.
async fn http_origin(answer: &'static [u8]) -> (SocketAddr, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let read = stream.read_buf(&mut request).await.unwrap();
            assert_ne!(read, 0, "the request is complete");
        }
        stream.write_all(answer).await.unwrap();
        String::from_utf8(request).unwrap()
    });
    (address, served)
}

/// A connector whose configuration an edge has just pushed.
pub(super) async fn configured(config: &str) -> (Edge, Running, Connection) {
    let (edge, running, connection) = connected(false).await;
    assert_eq!(running.process.apply_configuration(0, config.as_bytes()), (0, None));
    (edge, running, connection)
}

/// An answer's head, and its stream behind it.
pub(super) struct Answered {
    send: SendStream,
    receive: RecvStream,
    pub(super) response: ConnectResponse,
    ahead: BytesMut,
}

impl Answered {
    pub(super) fn status(&self) -> &str {
        assert_eq!(self.response.error, "");
        self.response.metadata(METADATA_HTTP_STATUS).unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Vec<String> {
        let named = self.response.metadata.iter().filter(|entry| entry.key == format!("HttpHeader:{name}"));
        named.map(|entry| String::from_utf8(entry.val.to_vec()).unwrap()).collect()
    }

    pub(super) async fn body(mut self) -> String {
        // Ended already, if there was a body.
        let _ = self.send.finish();
        let rest = within(self.receive.read_to_end(1 << 20)).await.unwrap();
        self.ahead.extend_from_slice(&rest);
        String::from_utf8(self.ahead.to_vec()).unwrap()
    }
}

/// Sends a request's head.
pub(super) async fn ask(
    connection: &Connection,
    kind: ConnectionType,
    url: &str,
    headers: &[(&str, &str)],
) -> Answered {
    let (send, receive) = begin(connection, kind, "GET", url, headers).await;
    answered(send, receive).await
}

/// Sends a request with a body.
pub(super) async fn ask_with_body(
    connection: &Connection,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Answered {
    let (mut send, receive) =
        begin(connection, ConnectionType::Http, "POST", "http://app.test/up", headers).await;
    // An origin may answer before it has all.
    let _ = send.write_all(body).await;
    let _ = send.finish();
    answered(send, receive).await
}

async fn begin(
    connection: &Connection,
    kind: ConnectionType,
    method: &str,
    url: &str,
    headers: &[(&str, &str)],
) -> (SendStream, RecvStream) {
    let (mut send, receive) = within(connection.open_bi()).await.unwrap();
    let host = url.trim_start_matches("http://").split('/').next().unwrap().to_owned();
    let mut metadata = vec![Metadata::new("HttpMethod", method.to_owned()), Metadata::new("HttpHost", host)];
    metadata.extend(headers.iter().map(|(key, value)| Metadata::new(*key, (*value).to_owned())));
    let request = ConnectRequest { dest: url.to_owned(), kind, metadata };
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes).unwrap();
    send.write_chunk(bytes.freeze()).await.unwrap();
    (send, receive)
}

async fn answered(send: SendStream, mut receive: RecvStream) -> Answered {
    let mut ahead = BytesMut::new();
    loop {
        if let Some((response, consumed)) = ConnectResponse::decode(&ahead).unwrap() {
            let ahead = ahead.split_off(consumed);
            return Answered { send, receive, response, ahead };
        }
        assert_ne!(within(receive.read_buf(&mut ahead)).await.unwrap(), 0, "the stream ended");
    }
}

#[tokio::test]
async fn a_request_goes_to_the_service_of_its_rule() {
    let answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\n\r\nhello";
    let (address, served) = http_origin(answer).await;
    let (_edge, running, connection) = configured(&format!(
        r#"{{"ingress":[{{"hostname":"a.test","service":"http://{address}"}},{{"service":"http_status:404"}}]}}"#
    ))
    .await;
    let other = ask(&connection, ConnectionType::Http, "http://b.test/", &[]).await;
    assert_eq!(other.status(), "404");
    assert_eq!(other.body().await, "");
    let own = ask(&connection, ConnectionType::Http, "http://a.test/x?y=1", &[]).await;
    assert_eq!(own.status(), "200");
    assert_eq!(own.header("Set-Cookie"), ["a=1", "b=2"]);
    assert_eq!(own.body().await, "hello");
    let request = within(served).await.unwrap();
    assert!(request.starts_with("GET /x?y=1 HTTP/1.1\r\n"), "{request}");
    assert!(request.contains("\r\nHost: a.test\r\n"), "{request}");
    let tag = format!("\r\nCf-Warp-Tag-Id: {}\r\n", running.process.connector);
    assert!(request.contains(&tag), "{request}");
    running.stop().await;
}

#[tokio::test]
async fn an_origin_that_is_not_there_is_said_in_words_that_people_search_for() {
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let rules = format!(r#"{{"ingress":[{{"service":"http://{free}"}}]}}"#);
    let (_edge, running, connection) = configured(&rules).await;
    let answered = ask(&connection, ConnectionType::Http, "http://a.test/", &[]).await;
    let unreachable = "Unable to reach the origin service. The service may be down or it may not be responding to traffic from cloudflared";
    let expected = format!("{unreachable}: dial tcp {free}: connect: connection refused");
    assert_eq!(answered.response.error, expected);
    running.stop().await;
}

/// A TCP server that echoes one connection.
async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut reader, mut writer) = stream.split();
        tokio::io::copy(&mut reader, &mut writer).await.unwrap();
    });
    address
}

/// A client's binary frame under a mask of nothing, which leaves the payload readable.
fn frame(payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    assert!(length < 126);
    [&[0x82, 0x80 | length, 0, 0, 0, 0], payload].concat()
}

impl Answered {
    /// Bytes as they are.
    pub(super) async fn write(&mut self, bytes: &[u8]) {
        self.send.write_all(bytes).await.unwrap();
    }

    async fn send(&mut self, payload: &[u8]) {
        self.send.write_all(&frame(payload)).await.unwrap();
    }

    /// Reads until the payloads of the server's frames are this.
    async fn expect(&mut self, expected: &[u8]) {
        let mut payload = Vec::new();
        while payload.len() < expected.len() {
            while self.ahead.len() < 2 || self.ahead.len() < 2 + usize::from(self.ahead[1]) {
                assert_ne!(within(self.receive.read_buf(&mut self.ahead)).await.unwrap(), 0, "an early end");
            }
            let head = self.ahead.split_to(2);
            assert_eq!(head[0], 0x82, "a whole binary frame, without a mask");
            payload.extend_from_slice(&self.ahead.split_to(head[1].into()));
        }
        assert_eq!(payload, expected);
    }
}

const KEY: (&str, &str) = ("HttpHeader:Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==");

/// Asks for a WebSocket with a key.
async fn ask_websocket(connection: &Connection, headers: &[(&str, &str)]) -> Answered {
    let headers: Vec<_> = headers.iter().copied().chain([KEY]).collect();
    ask(connection, ConnectionType::WebSocket, "http://a.test/", &headers).await
}

#[tokio::test]
async fn a_websocket_to_a_stream_service_ends_here_and_goes_on_as_tcp() {
    let address = echo().await;
    let (_edge, running, connection) =
        configured(&format!(r#"{{"ingress":[{{"service":"tcp://{address}"}}]}}"#)).await;
    let mut answered = ask_websocket(&connection, &[]).await;
    assert_eq!(answered.status(), "101");
    assert_eq!(answered.header("Sec-Websocket-Accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
    answered.send(b"hello").await;
    answered.expect(b"hello").await;
    // A ping is answered between the bytes.
    answered.send.write_all(&[0x89, 0x81, 0, 0, 0, 0, b'?']).await.unwrap();
    let mut pong = [0; 3];
    within(answered.receive.read_exact(&mut pong)).await.unwrap();
    assert_eq!(&pong, b"\x8a\x01?");
    // A close is answered, and ends the flow.
    answered.send.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await.unwrap();
    assert_eq!(within(answered.receive.read_to_end(100)).await.unwrap(), [0x88, 2, 3, 0xe8]);
    running.load(|load| load.flows == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_bastion_dials_what_the_request_names_but_nothing_that_is_never_dialled() {
    let (_edge, running, connection) = configured(r#"{"ingress":[{"service":"bastion"}]}"#).await;
    let address = echo().await;
    let header = ("HttpHeader:Cf-Access-Jump-Destination", address.to_string());
    let answered = ask_websocket(&connection, &[(header.0, &header.1)]).await;
    assert_eq!(answered.response.error, format!("dial tcp {address}: loopback addresses are never dialled"));
    let answered = ask_websocket(&connection, &[]).await;
    assert!(answered.response.error.starts_with("Did not receive final destination from client."));
    running.stop().await;

    let mut edge = Edge::start();
    let running = Running::start(edge.config(), true).await;
    let (_, connection) = edge.registration().await;
    assert_eq!(running.process.apply_configuration(0, br#"{"ingress":[{"service":"bastion"}]}"#), (0, None));
    let mut answered = ask_websocket(&connection, &[(header.0, &header.1)]).await;
    assert_eq!(answered.status(), "101");
    answered.send(b"hello").await;
    answered.expect(b"hello").await;
    drop(answered);
    running.load(|load| load.flows == 0).await;
    running.stop().await;
}

/// SOCKS5: the greeting and its answer.
async fn greeted(connection: &Connection) -> Answered {
    let mut answered = ask_websocket(connection, &[]).await;
    assert_eq!(answered.status(), "101");
    answered.send(&[5, 1, 0]).await;
    answered.expect(&[5, 0]).await;
    answered
}

#[tokio::test]
async fn a_socks_proxy_reaches_what_its_rules_allow() {
    let mut edge = Edge::start();
    let running = Running::start(edge.config(), true).await;
    let (_, connection) = edge.registration().await;
    let address = echo().await;
    let port = address.port();
    let rules = format!(
        r#"{{"ingress":[{{"service":"socks-proxy","originRequest":{{"ipRules":[
            {{"prefix":"127.0.0.1/32","ports":[{port}],"allow":true}}]}}}}]}}"#
    );
    assert_eq!(running.process.apply_configuration(0, rules.as_bytes()), (0, None));
    let [high, low] = port.to_be_bytes();
    let mut denied = greeted(&connection).await;
    denied.send(&[5, 1, 0, 1, 127, 0, 0, 2, high, low]).await;
    denied.expect(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let mut allowed = greeted(&connection).await;
    // By name, with the first bytes right behind.
    allowed.send(&[&[5, 1, 0, 3, 9][..], b"127.0.0.1", &[high, low], b"early"].concat()).await;
    while allowed.ahead.len() < 12 {
        assert_ne!(within(allowed.receive.read_buf(&mut allowed.ahead)).await.unwrap(), 0);
    }
    assert_eq!(allowed.ahead.split_to(8)[..], [0x82, 10, 5, 0, 0, 1, 127, 0]);
    drop(allowed.ahead.split_to(4));
    allowed.expect(b"early").await;
    allowed.send(b"later").await;
    allowed.expect(b"later").await;
    drop((denied, allowed));
    running.load(|load| load.flows == 0).await;
    running.stop().await;
}

#[tokio::test]
async fn a_socks_proxy_without_rules_denies_everything_and_never_dialled_stays_so() {
    let (_edge, running, connection) = configured(r#"{"ingress":[{"service":"socks-proxy"}]}"#).await;
    let mut denied = greeted(&connection).await;
    denied.send(&[5, 1, 0, 1, 192, 0, 2, 1, 0, 80]).await;
    denied.expect(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    let everything = r#"{"ingress":[{"service":"socks-proxy","originRequest":{"ipRules":[{"prefix":"0.0.0.0/0","allow":true}]}}]}"#;
    assert_eq!(running.process.apply_configuration(1, everything.as_bytes()), (1, None));
    let mut denied = greeted(&connection).await;
    denied.send(&[5, 1, 0, 1, 127, 0, 0, 1, 0, 80]).await;
    denied.expect(&[5, 2, 0, 1, 0, 0, 0, 0, 0, 0]).await;
    running.stop().await;
}

#[tokio::test]
async fn a_pushed_configuration_replaces_an_older_one_and_a_wrong_one_nothing() {
    let (_edge, running, connection) = configured(r#"{"ingress":[{"service":"http_status:201"}]}"#).await;
    let apply = |version, config: &str| running.process.apply_configuration(version, config.as_bytes());
    assert_eq!(apply(0, r#"{"ingress":[{"service":"http_status:202"}]}"#), (0, None), "not newer");
    for (config, error) in [
        ("{", "expected JSON, at line 1 column 1"),
        (r#"{"ingress":[{"service":"http_status:1"}]}"#, "invalid HTTP status code: 1"),
        (
            r#"{"ingress":{}}"#,
            "ingress: expected a list of rules, each with a service, found keys of its own",
        ),
        (
            r#"{"originRequest":{"connectTimeout":"5s"}}"#,
            "originRequest.connectTimeout: expected a whole number from 0 to 316224000, found \"5s\"",
        ),
        (
            r#"{"originRequest":{"connectTimeout":1.5}}"#,
            "originRequest.connectTimeout: expected a whole number from 0 to 316224000, found 1.5",
        ),
        (
            r#"{"ingress":[{"hostname":"a","service":"http_status:200"}]}"#,
            "The last ingress rule must match all URLs (i.e. it should not have a hostname or path filter)",
        ),
        (r#"{"color":1}"#, "color: expected ingress, originRequest or warp-routing"),
    ] {
        assert_eq!(apply(7, config), (0, Some(error.to_owned())), "{config}");
    }
    assert_eq!(ask(&connection, ConnectionType::Http, "http://a/", &[]).await.status(), "201");
    let newer =
        r#"{"Ingress":[{"service":"http_status:203"}],"warp-routing":{"enabled":true,"maxActiveFlows":3}}"#;
    assert_eq!(apply(8, newer), (8, None));
    assert_eq!(ask(&connection, ConnectionType::Http, "http://a/", &[]).await.status(), "203");
    assert_eq!(running.process.configuration().warp_routing.max_active_flows, 3);
    running.stop().await;
}
