//! Public host names: a browser, `adit access tcp` and kubectl through the ingress of every kind of connector.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use adit_testbed::chain::{Chain, Connector, Tunnel};
use adit_testbed::cluster::{Cluster, Family};
use adit_testbed::kubectl::Kubectl;
use adit_testbed::net::{EDGE_V4, LAPTOP_V4, PRIVATE_V4, PRIVATE_V6, api_address};
use adit_testbed::origin::{self, Origin};
use adit_testbed::process::Process;
use adit_testbed::website::{self, Body, Browser, whole};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Frame, Incoming};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::Message;

use crate::kubectl::check_all;

const WEB_PORT: u16 = 8000;
const TCP_PORT: u16 = 9000;
const CLOSED_PORT: u16 = 9;
const ACCESS_PORT: u16 = 1234;
const LIMIT: Duration = Duration::from_secs(20);

const APP: &str = "app.example.com";
const TCP: &str = "tcp.example.com";
const SOCKS: &str = "socks.example.com";
const DOWN: &str = "down.example.com";

/// Which program is the connector, and on what it reaches the edge.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Adit(&'static str),
    Cloudflared(&'static str),
}

/// A chain with one connector whose ingress has every kind of service, and the services themselves.
struct Site {
    chain: Chain,
    _connector: Connector,
    _origin: Origin,
}

impl Site {
    /// `None`, with a word why, if the connector is a cloudflared and there is none.
    async fn start(kind: Kind) -> Option<Self> {
        let cloudflared = cloudflared();
        if matches!(kind, Kind::Cloudflared(_)) && cloudflared.is_none() {
            return None;
        }
        let mut chain = Chain::new().unwrap();
        chain.start_edge().await.unwrap();
        let tunnel = chain.create_tunnel("web").await.unwrap();
        for name in [APP, TCP, SOCKS, DOWN] {
            chain.route_hostname(&tunnel, name).await.unwrap();
        }
        website::start(&chain.world.cluster, &api_address(WEB_PORT)).unwrap();
        let origin = Origin::start(&chain.world.cluster, &api_address(TCP_PORT)).unwrap();
        let connector = match kind {
            Kind::Adit(protocol) => {
                let fixed = "credentials-file: /opt/zt/creds/creds.json\nmetrics: 0.0.0.0:8081\n";
                let config = format!("{fixed}{}", config(&tunnel, protocol));
                let ca = chain.data().join("ca.pem");
                chain.spawn_connector(&config, &tunnel.credentials, &ca).unwrap()
            }
            Kind::Cloudflared(protocol) => {
                let config = config(&tunnel, protocol);
                let program = cloudflared.unwrap();
                chain.spawn_cloudflared(&program, &config, &tunnel.credentials).unwrap()
            }
        };
        let first = connector.process.wait_for_line("Registered tunnel connection", LIMIT).await;
        first.unwrap_or_else(|error| panic!("{error:#}\n{}", connector.process.output().join("\n")));
        Some(Self { chain, _connector: connector, _origin: origin })
    }

    fn browser(&self, name: &str) -> Browser {
        let edge = SocketAddr::from((EDGE_V4, 443));
        Browser::new(&self.chain.world.laptop, edge, name, &self.chain.data().join("ca.pem"))
    }
}

fn cloudflared() -> Option<PathBuf> {
    let path = std::env::var_os("CLOUDFLARED");
    if path.is_none() {
        eprintln!("SKIPPED: CLOUDFLARED names no cloudflared");
    }
    path.map(PathBuf::from)
}

fn config(tunnel: &Tunnel, protocol: &str) -> String {
    let address = api_address(WEB_PORT)[0].ip();
    format!(
        "tunnel: {}
protocol: {protocol}
ingress:
    - hostname: {APP}
      service: http://{address}:{WEB_PORT}
    - hostname: {TCP}
      service: tcp://{address}:{TCP_PORT}
    - hostname: {SOCKS}
      service: socks-proxy
      originRequest:
          ipRules:
              - {{prefix: {PRIVATE_V4}, ports: [6443, {TCP_PORT}], allow: true}}
              - {{prefix: '{PRIVATE_V6}', ports: [6443, {TCP_PORT}], allow: true}}
    - hostname: {DOWN}
      service: http://{address}:{CLOSED_PORT}
    - service: http_status:404
",
        tunnel.id
    )
}

// What a browser sees.

/// Every check of HTTP, over both of its versions, and of WebSockets.
async fn check_web(site: &Site) {
    let browser = site.browser(APP);
    for version in [Version::HTTP_11, Version::HTTP_2] {
        check_request(&browser, version).await;
        check_smuggling(&browser, version).await;
        check_answers(site, &browser, version).await;
    }
    check_streaming(&browser).await;
    check_websocket(&browser).await;
}

async fn told(answer: Response<Incoming>) -> Value {
    assert_eq!(answer.status(), StatusCode::OK);
    let body = tokio::time::timeout(LIMIT, answer.into_body().collect()).await.unwrap().unwrap();
    serde_json::from_slice(&body.to_bytes()).unwrap()
}

fn header<'a>(told: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = told["headers"].as_array().unwrap().iter();
    headers.filter(|header| header[0] == name).map(|header| header[1].as_str().unwrap()).collect()
}

/// Method, URL, host, headers and body reach the origin as they were sent, and what the edge says of the client with them.
async fn check_request(browser: &Browser, version: Version) {
    let data: Vec<u8> = (0..300_000_u32).map(|n| (n % 251) as u8).collect();
    let chunks: Vec<Bytes> = data.chunks(10_000).map(Bytes::copy_from_slice).collect();
    let without_length =
        StreamBody::new(futures_util::stream::iter(chunks.into_iter().map(|chunk| Ok(Frame::data(chunk)))));
    for body in [whole(data.clone()), without_length.boxed_unsync()] {
        let request = Request::post("/told?q=a%20b")
            .header("x-of-the-client", "1")
            .header("x-of-the-client", "2")
            .header("cookie", "a=1; CF_Authorization=secret; b=2")
            .body(body)
            .unwrap();
        let answer = browser.send(version, request).await.unwrap();
        let ray = answer.headers()["cf-ray"].to_str().unwrap().to_owned();
        let told = told(answer).await;
        assert_eq!((told["method"].as_str(), told["url"].as_str()), (Some("POST"), Some("/told?q=a%20b")));
        assert_eq!(told["length"], data.len());
        assert_eq!(told["sha256"], format!("{:x}", Sha256::digest(&data)));
        assert_eq!(header(&told, "host"), [APP]);
        assert_eq!(header(&told, "x-of-the-client"), ["1", "2"]);
        assert_eq!(header(&told, "cookie"), ["a=1; b=2"]);
        let client = LAPTOP_V4.to_string();
        assert_eq!(header(&told, "cf-connecting-ip"), [client.as_str()]);
        assert_eq!(header(&told, "x-forwarded-for"), [client.as_str()]);
        assert_eq!(header(&told, "x-forwarded-proto"), ["https"]);
        assert_eq!(header(&told, "cf-ray"), [ray.as_str()]);
    }
}

/// What only an edge may say to a connector does not pass, however it is spelled, and means nothing.
async fn check_smuggling(browser: &Browser, version: Version) {
    for name in [
        "cf-cloudflared-proxy-src",
        "cf-cloudflared-proxy-connection-upgrade",
        "cf-int-tracing",
        "cf-warp-tag-evil",
        "cf-proxy-evil",
        "cf-access-client-secret",
        "cf-access-jwt-assertion",
        "x-forwarded-host",
    ] {
        let underscored = name.replace('-', "_");
        let mixed = name.replacen('-', "_", 1);
        for spelling in [name, &name.to_uppercase(), &underscored, &mixed] {
            for value in ["update-configuration", "control-stream", "websocket"] {
                let request = Request::get("/told").header(spelling, value).body(whole("")).unwrap();
                let told = told(browser.send(version, request).await.unwrap()).await;
                let values = [name, underscored.as_str(), &mixed].map(|name| header(&told, name));
                assert!(values.iter().all(Vec::is_empty), "{spelling} of {version:?}: {told}");
            }
        }
    }
}

/// Statuses, cookies, bodies without a length, and the edge's own pages.
async fn check_answers(site: &Site, browser: &Browser, version: Version) {
    let request = Request::get("/status/418").body(whole("")).unwrap();
    let answer = browser.send(version, request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::IM_A_TEAPOT);
    assert_eq!(answer.headers().get_all("set-cookie").iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    let request = Request::head("/status/200").body(whole("")).unwrap();
    assert_eq!(browser.send(version, request).await.unwrap().status(), StatusCode::OK);
    let (_, body) = browser.get(version, "/download/3000000").await.unwrap();
    let mut expected = vec![0; 3_000_000];
    for (n, chunk) in expected.chunks_mut(16 << 10).enumerate() {
        let mut state = if n == 0 { 3_000_000 } else { continue };
        origin::fill(chunk, &mut state);
    }
    assert_eq!(body.len(), 3_000_000);
    assert_eq!(body[..16 << 10], expected[..16 << 10]);

    let (status, page) = site.browser(DOWN).get(version, "/").await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY, "{page}");
    assert_eq!(page.lines().count(), 1, "{page}");
    assert!(!page.contains("198.51.100"), "a page says nothing of what is behind the edge: {page}");
}

/// The answer comes while the request is still being sent.
async fn check_streaming(browser: &Browser) {
    let (sender, receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::unfold(receiver, |mut receiver| async {
        receiver.recv().await.map(|chunk| (Ok(Frame::data(chunk)), receiver))
    });
    let body: Body = StreamBody::new(frames).boxed_unsync();
    let request = Request::post("/echo").body(body).unwrap();
    sender.send(Bytes::from_static(b"ping 0")).await.unwrap();
    let mut answer = browser.send(Version::HTTP_2, request).await.unwrap().into_body();
    for n in 0..5 {
        if n > 0 {
            sender.send(format!("ping {n}").into()).await.unwrap();
        }
        let frame = tokio::time::timeout(LIMIT, answer.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), format!("ping {n}"));
    }
    drop(sender);
    let end = tokio::time::timeout(LIMIT, answer.collect()).await.unwrap().unwrap();
    assert!(end.to_bytes().is_empty());
}

async fn check_websocket(browser: &Browser) {
    let mut socket = browser.websocket("/websocket").await.unwrap();
    for message in [Message::text("hello"), Message::binary(vec![7; 1_000_000]), Message::text("")] {
        socket.send(message.clone()).await.unwrap();
        let echo = tokio::time::timeout(LIMIT, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(echo == message, "the echo is another");
    }
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = tokio::time::timeout(LIMIT, socket.next()).await.unwrap() {}
    // An origin that does not want one says so.
    assert!(browser.websocket("/status/403").await.unwrap_err().to_string().contains("403"));
}

// What `access tcp` sees.

/// Bytes both ways through a listener of `access tcp` on the laptop.
async fn check_tcp(site: &Site) {
    let address = SocketAddr::from(([127, 0, 0, 1], ACCESS_PORT));
    let laptop = &site.chain.world.laptop;
    let stream = laptop.connect_within(address, LIMIT).await.unwrap();
    let download = origin::check_download(stream, 3_000_000);
    tokio::time::timeout(LIMIT, download).await.unwrap().unwrap();
    let mut open = Vec::new();
    for n in 0..20_u8 {
        let stream = laptop.connect_within(address, LIMIT).await.unwrap();
        let mut stream = tokio::time::timeout(LIMIT, origin::open_echo(stream)).await.unwrap().unwrap();
        check_echo(&mut stream, &vec![n; 100_000]).await;
        open.push(stream);
    }
    for stream in &mut open {
        check_echo(stream, b"all at once").await;
    }
}

async fn check_echo(stream: &mut TcpStream, data: &[u8]) {
    tokio::time::timeout(LIMIT, origin::check_echo(stream, data)).await.unwrap().unwrap();
}

/// The unmodified client, with its certificates where it looks for them.
async fn start_cloudflared_access(site: &Site, name: &str) -> Option<Process> {
    let mut command = site.chain.on_laptop_with_names(&[name], &cloudflared()?).unwrap();
    command.args(["access", "tcp", "--hostname", name, "--url", &format!("127.0.0.1:{ACCESS_PORT}")]);
    command.env("SSL_CERT_FILE", site.chain.data().join("ca.pem"));
    let access = Process::spawn("cloudflared-access", site.chain.dir(), command).unwrap();
    // It says that it listens before it does.
    access.wait_for_line("Start Websocket listener", LIMIT).await.unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], ACCESS_PORT));
    let listening = async {
        while site.chain.world.laptop.connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    };
    tokio::time::timeout(LIMIT, listening).await.unwrap();
    Some(access)
}

async fn check_access(site: &Site) {
    let mut access = site.chain.start_access(TCP, ACCESS_PORT).await.unwrap();
    check_tcp(site).await;
    check_standard_input(site).await;
    access.stop().await.unwrap();
    if let Some(_access) = start_cloudflared_access(site, TCP).await {
        check_tcp(site).await;
    }
}

/// Without a listener, standard input and output are the connection.
async fn check_standard_input(site: &Site) {
    let mut command = site.chain.on_laptop_with_names(&[TCP], &site.chain.program()).unwrap();
    command.args(["access", "ssh", "--hostname", TCP]).env("SSL_CERT_FILE", site.chain.data().join("ca.pem"));
    let mut access = Process::spawn("access-stdin", site.chain.dir(), command).unwrap();
    access.write(&[origin::Command::FarewellFirst.byte()]).unwrap();
    access.wait_for_line("bye", LIMIT).await.unwrap();
    access.close_stdin();
    assert!(access.wait(LIMIT).await.unwrap().success());
}

/// As in 2020: kubectl's proxy is the connector's SOCKS5, through a local port.
async fn check_kubectl(site: &Site) {
    let cluster = Cluster::start(&site.chain.world, site.chain.dir()).await.unwrap();
    let _access = site.chain.start_access(SOCKS, ACCESS_PORT).await.unwrap();
    let session = cluster.session(&site.chain.world.laptop, Kubectl::main().unwrap(), Family::V4).unwrap();
    let session = session.through_proxy(&format!("socks5://127.0.0.1:{ACCESS_PORT}")).unwrap();
    check_all(&session).await;
}

macro_rules! each_connector {
    ($($name:ident: $check:ident, $kind:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            if let Some(site) = Site::start($kind).await {
                $check(&site).await;
            }
        }
    )*};
}

each_connector! {
    a_browser_reaches_the_ingress_of_a_connector_over_quic: check_web, Kind::Adit("quic");
    a_browser_reaches_the_ingress_of_a_connector_over_http2: check_web, Kind::Adit("http2");
    access_reaches_the_ingress_of_a_connector: check_access, Kind::Adit("auto");
    kubectl_goes_through_the_socks_of_a_connector: check_kubectl, Kind::Adit("auto");
    a_browser_reaches_the_ingress_of_an_unmodified_connector_over_quic: check_web, Kind::Cloudflared("quic");
    a_browser_reaches_the_ingress_of_an_unmodified_connector_over_http2: check_web, Kind::Cloudflared("http2");
    access_reaches_the_ingress_of_an_unmodified_connector_over_quic: check_access, Kind::Cloudflared("quic");
    access_reaches_the_ingress_of_an_unmodified_connector_over_http2: check_access, Kind::Cloudflared("http2");
    kubectl_goes_through_the_socks_of_an_unmodified_connector: check_kubectl, Kind::Cloudflared("quic");
}

// What nobody reaches.

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_name_gets_nothing_and_a_known_one_without_a_connector_a_page() {
    let mut chain = Chain::new().unwrap();
    chain.start_edge().await.unwrap();
    let tunnel = chain.create_tunnel("web").await.unwrap();
    chain.route_hostname(&tunnel, APP).await.unwrap();
    let edge = SocketAddr::from((EDGE_V4, 443));
    let browser = |name| Browser::new(&chain.world.laptop, edge, name, &chain.data().join("ca.pem"));
    // A change takes a moment to reach the edge.
    tokio::time::timeout(LIMIT, async {
        while browser(APP).tls(b"http/1.1").await.is_err() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    })
    .await
    .unwrap();
    for version in [Version::HTTP_11, Version::HTTP_2] {
        let (status, page) = browser(APP).get(version, "/").await.unwrap();
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let page = String::from_utf8(page.to_vec()).unwrap();
        assert!(
            page.starts_with("503 Service Unavailable: no connector") && page.lines().count() == 1,
            "{page}"
        );
    }
    for name in ["other.example.com", "example.com", "management.argotunnel.com"] {
        assert!(browser(name).tls(b"http/1.1").await.is_err(), "{name}");
    }
    // A name in the request that is not the one of the connection.
    let request = Request::get("/").header("host", "other.example.com").body(whole("")).unwrap();
    let answer = browser(APP).send(Version::HTTP_11, request).await.unwrap();
    assert_eq!(answer.status(), StatusCode::MISDIRECTED_REQUEST);
    // A name that was removed is an unknown one.
    let records = format!("/zones/{}/dns_records", chain.api().unwrap().account());
    let record = chain.call(Method::GET, &records, None).await.unwrap()[0]["id"].as_str().unwrap().to_owned();
    chain.call(Method::DELETE, &format!("{records}/{record}"), None).await.unwrap();
    tokio::time::timeout(LIMIT, async {
        while browser(APP).tls(b"http/1.1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    })
    .await
    .unwrap();
}
