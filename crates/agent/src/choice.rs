//! Two carriers to one edge as one: flows go to the better one, and to the other when that one stops working.
//!
//! Both are kept connected, so that changing over costs nothing but noticing. [`Choice::run`] looks at both again and again
//! ([`crate::path`]): often while something goes on, seldom else. A flow that waits for an answer on a carrier that has
//! fallen silent is asked for anew on the other; nothing of it has gone out yet. Flows that are open stay where they are,
//! and are cut when their carrier has been silent for long while the other one works.
//!
//! On a network that is not known yet a train of small packets on QUIC shows at once what it loses.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use adit_model::Protocol;
use adit_transport::Duplex;
use adit_transport::datagram::DatagramFlow;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::carrier::{Carrier, Either, OpenError};
use crate::http2::Http2Carrier;
use crate::path::{Measured, Path, Reading, prefer};
use crate::quic::QuicCarrier;
use crate::status::Transport;

/// How often the carriers are looked at while something goes on...
const TICK: Duration = Duration::from_millis(100);
/// ...and else, which is how late new traffic on an open flow may be noticed.
const IDLE_TICK: Duration = Duration::from_millis(500);
/// Packets that show what an unknown network loses, and the time between them. With a hundredth lost, two are missed in one
/// case of seven; with a twentieth, in one of two thousand.
const TRAIN: u32 = 200;
const TRAIN_TICK: Duration = Duration::from_millis(10);
/// A carrier that has been silent for so long while the other one works has its flows cut.
const GIVE_UP: Duration = Duration::from_secs(5);
/// For so long after HTTP/2 fell silent while QUIC worked, QUIC is preferred: the device roams, or something stops TCP.
const UNSETTLED: Duration = Duration::from_mins(1);
/// For so long after one carrier ended the other one is asked for signs of life.
const DOUBT: Duration = Duration::from_secs(3);
/// Carriers that one flow is tried on.
const MAX_TRIES: usize = 3;

/// One of the two carriers.
pub(crate) type Way = Either<Rc<Http2Carrier>, Rc<QuicCarrier>>;

/// Which carriers an agent may use.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransportSetting {
    /// Both, the better one first.
    #[default]
    Auto,
    /// HTTP/2 alone.
    H2,
    /// QUIC alone.
    Quic,
}

impl TransportSetting {
    /// Whether this carrier may be used.
    pub(crate) fn allows(self, transport: Transport) -> bool {
        match self {
            Self::Auto => true,
            Self::H2 => transport == Transport::H2,
            Self::Quic => transport == Transport::Quic,
        }
    }
}

impl std::str::FromStr for TransportSetting {
    type Err = UnknownTransport;

    fn from_str(text: &str) -> Result<Self, UnknownTransport> {
        match text {
            "auto" => Ok(Self::Auto),
            "h2" => Ok(Self::H2),
            "quic" => Ok(Self::Quic),
            _ => Err(UnknownTransport),
        }
    }
}

/// A text that names no [`TransportSetting`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected auto, h2 or quic")]
pub struct UnknownTransport;

impl Measured for Way {
    fn reading(&self) -> Reading {
        match self {
            Self::Http2(carrier) => carrier.reading(),
            Self::Quic(carrier) => carrier.reading(),
        }
    }

    fn ask(&self) {
        match self {
            Self::Http2(carrier) => carrier.ask(),
            Self::Quic(carrier) => carrier.ask(),
        }
    }

    fn is_lost(&self) -> bool {
        match self {
            Self::Http2(carrier) => carrier.is_lost(),
            Self::Quic(carrier) => carrier.is_lost(),
        }
    }

    fn cut(&self) {
        match self {
            Self::Http2(carrier) => carrier.cut(),
            Self::Quic(carrier) => carrier.cut(),
        }
    }
}

/// A carrier that is connected.
#[derive(Debug)]
struct Leg {
    way: Way,
    path: Path,
    given_up: CancellationToken,
}

impl Leg {
    fn answers(&self, now: Instant) -> bool {
        !self.way.is_lost() && self.path.silent_for(now).is_none()
    }
}

/// What others act upon when it changes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct News {
    current: Option<Transport>,
    answers: [bool; 2],
    verdict: Option<Transport>,
}

/// The carriers that are connected, and which of them flows go to.
#[derive(Debug)]
pub(crate) struct Choice {
    legs: RefCell<[Option<Leg>; 2]>,
    preferred: Cell<Transport>,
    /// Whether `preferred` was measured or remembered, and not only assumed.
    settled: Cell<bool>,
    unsettled_until: Cell<Option<Instant>>,
    /// Until then carriers are asked as if flows waited for them.
    doubted_until: Cell<Option<Instant>>,
    /// Packets of the train that are still to be sent.
    train: Cell<u32>,
    /// Flows that wait for an answer.
    waiting: Cell<usize>,
    woken: Notify,
    changed: watch::Sender<()>,
    told: Cell<News>,
}

fn place(transport: Transport) -> usize {
    match transport {
        Transport::H2 => 0,
        Transport::Quic => 1,
    }
}

impl Choice {
    /// No carrier yet. `remembered` is the one that was the better one in this network.
    pub(crate) fn new(remembered: Option<Transport>) -> Self {
        Self {
            legs: RefCell::default(),
            preferred: Cell::new(remembered.unwrap_or(Transport::H2)),
            settled: Cell::new(remembered.is_some()),
            unsettled_until: Cell::new(None),
            doubted_until: Cell::new(None),
            train: Cell::new(0),
            waiting: Cell::new(0),
            woken: Notify::new(),
            changed: watch::Sender::new(()),
            told: Cell::default(),
        }
    }

    /// Takes a carrier that has just connected; `given_up` is cancelled when it is to be dropped.
    pub(crate) fn add(&self, way: Way, given_up: CancellationToken) {
        let transport = way.transport();
        if transport == Transport::Quic && !self.settled.get() {
            self.train.set(TRAIN);
        }
        let path = Path::new(way.reading(), Instant::now());
        self.legs.borrow_mut()[place(transport)] = Some(Leg { way, path, given_up });
        self.tell(Instant::now());
        self.woken.notify_one();
    }

    /// Drops a carrier.
    pub(crate) fn remove(&self, transport: Transport) {
        let had = self.legs.borrow_mut()[place(transport)].take().is_some();
        if transport == Transport::Quic {
            self.train.set(0);
        }
        if had {
            // Whatever ended it may have ended the other one too: that is asked at once.
            self.doubted_until.set(Some(Instant::now() + DOUBT));
            self.woken.notify_one();
        }
        self.tell(Instant::now());
    }

    /// Forgets what was measured: the network is another one.
    pub(crate) fn start_anew(&self, remembered: Option<Transport>) {
        self.preferred.set(remembered.unwrap_or(Transport::H2));
        self.settled.set(remembered.is_some());
        let now = Instant::now();
        for leg in self.legs.borrow_mut().iter_mut().flatten() {
            leg.path = Path::new(leg.way.reading(), now);
        }
        let measures = remembered.is_none() && self.legs.borrow()[place(Transport::Quic)].is_some();
        self.train.set(if measures { TRAIN } else { 0 });
        self.unsettled_until.set(None);
        self.woken.notify_one();
    }

    /// Told whenever another carrier is in use or the better one, or one answers that did not, or no more.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// The carrier that the next flow goes to.
    pub(crate) fn current(&self) -> Option<Transport> {
        self.pick(None).map(|way| way.transport())
    }

    /// Whether any carrier answers.
    pub(crate) fn answers(&self) -> bool {
        let now = Instant::now();
        self.legs.borrow().iter().flatten().any(|leg| leg.answers(now))
    }

    /// Whether no carrier is connected.
    pub(crate) fn is_empty(&self) -> bool {
        self.legs.borrow().iter().all(Option::is_none)
    }

    /// Whether another carrier than this one is connected, and answers.
    pub(crate) fn answers_besides(&self, transport: Transport) -> bool {
        let other = 1 - place(transport);
        self.legs.borrow()[other].as_ref().is_some_and(|leg| leg.answers(Instant::now()))
    }

    /// For how long all carriers have been silent; `None` if one answers, or none is connected.
    pub(crate) fn silent_for(&self) -> Option<Duration> {
        let now = Instant::now();
        let legs = self.legs.borrow();
        let silences: Option<Vec<_>> = legs.iter().flatten().map(|leg| leg.path.silent_for(now)).collect();
        silences?.into_iter().min()
    }

    /// The carriers are of no more use: their edge is gone.
    pub(crate) fn give_up(&self) {
        for leg in self.legs.borrow().iter().flatten() {
            leg.way.cut();
            leg.given_up.cancel();
        }
    }

    /// The better one in this network, once that is known.
    pub(crate) fn verdict(&self) -> Option<Transport> {
        self.settled.get().then(|| self.preferred.get())
    }

    /// Looks at the carriers for as long as it is polled.
    pub(crate) async fn run(&self) -> std::convert::Infallible {
        loop {
            let active = self.look(Instant::now());
            let tick = match (self.train.get(), active) {
                (1.., _) => TRAIN_TICK,
                (0, true) => TICK,
                (0, false) => IDLE_TICK,
            };
            // Sooner, if a flow asks.
            let _ = timeout(tick, self.woken.notified()).await;
        }
    }

    /// One look. True if something goes on.
    fn look(&self, now: Instant) -> bool {
        let doubted = self.doubted_until.get().is_some_and(|until| now < until);
        let waiting = self.waiting.get() > 0 || doubted;
        let mut active = waiting;
        {
            let mut legs = self.legs.borrow_mut();
            for leg in legs.iter_mut().flatten() {
                if leg.path.look(leg.way.reading(), waiting, now) {
                    leg.way.ask();
                }
                active |= leg.path.is_active(now);
            }
            if let [Some(http2), Some(quic)] = &*legs {
                self.compare(http2, quic, now);
            }
            if let Some(quic) = legs[place(Transport::Quic)].as_ref().filter(|_| self.train.get() > 0) {
                quic.way.ask();
                self.train.set(self.train.get() - 1);
            }
        }
        self.tell(now);
        active
    }

    fn compare(&self, http2: &Leg, quic: &Leg, now: Instant) {
        for (leg, other, transport) in [(http2, quic, Transport::H2), (quic, http2, Transport::Quic)] {
            if leg.answers(now) || !other.answers(now) {
                continue;
            }
            if transport == Transport::H2 {
                self.unsettled_until.set(Some(now + UNSETTLED));
            }
            if leg.path.silent_for(now).is_some_and(|silence| silence >= GIVE_UP) {
                leg.way.cut();
                leg.given_up.cancel();
            }
        }
        if !http2.answers(now) || !quic.answers(now) {
            return;
        }
        let preferred = prefer(self.preferred.get(), &http2.path, &quic.path);
        if preferred != self.preferred.get() {
            tracing::info!(
                carrier = ?preferred, http2_loss = http2.path.loss(), quic_loss = quic.path.loss(),
                "new flows go to another carrier"
            );
        }
        let measured = self.train.get() == 0 && (http2.path.loss().or(quic.path.loss())).is_some();
        self.settled.set(self.settled.get() || measured || preferred != self.preferred.get());
        self.preferred.set(preferred);
    }

    fn tell(&self, now: Instant) {
        let answer = |leg: &Option<Leg>| leg.as_ref().is_some_and(|leg| leg.answers(now));
        let answers = {
            let legs = self.legs.borrow();
            [answer(&legs[0]), answer(&legs[1])]
        };
        let news = News { current: self.current(), answers, verdict: self.verdict() };
        if self.told.replace(news) != news {
            self.changed.send_replace(());
        }
    }

    /// The carrier for a flow, another one than `but` if there is one.
    fn pick(&self, but: Option<Transport>) -> Option<Way> {
        let now = Instant::now();
        let unsettled = self.unsettled_until.get().is_some_and(|until| now < until);
        let first = if unsettled { Transport::Quic } else { self.preferred.get() };
        let rank = |leg: &&Leg| {
            let transport = leg.way.transport();
            (Some(transport) == but, !leg.answers(now), transport != first)
        };
        let legs = self.legs.borrow();
        let leg = legs.iter().flatten().filter(|leg| !leg.way.is_lost()).min_by_key(rank)?;
        Some(leg.way.clone())
    }

    /// Waits until a carrier does not answer, or is gone, and another one does.
    async fn overtaken(&self, transport: Transport) {
        let mut changes = self.changes();
        loop {
            let now = Instant::now();
            let overtaken = {
                let legs = self.legs.borrow();
                let answers = |place: usize| legs[place].as_ref().is_some_and(|leg| leg.answers(now));
                let place = place(transport);
                !answers(place) && answers(1 - place)
            };
            if overtaken || changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn open_on<T>(&self, open: impl AsyncFn(Way) -> Result<T, OpenError>) -> Result<T, OpenError> {
        let _waiting = Waiting::new(self);
        let mut but = None;
        for _ in 0..MAX_TRIES {
            let way = self.pick(but).ok_or(OpenError::Lost)?;
            let transport = way.transport();
            let opened = tokio::select! {
                opened = open(way) => opened,
                () = self.overtaken(transport) => Err(OpenError::Lost),
            };
            match opened {
                Err(OpenError::Lost) => but = Some(transport),
                opened => return opened,
            }
        }
        Err(OpenError::Lost)
    }
}

/// A flow that waits for an answer.
struct Waiting<'a>(&'a Choice);

impl<'a> Waiting<'a> {
    fn new(choice: &'a Choice) -> Self {
        choice.waiting.set(choice.waiting.get() + 1);
        choice.woken.notify_one();
        Self(choice)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Carrier for Rc<Choice> {
    type Reader = <Way as Carrier>::Reader;
    type Writer = <Way as Carrier>::Writer;

    fn transport(&self) -> Transport {
        self.current().unwrap_or(self.preferred.get())
    }

    async fn open(&self, destination: SocketAddr) -> Result<Duplex<Self::Reader, Self::Writer>, OpenError> {
        self.open_on(async |way: Way| way.open(destination).await).await
    }

    async fn open_datagrams(
        &self,
        protocol: Protocol,
        destination: SocketAddr,
    ) -> Result<DatagramFlow<Self::Reader, Self::Writer>, OpenError> {
        self.open_on(async |way: Way| way.open_datagrams(protocol, destination).await).await
    }
}
