//! The two certificates of a run: the engine's, which it put into our environment, and ours, which it reads in the handshake.
//!
//! What holds: only the holder of the key to exactly that certificate is let in. Chains, names and dates say nothing here: a
//! certificate is pinned as a whole.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use tokio_rustls::TlsAcceptor;

/// Our end of TLS with the engine.
pub(super) struct Identity {
    /// What the engine is told to expect.
    pub(super) certificate: CertificateDer<'static>,
    /// What lets it in, and nobody else.
    pub(super) tls: TlsAcceptor,
}

/// Why there is no TLS with the engine.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// What the engine gave is no certificate.
    #[error("PLUGIN_CLIENT_CERT is no certificate in PEM")]
    Client(#[source] rustls::pki_types::pem::Error),
    /// Ours could not be made.
    #[error("the provider's certificate cannot be made")]
    Make(#[from] rcgen::Error),
    /// The two cannot be used.
    #[error("the certificates cannot be used")]
    Tls(#[from] Error),
}

impl Identity {
    /// A certificate of our own, for an engine that has the one in `client`.
    pub(super) fn new(client: &str) -> Result<Self, IdentityError> {
        let client = CertificateDer::from_pem_slice(client.as_bytes()).map_err(IdentityError::Client)?;
        let key = rcgen::KeyPair::generate()?;
        // The engine asks for this name, whatever the socket is called.
        let certificate = rcgen::CertificateParams::new(vec!["localhost".to_owned()])?.self_signed(&key)?;
        let certificate = certificate.der().clone();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let only = Only { client, provider: Arc::clone(&provider) };
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(Arc::new(only))
            .with_single_cert(vec![certificate.clone()], key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self { certificate, tls: TlsAcceptor::from(Arc::new(config)) })
    }
}

/// Lets in the holder of one certificate.
#[derive(Debug)]
struct Only {
    client: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Only {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if *end_entity == self.client {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
