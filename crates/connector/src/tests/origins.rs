//! Requests to HTTP servers in the same process: bodies both ways, TLS, connections used again, upgrades, Unix sockets.

use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::requests::{Answered, ask, ask_with_body, configured};
use super::*;

/// Connections that were made, and the names that clients asked for in TLS.
#[derive(Default)]
struct Noticed {
    connections: AtomicUsize,
    names: Mutex<Vec<String>>,
}

/// Says what arrived: method, path, Host, some headers and the body.
async fn mirror(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.headers().contains_key("upgrade") {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut stream = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
            stream.shutdown().await.unwrap();
        });
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
        response.headers_mut().insert("connection", "Upgrade".parse().unwrap());
        return Ok(response);
    }
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    let (head, body) = request.into_parts();
    let host = head.uri.authority().map_or_else(|| text(&head.headers, "host"), ToString::to_string);
    let body = body.collect().await.unwrap().to_bytes();
    let said = format!(
        "{} {} {host} forwarded={} length={} encoding={} body={}",
        head.method,
        head.uri.path(),
        text(&head.headers, "x-forwarded-host"),
        text(&head.headers, "content-length"),
        text(&head.headers, "transfer-encoding"),
        String::from_utf8_lossy(&body),
    );
    Ok(Response::new(Full::new(said.into())))
}

async fn serve_http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // The client may have gone.
    let _ = builder.serve_connection_with_upgrades(TokioIo::new(stream), service_fn(mirror)).await;
}

/// A plain server.
async fn plain() -> (SocketAddr, Arc<Noticed>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let noticed = Arc::new(Noticed::default());
    let counted = Arc::clone(&noticed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counted.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_http(stream));
        }
    });
    (address, noticed)
}

/// A server with a certificate for `origin.test`; the certificate is written to a file.
async fn secure(protocols: &[&[u8]]) -> (SocketAddr, Arc<Noticed>, tempfile::NamedTempFile) {
    let key = rcgen::generate_simple_self_signed(["origin.test".to_owned()]).unwrap();
    let pem = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pem.path(), key.cert.pem()).unwrap();
    let der = PrivateKeyDer::Pkcs8(key.signing_key.serialize_der().into());
    let identity = Identity::new(vec![key.cert.der().clone()], der);
    let acceptor = TlsAcceptor::from(Arc::new(tls::server_config(&identity, protocols).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let noticed = Arc::new(Noticed::default());
    let counted = Arc::clone(&noticed);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
            counted.names.lock().unwrap().push(name);
            counted.connections.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(serve_http(stream));
        }
    });
    (address, noticed, pem)
}

/// One rule for everything.
fn one_rule(service: &str, settings: &str) -> String {
    format!(r#"{{"ingress":[{{"service":"{service}","originRequest":{{{settings}}}}}]}}"#)
}

async fn got(connection: &Connection, path: &str) -> String {
    let answered: Answered =
        ask(connection, ConnectionType::Http, &format!("http://app.test{path}"), &[]).await;
    assert_eq!(answered.status(), "200");
    answered.body().await
}

#[tokio::test]
async fn a_connection_to_an_origin_is_used_again() {
    let (address, noticed) = plain().await;
    let (_edge, running, connection) = configured(&one_rule(&format!("http://{address}"), "")).await;
    for _ in 0..5 {
        assert_eq!(got(&connection, "/a").await, "GET /a app.test forwarded= length= encoding= body=");
    }
    assert_eq!(noticed.connections.load(Ordering::SeqCst), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_body_is_streamed_with_its_length_or_in_chunks() {
    let (address, _) = plain().await;
    let (_edge, running, connection) =
        configured(&one_rule(&format!("http://{address}"), r#""httpHostHeader":"inner.test""#)).await;
    let known = ask_with_body(&connection, &[("HttpHeader:Content-Length", "5")], b"hello and more").await;
    assert_eq!(known.body().await, "POST /up inner.test forwarded=app.test length=5 encoding= body=hello");
    let chunked = ask_with_body(&connection, &[("HttpHeader:Transfer-Encoding", "chunked")], b"hello").await;
    assert_eq!(
        chunked.body().await,
        "POST /up inner.test forwarded=app.test length= encoding=chunked body=hello"
    );
    let none = ask_with_body(&connection, &[], b"hello").await;
    assert!(none.body().await.ends_with("encoding= body="), "a body that was not announced is none");
    running.stop().await;
}

#[tokio::test]
async fn a_server_that_takes_no_chunks_gets_a_length() {
    let (address, _) = plain().await;
    let rules = one_rule(&format!("http://{address}"), r#""disableChunkedEncoding":true"#);
    let (_edge, running, connection) = configured(&rules).await;
    let answered = ask_with_body(&connection, &[("HttpHeader:Transfer-Encoding", "chunked")], b"hello").await;
    assert!(answered.body().await.ends_with("length=5 encoding= body=hello"));
    running.stop().await;
}

#[tokio::test]
async fn an_upgrade_is_passed_through() {
    let (address, _) = plain().await;
    let (_edge, running, connection) = configured(&one_rule(&format!("ws://{address}"), "")).await;
    let mut answered = ask(&connection, ConnectionType::WebSocket, "http://app.test/", &[]).await;
    assert_eq!(answered.status(), "101");
    assert_eq!(answered.header("Upgrade"), ["websocket"]);
    answered.write(b"ping").await;
    assert_eq!(answered.body().await, "ping");
    running.stop().await;
}

#[tokio::test]
async fn an_origin_is_trusted_by_its_authority_and_name_or_not_asked() {
    let (address, noticed, pem) = secure(&[]).await;
    let service = format!("https://{address}");
    let pool = format!(r#""caPool":"{}""#, pem.path().display());
    for (settings, works) in [
        (format!(r#"{pool},"originServerName":"origin.test""#), true),
        (r#""noTLSVerify":true"#.to_owned(), true),
        (pool.clone(), false),
        (r#""originServerName":"origin.test""#.to_owned(), false),
    ] {
        let (_edge, running, connection) = configured(&one_rule(&service, &settings)).await;
        let answered = ask(&connection, ConnectionType::Http, "http://app.test/", &[]).await;
        let failed = !answered.response.error.is_empty();
        assert_eq!(failed, !works, "{settings}: {}", answered.response.error);
        running.stop().await;
    }
    let (_edge, running, connection) =
        configured(&one_rule(&service, r#""noTLSVerify":true,"matchSNItoHost":true"#)).await;
    got(&connection, "/").await;
    assert_eq!(noticed.names.lock().unwrap().last().map(String::as_str), Some("app.test"));
    running.stop().await;
}

#[tokio::test]
async fn requests_share_one_connection_to_an_http2_origin() {
    let (address, noticed, _pem) = secure(&[b"h2", b"http/1.1"]).await;
    let rules = one_rule(&format!("https://{address}"), r#""noTLSVerify":true,"http2Origin":true"#);
    let (_edge, running, connection) = configured(&rules).await;
    for _ in 0..3 {
        assert_eq!(got(&connection, "/b").await, "GET /b app.test forwarded= length= encoding= body=");
    }
    assert_eq!(noticed.connections.load(Ordering::SeqCst), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_unix_socket_and_the_page_of_our_own_answer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve_http(stream));
        }
    });
    let (_edge, running, connection) = configured(&one_rule(&format!("unix:{}", path.display()), "")).await;
    assert_eq!(got(&connection, "/c").await, "GET /c app.test forwarded= length= encoding= body=");
    let hello = one_rule("hello_world", "");
    assert_eq!(running.process.apply_configuration(1, hello.as_bytes()), (1, None));
    let header = [("HttpHeader:X-Said", "<script>")];
    let page = ask(&connection, ConnectionType::Http, "http://app.test/", &header).await.body().await;
    assert!(page.contains("Congrats! You created a tunnel!") && !page.contains("<script>"), "{page}");
    running.stop().await;
}

#[tokio::test]
async fn pushed_rules_reach_nothing_beyond_allow_networks() {
    let (address, noticed) = plain().await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.yml");
    std::fs::write(&file, "allow-networks: 192.0.2.0/24\n").unwrap();
    let mut edge = Edge::start();
    let mut config = edge.config();
    config.allow_networks = config::ConfigFile::read(&file).unwrap().allow_networks().unwrap();
    let running = Running::start(config, false).await;
    let (_, connection) = edge.registration().await;
    let apply = |version, service: &str| {
        running.process.apply_configuration(version, one_rule(service, "").as_bytes())
    };
    assert_eq!(apply(0, &format!("http://{address}")), (0, None));
    let answered = ask(&connection, ConnectionType::Http, "http://app.test/", &[]).await;
    assert!(answered.response.error.ends_with("not in allow-networks"), "{}", answered.response.error);
    assert_eq!(noticed.connections.load(Ordering::SeqCst), 0);
    let (version, error) = apply(1, "unix:/run/x.sock");
    assert_eq!(version, 0);
    assert!(error.unwrap().contains("allow-networks"));
    running.stop().await;
}
