//! Where an edge is and how it is trusted: what both carriers start from.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_transport::quic::EndpointError;
use http::StatusCode;
use rustls::ClientConfig;
use tokio::time::timeout;

use crate::edge_address::EdgeAddress;

/// How long one address of the edge may take to answer.
pub(crate) const DIAL_DEADLINE: Duration = Duration::from_secs(3);
/// How long TLS, HTTP/2 and the first answer may take, each.
pub(crate) const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);

/// The edge cannot be reached or does not want this device.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cannot find the address of {edge}")]
    Resolve {
        edge: String,
        #[source]
        source: io::Error,
    },
    #[error("cannot connect to {address}")]
    Dial {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{edge} has no address")]
    NoAddress { edge: String },
    #[error("no TLS connection to {edge}: is this an adit edge, and does the CA file belong to it?")]
    Tls {
        edge: String,
        #[source]
        source: io::Error,
    },
    #[error("the edge does not answer in time")]
    Slow,
    #[error("the edge does not speak HTTP/2")]
    Http2(#[source] h2::Error),
    #[error("cannot use UDP")]
    Endpoint(#[source] EndpointError),
    #[error("no QUIC connection to {address}")]
    Quic {
        address: SocketAddr,
        #[source]
        source: quinn::ConnectionError,
    },
    #[error("the edge refuses the connection: {0}")]
    Refused(String),
    #[error("the edge does not accept this device's key: its registration is revoked or unknown")]
    Unauthorized,
    #[error("the edge answered with status {0}")]
    Status(StatusCode),
}

/// How to reach an edge.
#[derive(Debug, Clone)]
pub(crate) struct Dialer {
    pub(crate) edge: EdgeAddress,
    pub(crate) tls: Arc<ClientConfig>,
}

impl Dialer {
    /// The edge's addresses.
    pub(crate) async fn resolve(&self) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Some(address) = self.edge.address() {
            return Ok(vec![SocketAddr::new(address, self.edge.port())]);
        }
        let host = self.edge.server_name().to_str();
        let found = timeout(DIAL_DEADLINE, tokio::net::lookup_host((host.as_ref(), self.edge.port()))).await;
        let edge = self.edge.to_string();
        match found {
            Ok(Ok(addresses)) => {
                let addresses: Vec<_> = addresses.collect();
                if addresses.is_empty() { Err(ConnectError::NoAddress { edge }) } else { Ok(addresses) }
            }
            Ok(Err(source)) => Err(ConnectError::Resolve { edge, source }),
            Err(_) => Err(ConnectError::Resolve { edge, source: io::ErrorKind::TimedOut.into() }),
        }
    }
}
