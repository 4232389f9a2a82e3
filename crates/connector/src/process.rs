//! What the tasks of one connector share.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use adit_model::{ConnectorId, NeverDialled, Protocol, Refusal};
use adit_wire::datagram::Generation;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{Configuration, ConnectorConfig, Live};
use crate::dial::NotDialled;
use crate::echo::Echoes;
use crate::metrics::{ConnectionView, Metrics};
use crate::selection::{Kind, Selection};
use crate::sessions::{EchoPeers, Sessions};

/// One running connector.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) config: ConnectorConfig,
    /// Made at start (contract, 2.3).
    pub(crate) connector: ConnectorId,
    pub(crate) dialers: Dialers,
    /// Which transport a connection uses.
    pub(crate) selection: Selection,
    pub(crate) metrics: Metrics,
    /// A stop was asked for: no new connections, and the edge is to send no new flows.
    pub(crate) stopping: CancellationToken,
    /// Nothing is served any more.
    pub(crate) closing: CancellationToken,
    /// The first connection is registered: the others follow.
    pub(crate) first_registered: CancellationToken,
    /// Tasks of flows.
    pub(crate) flows: TaskTracker,
    pub(crate) started: Instant,
    /// ICMP echo, where this host permits it.
    pub(crate) echoes: Arc<Echoes>,
    /// UDP sessions of an edge that is not ours.
    pub(crate) sessions: Sessions,
    /// Those who ask for echoes by packets.
    pub(crate) echo_peers: EchoPeers,
    /// What an edge may replace.
    live: Live,
    load: watch::Sender<Load>,
    connections: Mutex<Vec<Connection>>,
    next_shown: AtomicU64,
    never_dialled: fn(IpAddr) -> Option<NeverDialled>,
}

/// What a stop waits for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Load {
    /// Connections on which the edge may open flows.
    pub(crate) registered: usize,
    /// Flows under way.
    pub(crate) flows: usize,
}

impl Load {
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// What connections are dialled with.
pub(crate) struct Dialers {
    pub(crate) quic: quinn::ClientConfig,
    pub(crate) tls: tokio_rustls::TlsConnector,
    pub(crate) http2: h2::server::Builder,
}

impl fmt::Debug for Dialers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialers")
            .field("quic", &self.quic)
            .field("http2", &self.http2)
            .finish_non_exhaustive()
    }
}

/// What carries a connection that is shown.
#[derive(Debug, Clone)]
pub(crate) enum ShownLink {
    Quic(quinn::Connection),
    Http2,
}

impl ShownLink {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Quic(_) => Kind::Quic,
            Self::Http2 => Kind::Http2,
        }
    }
}

/// A registered connection, as pages show it.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    shown: u64,
    pub(crate) index: u8,
    pub(crate) edge: SocketAddr,
    pub(crate) location: String,
    pub(crate) link: ShownLink,
}

impl Process {
    pub(crate) fn new(
        config: ConnectorConfig,
        connector: ConnectorId,
        dialers: Dialers,
        stopping: CancellationToken,
    ) -> Self {
        let live = Live::new(&config);
        Self {
            started: Instant::now(),
            live,
            selection: Selection::new(config.transports),
            config,
            connector,
            dialers,
            metrics: Metrics::default(),
            stopping,
            closing: CancellationToken::new(),
            first_registered: CancellationToken::new(),
            flows: TaskTracker::new(),
            load: watch::Sender::new(Load::default()),
            connections: Mutex::default(),
            next_shown: AtomicU64::new(0),
            echoes: Arc::new(Echoes::new()),
            sessions: Sessions::default(),
            echo_peers: EchoPeers::default(),
            never_dialled: adit_model::never_dialled,
        }
    }

    /// Lets tests dial the loopback address; nothing else does.
    #[cfg(test)]
    pub(crate) fn dial_anything(&mut self) {
        self.never_dialled = |_| None;
    }

    /// Why nothing is dialled at this address, if nothing is.
    pub(crate) fn never_dialled(&self, address: IpAddr) -> Option<NeverDialled> {
        (self.never_dialled)(address)
    }

    /// Whether this process dials `destination` at all, whatever an edge asks.
    pub(crate) fn check(&self, protocol: Protocol, destination: SocketAddr) -> Result<(), NotDialled> {
        let failed = |refusal, why: &str| {
            let text = format!("unable to dial {} to origin {destination}: {why}", protocol.as_str());
            NotDialled { refusal, text }
        };
        if let Some(kind) = self.never_dialled(destination.ip()) {
            return Err(failed(Refusal::NeverDialled, &format!("{kind} addresses are never dialled")));
        }
        let allowed = &self.config.allow_networks;
        let permitted = match protocol {
            Protocol::Tcp | Protocol::Udp => allowed.permits(destination.ip(), destination.port()),
            Protocol::Icmp => allowed.permits_echo(destination.ip()),
        };
        if !permitted {
            return Err(failed(Refusal::Blocked, "it is not among this connector's allow-networks"));
        }
        Ok(())
    }

    /// The form of the datagrams that an edge that is not ours sends and gets.
    pub(crate) fn generation(&self) -> Generation {
        match Generation::of(self.config.features.iter().map(String::as_str)) {
            Generation::V3 => Generation::V3,
            Generation::V1 | Generation::V2 => Generation::V2,
        }
    }

    /// What holds now: take it once for a request or flow, and keep it as long.
    pub(crate) fn configuration(&self) -> Arc<Configuration> {
        self.live.current()
    }

    /// Applies what an edge pushed (contract, 4.2): the version that holds afterwards, and why nothing was applied if the
    /// push was wrong.
    pub(crate) fn apply_configuration(&self, version: i32, config: &[u8]) -> (i32, Option<String>) {
        let (latest, error) = self.live.apply(version, config);
        match &error {
            Some(error) => {
                tracing::error!(version, error = %error, "Failed to apply the pushed configuration");
            }
            None if latest == version => {
                self.metrics.configuration_applied(version);
                tracing::info!(version, "Updated to new configuration");
            }
            None => tracing::debug!(current = latest, version, "a pushed configuration is not newer"),
        }
        (latest, error.map(|error| error.to_string()))
    }

    /// Counts a flow in, unless there are as many as may be.
    pub(crate) fn begin_flow(&self) -> Option<FlowGuard<'_>> {
        let most = self.configuration().warp_routing.max_active_flows;
        let begun = self.load.send_if_modified(|load| {
            let room = load.flows < most;
            load.flows += usize::from(room);
            room
        });
        begun.then_some(FlowGuard(self))
    }

    /// Counts a connection in on which the edge may open flows.
    pub(crate) fn begin_registration(&self) -> RegistrationGuard<'_> {
        self.load.send_modify(|load| load.registered += 1);
        RegistrationGuard(self)
    }

    pub(crate) fn load(&self) -> watch::Receiver<Load> {
        self.load.subscribe()
    }

    /// Shows a connection as live until the value is dropped.
    pub(crate) fn show(&self, index: u8, edge: SocketAddr, location: String, link: ShownLink) -> Shown<'_> {
        let shown = self.next_shown.fetch_add(1, Ordering::Relaxed);
        self.lock().push(Connection { shown, index, edge, location, link });
        Shown { process: self, shown }
    }

    /// The live connections, by index.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        let mut connections = self.lock().clone();
        connections.sort_by_key(|connection| connection.index);
        connections
    }

    pub(crate) fn live_connections(&self) -> usize {
        self.lock().len()
    }

    pub(crate) fn render_metrics(&self) -> String {
        let views: Vec<ConnectionView> = self
            .connections()
            .into_iter()
            .map(|connection| ConnectionView {
                index: connection.index,
                location: connection.location,
                stats: match connection.link {
                    ShownLink::Quic(quic) => Some(quic.stats()),
                    ShownLink::Http2 => None,
                },
            })
            .collect();
        self.metrics.render(self.load.borrow().flows, &views)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        // Every change of the list is a single call: there is no half-made state to fear.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A flow that is counted.
#[derive(Debug)]
pub(crate) struct FlowGuard<'a>(&'a Process);

impl FlowGuard<'_> {
    /// Flows under way, this one counted.
    pub(crate) fn concurrent(&self) -> usize {
        self.0.load.borrow().flows
    }
}

impl Drop for FlowGuard<'_> {
    fn drop(&mut self) {
        self.0.load.send_modify(|load| load.flows -= 1);
    }
}

/// A connection that is counted.
#[derive(Debug)]
pub(crate) struct RegistrationGuard<'a>(&'a Process);

impl Drop for RegistrationGuard<'_> {
    fn drop(&mut self) {
        self.0.load.send_modify(|load| load.registered -= 1);
    }
}

/// A connection that is shown.
#[derive(Debug)]
pub(crate) struct Shown<'a> {
    process: &'a Process,
    shown: u64,
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        self.process.lock().retain(|connection| connection.shown != self.shown);
    }
}
