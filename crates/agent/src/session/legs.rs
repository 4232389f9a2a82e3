//! The two legs of a session: each connects one carrier, follows its events, and begins again when it is lost.
//!
//! A leg that fails while the other one works tries seldom; as soon as no carrier answers it tries at once.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use adit_wire::device::{DeviceState, Event};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{FIRST_RETRY, LAST_RETRY, Session, chain};
use crate::carrier::Either;
use crate::choice::{Choice, TransportSetting, Way};
use crate::dialer::ConnectError;
use crate::events::{Events, EventsError};
use crate::status::Transport;
use crate::{http2, quic};

/// Longest time between two attempts of a leg while the other one works.
const LAST_RETRY_BESIDE: Duration = Duration::from_secs(30);
/// For so long the first HTTP/2 connection has the machine for itself.
const HEAD_START: Duration = Duration::from_millis(200);
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
        let leg = |transport| Leg { session: self, transport, choice, reports, instance, known: Vec::new() };
        tokio::join!(leg(Transport::H2).run(), leg(Transport::Quic).run());
        // Both end only with the session, or are not allowed.
        std::future::pending().await
    }
}

struct Leg<'a> {
    session: &'a Session,
    transport: Transport,
    choice: &'a Choice,
    reports: &'a mpsc::Sender<Report>,
    instance: Uuid,
    /// The edge's last known addresses.
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
            let Ok(was_connected) = self.try_once().await else { return };
            if was_connected {
                retry = FIRST_RETRY;
            }
            self.pause(retry).await;
            retry = (retry * 2).min(LAST_RETRY_BESIDE);
        }
    }

    /// Connects, and follows the carrier to its end. Whether it was connected.
    async fn try_once(&mut self) -> Result<bool, Over> {
        let (reason, was_connected) = match self.connect().await? {
            Ok((way, events)) => self.follow(way, events).await?,
            Err(ConnectError::Unauthorized) if self.is_known_by_now() => {
                self.report(Report::Unauthorized).await?;
                (String::new(), false)
            }
            Err(error) => (chain(&error), false),
        };
        tracing::debug!(carrier = ?self.transport, reason, "no carrier");
        self.report(Report::Gone { transport: self.transport, reason }).await?;
        Ok(was_connected)
    }

    fn is_known_by_now(&self) -> bool {
        self.session.new_until.is_none_or(|until| Instant::now() >= until)
    }

    async fn connect(&mut self) -> Result<Result<(Way, AnyEvents), ConnectError>, Over> {
        match self.session.dialer.resolve().await {
            Ok(addresses) => self.known = addresses,
            // The resolver itself may be behind the edge.
            Err(error) if self.known.is_empty() => return Ok(Err(error)),
            Err(error) => tracing::debug!(%error, "using the edge's last known addresses"),
        }
        let (ready, excluded) = oneshot::channel();
        self.report(Report::Resolved { addresses: self.known.clone(), ready }).await?;
        excluded.await.map_err(|_| Over)?;
        let (dialer, addresses) = (self.session.dialer.clone(), self.known.clone());
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
