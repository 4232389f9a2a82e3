//! Which transport a connection uses (contract, 1.4, done quicker).
//!
//! QUIC is better and HTTP/2 passes where UDP does not. With `auto`, a connection dials QUIC first and HTTP/2 when QUIC
//! gets no answer for a few seconds; what one connection learns, the others go by. While connections are on HTTP/2 for
//! that reason, QUIC is tried again and again, by one of them at a time, and the first that gets through moves all of them
//! back. What always holds: the tries grow rarer down to one a minute, and moving loses no flow. An explicit `quic` or
//! `http2` never changes; `both` gives every second connection HTTP/2 and the others `auto`, so that a connector holds both
//! kinds at once and loses none of its flows' alternatives when a network begins to drop UDP.
//!
//! There is no I/O and no clock here.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// A kind of connection to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// QUIC on UDP.
    Quic,
    /// HTTP/2 in TLS on TCP.
    Http2,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Quic => "quic",
            Self::Http2 => "http2",
        })
    }
}

/// What was asked for with `protocol`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Transports {
    /// QUIC, and HTTP/2 while UDP does not pass.
    #[default]
    Auto,
    /// QUIC only.
    Quic,
    /// HTTP/2 only.
    Http2,
    /// Every second connection HTTP/2, the others as with `Auto`.
    Both,
}

/// What `protocol` may say.
pub(crate) const CHOICES: &str = "auto, quic, http2 or both";

impl std::str::FromStr for Transports {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "auto" => Ok(Self::Auto),
            "quic" => Ok(Self::Quic),
            // The name of the transport before HTTP/2, which newer connectors take for HTTP/2 (contract, 1.4).
            "http2" | "h2mux" => Ok(Self::Http2),
            "both" => Ok(Self::Both),
            _ => Err(()),
        }
    }
}

impl Transports {
    /// The kinds that connection `index` dials, in order, when UDP passes as far as is known.
    fn kinds(self, index: u8) -> &'static [Kind] {
        match self {
            Self::Both if index % 2 == 1 => &[Kind::Http2],
            Self::Auto | Self::Both => &[Kind::Quic, Kind::Http2],
            Self::Quic => &[Kind::Quic],
            Self::Http2 => &[Kind::Http2],
        }
    }
}

/// What the connections of a connector have learned.
#[derive(Debug)]
pub(crate) struct Selection {
    transports: Transports,
    state: watch::Sender<Udp>,
    tries: Mutex<Tries>,
    /// Held by the connection that tries QUIC, until it is registered there.
    turn: tokio::sync::Mutex<()>,
}

/// Whether UDP reaches the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Udp {
    /// As far as is known.
    Passes,
    /// An edge that answers on TCP did not on UDP.
    Blocked,
}

#[derive(Debug, Clone, Copy)]
struct Tries {
    last: Option<Instant>,
    pause: Duration,
}

impl Selection {
    pub(crate) fn new(transports: Transports) -> Self {
        Self {
            transports,
            state: watch::Sender::new(Udp::Passes),
            tries: Mutex::new(Tries { last: None, pause: FIRST_PAUSE }),
            turn: tokio::sync::Mutex::new(()),
        }
    }

    /// What connection `index` is to dial, in order.
    pub(crate) fn kinds(&self, index: u8) -> &'static [Kind] {
        match (self.transports.kinds(index), *self.state.borrow()) {
            ([Kind::Quic, Kind::Http2], Udp::Blocked) => &[Kind::Http2, Kind::Quic],
            (kinds, _) => kinds,
        }
    }

    /// Whether connection `index`, which is on HTTP/2, is to go back to QUIC.
    pub(crate) fn prefers_quic(&self, index: u8) -> bool {
        self.transports.kinds(index).first() == Some(&Kind::Quic)
    }

    /// QUIC got no answer at `now`, where HTTP/2 got one.
    pub(crate) fn blocked(&self, now: Instant) {
        let mut tries = self.tries();
        let changed =
            self.state.send_if_modified(|state| std::mem::replace(state, Udp::Blocked) != Udp::Blocked);
        if changed {
            *tries = Tries { last: Some(now), pause: FIRST_PAUSE };
        }
    }

    /// QUIC got an answer.
    pub(crate) fn passes(&self) {
        self.state.send_if_modified(|state| std::mem::replace(state, Udp::Passes) != Udp::Passes);
    }

    pub(crate) fn udp(&self) -> Udp {
        *self.state.borrow()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<Udp> {
        self.state.subscribe()
    }

    /// How long until QUIC may be tried again.
    pub(crate) fn wait(&self, now: Instant) -> Duration {
        let tries = self.tries();
        tries.last.map_or(Duration::ZERO, |last| (last + tries.pause).saturating_duration_since(now))
    }

    /// Counts a try of QUIC: the next one comes later.
    pub(crate) fn count(&self, now: Instant) {
        let mut tries = self.tries();
        *tries = Tries { last: Some(now), pause: (tries.pause * 2).min(LONGEST_PAUSE) };
    }

    /// Waits for the turn to try QUIC.
    pub(crate) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    fn tries(&self) -> std::sync::MutexGuard<'_, Tries> {
        // Replaced whole: there is no half-made state to fear.
        self.tries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// After UDP was found blocked, QUIC is tried again after this.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
/// And at last every so often.
const LONGEST_PAUSE: Duration = Duration::from_mins(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_choice_has_its_kinds() {
        use Kind::{Http2, Quic};
        for (text, index, expected, blocked) in [
            ("auto", 0, &[Quic, Http2][..], &[Http2, Quic][..]),
            ("auto", 3, &[Quic, Http2], &[Http2, Quic]),
            ("quic", 0, &[Quic], &[Quic]),
            ("http2", 0, &[Http2], &[Http2]),
            ("h2mux", 1, &[Http2], &[Http2]),
            ("both", 0, &[Quic, Http2], &[Http2, Quic]),
            ("both", 1, &[Http2], &[Http2]),
            ("both", 2, &[Quic, Http2], &[Http2, Quic]),
        ] {
            let selection = Selection::new(text.parse().unwrap());
            assert_eq!(selection.kinds(index), expected, "{text} {index}");
            selection.blocked(Instant::now());
            assert_eq!(selection.kinds(index), blocked, "{text} {index}, blocked");
            selection.passes();
            assert_eq!(selection.kinds(index), expected, "{text} {index}, again");
        }
        assert_eq!("smoke".parse::<Transports>(), Err(()));
    }

    #[test]
    fn only_what_would_rather_be_on_quic_goes_back() {
        assert!(Selection::new(Transports::Auto).prefers_quic(1));
        assert!(!Selection::new(Transports::Http2).prefers_quic(0));
        assert!(Selection::new(Transports::Both).prefers_quic(2));
        assert!(!Selection::new(Transports::Both).prefers_quic(1));
    }

    #[test]
    fn tries_grow_rarer_down_to_one_a_minute() {
        let selection = Selection::new(Transports::Auto);
        let mut now = Instant::now();
        selection.blocked(now);
        let mut waits = Vec::new();
        for _ in 0..6 {
            let wait = selection.wait(now);
            waits.push(wait.as_secs());
            now += wait;
            assert_eq!(selection.wait(now), Duration::ZERO);
            selection.count(now);
            // What is known already changes nothing.
            selection.blocked(now);
        }
        assert_eq!(waits, [5, 10, 20, 40, 60, 60]);
        selection.passes();
        selection.blocked(now);
        assert_eq!(selection.wait(now), FIRST_PAUSE, "blocked anew");
    }
}
