//! TLS to the origin: the handshake is finished whatever its certificate is, and what is wrong with it is kept.
//!
//! Which certificates are let pass may depend on the request (Gateway semantics, 3.2), which is not known yet: so that
//! the judgement is kept with the connection, and nothing of a request is sent before it was asked for. Signatures are
//! always verified: who answers holds the key of the certificate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What was found of an origin's certificate, by the names of the session log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// It is good.
    Valid,
    /// It is past its end, or not yet at its beginning.
    Expired,
    /// Its authority has taken it back.
    Revoked,
    /// It is for other names.
    HostnameMismatch,
    /// It leads to no trusted root, or cannot be read.
    Unknown,
}

impl Validation {
    /// The name in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "VALID",
            Self::Expired => "EXPIRED",
            Self::Revoked => "REVOKED",
            Self::HostnameMismatch => "HOSTNAME_MISMATCH",
            Self::Unknown => "UNKNOWN",
        }
    }
}

/// What the handshake showed.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    validation: Mutex<Option<Validation>>,
    wants_certificate: AtomicBool,
}

impl Seen {
    /// What was found of the certificate. A handshake that did not get so far has shown none that is good.
    pub(crate) fn validation(&self) -> Validation {
        self.validation.lock().unwrap_or_else(PoisonError::into_inner).unwrap_or(Validation::Unknown)
    }

    /// Whether the origin asked for a certificate of the client.
    pub(crate) fn wants_certificate(&self) -> bool {
        self.wants_certificate.load(Ordering::Relaxed)
    }
}

/// Whom to trust, and with which cryptography.
#[derive(Debug, Clone)]
pub struct Trust {
    /// The cryptography.
    pub provider: Arc<CryptoProvider>,
    /// The roots of origins.
    pub roots: Arc<RootCertStore>,
    /// Those that count for this origin besides.
    pub added: Arc<RootCertStore>,
}

/// Makes the handshake, offering `protocols`. What it showed is in `seen` whether it succeeds or not.
pub(crate) async fn connect<S>(
    stream: S,
    name: ServerName<'static>,
    protocols: Vec<Vec<u8>>,
    trust: &Trust,
    seen: Arc<Seen>,
) -> std::io::Result<TlsStream<S>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let verifier = Judge {
        verifiers: [verifier(trust, &trust.roots)?, verifier(trust, &trust.added)?],
        provider: Arc::clone(&trust.provider),
        seen: Arc::clone(&seen),
    };
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&trust.provider))
        .with_safe_default_protocol_versions()
        .map_err(std::io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(NoCertificate(seen)));
    config.alpn_protocols = protocols;
    config.resumption = rustls::client::Resumption::disabled();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// A verifier without roots cannot be made; then nothing is trusted.
fn verifier(trust: &Trust, roots: &Arc<RootCertStore>) -> std::io::Result<Option<Arc<WebPkiServerVerifier>>> {
    if roots.is_empty() {
        return Ok(None);
    }
    WebPkiServerVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&trust.provider))
        .build()
        .map(Some)
        .map_err(std::io::Error::other)
}

/// Finds out what a certificate is worth, and lets the handshake go on.
#[derive(Debug)]
struct Judge {
    /// By everybody's roots, and by those that are added for this origin.
    verifiers: [Option<Arc<WebPkiServerVerifier>>; 2],
    provider: Arc<CryptoProvider>,
    seen: Arc<Seen>,
}

impl ServerCertVerifier for Judge {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let judged = |verifier: &Arc<WebPkiServerVerifier>| match verifier.verify_server_cert(
            leaf,
            intermediates,
            name,
            ocsp,
            now,
        ) {
            Ok(_) => Validation::Valid,
            Err(Error::InvalidCertificate(error)) => validation(&error),
            Err(_) => Validation::Unknown,
        };
        // The second is asked where the first does not know who signed.
        let known = |found: &Validation| *found != Validation::Unknown;
        let found = self.verifiers.iter().flatten().map(judged).find(known).unwrap_or(Validation::Unknown);
        *self.seen.validation.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "what is not told apart leads to no trusted root")]
fn validation(error: &CertificateError) -> Validation {
    match error {
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Validation::Expired,
        CertificateError::Revoked => Validation::Revoked,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            Validation::HostnameMismatch
        }
        _ => Validation::Unknown,
    }
}

/// There is no certificate of the client to show; that one was asked for is noted.
#[derive(Debug)]
struct NoCertificate(Arc<Seen>);

impl ResolvesClientCert for NoCertificate {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.wants_certificate.store(true, Ordering::Relaxed);
        None
    }

    fn has_certs(&self) -> bool {
        // Without any, rustls would not ask.
        true
    }
}
