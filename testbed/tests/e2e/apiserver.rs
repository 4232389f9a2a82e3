//! The testbed's API server against the real kubectl on loopback, nothing between: what fails here is no fault of the
//! network.

use std::net::SocketAddr;
use std::sync::Arc;

use adit_testbed::apiserver::{Clients, Server};
use adit_testbed::kubectl::{Kubectl, Session};
use adit_testbed::pki::Pki;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};

use crate::kubectl::check_all;

async fn start(host: &str) -> (TempDir, Pki, SocketAddr) {
    let dir = tempfile::tempdir().unwrap();
    let pki = Pki::open(dir.path()).unwrap();
    let listener = TcpListener::bind((host, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(Server::new(&pki, Clients::Certificate).unwrap().serve(listener));
    (dir, pki, address)
}

async fn check_directly(host: &str, kubectl: Kubectl) {
    let (dir, pki, address) = start(host).await;
    let kubeconfig = dir.path().join("kubeconfig");
    check_all(&Session::new(kubectl, None, &kubeconfig, &format!("https://{address}"), &pki).unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_does_everything_over_ipv4() {
    check_directly("127.0.0.1", Kubectl::main().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_does_everything_over_ipv6() {
    check_directly("::1", Kubectl::main().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_without_a_certificate_is_refused_in_the_handshake() {
    let (_dir, pki, address) = start("127.0.0.1").await;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.ca()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    // TLS 1.3: the client has finished before the server says no.
    let mut stream = connector.connect("127.0.0.1".try_into().unwrap(), stream).await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}
