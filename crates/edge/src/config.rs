//! What an edge needs to start.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use adit_model::{AccountId, CertificateId, NodeId, PublicHostname};
use adit_transport::quic::EndpointError;
use adit_transport::tls::{Identity, TlsError};
use axum::Router;
use rustls::RootCertStore;

/// A checked configuration: nothing in it is left to be defaulted.
#[derive(Debug)]
pub struct EdgeConfig {
    /// This node's name, shown as the location of its connections; letters, digits and dashes.
    pub node: String,
    /// TCP address for devices, API clients and browsers.
    pub https: SocketAddr,
    /// UDP and TCP address for connectors.
    pub tunnel: SocketAddr,
    /// The certificate of [`names`](Self::names).
    pub identity: Identity,
    /// The certificate of the names that connectors ask for (tunnel protocol, 1.3).
    pub tunnel_identity: Identity,
    /// Host names by which the HTTPS listener may be asked for, in lower case. Clients that name none, since they dialled
    /// an address, are served too; another name gets nothing (design, section 5).
    pub names: Vec<String>,
    /// What gives the certificates of public host names.
    pub certificates: Arc<dyn Certificates>,
    /// What makes the certificates that are shown where TLS is opened.
    pub inspection: Arc<dyn InspectionAuthorities>,
    /// What API clients and browsers are served. Requests carry the peer's [`SocketAddr`] as an extension.
    pub management: Router,
    /// What serves enrolment to devices. Requests carry the peer's [`SocketAddr`] and an
    /// [`adit_model::PresentedKey`] as extensions.
    pub enrolment: Router,
    /// The resolvers that are asked for names where no rule says otherwise, in this order.
    pub dns_upstreams: Vec<SocketAddr>,
    /// The domain whose hosts are DNS locations, in lower case.
    pub dns_domain: String,
    /// TCP address for DNS over TLS, if it is served.
    pub dot: Option<SocketAddr>,
    /// By what other nodes know this one. `None`: it is the only one.
    pub peer: Option<PeerIdentity>,
}

/// Who an edge node is to others.
#[derive(Debug)]
pub struct PeerIdentity {
    /// Its id.
    pub node: NodeId,
    /// A certificate of its own making, and its key, by which it is known.
    pub identity: Identity,
}

/// Gives the certificates of public host names. Only names that are registered are asked for, and the answer is kept for a
/// day, so that a certificate may be made on the spot.
pub trait Certificates: fmt::Debug + Send + Sync {
    /// The certificate to show for this name. `None`: the name is not served.
    fn certificate(&self, hostname: &PublicHostname) -> Option<Identity>;
}

/// Makes the certificates that devices are shown where their TLS is opened, by an authority of their account.
pub trait InspectionAuthorities: fmt::Debug + Send + Sync {
    /// A certificate for this host name or address, signed by this authority of the account. `None`: it is not known here,
    /// and what would be opened does not pass.
    fn leaf(&self, account: AccountId, authority: CertificateId, name: &str) -> Option<Identity>;

    /// Whom origins are trusted by.
    fn roots(&self) -> Arc<RootCertStore>;
}

/// An edge could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({listener})")]
    Listen {
        /// Which listener.
        listener: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The QUIC endpoint for connectors cannot be made.
    #[error("cannot serve connectors")]
    Endpoint(#[from] EndpointError),
    /// A certificate cannot be used.
    #[error("cannot serve TLS")]
    Tls(#[from] TlsError),
    /// There is nothing to decide by.
    #[error("the control plane stopped before it sent a state")]
    NoState,
}
