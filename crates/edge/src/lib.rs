//! Every way in, decide, route, dial through a tunnel, record.
//!
//! An [`Edge`] listens for devices and API clients on one port ([`ingress`]; on UDP, [`device`]) and for connectors on
//! another ([`tunnel`]), where also other edge nodes relay flows to it ([`peer`]).
//! [`flow`] is the life of one flow in the design's order: decide on a snapshot, dial through a connection, splice,
//! record. What it decides by arrives as batches of changes ([`snapshots`]), what it did leaves as records; it asks no
//! database anything.
//!
//! What always holds: nothing is dialled before it is permitted; a refused flow ends at once and says why; a revoked
//! registration's flows are cut; every handshake, dial and answer has a deadline.

mod asked;
mod carrier;
mod config;
pub mod connections;
mod datagram;
mod device;
mod dial;
mod dns;
mod explain;
mod far;
mod first_bytes;
mod first_datagrams;
mod flow;
mod freshness;
mod hostname;
mod ingress;
mod inspection;
mod kept;
mod limits;
mod metrics;
mod named;
mod notices;
mod peer;
mod pulse;
mod record;
mod reevaluation;
mod sessions;
mod snapshots;
mod synthetic;
mod tunnel;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{AccountId, ChangeBatch, Command, ExplainFor, ExplainQuestion, Explained, Record};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use config::{Certificates, EdgeConfig, InspectionAuthorities, PeerIdentity, StartError};
#[doc(hidden)]
pub use datagram::fuzz_echo_reply;
pub use freshness::{DEFAULT_MAX_STALENESS, Freshness};
#[doc(hidden)]
pub use kept::fuzz_kept;
pub use kept::{KEPT_FILE, Kept, KeptError};
pub use metrics::Metrics;

use connections::Connections;
use hostname::Hostnames;
use sessions::Sessions;
use snapshots::Snapshots;

/// What all parts of a running edge share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: String,
    pub(crate) snapshots: Snapshots,
    pub(crate) freshness: Arc<Freshness>,
    pub(crate) connections: Connections,
    /// Other edge nodes.
    pub(crate) peers: peer::Peers,
    pub(crate) sessions: Sessions,
    /// Flows that are carried.
    pub(crate) open_flows: reevaluation::OpenFlows,
    /// Certificates for TLS that is opened.
    pub(crate) leaves: inspection::Leaves,
    /// Hosts whose clients refused our certificate.
    pub(crate) pinned: inspection::Pinned,
    /// What was opened and carried no HTTP.
    pub(crate) not_http: inspection::NotHttp,
    /// Destinations that asked for client certificates.
    pub(crate) certificate_requests: explain::CertificateRequests,
    /// The resolver.
    pub(crate) dns: dns::Dns,
    /// Addresses that stand for names.
    pub(crate) synthetic: synthetic::Synthetic,
    /// Public host names in use.
    pub(crate) hostnames: Arc<Hostnames>,
    pub(crate) records: record::Recorder,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: TaskTracker,
    /// Cancelled when the edge is to stop: no new work.
    pub(crate) stopping: CancellationToken,
}

impl Shared {
    /// Records something that must hold nothing up: without room it is dropped, and counted.
    pub(crate) fn record(&self, record: Record) {
        if !self.records.try_report(record) {
            self.metrics.record_dropped();
        }
    }
}

/// The ends by which the control plane and an edge hold each other.
#[derive(Debug)]
pub struct Ends {
    /// What to decide by; the first batch is the whole state.
    pub changes: mpsc::Receiver<ChangeBatch>,
    /// What to do once.
    pub commands: mpsc::Receiver<Command>,
    /// What happened.
    pub records: mpsc::Sender<Record>,
}

/// A running edge node.
#[derive(Debug)]
pub struct Edge {
    shared: Arc<Shared>,
    https: SocketAddr,
    tunnel: SocketAddr,
    dot: Option<SocketAddr>,
}

impl Edge {
    /// Waits for the first state, binds every listener, and serves until [`stop`](Self::stop).
    ///
    /// # Errors
    /// A port is in use, a certificate cannot be used, or the control plane went away before it sent a state. Nothing is
    /// left listening then.
    pub async fn start(config: EdgeConfig, ends: Ends) -> Result<Self, StartError> {
        // Nobody says whether the state is the latest, and so none is too old.
        Self::start_bounded(config, ends, Arc::new(Freshness::new(Duration::MAX, Duration::ZERO))).await
    }

    /// The same, with somebody who says each time that the state is the latest: once it is older than the limit, no new flow
    /// is let through.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub async fn start_bounded(
        config: EdgeConfig,
        mut ends: Ends,
        freshness: Arc<Freshness>,
    ) -> Result<Self, StartError> {
        let first = ends.changes.recv().await.ok_or(StartError::NoState)?;
        let shared = Arc::new(Shared {
            node: config.node,
            snapshots: Snapshots::new(first),
            metrics: Metrics::new(Arc::clone(&freshness)),
            freshness,
            connections: Connections::default(),
            peers: peer::Peers::new(config.peer.as_ref().map(|peer| peer.node)),
            sessions: Sessions::default(),
            open_flows: reevaluation::OpenFlows::default(),
            leaves: inspection::Leaves::new(config.inspection),
            pinned: inspection::Pinned::default(),
            not_http: inspection::NotHttp::default(),
            certificate_requests: explain::CertificateRequests::default(),
            dns: dns::Dns::new(config.dns_upstreams),
            synthetic: synthetic::Synthetic::new(std::time::Instant::now()),
            hostnames: Arc::new(Hostnames::new(config.certificates, config.dns_domain)),
            records: record::Recorder::new(ends.records),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        });
        let ingress = ingress::Ingress::bind(
            config.https,
            &config.identity,
            config.names.clone(),
            Arc::clone(&shared.hostnames),
            config.management,
            config.enrolment,
        )?;
        let tunnel = tunnel::Listener::bind(config.tunnel, &config.tunnel_identity, config.peer.as_ref())?;
        let dot = match config.dot {
            Some(address) => Some(dns::tls::Listener::bind(address, Arc::clone(&shared.hostnames))?),
            None => None,
        };
        let https = ingress.address();
        let quic = device::QuicListener::bind(https, &config.identity, config.names)?;
        let tunnel_address = tunnel.address();
        shared.tasks.spawn(snapshots::follow(Arc::clone(&shared), ends.changes));
        shared.tasks.spawn(reevaluation::follow(Arc::clone(&shared)));
        shared.tasks.spawn(tunnel::obey(Arc::clone(&shared), ends.commands));
        shared.tasks.spawn(ingress.serve(Arc::clone(&shared)));
        shared.tasks.spawn(quic.serve(Arc::clone(&shared)));
        let dot_address = dot.as_ref().map(dns::tls::Listener::address);
        if let Some(dot) = dot {
            shared.tasks.spawn(dot.serve(Arc::clone(&shared)));
        }
        if let Some(peer) = &config.peer {
            shared.tasks.spawn(peer::follow(Arc::clone(&shared), tunnel.endpoint(), peer::client(peer)?));
        }
        shared.tasks.spawn(tunnel.serve(Arc::clone(&shared)));
        Ok(Self { shared, https, tunnel: tunnel_address, dot: dot_address })
    }

    /// Where devices and API clients are listened for.
    pub fn https(&self) -> SocketAddr {
        self.https
    }

    /// Where connectors are listened for.
    pub fn tunnel(&self) -> SocketAddr {
        self.tunnel
    }

    /// Where DNS over TLS is listened for, if it is.
    pub fn dot(&self) -> Option<SocketAddr> {
        self.dot
    }

    /// The edge's counters.
    pub fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// The number of the snapshot that decides now.
    pub fn snapshot_number(&self) -> u64 {
        self.shared.snapshots.current().number()
    }

    /// How old that snapshot is.
    pub fn freshness(&self) -> &Freshness {
        &self.shared.freshness
    }

    /// Keeps what it decides by in this file from now on until it stops, for a start without the database ([`Kept`]).
    pub fn keep(&self, file: PathBuf) {
        self.shared.tasks.spawn(kept::keep(Arc::clone(&self.shared), file));
    }

    /// What would become of a flow of an account's device, step by step; none if this edge knows no such device.
    pub async fn explain(
        &self,
        account: AccountId,
        whose: &ExplainFor,
        question: &ExplainQuestion,
    ) -> Option<Explained> {
        explain::explain_for(&self.shared, account, whose, question).await
    }

    /// Live connections of connectors.
    pub fn connections(&self) -> usize {
        self.shared.connections.count()
    }

    /// Stops: no new work at once, then every open flow and connection is ended and every task joined.
    pub async fn stop(&self) {
        self.shared.stopping.cancel();
        self.shared.tasks.close();
        if tokio::time::timeout(limits::STOP_DEADLINE, self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = self.shared.tasks.len(), "some tasks did not end in time");
        }
    }
}
