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
async fn configured(config: &str) -> (Edge, Running, Connection) {
    let (edge, running, connection) = connected(false).await;
    assert_eq!(running.process.apply_configuration(0, config.as_bytes()), (0, None));
    (edge, running, connection)
}

/// An answer's head, and its stream behind it.
struct Answered {
    send: SendStream,
    receive: RecvStream,
    response: ConnectResponse,
    ahead: BytesMut,
}

impl Answered {
    fn status(&self) -> &str {
        assert_eq!(self.response.error, "");
        self.response.metadata(METADATA_HTTP_STATUS).unwrap()
    }

    fn header(&self, name: &str) -> Vec<String> {
        let named = self.response.metadata.iter().filter(|entry| entry.key == format!("HttpHeader:{name}"));
        named.map(|entry| String::from_utf8(entry.val.to_vec()).unwrap()).collect()
    }

    async fn body(mut self) -> String {
        self.send.finish().unwrap();
        let rest = within(self.receive.read_to_end(1 << 20)).await.unwrap();
        self.ahead.extend_from_slice(&rest);
        String::from_utf8(self.ahead.to_vec()).unwrap()
    }
}

/// Sends a request's head.
async fn ask(connection: &Connection, kind: ConnectionType, url: &str, headers: &[(&str, &str)]) -> Answered {
    let (mut send, mut receive) = within(connection.open_bi()).await.unwrap();
    let mut metadata = vec![Metadata::new("HttpMethod", "GET")];
    metadata.extend(headers.iter().map(|(key, value)| Metadata::new(*key, (*value).to_owned())));
    let request = ConnectRequest { dest: url.to_owned(), kind, metadata };
    let mut bytes = BytesMut::new();
    request.encode(&mut bytes).unwrap();
    send.write_chunk(bytes.freeze()).await.unwrap();
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
