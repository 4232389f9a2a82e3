//! The device protocol, whichever carrier brings it: who the device is, what it is told, and the flows that it asks for.
//!
//! [`http2`] and [`quic`] are the two carriers. Each proves the device's key, makes a [`Device`] of it, and hands it the
//! flows and the event stream; what a flow may do and how a session ends is the same for both, and is here.

mod enrolment;
mod explaining;
mod http2;
mod quic;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use adit_model::{DnsProtocol, FlowFacts, Protocol, Record, Refusal, Registration, RegistrationSeen};
use adit_transport::WriteChunk;
use adit_wire::device::{self, Block, DeviceState, Event, PING_SECONDS};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::Shared;
use crate::dns::{self, Asker};
use crate::flow::{Asked, Flow, carry};
use crate::limits::MAX_FLOWS_PER_DEVICE;
use crate::named::destination_of;
use crate::sessions::{Cut, Session, TooManySessions};
use crate::synthetic;

pub(crate) use http2::serve as serve_http2;
pub(crate) use quic::QuicListener;

/// One connection of a device: who it is, and what it has open.
struct Device {
    shared: Arc<Shared>,
    registration: Arc<Registration>,
    user: Arc<str>,
    session: Arc<Session>,
    open_flows: AtomicUsize,
    peer: SocketAddr,
}

impl Device {
    fn begin(
        shared: Arc<Shared>,
        registration: Arc<Registration>,
        peer: SocketAddr,
        carrier: &'static str,
    ) -> Result<Arc<Self>, TooManySessions> {
        let session = shared.sessions.begin(registration.id, &shared.stopping)?;
        shared.metrics.devices(shared.sessions.count());
        tracing::info!(
            device = %registration.device, registration = %registration.id, carrier, "device connected"
        );
        Ok(Arc::new(Self {
            user: registration.user.as_str().into(),
            session,
            open_flows: AtomicUsize::new(0),
            peer,
            shared,
            registration,
        }))
    }

    fn end(&self, why: &'static str) {
        self.shared.sessions.end(&self.session);
        self.shared.metrics.devices(self.shared.sessions.count());
        tracing::info!(device = %self.registration.device, why, "device disconnected");
    }

    /// Flows open on this connection.
    fn open_flows(&self) -> usize {
        self.open_flows.load(Ordering::Relaxed)
    }

    /// Carries a flow to its end, or refuses it. `protocol` and `authority` are as the device wrote them.
    async fn carry<A: Asked>(&self, protocol: Option<&str>, authority: &str, asked: A) {
        let Some(protocol) = device::protocol(protocol) else {
            return asked.refuse(Refusal::Unroutable, "expected tcp, udp or icmp").await;
        };
        let Some(destination) = device::destination(protocol, authority) else {
            return asked.refuse(Refusal::Unroutable, "expected an address and a port").await;
        };
        let account = self.registration.account;
        let Some(virtual_network) = self.shared.snapshots.current().default_network(account) else {
            return asked.refuse(Refusal::Unroutable, "the account has no virtual network").await;
        };
        let open = Counted::new(&self.open_flows);
        if open.before >= MAX_FLOWS_PER_DEVICE {
            return asked.refuse(Refusal::TooManyFlows, "the device has as many flows open as it may").await;
        }
        if protocol == Protocol::Tcp && dns::is_resolver(destination) {
            self.resolve(destination, asked).await;
            return drop(open);
        }
        let (synthetic, now) = (destination.ip().to_canonical(), destination);
        let (destination, named) = destination_of(&self.shared, &self.registration, self.peer, now).await;
        let is_named = named.is_some();
        let flow = Flow {
            facts: FlowFacts {
                account,
                registration: self.registration.id,
                device: self.registration.device,
                virtual_network,
                protocol,
                source: self.peer.ip().to_canonical(),
                destination,
                named,
            },
            user: Arc::clone(&self.user),
            session: Arc::clone(&self.session),
            asked,
        };
        carry(Arc::clone(&self.shared), flow).await;
        if is_named {
            self.shared.synthetic.used(self.registration.id, synthetic, Instant::now());
        }
        drop(open);
    }

    /// Answers the device's queries for names, for as long as it asks.
    async fn resolve<A: Asked>(&self, resolver: SocketAddr, asked: A) {
        let asker = Asker {
            account: self.registration.account,
            registration: Some(Arc::clone(&self.registration)),
            source: self.peer,
            resolver: Some(resolver),
            protocol: DnsProtocol::Device,
            location: None,
            user: None,
        };
        let Some(mut stream) = asked.accept().await else { return };
        let serving = dns::serve(&self.shared, &asker, &mut stream, None);
        if self.session.flow_token().run_until_cancelled(serving).await.is_none() {
            stream.reset();
        }
    }

    /// Notes which process of the device this is, and that it was seen.
    async fn identify(&self, instance: Uuid, version: &str) {
        if self.shared.sessions.identify(&self.session, instance) {
            tracing::warn!(device = %self.registration.device, "a second process uses this device's key; the older one is cut");
        }
        let seen = RegistrationSeen {
            registration: self.registration.id,
            source: self.peer.ip(),
            agent_version: version.chars().take(MAX_VERSION_CHARS).collect(),
            at: SystemTime::now(),
        };
        self.shared.records.report(Record::RegistrationSeen(seen)).await;
    }

    /// Writes the device's state, then what changes, until the device listens no more or the session is cut.
    async fn tell<W: WriteChunk>(&self, writer: &mut W) {
        let mut changed = self.shared.snapshots.watch();
        let (mut networks, mut edges, mut fallbacks) = (self.networks(), self.edges(), self.fallbacks());
        let state = DeviceState {
            registration_id: self.registration.id,
            device_id: self.registration.device,
            user: self.user.to_string(),
            addresses: Vec::new(),
            networks: networks.clone(),
            edges: edges.clone(),
            fallback_domains: fallbacks.clone(),
        };
        let (mut event, mut pending) = (Event::State(state), false);
        let mut blocks = self.session.blocks();
        let mut ping = tokio::time::interval(Duration::from_secs(PING_SECONDS));
        ping.reset();
        loop {
            if writer.write_chunk(event.to_line().into()).await.is_err() {
                return;
            }
            event = tokio::select! {
                biased;
                cut = self.session.cut() => {
                    let last = match cut {
                        Cut::Revoked => Event::Revoked,
                        Cut::Superseded => Event::Superseded,
                        Cut::EdgeStopping => Event::Draining,
                    };
                    if writer.write_chunk(last.to_line().into()).await.is_err() {
                        tracing::trace!("the device left before it was told");
                    }
                    return;
                }
                changed = changes(&mut changed, std::mem::take(&mut pending)) => {
                    let now = (self.networks(), self.edges(), self.fallbacks());
                    if changed.is_ok() && now.1 != edges {
                        // What else has changed with them is told with the next look.
                        edges.clone_from(&now.1);
                        pending = now.0 != networks || now.2 != fallbacks;
                        Event::Edges { edges: now.1 }
                    } else if changed.is_ok() && now.2 != fallbacks {
                        fallbacks.clone_from(&now.2);
                        pending = now.0 != networks;
                        Event::FallbackDomains { domains: now.2 }
                    } else if changed.is_ok() && now.0 != networks {
                        networks.clone_from(&now.0);
                        Event::Networks { networks: now.0 }
                    } else {
                        continue_with_ping()
                    }
                }
                Some(block) = next(&mut blocks) => Event::Blocked(block),
                _ = ping.tick() => Event::Ping,
            };
        }
    }

    /// Where devices find this node and the others, this one first.
    fn edges(&self) -> Vec<String> {
        let snapshot = self.shared.snapshots.current();
        let mut nodes: Vec<_> = snapshot.nodes().filter(|node| !node.devices.is_empty()).collect();
        nodes.sort_by_key(|node| (!self.shared.peers.is_own(node.id), node.id));
        nodes.into_iter().map(|node| node.devices.clone()).take(MAX_EDGES_TOLD).collect()
    }

    fn fallbacks(&self) -> Vec<adit_model::FallbackDomain> {
        self.shared.snapshots.current().fallback_domains(self.registration.account).to_vec()
    }

    fn networks(&self) -> Vec<adit_model::Cidr> {
        let snapshot = self.shared.snapshots.current();
        let network = snapshot.default_network(self.registration.account);
        let mut networks = network.map(|network| snapshot.networks(network)).unwrap_or_default();
        if snapshot.has_hostname_routes(self.registration.account) {
            networks.extend(synthetic::networks());
            networks.sort_unstable();
            networks.dedup();
        }
        networks
    }
}

/// Waits for a change, unless there is more to tell of the last one.
async fn changes(changed: &mut watch::Receiver<u64>, pending: bool) -> Result<(), watch::error::RecvError> {
    if pending { Ok(()) } else { changed.changed().await }
}

/// The next block, where there is somebody to tell of any.
async fn next(blocks: &mut Option<mpsc::Receiver<Block>>) -> Option<Block> {
    match blocks {
        Some(blocks) => blocks.recv().await,
        None => std::future::pending().await,
    }
}

/// A change that does not concern the device is a sign of life all the same.
fn continue_with_ping() -> Event {
    Event::Ping
}

/// A flow that is counted as open.
struct Counted<'a> {
    open: &'a AtomicUsize,
    /// How many there were before it.
    before: usize,
}

impl<'a> Counted<'a> {
    fn new(open: &'a AtomicUsize) -> Self {
        Self { open, before: open.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a session ended, for the log.
fn cut_words(cut: Cut) -> &'static str {
    match cut {
        Cut::Revoked => "registration revoked",
        Cut::Superseded => "superseded by a newer process",
        Cut::EdgeStopping => "edge stopping",
    }
}

/// Most edges that a device is told of.
const MAX_EDGES_TOLD: usize = 16;
/// Longest version of an agent that is noted.
const MAX_VERSION_CHARS: usize = 64;
