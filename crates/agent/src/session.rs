//! Being connected: dials the edge again and again, follows its events, and keeps interface and routes as they say.
//!
//! Each carrier is a leg that connects by itself, over and over ([`legs`]); what they report is acted upon here, in one
//! place. Interface and routes are made at the edge's first word and stay through reconnections, so that applications wait
//! instead of failing over to some other path; they go when the session ends.

mod legs;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{Cidr, FallbackDomain};
use adit_wire::device::{Block, DeviceState, Event};
use rustls::ClientConfig;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::blocks::{self, Blocks};
use crate::capture::Capture;
use crate::choice::{Choice, TransportSetting};
use crate::dialer::{ConnectError, Dialer};
use crate::edges::Edges;
use crate::names::system::Pointed;
use crate::names::{self, Fallback, Names, SystemDns};
use crate::network::Networks;
use crate::routes::{Routes, RoutesError};
use crate::slot::CarrierSlot;
use crate::state::StateDirectory;
use crate::status::{ConnectionState, Status};
use crate::tun::{Tun, TunError};
use legs::{MAX_REPORTS, Report};

/// First and longest time between two attempts to connect.
const FIRST_RETRY: Duration = Duration::from_millis(100);
const LAST_RETRY: Duration = Duration::from_secs(2);

/// How long after its enrolment a device that the edge does not know goes on trying: a change takes up to two seconds to
/// reach every edge (design, section 3).
pub(crate) const ENROLMENT_SPREADS: Duration = Duration::from_secs(10);

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SessionEnd {
    /// It was told to.
    Stopped,
    /// The edge does not know the device any more.
    Revoked,
    /// Another process uses the device's key.
    Superseded,
}

/// The network cannot be captured.
#[derive(Debug, thiserror::Error)]
enum CaptureError {
    #[error(transparent)]
    Tun(#[from] TunError),
    #[error(transparent)]
    Routes(#[from] RoutesError),
}

/// What a session needs to know.
pub(crate) struct Session {
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) edges: Rc<Edges>,
    pub(crate) state: Rc<StateDirectory>,
    pub(crate) dns: SystemDns,
    pub(crate) fallbacks: Vec<Fallback>,
    /// Where flows find the carrier.
    pub(crate) carrier: CarrierSlot<Rc<Choice>>,
    /// The name of the interface that captures the networks; none if programs come to a proxy.
    pub(crate) interface: Option<String>,
    pub(crate) mtu: u32,
    pub(crate) transport: TransportSetting,
    pub(crate) networks: RefCell<Networks>,
    /// What rules have blocked lately.
    pub(crate) blocks: RefCell<Blocks>,
    pub(crate) status: watch::Sender<Status>,
    pub(crate) stop: CancellationToken,
    /// Until then an edge may not know the device yet.
    pub(crate) new_until: Option<Instant>,
}

impl Session {
    /// What dials the edge in use.
    fn dialer(&self) -> Dialer {
        Dialer { edge: self.edges.current(), tls: Arc::clone(&self.tls) }
    }

    /// Stays connected until told to stop or sent away.
    pub(crate) async fn run(self) -> SessionEnd {
        let mut captured = Captured::new(self.carrier.clone());
        let stop = self.stop.clone();
        let end = tokio::select! {
            end = self.connect_for_ever(&mut captured) => end,
            () = stop.cancelled() => SessionEnd::Stopped,
        };
        captured.carrier.send_replace(None);
        captured.close().await;
        self.status.send_modify(Status::clear_connection);
        end
    }

    async fn connect_for_ever(&self, captured: &mut Captured) -> SessionEnd {
        let instance = Uuid::new_v4();
        let mut retry = FIRST_RETRY;
        loop {
            self.status.send_modify(Status::set_connecting);
            let (reason, was_connected) = match self.attend(captured, instance).await {
                Followed::End(end) => return end,
                Followed::Again { reason, was_connected } => (reason, was_connected),
            };
            captured.carrier.send_replace(None);
            self.fail(&reason);
            if was_connected {
                retry = FIRST_RETRY;
            }
            self.status.send_modify(Status::set_connecting);
            tokio::time::sleep(retry).await;
            retry = (retry * 2).min(LAST_RETRY);
        }
    }

    /// Lets both legs connect and acts on what they report, until the interface fails or the session ends.
    async fn attend(&self, captured: &mut Captured, instance: Uuid) -> Followed {
        let choice = Rc::new(Choice::new(None));
        let (reports, mut reported) = mpsc::channel(MAX_REPORTS);
        let mut changes = choice.changes();
        let mut attended = Attended { choice: Rc::clone(&choice), network: None, was_connected: false };
        let legs = std::pin::pin!(self.legs(&choice, &reports, instance));
        let looking = std::pin::pin!(choice.run());
        let (mut legs, mut looking) = (legs, looking);
        loop {
            let report = tokio::select! {
                Some(report) = reported.recv() => report,
                error = captured.ended() => return attended.again(error),
                Ok(()) = changes.changed() => {
                    self.carriers_changed(&attended);
                    continue;
                }
                never = &mut legs => match never {},
                never = &mut looking => match never {},
            };
            if let Some(end) = self.act(report, &mut attended, captured).await {
                return end;
            }
        }
    }

    /// Acts on one report. Something, if the legs are of no more use.
    async fn act(
        &self,
        report: Report,
        attended: &mut Attended,
        captured: &mut Captured,
    ) -> Option<Followed> {
        match report {
            Report::Resolved { addresses, ready } => {
                captured.exclude(addresses.iter().map(SocketAddr::ip), &self.status).await;
                self.network_is(addresses.first(), attended);
                // A leg that has given up meanwhile resolves again.
                let _ = ready.send(());
            }
            Report::Connected { way, given_up, state } => {
                if let Err(error) = captured.start(self, &state).await {
                    return Some(attended.again(chain(&error)));
                }
                attended.was_connected = true;
                attended.choice.add(way, given_up);
                captured.carrier.send_replace(Some(Rc::clone(&attended.choice)));
                self.edges.told(&state.edges);
                self.connected(&attended.choice, &state);
            }
            Report::Event(Event::Edges { edges }) => self.edges.told(&edges),
            Report::Event(Event::State(state)) => {
                self.edges.told(&state.edges);
                if let Err(error) = captured.start(self, &state).await {
                    return Some(attended.again(chain(&error)));
                }
            }
            Report::Event(Event::Networks { networks }) => {
                captured.set_networks(networks, &self.status).await;
            }
            Report::Event(Event::FallbackDomains { domains }) => captured.set_fallbacks(domains),
            Report::Event(Event::Revoked) => {
                self.fail(&"the edge has revoked this device's registration");
                return Some(Followed::End(SessionEnd::Revoked));
            }
            Report::Event(Event::Superseded) => {
                self.fail(&"another process uses this device's key");
                return Some(Followed::End(SessionEnd::Superseded));
            }
            Report::Event(Event::Blocked(block)) => self.blocked(block),
            Report::Event(Event::Draining | Event::Ping) => {}
            Report::Unauthorized => {
                self.fail(&ConnectError::Unauthorized);
                return Some(Followed::End(SessionEnd::Revoked));
            }
            Report::Gone { transport, reason } => {
                attended.choice.remove(transport);
                self.gone(&attended.choice, &reason, captured);
            }
        }
        None
    }

    /// Says what a rule has blocked, unless it was said a moment ago.
    fn blocked(&self, block: Block) {
        if !self.blocks.borrow_mut().is_new(&block, Instant::now().into_std()) {
            return;
        }
        tracing::warn!(
            rule = block.name, layer = %block.layer, destination = block.destination, message = block.message,
            help = block.support_url, "blocked"
        );
        self.status.send_modify(|status| blocks::keep(&mut status.blocked, block));
    }

    /// Without any carrier, flows wait for the next one.
    fn gone(&self, choice: &Choice, reason: &str, captured: &Captured) {
        if choice.is_empty() {
            captured.carrier.send_replace(None);
            self.fail(&reason);
            self.status.send_modify(Status::set_connecting);
        }
    }

    fn connected(&self, choice: &Choice, state: &DeviceState) {
        tracing::info!(edge = %self.edges.current(), networks = state.networks.len(), "connected");
        self.status.send_modify(|status| {
            status.state = ConnectionState::Connected;
            status.edge = Some(self.edges.current().to_string());
            status.device_id = Some(state.device_id.to_string());
            status.user = Some(state.user.clone());
            status.transport = choice.current();
            status.interface.clone_from(&self.interface);
            status.last_error = None;
        });
    }

    /// Another carrier is used, or one has fallen silent or come back.
    fn carriers_changed(&self, attended: &Attended) {
        let current = attended.choice.current();
        self.status.send_if_modified(|status| {
            let new = status.state == ConnectionState::Connected && status.transport != current;
            if new {
                tracing::info!(edge = %self.edges.current(), carrier = ?current, "flows go by another carrier");
                status.transport = current;
            }
            new
        });
        if let (Some(network), Some(verdict)) = (&attended.network, attended.choice.verdict()) {
            self.networks.borrow_mut().remember(network, verdict);
        }
    }

    /// Notes in which network the device is, and begins anew with what is remembered of it when that is another one.
    fn network_is(&self, edge: Option<&SocketAddr>, attended: &mut Attended) {
        let network = edge.and_then(|edge| crate::network::current(*edge));
        if network.is_some() && network != attended.network {
            let remembered = network.as_deref().and_then(|network| self.networks.borrow().transport(network));
            tracing::debug!(network, ?remembered, "network");
            attended.choice.start_anew(remembered);
            attended.network = network;
        }
    }

    fn fail(&self, reason: &dyn std::fmt::Display) {
        let reason = reason.to_string();
        self.status.send_if_modified(|status| {
            let new = status.last_error.as_ref() != Some(&reason);
            if new {
                tracing::warn!(edge = %self.edges.current(), reason, "not connected");
                status.last_error = Some(reason);
            }
            new
        });
    }
}

/// What became of a connection.
enum Followed {
    End(SessionEnd),
    Again { reason: String, was_connected: bool },
}

/// What is known while the legs run.
struct Attended {
    choice: Rc<Choice>,
    network: Option<String>,
    was_connected: bool,
}

impl Attended {
    fn again(&self, reason: String) -> Followed {
        Followed::Again { reason, was_connected: self.was_connected }
    }
}

/// Interface, routes and flows; empty before the edge's first word.
struct Captured {
    carrier: CarrierSlot<Rc<Choice>>,
    open: Option<Open>,
    networks: Vec<Cidr>,
    /// The account's domains whose names are not asked of the edge.
    fallbacks: Rc<RefCell<Vec<Fallback>>>,
    /// Every address of the edge since the session began: an open flow may still use an older one.
    excluded: BTreeSet<IpAddr>,
}

struct Open {
    /// The system, while it asks the agent for names.
    pointed: Option<Pointed>,
    /// Whom the system asked before.
    former: Rc<RefCell<Vec<SocketAddr>>>,
    routes: Routes,
    /// Those that the interface was made with.
    addresses: Vec<IpAddr>,
    closing: Closing,
    driver: tokio::task::JoinHandle<String>,
}

/// The steps of an orderly end, so that no program is left waiting for an interface that is gone.
#[derive(Clone, Default)]
struct Closing {
    /// Stop moving packets.
    stop: CancellationToken,
    /// Every flow has been reset or turned down.
    answered: CancellationToken,
    /// The routes are gone: no new flow comes.
    unrouted: CancellationToken,
}

impl Captured {
    fn new(carrier: CarrierSlot<Rc<Choice>>) -> Self {
        let (networks, fallbacks) = (Vec::new(), Rc::default());
        Self { carrier, open: None, networks, fallbacks, excluded: BTreeSet::new() }
    }

    /// Makes what is missing, and routes the device's networks.
    async fn start(&mut self, session: &Session, state: &DeviceState) -> Result<(), CaptureError> {
        self.set_fallbacks(state.fallback_domains.clone());
        if self.open.as_ref().is_some_and(|open| open.addresses != state.addresses) {
            self.close().await;
        }
        if let Some(interface) = &session.interface
            && self.open.is_none()
        {
            let tun = Tun::open(interface)?;
            let routes = Routes::new(tun.name(), session.mtu, &state.addresses).await?;
            let seed = Uuid::new_v4().as_u64_pair().0;
            let (former, edges) = (Rc::new(RefCell::new(names::system::former())), Rc::clone(&session.edges));
            let names = Names::new(
                self.carrier.subscribe(),
                (session.fallbacks.clone(), Rc::clone(&self.fallbacks)),
                Box::new(move || edges.names()),
                Rc::clone(&former),
            );
            let mut capture = Capture::new(tun, self.carrier.subscribe(), Rc::new(names), seed);
            let closing = Closing::default();
            let close = closing.clone();
            let driver = tokio::task::spawn_local(async move {
                let _answered = close.answered.clone().drop_guard();
                let failed = tokio::select! {
                    error = capture.drive() => Some(format!("the TUN interface failed: {error}")),
                    () = close.stop.cancelled() => None,
                };
                // Answers go out while the routes are there, which a kernel that checks their source demands.
                capture.turn_down();
                let Some(failed) = failed else {
                    close.answered.cancel();
                    close.unrouted.cancelled().await;
                    // What came before the routes went.
                    capture.turn_down();
                    return String::new();
                };
                failed
            });
            let addresses = state.addresses.clone();
            self.open = Some(Open { pointed: None, former, routes, addresses, closing, driver });
        }
        self.set_networks(state.networks.clone(), &session.status).await;
        if let (Some(open), Some(interface), SystemDns::Auto) =
            (&mut self.open, &session.interface, session.dns)
            && open.pointed.is_none()
        {
            open.pointed = names::system::point(interface, &session.state, &open.former);
        }
        Ok(())
    }

    fn set_fallbacks(&self, domains: Vec<FallbackDomain>) {
        self.fallbacks.replace(domains.into_iter().map(Fallback::from).collect());
    }

    async fn set_networks(&mut self, networks: Vec<Cidr>, status: &watch::Sender<Status>) {
        self.networks = networks;
        let Some(open) = &mut self.open else {
            // Nothing is routed to a proxy; these are what programs reach through it.
            let networks = self.networks.iter().map(ToString::to_string).collect();
            status.send_modify(|status| {
                if status.proxy.is_some() {
                    status.routes = networks;
                }
            });
            return;
        };
        let excluded: Vec<IpAddr> = self.excluded.iter().copied().collect();
        let resolver = names::networks();
        let captured: Vec<Cidr> = self.networks.iter().chain(&resolver).copied().collect();
        let routes = open.routes.set(&captured, &excluded).await;
        let shown = routes.iter().filter(|network| resolver.iter().all(|one| one.net() != **network));
        let routes: Vec<String> = shown.map(ToString::to_string).collect();
        status.send_modify(|status| status.routes = routes);
    }

    /// Takes addresses of the edge out of what is captured.
    async fn exclude(&mut self, addresses: impl Iterator<Item = IpAddr>, status: &watch::Sender<Status>) {
        let before = self.excluded.len();
        self.excluded.extend(addresses);
        if self.excluded.len() != before {
            self.set_networks(self.networks.clone(), status).await;
        }
    }

    /// Waits until the interface fails, and says how. It is made anew at the edge's next word.
    async fn ended(&mut self) -> String {
        let Some(open) = &mut self.open else { return std::future::pending().await };
        let reason = (&mut open.driver).await.unwrap_or_else(|error| error.to_string());
        self.open = None;
        reason
    }

    /// Resets all flows and removes the interface, and with it addresses and routes.
    async fn close(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        drop(open.pointed.take());
        open.closing.stop.cancel();
        open.closing.answered.cancelled().await;
        open.routes.set(&[], &[]).await;
        open.closing.unrouted.cancel();
        if let Err(error) = open.driver.await {
            tracing::error!(%error, "the task of the TUN interface failed");
        }
    }
}

/// An error with its causes, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
