//! The two legs of a session: each connects one carrier, follows its events, and begins again when it is lost.
//!
//! A leg that fails while the other one works tries seldom; as soon as no carrier answers it tries at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use adit_wire::device::{DeviceState, Event};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FIRST_RETRY, LAST_RETRY, Session, chain};
use crate::carrier::Either;
use crate::choice::{Choice, TransportSetting, Way};
use crate::dialer::{ConnectError, Dialer};
use crate::edge_address::EdgeAddress;
use crate::events::{Events, EventsError};
use crate::status::Transport;
use crate::{http2, quic};

/// Longest time between two attempts of a leg while the other one works.
const LAST_RETRY_BESIDE: Duration = Duration::from_secs(30);
/// For so long the first HTTP/2 connection has the machine for itself.
const HEAD_START: Duration = Duration::from_millis(200);
/// When the edge has been silent for so long, others are tried...
const LOOK_ELSEWHERE_AFTER: Duration = Duration::from_millis(500);
/// ...as often as this, each for so long.
const LOOK_ELSEWHERE_EVERY: Duration = Duration::from_millis(250);
const REACH_DEADLINE: Duration = Duration::from_secs(1);
/// Reports that wait to be acted upon; a leg with another one waits.
pub(super) const MAX_REPORTS: usize = 16;

/// What a leg has to say.
pub(super) enum Report {
    /// The edge has these addresses. The leg goes on when nothing captures them any more.
    Resolved { addresses: Vec<SocketAddr>, ready: oneshot::Sender<()> },
    /// A carrier is connected, and the edge has said who the device is.
    Connected { way: Way, given_up: CancellationToken, state: DeviceState },
    /// The edge has said more.
    Event(Event),
    /// The edge does not know the device.
    Unauthorized,
    /// There is no carrier, or no more.
    Gone { transport: Transport, reason: String },
}

type AnyEvents = Events<Either<http2::EventReader, quic::FlowReader>>;

/// A session that ends listens to its legs no more.
struct Over;

impl Session {
    /// Runs the legs that the device's setting allows.
    pub(super) async fn legs(
        &self,
        choice: &Choice,
        reports: &mpsc::Sender<Report>,
        instance: Uuid,
    ) -> Infallible {
        let leg = |transport| Leg {
            session: self,
            transport,
            choice,
            reports,
            instance,
            edge: None,
            known: Vec::new(),
        };
        tokio::join!(
            leg(Transport::H2).run(),
            leg(Transport::Quic).run(),
            self.look_elsewhere(choice, reports)
        );
        // Both end only with the session, or are not allowed.
        std::future::pending().await
    }

    /// Where several edges are known: when the one in use does not answer any more, tries the others, and goes to the first
    /// that does. As long as none answers it is the network that is gone, and nothing is given up.
    async fn look_elsewhere(&self, choice: &Choice, reports: &mpsc::Sender<Report>) {
        loop {
            let silent = choice.silent_for().is_some_and(|silence| silence >= LOOK_ELSEWHERE_AFTER);
            if silent && self.edges.are_several() {
                for edge in self.edges.others() {
                    if self.reach(edge.clone(), reports).await && choice.silent_for().is_some() {
                        tracing::warn!(edge = %edge, "the edge is silent, and another one answers");
                        self.edges.turn_to(&edge);
                        choice.give_up();
                        break;
                    }
                }
            }
            tokio::time::sleep(LOOK_ELSEWHERE_EVERY).await;
        }
    }

    /// Whether an edge takes a connection.
    async fn reach(&self, edge: EdgeAddress, reports: &mpsc::Sender<Report>) -> bool {
        let dialer = Dialer { edge, tls: Arc::clone(&self.tls) };
        let Ok(addresses) = dialer.resolve().await else { return false };
        let (ready, excluded) = oneshot::channel();
        let report = Report::Resolved { addresses: addresses.clone(), ready };
        if reports.send(report).await.is_err() || excluded.await.is_err() {
            return false;
        }
        let Some(&address) = addresses.first() else { return false };
        let connecting = timeout(REACH_DEADLINE, tokio::net::TcpStream::connect(address));
        matches!(connecting.await, Ok(Ok(_)))
    }
}

struct Leg<'a> {
    session: &'a Session,
    transport: Transport,
    choice: &'a Choice,
    reports: &'a mpsc::Sender<Report>,
    instance: Uuid,
    /// The edge that was dialled last.
    edge: Option<EdgeAddress>,
    /// Its last known addresses.
    known: Vec<SocketAddr>,
}

impl Leg<'_> {
    async fn run(mut self) {
        if !self.session.transport.allows(self.transport) {
            return;
        }
        if self.transport == Transport::Quic && self.session.transport == TransportSetting::Auto {
            let mut changes = self.choice.changes();
            // Either will do.
            let _ = timeout(HEAD_START, changes.changed()).await;
        }
        let mut retry = FIRST_RETRY;
        loop {
            let before = self.session.edges.current();
            let Ok(was_connected) = self.try_once().await else { return };
            if was_connected || self.session.edges.current() != before {
                retry = FIRST_RETRY;
            }
            self.pause(retry).await;
            retry = (retry * 2).min(LAST_RETRY_BESIDE);
        }
    }

    /// Connects, and follows the carrier to its end. Whether it was connected.
    async fn try_once(&mut self) -> Result<bool, Over> {
        let dialer = self.session.dialer();
        let (reason, was_connected) = match self.connect(&dialer).await? {
            Ok((way, events)) => self.follow(way, events).await?,
            Err(ConnectError::Unauthorized) if self.is_known_by_now() => {
                self.report(Report::Unauthorized).await?;
                (String::new(), false)
            }
            Err(error) => (chain(&error), false),
        };
        tracing::debug!(carrier = ?self.transport, edge = %dialer.edge, reason, "no carrier");
        // Where the other carrier works it is not the edge that does not.
        if !self.choice.answers_besides(self.transport) {
            self.session.edges.turn_from(&dialer.edge);
        }
        self.report(Report::Gone { transport: self.transport, reason }).await?;
        Ok(was_connected)
    }

    fn is_known_by_now(&self) -> bool {
        self.session.new_until.is_none_or(|until| Instant::now() >= until)
    }

    async fn connect(&mut self, dialer: &Dialer) -> Result<Result<(Way, AnyEvents), ConnectError>, Over> {
        if self.edge.as_ref() != Some(&dialer.edge) {
            (self.edge, self.known) = (Some(dialer.edge.clone()), Vec::new());
        }
        match dialer.resolve().await {
            Ok(addresses) => self.known = addresses,
            // The resolver itself may be behind the edge.
            Err(error) if self.known.is_empty() => return Ok(Err(error)),
            Err(error) => tracing::debug!(%error, "using the edge's last known addresses"),
        }
        let (ready, excluded) = oneshot::channel();
        self.report(Report::Resolved { addresses: self.known.clone(), ready }).await?;
        excluded.await.map_err(|_| Over)?;
        let (dialer, addresses) = (dialer.clone(), self.known.clone());
        Ok(match self.transport {
            Transport::H2 => {
                let connected = dialer.http2_carrier(addresses, self.instance).await;
                connected.map(|(carrier, events)| (Either::Http2(carrier), events.map(Either::Http2)))
            }
            Transport::Quic => {
                let connected = dialer.quic_carrier(addresses, self.instance).await;
                connected.map(|(carrier, events)| (Either::Quic(carrier), events.map(Either::Quic)))
            }
        })
    }

    /// Reports the carrier and the edge's events on it. Why it is of no more use, and whether it was of any.
    async fn follow(&self, way: Way, mut events: AnyEvents) -> Result<(String, bool), Over> {
        let given_up = CancellationToken::new();
        let mut connecting = Some(way);
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = given_up.cancelled() => {
                    return Ok(("the edge was silent for too long".to_owned(), true));
                }
            };
            let report = match event {
                Ok(Event::State(state)) => match connecting.take() {
                    Some(way) => Report::Connected { way, given_up: given_up.clone(), state },
                    None => Report::Event(Event::State(state)),
                },
                // Open flows hold the old connection until they end; new ones wait for the next.
                Ok(Event::Draining) => {
                    if let Some(edge) = &self.edge {
                        self.session.edges.turn_from(edge);
                    }
                    return Ok(("the edge is stopping".to_owned(), connecting.is_none()));
                }
                Ok(event) => Report::Event(event),
                Err(
                    error @ (EventsError::Closed
                    | EventsError::Lost(_)
                    | EventsError::Silent
                    | EventsError::Malformed(_)),
                ) => return Ok((chain(&error), connecting.is_none())),
            };
            self.report(report).await?;
        }
    }

    async fn report(&self, report: Report) -> Result<(), Over> {
        self.reports.send(report).await.map_err(|_| Over)
    }

    /// Waits before the next attempt: for long while the other carrier works, but not once it does not answer any more.
    async fn pause(&self, retry: Duration) {
        let mut changes = self.choice.changes();
        tokio::time::sleep(FIRST_RETRY).await;
        let until = Instant::now() + retry;
        while self.choice.answers() {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                _ = changes.changed() => {}
            }
        }
        let until = until.min(Instant::now() + LAST_RETRY);
        tokio::time::sleep_until(until).await;
    }
}
