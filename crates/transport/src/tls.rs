//! TLS by rustls: one provider, and the four kinds of configuration that adit needs.
//!
//! Edges show ordinary certificates. Devices show raw public keys (RFC 7250): the edge pins the key itself, so that no
//! certificate has to be made, parsed or renewed.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    ServerConfig, SignatureScheme,
};

/// The cryptography of every connection: AES-128-GCM first, since it is the fastest where the processor has AES, and
/// X25519MLKEM768 before P-256, which is what connectors offer (tunnel protocol, 1.3).
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
            cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::SECP256R1, kx_group::X25519, kx_group::SECP384R1],
        ..aws_lc_rs::default_provider()
    })
}

/// A TLS configuration could not be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file of certificates or keys is not what it should be.
    #[error("expected PEM with {expected}")]
    Pem {
        /// What was looked for.
        expected: &'static str,
        /// What was wrong.
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    /// There is no certificate to trust.
    #[error("no certificate to trust: expected at least one CERTIFICATE block")]
    NoRoots,
    /// rustls refuses it.
    #[error("the certificate or key cannot be used")]
    Refused(#[source] Error),
    /// The system's certificates cannot be read.
    #[error("the system's certificates cannot be read")]
    System(#[source] io::Error),
}

/// A certificate chain and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    /// The identity of this chain, leaf first, and this key.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Self {
        Self { chain, key }
    }

    /// The identity in two PEM texts: certificates, leaf first, and the leaf's key.
    ///
    /// # Errors
    /// One of them has not what it should have.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let failed = |expected| move |source| TlsError::Pem { expected, source };
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("CERTIFICATE blocks"))?;
        if chain.is_empty() {
            return Err(failed("CERTIFICATE blocks")(rustls::pki_types::pem::Error::NoItemsFound));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(failed("a PRIVATE KEY block"))?;
        Ok(Self { chain, key })
    }

    /// Whether the leaf is for this host name, wildcards included (RFC 9525, 6.3).
    pub fn is_for(&self, hostname: &str) -> bool {
        let Some(leaf) = self.chain.first() else { return false };
        let (Ok(leaf), Ok(name)) = (ParsedCertificate::try_from(leaf), ServerName::try_from(hostname)) else {
            return false;
        };
        rustls::client::verify_server_name(&leaf, &name).is_ok()
    }

    /// The chain and the key, ready to sign.
    ///
    /// # Errors
    /// The key cannot be used, or is not the leaf's.
    pub fn certified(&self) -> Result<CertifiedKey, TlsError> {
        let key =
            provider().key_provider.load_private_key(self.key.clone_key()).map_err(TlsError::Refused)?;
        let certified = CertifiedKey::new(self.chain.clone(), key);
        match certified.keys_match() {
            // A key that does not know its public half is believed.
            Ok(()) | Err(Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => Ok(certified),
            Err(error) => Err(TlsError::Refused(error)),
        }
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("certificates", &self.chain.len()).finish_non_exhaustive()
    }
}

/// The certificates in a PEM text, as roots to trust and nothing else.
///
/// # Errors
/// No certificate, or one that is malformed.
pub fn roots_from_pem(pem: &[u8]) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate =
            certificate.map_err(|source| TlsError::Pem { expected: "CERTIFICATE blocks", source })?;
        roots.add(certificate).map_err(TlsError::Refused)?;
    }
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// The roots that the operating system trusts (also `SSL_CERT_FILE`).
///
/// # Errors
/// There are none.
pub fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

/// A server that asks its clients for nothing. `protocols` empty: ALPN is not looked at (tunnel protocol, 1.3).
///
/// # Errors
/// The identity cannot be used.
pub fn server_config(identity: &Identity, protocols: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?
        .with_no_client_auth()
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(TlsError::Refused)?;
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A server that shows each client the certificate of the name that it asked for.
///
/// # Errors
/// The provider cannot be used.
pub fn named_server_config(
    certificates: Arc<dyn rustls::server::ResolvesServerCert>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// A server for devices: TLS 1.3, and every client proves a raw public key, whichever it is.
///
/// # Errors
/// The identity cannot be used.
pub fn device_server_config(identity: &Identity, protocol: &[u8]) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let verifier = AnyRawPublicKey { algorithms: provider.signature_verification_algorithms };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Refused)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_single_cert(identity.chain.clone(), identity.key.clone_key())
        .map_err(TlsError::Refused)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    // A resumed session would not prove the key again.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// A client that shows nothing of itself.
///
/// # Errors
/// The provider cannot be used.
pub fn client_config(roots: RootCertStore, protocols: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

/// What a connector's handshakes offer (tunnel protocol, 1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyExchange {
    /// X25519MLKEM768, else P-256, as unmodified connectors do.
    PostQuantumOrP256,
    /// X25519MLKEM768 only.
    PostQuantum,
}

/// A connector: it shows nothing of itself in the handshake, and never resumes a session, which would save nothing that
/// counts here.
///
/// # Errors
/// The provider cannot be used.
pub fn connector_client_config(
    roots: RootCertStore,
    exchange: KeyExchange,
    protocols: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let groups = match exchange {
        KeyExchange::PostQuantumOrP256 => vec![kx_group::X25519MLKEM768, kx_group::SECP256R1],
        KeyExchange::PostQuantum => vec![kx_group::X25519MLKEM768],
    };
    let provider = CryptoProvider { kx_groups: groups, ..CryptoProvider::clone(&provider()) };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A device: it proves the key in `pkcs8`, as a raw public key.
///
/// # Errors
/// The key cannot be used.
pub fn device_client_config(
    roots: RootCertStore,
    pkcs8: &PrivateKeyDer<'_>,
    protocol: &[u8],
) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let key = provider.key_provider.load_private_key(pkcs8.clone_key()).map_err(TlsError::Refused)?;
    let public_key = key
        .public_key()
        .ok_or(TlsError::Refused(Error::General("the key does not know its public key".into())))?
        .into_owned();
    let certified = CertifiedKey::new(vec![CertificateDer::from(public_key.to_vec())], key);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Refused)?
        .with_root_certificates(roots)
        .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(Arc::new(certified))));
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A server for connectors, who prove nothing, and for edge nodes, who are told apart by `peer_protocol` and prove the key of
/// a certificate of their own making. Whose it is, the caller looks up. The node's own key is in `node`.
///
/// # Errors
/// An identity cannot be used.
pub fn peer_server_config(
    identity: &Identity,
    protocols: &[&[u8]],
    node: &Identity,
    peer_protocol: &'static [u8],
) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let verifier = AnyCertificate { algorithms: provider.signature_verification_algorithms };
    let certificates = ByProtocol {
        peers: Arc::new(node.certified()?),
        others: Arc::new(identity.certified()?),
        peer_protocol,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Refused)?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = protocols.iter().copied().chain([peer_protocol]).map(<[u8]>::to_vec).collect();
    // A resumed session would not prove the key again.
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// An edge node that dials another: TLS 1.3, it proves its own key, and the other proves one, whichever it is. Whose, the
/// caller looks up before it says anything.
///
/// # Errors
/// The identity cannot be used.
pub fn peer_client_config(node: &Identity, protocol: &[u8]) -> Result<ClientConfig, TlsError> {
    let provider = provider();
    let verifier = AnyCertificate { algorithms: provider.signature_verification_algorithms };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Refused)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(node.chain.clone(), node.key.clone_key())
        .map_err(TlsError::Refused)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// The SubjectPublicKeyInfo in DER of this certificate; `None` if it is none.
pub fn public_key_of(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let parsed = ParsedCertificate::try_from(certificate).ok()?;
    Some(parsed.subject_public_key_info().as_ref().to_vec())
}

/// The SubjectPublicKeyInfo in DER that a device proved in this connection.
pub fn presented_public_key(connection: &rustls::ServerConnection) -> Option<&[u8]> {
    connection.peer_certificates().and_then(|chain| chain.first()).map(|key| &**key)
}

/// Accepts any raw public key whose holder signs the handshake. Whose it is, the caller looks up.
#[derive(Debug)]
struct AnyRawPublicKey {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyRawPublicKey {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _public_key: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::BadEncoding))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        public_key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let public_key = SubjectPublicKeyInfoDer::from(public_key.as_ref());
        verify_tls13_signature_with_raw_key(message, &public_key, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Shows the node's own certificate to nodes, and the ordinary one to everybody else.
#[derive(Debug)]
struct ByProtocol {
    peers: Arc<CertifiedKey>,
    others: Arc<CertifiedKey>,
    peer_protocol: &'static [u8],
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let is_peer = hello.alpn().is_some_and(|mut offered| offered.any(|name| name == self.peer_protocol));
        Some(Arc::clone(if is_peer { &self.peers } else { &self.others }))
    }
}

/// Accepts any certificate whose holder signs the handshake. Whose it is, the caller looks up by the key.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for AnyCertificate {
    /// Connectors share the listener with nodes and have none.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::InvalidCertificate(CertificateError::BadEncoding))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ClientCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
