//! A client of the v4 API: connections that are kept, the envelope opened, every failure one that a person can act on.
//!
//! What holds: an answer has a deadline and a size. A request is sent again only if the API asked for it (429, 503), or if
//! a kept connection had ended before the request went out. The token is in no error and in no `Debug`.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::Value as Json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// Where the API is, and by what right.
pub struct Client {
    at: Address,
    tls: TlsConnector,
    token: String,
    agent: String,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
    stopped: CancellationToken,
}

/// The parts of a base URL.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    secure: bool,
    host: String,
    port: u16,
    /// The path, without a slash at its end.
    base: String,
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The base URL is none.
    #[error("expected a URL such as https://adit.example.com/client/v4, not {0:?}")]
    Address(String),
    /// The token cannot stand in a header.
    #[error("the API token has a character that no token has")]
    Token,
    /// The file of authorities cannot be read.
    #[error("cannot read the certificates in {0:?}")]
    Authorities(String, #[source] rustls::pki_types::pem::Error),
    /// A certificate in it is none.
    #[error("a certificate in {0:?} cannot be used")]
    Certificate(String, #[source] rustls::Error),
    /// TLS cannot be set up.
    #[error("TLS cannot be set up")]
    Tls(#[source] rustls::Error),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The API said no.
    #[error("the API answered {status}{}", said(.errors))]
    Refused {
        /// Its status.
        status: StatusCode,
        /// What it said, one by one.
        errors: Vec<Refusal>,
    },
    /// The API is not there.
    #[error("cannot reach the API at {at}")]
    Unreachable {
        /// Host and port.
        at: String,
        /// Why.
        #[source]
        cause: io::Error,
    },
    /// The connection broke, or what came was no HTTP.
    #[error("the connection to the API at {at} failed")]
    Http {
        /// Host and port.
        at: String,
        /// Why.
        #[source]
        cause: hyper::Error,
    },
    /// The answer did not come in time.
    #[error("the API at {at} did not answer within {} s", CALL_DEADLINE.as_secs())]
    Late {
        /// Host and port.
        at: String,
    },
    /// The answer is no envelope.
    #[error("the answer of the API at {at} is none of a v4 API: check base_url")]
    Foreign {
        /// Host and port.
        at: String,
    },
    /// The answer is too long.
    #[error("the answer of the API at {at} is longer than {} MiB", MAX_ANSWER_BYTES >> 20)]
    Long {
        /// Host and port.
        at: String,
    },
    /// Terraform was told to stop.
    #[error("stopped before the API answered")]
    Stopped,
    /// The path or a header cannot be sent.
    #[error("the request cannot be written")]
    Unwritable(#[from] http::Error),
}

/// One of an answer's errors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The API's number for it.
    pub code: i64,
    /// What it says.
    pub message: String,
    /// Where in the body, as a JSON pointer.
    pub pointer: Option<String>,
}

impl CallError {
    /// Whether it says that the object is not there. A path that the API does not have says nothing about objects.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Refused { status, errors }
            if *status == StatusCode::NOT_FOUND && !errors.is_empty()
                && errors.iter().all(|error| error.code != NO_ROUTE))
    }
}

fn said(errors: &[Refusal]) -> String {
    let mut text = String::new();
    for error in errors {
        text.push_str(": ");
        text.push_str(&error.message);
    }
    text
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("at", &self.at).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the API at `base_url`, which trusts the machine's authorities and those in `authorities`.
    ///
    /// # Errors
    /// One of them is not what it should be.
    pub fn new(
        base_url: &str,
        token: &str,
        authorities: Option<&Path>,
        engine: &str,
        stopped: CancellationToken,
    ) -> Result<Self, ClientError> {
        let at = Address::parse(base_url).ok_or_else(|| ClientError::Address(base_url.to_owned()))?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(ClientError::Token);
        }
        let agent = format!("terraform-provider-adit/{} terraform/{engine}", env!("CARGO_PKG_VERSION"));
        let agent = agent.chars().filter(char::is_ascii).filter(|c| !c.is_control()).collect();
        let tls = tls(authorities)?;
        Ok(Self { at, tls, token: token.to_owned(), agent, idle: Mutex::default(), stopped })
    }

    /// The `result` of one call.
    ///
    /// # Errors
    /// There was none.
    pub async fn call(&self, method: &Method, path: &str, body: Option<&Json>) -> Result<Json, CallError> {
        let attempts = async {
            let mut pause = FIRST_PAUSE;
            for _ in 0..MAX_REPEATS {
                let (answer, wait) = self.once(method, path, body).await;
                let Err(CallError::Refused { status, .. }) = &answer else { return answer };
                if !matches!(*status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
                    return answer;
                }
                tokio::time::sleep(wait.unwrap_or(pause).min(MAX_PAUSE)).await;
                pause *= 2;
            }
            self.once(method, path, body).await.0
        };
        tokio::select! {
            answer = attempts => answer,
            () = self.stopped.cancelled() => Err(CallError::Stopped),
        }
    }

    /// One request, and how long the API wants us to wait for the next.
    async fn once(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Json>,
    ) -> (Result<Json, CallError>, Option<Duration>) {
        match tokio::time::timeout(CALL_DEADLINE, self.exchange(method, path, body)).await {
            Ok(Ok((status, wait, body))) => (self.opened(status, &body), wait),
            Ok(Err(error)) => (Err(error), None),
            Err(_) => (Err(CallError::Late { at: self.at.authority() }), None),
        }
    }

    async fn exchange(
        &self,
        method: &Method,
        path: &str,
        body: Option<&Json>,
    ) -> Result<(StatusCode, Option<Duration>, Bytes), CallError> {
        let body = Bytes::from(body.map(Json::to_string).unwrap_or_default());
        let request = || {
            Request::builder()
                .method(method)
                .uri(format!("{}/{path}", self.at.base))
                .header(header::HOST, self.at.authority())
                .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
                .header(header::ACCEPT, "application/json;version=1")
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::USER_AGENT, &self.agent)
                .body(Full::new(body.clone()))
        };
        let failed = |cause| CallError::Http { at: self.at.authority(), cause };
        let kept = self.kept().await;
        let (mut sender, fresh) = match kept {
            Some(sender) => (sender, false),
            None => (self.connect().await?, true),
        };
        let response = match sender.send_request(request()?).await {
            // Nothing of it was sent: the connection had ended meanwhile.
            Err(error) if !fresh && error.is_canceled() => {
                sender = self.connect().await?;
                sender.send_request(request()?).await.map_err(failed)?
            }
            response => response.map_err(failed)?,
        };
        let status = response.status();
        let wait = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(cause) => CallError::Http { at: self.at.authority(), cause: *cause },
            Err(_) => CallError::Long { at: self.at.authority() },
        })?;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(sender);
        }
        drop(idle);
        Ok((status, wait, body.to_bytes()))
    }

    /// A connection that was kept and still lives.
    async fn kept(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let mut sender = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()?;
            if !sender.is_closed() && sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, CallError> {
        let unreachable = |cause| CallError::Unreachable { at: self.at.authority(), cause };
        let stream = TcpStream::connect((self.at.host.as_str(), self.at.port)).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        if !self.at.secure {
            return self.handshake(stream).await;
        }
        let name = ServerName::try_from(self.at.host.clone())
            .map_err(|error| unreachable(io::Error::other(error)))?;
        self.handshake(self.tls.connect(name, stream).await.map_err(unreachable)?).await
    }

    async fn handshake<S>(&self, stream: S) -> Result<SendRequest<Full<Bytes>>, CallError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|cause| CallError::Http { at: self.at.authority(), cause })?;
        let stopped = self.stopped.clone();
        // It ends with its sender, which this client or one of its calls holds.
        tokio::spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = stopped.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// What an answer says.
    fn opened(&self, status: StatusCode, body: &[u8]) -> Result<Json, CallError> {
        let mut envelope: Json = serde_json::from_slice(body).unwrap_or_default();
        let errors: Vec<Refusal> = envelope["errors"].as_array().into_iter().flatten().map(refusal).collect();
        if !status.is_success() || !errors.is_empty() {
            return Err(CallError::Refused { status, errors });
        }
        let result = envelope.get_mut("result").map(Json::take);
        result.ok_or_else(|| CallError::Foreign { at: self.at.authority() })
    }
}

fn refusal(error: &Json) -> Refusal {
    Refusal {
        code: error["code"].as_i64().unwrap_or_default(),
        message: error["message"].as_str().unwrap_or_default().to_owned(),
        pointer: error["source"]["pointer"].as_str().map(str::to_owned),
    }
}

fn tls(authorities: Option<&Path>) -> Result<TlsConnector, ClientError> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if let Some(path) = authorities {
        let shown = path.display().to_string();
        let unreadable = |error| ClientError::Authorities(shown.clone(), error);
        for certificate in CertificateDer::pem_file_iter(path).map_err(unreadable)? {
            let certificate = certificate.map_err(unreadable)?;
            roots
                .add(certificate)
                .map_err(|error| ClientError::Certificate(path.display().to_string(), error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(ClientError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Address {
    fn parse(url: &str) -> Option<Self> {
        let uri: Uri = url.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        if uri.query().is_some() {
            return None;
        }
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Some(Self { secure, host, port, base: uri.path().trim_end_matches('/').to_owned() })
    }

    /// Host and port as a URL has them, the usual port left out.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.secure { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

/// Percent-encodes a part of a path or a query (RFC 3986, 2.1).
pub(crate) fn escape(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    text.bytes()
        .map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// The number of an error about a path that the API does not have (contract D, 3.2).
const NO_ROUTE: i64 = 7003;
/// One request, answer included.
const CALL_DEADLINE: Duration = Duration::from_mins(1);
/// Largest answer that is read, in bytes: a list of 100,000 items has about 15 MB.
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// How often a request is sent again because the API asked for it.
const MAX_REPEATS: u32 = 4;
/// The wait before the first repetition when the API names none; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest wait for the API, which names up to five minutes.
const MAX_PAUSE: Duration = Duration::from_mins(5);
/// Connections that are kept: as many calls as Terraform makes at once.
const MAX_IDLE: usize = 10;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn client(url: &str) -> Client {
        Client::new(url, "token-of-the-test", None, "1.0", CancellationToken::new()).unwrap()
    }

    #[test]
    fn a_base_url_gives_host_port_and_path() {
        let address = Address::parse("https://[2001:db8::1]:8443/client/v4/").unwrap();
        assert_eq!(
            (address.authority().as_str(), address.base.as_str()),
            ("[2001:db8::1]:8443", "/client/v4")
        );
        for wrong in ["adit.example.com", "ftp://adit.example.com", "https://", "https://h/?a=b"] {
            let error = Client::new(wrong, "t", None, "", CancellationToken::new()).unwrap_err().to_string();
            assert!(error.starts_with("expected a URL"), "{error}");
        }
    }

    #[test]
    fn an_unknown_path_does_not_say_that_an_object_is_missing() {
        let client = client("http://localhost");
        let missing = |code: u32| {
            let body = json!({"success": false, "errors": [{"code": code, "message": "m"}], "result": null});
            client.opened(StatusCode::NOT_FOUND, body.to_string().as_bytes()).unwrap_err().is_missing()
        };
        assert!(missing(1003));
        assert!(!missing(7003));
        assert!(!client.opened(StatusCode::NOT_FOUND, b"<html>").unwrap_err().is_missing());
        let foreign = client.opened(StatusCode::OK, b"<html>").unwrap_err().to_string();
        assert!(foreign.ends_with("check base_url"), "{foreign}");
    }

    #[test]
    fn the_token_is_in_no_debug() {
        assert!(!format!("{:?}", client("http://localhost")).contains("token-of"));
    }
}
