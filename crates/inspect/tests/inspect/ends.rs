//! Both ends of an opened connection, the authorities between them, and a gate that remembers.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};

use adit_inspect::{Action, Exchange, Gate, PageContext, Trust, Verdict};
use adit_model::{AccountId, Filter, OwnPage, RequestFacts, Rule, RuleId, RuleSettings};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio_rustls::client::TlsStream;

/// An authority of certificates.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

pub(crate) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap().der().clone();
    Authority { issuer: Issuer::new(params, key), certificate }
}

impl Authority {
    pub(crate) fn leaf(&self, name: &str) -> Arc<CertifiedKey> {
        self.sign(name, |_| {})
    }

    fn sign(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<CertifiedKey> {
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        Arc::new(CertifiedKey::new(vec![certificate.der().clone()], key))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        roots
    }
}

/// What signs origins, and what signs for the gate.
static ORIGINS: LazyLock<Authority> = LazyLock::new(|| authority("origins"));
static GATE: LazyLock<Authority> = LazyLock::new(|| authority("gate"));

pub(crate) fn trust() -> Trust {
    Trust {
        provider: Arc::new(aws_lc_rs::default_provider()),
        roots: Arc::new(ORIGINS.roots()),
        added: Arc::new(RootCertStore::empty()),
    }
}

/// An origin that speaks both versions of HTTP.
pub(crate) struct Origin {
    leaf: Arc<CertifiedKey>,
    clients: Clients,
}

#[derive(Clone, Copy, PartialEq)]
enum Clients {
    Any,
    Asked,
    Required,
}

impl Origin {
    pub(crate) fn named(name: &str) -> Self {
        Self { leaf: ORIGINS.leaf(name), clients: Clients::Any }
    }

    pub(crate) fn good() -> Self {
        Self::named("app.example.com")
    }

    pub(crate) fn unknown() -> Self {
        Self { leaf: authority("unknown").leaf("app.example.com"), clients: Clients::Any }
    }

    pub(crate) fn expired() -> Self {
        let past = |params: &mut CertificateParams| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2020, 2, 1);
        };
        Self { leaf: ORIGINS.sign("app.example.com", past), clients: Clients::Any }
    }

    pub(crate) fn asking() -> Self {
        Self { clients: Clients::Asked, ..Self::good() }
    }

    pub(crate) fn requiring() -> Self {
        Self { clients: Clients::Required, ..Self::good() }
    }

    pub(crate) async fn serve(self, stream: DuplexStream) {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let verifier = || WebPkiClientVerifier::builder_with_provider(Arc::new(GATE.roots()), provider);
        let builder = match self.clients {
            Clients::Any => builder.with_no_client_auth(),
            Clients::Asked => {
                builder.with_client_cert_verifier(verifier().allow_unauthenticated().build().unwrap())
            }
            Clients::Required => builder.with_client_cert_verifier(verifier().build().unwrap()),
        };
        let mut config = builder.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
            Arc::unwrap_or_clone(self.leaf),
        )));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let Ok(stream) = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await else {
            return;
        };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        let service = service_fn(|request| async { Ok::<_, Infallible>(answer(request)) });
        // A client that goes away ends a connection with an error.
        if is_http2 {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await;
        } else {
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(stream, service)
                .with_upgrades()
                .await;
        }
    }
}

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

fn answer(mut request: Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/upgrade" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let (mut read, mut write) = tokio::io::split(TokioIo::new(upgrade.await.unwrap()));
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
            switched()
        }
        "/farewell" => {
            let upgrade = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                let mut stream = TokioIo::new(upgrade.await.unwrap());
                stream.write_all(&vec![b'x'; FAREWELL]).await.unwrap();
                stream.flush().await.unwrap();
                // Nothing says in TLS that this is the end.
            });
            switched()
        }
        "/trailers" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            let frames = [Ok(Frame::data(Bytes::from_static(b"message"))), Ok(Frame::trailers(trailers))];
            Response::new(StreamBody::new(futures(frames)).boxed_unsync())
        }
        "/host" => {
            let named = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
            let host = named.or_else(|| request.uri().authority().map(ToString::to_string)).unwrap();
            Response::new(Full::from(host).map_err(|never| match never {}).boxed_unsync())
        }
        _ => Response::new(request.into_body().boxed_unsync()),
    }
}

fn switched() -> Response<Body> {
    let response = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
    let response = response.header("connection", "Upgrade").header("upgrade", "SPDY/3.1");
    response.body(Full::default().map_err(|never| match never {}).boxed_unsync()).unwrap()
}

/// As many bytes an origin sends before it leaves: more than all that is between it and the client holds.
pub(crate) const FAREWELL: usize = 4 << 20;

/// A stream of what is there.
fn futures<T: Unpin + Send + 'static, const N: usize>(
    items: [T; N],
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::iter(items)
}

/// A client that trusts the gate.
pub(crate) struct Client {
    sender: Option<Sender>,
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Client {
    /// The TLS of a connection; none if the handshake fails.
    pub(crate) async fn handshake(
        stream: DuplexStream,
        protocols: &[&str],
    ) -> Option<TlsStream<DuplexStream>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(GATE.roots())
            .with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|id| id.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("app.example.com").unwrap();
        tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
    }

    /// Without a sender if the handshake fails.
    pub(crate) async fn connect(stream: DuplexStream, protocols: &[&str]) -> Self {
        let Some(stream) = Self::handshake(stream, protocols).await else { return Self { sender: None } };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let stream = TokioIo::new(stream);
        let sender = if is_http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            tokio::spawn(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(stream).await.unwrap();
            tokio::spawn(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Self { sender: Some(sender) }
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> hyper::Result<Response<Incoming>> {
        let is_http1 = matches!(self.sender, Some(Sender::Http1(_)));
        self.send_as_it_is(if is_http1 { in_http1(request) } else { request }).await
    }

    /// Also what no client would send.
    pub(crate) async fn send_as_it_is(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        match self.sender.as_mut().expect("the handshake succeeded") {
            Sender::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    /// What follows an upgrade.
    pub(crate) async fn upgrade(mut self, path: &str, protocol: &str) -> TokioIo<hyper::upgrade::Upgraded> {
        let request = Request::get(format!("https://app.example.com{path}"));
        let request = request.header("connection", "Upgrade").header("upgrade", protocol);
        let response = self.send(request.body(Full::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
        assert_eq!(response.headers()["upgrade"], protocol);
        let connection: Vec<_> = response.headers().get_all("connection").iter().collect();
        assert_eq!(connection, ["Upgrade"], "as the origin has said it");
        TokioIo::new(hyper::upgrade::on(response).await.unwrap())
    }
}

/// A request as HTTP/1.1 has it.
fn in_http1(mut request: Request<Full<Bytes>>) -> Request<Full<Bytes>> {
    let authority = request.uri().authority().unwrap().to_string();
    request.headers_mut().insert("host", authority.parse().unwrap());
    *request.uri_mut() = request.uri().path_and_query().unwrap().as_str().parse().unwrap();
    request
}

/// A gate that says what it was told to say, by paths, and remembers.
pub(crate) struct Rules {
    pub(crate) paths: Vec<(&'static str, Verdict)>,
    /// What it says of answers.
    pub(crate) answered: Option<Verdict>,
    pub(crate) unopened: Option<&'static str>,
    pub(crate) leaf: Arc<CertifiedKey>,
    /// The account's own page.
    pub(crate) page: Option<Arc<OwnPage>>,
    pub(crate) records: Mutex<Vec<Recorded>>,
}

impl Default for Rules {
    fn default() -> Self {
        let leaf = GATE.leaf("app.example.com");
        Self {
            paths: Vec::new(),
            answered: None,
            unopened: None,
            leaf,
            page: None,
            records: Mutex::default(),
        }
    }
}

/// What is kept of a record.
#[derive(Debug, Clone)]
pub(crate) struct Recorded {
    pub(crate) uri: String,
    pub(crate) version: &'static str,
    pub(crate) status: u16,
    pub(crate) action: Action,
    pub(crate) rule: Option<RuleId>,
    pub(crate) validation: Option<&'static str>,
    pub(crate) wants_certificate: bool,
}

impl Rules {
    pub(crate) fn last(&self) -> Recorded {
        self.records.lock().unwrap().last().unwrap().clone()
    }
}

impl Gate for Rules {
    fn leaf(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        assert_eq!(name, Some("app.example.com"));
        Some(Arc::clone(&self.leaf))
    }

    fn verdict(&self, request: &RequestFacts<'_>) -> Verdict {
        if let (Some(_), Some(answered)) = (request.response, &self.answered) {
            return answered.clone();
        }
        let said = self.paths.iter().find(|(path, _)| *path == request.path);
        said.map_or(Verdict::Allow(None), |(_, verdict)| verdict.clone())
    }

    fn passes_unopened(&self, host: &str) -> bool {
        self.unopened == Some(host)
    }

    fn record(&self, exchange: &Exchange<'_>) {
        self.records.lock().unwrap().push(Recorded {
            uri: exchange.request.uri.to_owned(),
            version: exchange.version,
            status: exchange.status,
            action: exchange.action,
            rule: exchange.rule.map(|rule| rule.id),
            validation: exchange.validation.map(adit_inspect::Validation::as_str),
            wants_certificate: exchange.wants_certificate,
        });
    }

    fn context(&self) -> PageContext {
        let destination: SocketAddr = "198.51.100.7:443".parse().unwrap();
        PageContext {
            account: "0123456789abcdef0123456789abcdef".into(),
            source: "203.0.113.9".into(),
            device: "laptop".into(),
            user: "jo@example.com".into(),
            time: "2026-01-02T03:04:05Z".into(),
            destination,
            page: self.page.clone(),
        }
    }
}

pub(crate) fn rule(change: impl FnOnce(&mut Rule)) -> Arc<Rule> {
    let mut rule = Rule {
        id: RuleId::from_uuid(uuid::Uuid::from_u128(9)),
        account: AccountId::from_bytes([1; 16]),
        name: "rule".into(),
        version: 1,
        precedence: 10,
        enabled: true,
        filter: Filter::Http,
        action: adit_model::Action::Block,
        traffic: String::new(),
        identity: String::new(),
        device_posture: String::new(),
        settings: RuleSettings::default(),
        schedule: None,
        expires_at_micros: None,
    };
    change(&mut rule);
    Arc::new(rule)
}
