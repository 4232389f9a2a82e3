//! HTTP over TLS, both sides, as the testbed's API server, kubelet and API clients need it.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::pki::Pki;

/// What a client may take for its TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// A response's body: whole or streamed.
pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// Those with a client certificate of the CA, which is demanded in the handshake.
    Certificate,
    /// Those who show the engineer's token in each request.
    Token,
}

/// The server's side.
pub(crate) fn acceptor(pki: &Pki, clients: Clients) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = Arc::new(roots(&pki.ca())?);
    let clients = match clients {
        Clients::Certificate => {
            WebPkiClientVerifier::builder_with_provider(roots, provider.clone()).build()?
        }
        Clients::Token => WebPkiClientVerifier::no_client_auth(),
    };
    let (certificate, key) = pki.server();
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate)?],
            PrivateKeyDer::from_pem_file(key)?,
        )?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// The server's side with this certificate and key, which asks for none of the client's.
pub(crate) fn open_acceptor(certificate: &Path, key: &Path) -> Result<TlsAcceptor> {
    open_acceptor_of(certificate, key, &["h2", "http/1.1"])
}

/// The same for these protocols.
pub(crate) fn open_acceptor_of(certificate: &Path, key: &Path, protocols: &[&str]) -> Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate)?],
            PrivateKeyDer::from_pem_file(key)?,
        )?;
    config.alpn_protocols = protocols.iter().map(|id| id.as_bytes().to_vec()).collect();
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Answers with `handler` what `listener` accepts, until dropped.
pub(crate) async fn serve<F: Future<Output = Response<Body>> + Send + 'static>(
    listener: TcpListener,
    tls: TlsAcceptor,
    handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let (tls, handler) = (tls.clone(), handler.clone());
                tokio::spawn(async move {
                    if let Err(error) = connection(stream, peer, &tls, handler).await {
                        tracing::info!(%peer, error = format!("{error:#}"), "connection ended");
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                // Out of file descriptors: others must end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection<F: Future<Output = Response<Body>> + Send + 'static>(
    stream: TcpStream,
    peer: SocketAddr,
    tls: &TlsAcceptor,
    handler: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_LIMIT, tls.accept(stream))
        .await
        .context("TLS handshake took too long")?
        .context("TLS handshake")?;
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let line = format!("{} {} {:?}", request.method(), request.uri(), request.version());
        let response = handler(request);
        async move {
            let response = response.await;
            tracing::info!(%peer, status = response.status().as_u16(), "{line}");
            Ok::<_, Infallible>(response)
        }
    });
    hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
        .http1()
        .timer(TokioTimer::new())
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .await
        .map_err(|error| anyhow::anyhow!(error))
}

/// The client's side: trusts `ca`, and shows a certificate where it is given one.
pub fn connector(ca: &Path, client: Option<&Pki>) -> Result<TlsConnector> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(ca)?);
    let config = match client.map(Pki::client) {
        Some((certificate, key)) => builder.with_client_auth_cert(
            vec![CertificateDer::from_pem_file(certificate)?],
            PrivateKeyDer::from_pem_file(key)?,
        )?,
        None => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One request on a new connection. The connection ends with the response's body.
pub(crate) async fn send(
    tls: &TlsConnector,
    server: IpAddr,
    stream: TcpStream,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>> {
    let stream = tls.connect(ServerName::from(server), stream).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        // The reader of the body sees the same error.
        let _ = connection.await;
    });
    Ok(sender.send_request(request).await?)
}

fn roots(ca: &Path) -> Result<rustls::RootCertStore> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).with_context(|| format!("read {}", ca.display()))? {
        roots.add(certificate?)?;
    }
    anyhow::ensure!(!roots.is_empty(), "{} has no certificate", ca.display());
    Ok(roots)
}
