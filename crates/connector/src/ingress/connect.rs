//! From a service's address to a stream, in time: names resolved, both families tried, TLS on top.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_model::Refusal;
use adit_transport::tls::{self, TlsError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::io::Io;
use crate::config::{AllowNetworks, OriginSettings};
use crate::dial;

/// How long the first family has before the second is tried too (RFC 8305, 5).
const FALLBACK_DELAY: Duration = Duration::from_millis(300);
/// Largest file of certificates, in bytes.
const MAX_CA_POOL_BYTES: u64 = 16 << 20;

/// There is no stream. The words are Go's, which is what people have learnt to search for.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// A name has no address.
    #[error("dial tcp: lookup {host}: {source}")]
    Resolve { host: String, source: io::Error },
    /// No answer in time.
    #[error("dial tcp {0}: i/o timeout")]
    TimedOut(String),
    /// Refused, or unreachable.
    #[error("dial {network} {address}: {words}")]
    Dial { network: &'static str, address: String, refusal: Refusal, words: String },
    /// The address is none that this connector may dial for the request.
    #[error("dial tcp {address}: {reason}")]
    NotPermitted { address: String, reason: String },
    /// The handshake took too long.
    #[error("net/http: TLS handshake timeout")]
    TlsTimedOut,
    /// The handshake failed.
    #[error("tls: {0}")]
    Tls(io::Error),
    /// A name that no certificate can have.
    #[error("tls: {0:?} is no server name")]
    ServerName(String),
}

/// What a rule may reach. Rules of the connector's own file reach what they name; those that an edge pushed, only what
/// `allow-networks` permits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits(Option<AllowNetworks>);

impl Limits {
    pub(super) fn of(allowed: &AllowNetworks) -> Self {
        Self(Some(allowed.clone()).filter(|allowed| !allowed.is_unlimited()))
    }

    pub(super) fn are_none(&self) -> bool {
        self.0.is_none()
    }

    /// Says why an address is not dialled, if it is not.
    pub(super) fn check(&self, address: SocketAddr) -> Result<(), String> {
        match &self.0 {
            Some(allowed) if !allowed.permits(address.ip(), address.port()) => {
                Err("not in allow-networks".into())
            }
            _ => Ok(()),
        }
    }
}

/// Dials a name or address; `check` says of each address why it is not dialled, if it is not.
pub(super) async fn tcp(
    host: &str,
    port: u16,
    settings: &OriginSettings,
    check: impl Fn(SocketAddr) -> Result<(), String>,
) -> Result<TcpStream, ConnectError> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let dialling = async {
        let resolved = tokio::net::lookup_host((host, port)).await;
        let found: Vec<SocketAddr> = resolved
            .map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?
            .map(|address| SocketAddr::new(address.ip().to_canonical(), address.port()))
            .collect();
        let mut permitted = Vec::with_capacity(found.len());
        let mut refused = None;
        for address in found {
            match check(address) {
                Ok(()) => permitted.push(address),
                Err(reason) => {
                    refused = Some(ConnectError::NotPermitted { address: address.to_string(), reason });
                }
            }
        }
        if permitted.is_empty() {
            let none = io::Error::new(io::ErrorKind::NotFound, "no such host");
            return Err(refused.unwrap_or(ConnectError::Resolve { host: host.to_owned(), source: none }));
        }
        race(&permitted, settings.no_happy_eyeballs).await
    };
    let stream = tokio::time::timeout(settings.connect_timeout, dialling)
        .await
        .map_err(|_| ConnectError::TimedOut(shown))??;
    // A connection that cannot be probed still works.
    if let Err(error) = adit_transport::tcp::keep_alive(&stream, settings.tcp_keep_alive) {
        tracing::debug!(error = %error, "keep-alive cannot be set");
    }
    Ok(stream)
}

/// Tries the addresses of the first one's family, and a little later those of the other.
async fn race(addresses: &[SocketAddr], one_after_the_other: bool) -> Result<TcpStream, ConnectError> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (first, second): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first_is_v4);
    if one_after_the_other || second.is_empty() {
        return in_turn(addresses).await;
    }
    let mut primary = std::pin::pin!(in_turn(&first));
    let failed = tokio::select! {
        dialled = &mut primary => match dialled {
            Ok(stream) => return Ok(stream),
            Err(error) => Some(error),
        },
        () = tokio::time::sleep(FALLBACK_DELAY) => None,
    };
    let mut fallback = std::pin::pin!(in_turn(&second));
    if let Some(error) = failed {
        return fallback.await.map_err(|_| error);
    }
    tokio::select! {
        dialled = &mut primary => match dialled {
            Ok(stream) => Ok(stream),
            Err(error) => fallback.await.map_err(|_| error),
        },
        dialled = &mut fallback => match dialled {
            Ok(stream) => Ok(stream),
            Err(_) => primary.await,
        },
    }
}

async fn in_turn(addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    let mut failure = None;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                // The first failure is the one that is told, as in Go.
                let (refusal, words) = dial::reason(&error);
                let address = address.to_string();
                failure.get_or_insert(ConnectError::Dial { network: "tcp", address, refusal, words });
            }
        }
    }
    Err(failure.unwrap_or_else(|| ConnectError::TimedOut(String::new())))
}

/// Connects to a Unix socket.
pub(super) async fn unix(path: &str, settings: &OriginSettings) -> Result<UnixStream, ConnectError> {
    let failed = |words: String| ConnectError::Dial {
        network: "unix",
        address: path.to_owned(),
        refusal: Refusal::ConnectorError,
        words,
    };
    match tokio::time::timeout(settings.connect_timeout, UnixStream::connect(path)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(failed(format!("connect: {error}"))),
        Err(_) => Err(failed("i/o timeout".into())),
    }
}

/// TLS towards origins, and how long a handshake may take.
#[derive(Debug)]
pub(super) struct Tls {
    config: Arc<ClientConfig>,
    timeout: Duration,
}

/// TLS towards an origin cannot be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    /// The file of `caPool` cannot be read.
    #[error("unable to read the file {path} for caPool")]
    CaPool { path: String, source: io::Error },
    /// The file of `caPool` has no certificates.
    #[error("the file {path} for caPool")]
    NoCertificates { path: String, source: TlsError },
    /// The provider refuses.
    #[error("TLS cannot be set up")]
    Provider(#[from] TlsError),
}

impl Tls {
    /// Trusts the system's certificates and those of `caPool`, or anyone with `noTLSVerify`.
    pub(super) fn new(settings: &OriginSettings) -> Result<Self, TlsSetupError> {
        let protocols: &[&[u8]] = if settings.http2_origin { &[b"h2", b"http/1.1"] } else { &[] };
        let mut config = tls::client_config(roots(&settings.ca_pool)?, protocols)?;
        if settings.no_tls_verify {
            let algorithms = tls::provider().signature_verification_algorithms;
            config.dangerous().set_certificate_verifier(Arc::new(Anyone { algorithms }));
        }
        Ok(Self { config: Arc::new(config), timeout: settings.tls_timeout })
    }

    /// Does the handshake: the stream, and whether HTTP/2 was agreed on.
    pub(super) async fn connect(
        &self,
        stream: impl Io + 'static,
        server_name: &str,
    ) -> Result<(Box<dyn Io>, bool), ConnectError> {
        let name = ServerName::try_from(server_name.to_owned())
            .map_err(|_| ConnectError::ServerName(server_name.to_owned()))?;
        let handshake = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream);
        let stream = tokio::time::timeout(self.timeout, handshake)
            .await
            .map_err(|_| ConnectError::TlsTimedOut)?
            .map_err(ConnectError::Tls)?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok((Box::new(stream), http2))
    }
}

fn roots(ca_pool: &str) -> Result<RootCertStore, TlsSetupError> {
    // An origin with a certificate of its own needs none of the system's.
    let mut roots = tls::system_roots().unwrap_or_else(|_| RootCertStore::empty());
    if !ca_pool.is_empty() {
        let mut pem = Vec::new();
        let read = std::fs::File::open(ca_pool)
            .and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, MAX_CA_POOL_BYTES), &mut pem));
        read.map_err(|source| TlsSetupError::CaPool { path: ca_pool.to_owned(), source })?;
        let own = tls::roots_from_pem(&pem)
            .map_err(|source| TlsSetupError::NoCertificates { path: ca_pool.to_owned(), source })?;
        roots.extend(own.roots);
    }
    Ok(roots)
}

/// `noTLSVerify`: any certificate will do, but its holder signs the handshake.
#[derive(Debug)]
struct Anyone {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
