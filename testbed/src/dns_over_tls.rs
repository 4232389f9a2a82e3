//! A client of DNS over TLS (RFC 7858): one connection, on which queries may be sent before answers have come.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::nameserver::query;
use crate::net::Namespace;

/// How long a handshake or an answer may take.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// A connection to a resolver.
#[derive(Debug)]
pub struct DnsOverTls {
    stream: TlsStream<TcpStream>,
}

impl DnsOverTls {
    /// Connects from a host to the resolver of this name, trusting the authority in this file. `protocol` is what is
    /// offered in the handshake (ALPN), if anything.
    pub async fn connect(
        host: &Namespace,
        resolver: SocketAddr,
        name: &str,
        ca: &Path,
        protocol: Option<&str>,
    ) -> Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca)? {
            roots.add(certificate?)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = protocol.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = host.connect(resolver).await?;
        let connecting = connector.connect(ServerName::try_from(name.to_owned())?, stream);
        Ok(Self { stream: tokio::time::timeout(ANSWER_LIMIT, connecting).await.context("no handshake")?? })
    }

    /// Sends queries in one piece; their numbers are their places, from 1.
    pub async fn send(&mut self, queries: &[(&str, RecordType)]) -> Result<()> {
        let mut framed = Vec::new();
        for (number, (name, record_type)) in (1..).zip(queries) {
            let mut query = query(name, *record_type)?;
            query.metadata.id = number;
            let bytes = query.to_vec()?;
            framed.extend(u16::try_from(bytes.len())?.to_be_bytes());
            framed.extend(bytes);
        }
        Ok(self.stream.write_all(&framed).await?)
    }

    /// The next answer.
    pub async fn receive(&mut self) -> Result<Message> {
        let reading = async {
            let mut answer = vec![0; usize::from(self.stream.read_u16().await?)];
            self.stream.read_exact(&mut answer).await?;
            anyhow::Ok(Message::from_vec(&answer)?)
        };
        tokio::time::timeout(ANSWER_LIMIT, reading).await.context("no answer")?
    }

    /// Asks one thing, and waits.
    pub async fn ask(&mut self, name: &str, record_type: RecordType) -> Result<Message> {
        self.send(&[(name, record_type)]).await?;
        self.receive().await
    }
}
