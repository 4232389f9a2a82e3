//! What is known of the way to the edge by one carrier: whether it answers, how much it loses, how long a round trip takes.
//!
//! [`Path`] is told at every look what the carrier has counted, and says when the edge has to be asked for a sign of life;
//! [`prefer`] compares two of them. Neither knows a clock or a socket.
//!
//! A carrier is silent when the edge has not answered a question for [`ANSWER_DEADLINE`]. Whatever it acknowledges counts, so
//! that an answer that waits behind much data does not make it so; what merely comes from it does not count, since a way may
//! be closed in one direction. Questions are asked while something is going on, and seldom else.

use std::time::{Duration, Instant};

use crate::status::Transport;

/// After so long without a sign of life the edge is asked for one, while something is going on...
const ASK_AFTER: Duration = Duration::from_millis(300);
/// ...and else, for which any NAT keeps its state.
const ASK_IDLE_AFTER: Duration = Duration::from_secs(10);
/// How long the edge may take to answer: several tries of a transport on a long path with some loss.
const ANSWER_DEADLINE: Duration = Duration::from_secs(1);
/// For so long after something moved, something is going on.
const ACTIVE_FOR: Duration = Duration::from_secs(2);
/// Packets on which loss is counted; of older ones, half.
const LOSS_WINDOW: u64 = 2000;
/// Fewer packets than this say nothing of loss.
const MIN_PACKETS: u64 = 50;
/// Fewer lost packets than this may be an accident.
const MIN_LOST: u64 = 2;
/// From so much loss on, TCP with its one order of bytes stalls all flows too often.
const LOSSY: f64 = 0.01;
/// Below this a path is clean again.
const CLEAN: f64 = 0.003;
/// A TCP whose round trip is twice QUIC's, and so much more, goes through something that delays it.
const DETOUR: Duration = Duration::from_millis(20);

/// What a carrier has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Time since the edge acknowledged something last.
    pub(crate) silent_for: Duration,
    /// Packets sent, and those that were lost, since the carrier began.
    pub(crate) sent: u64,
    pub(crate) lost: u64,
    /// Shortest round trip; zero if none is known.
    pub(crate) round_trip: Duration,
    /// Grows when flows move anything.
    pub(crate) moved: u64,
}

/// A carrier as [`Path`] needs it.
pub(crate) trait Measured {
    /// What it has counted up to now.
    fn reading(&self) -> Reading;

    /// Sends something that the edge has to answer.
    fn ask(&self);

    /// Whether it is of no more use.
    fn is_lost(&self) -> bool;

    /// Ends it at once, with all its flows.
    fn cut(&self);
}

/// What is known of the way of one carrier.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    asked: Option<Instant>,
    silent_since: Option<Instant>,
    active_until: Instant,
    sent: u64,
    lost: u64,
    last: Reading,
}

impl Path {
    /// A way that has just been found.
    pub(crate) fn new(reading: Reading, now: Instant) -> Self {
        Self {
            asked: None,
            silent_since: None,
            active_until: now,
            sent: reading.sent,
            lost: reading.lost,
            last: reading,
        }
    }

    /// Takes a reading; `waiting` tells that flows wait for the edge's answer. True if the edge is to be asked.
    pub(crate) fn look(&mut self, reading: Reading, waiting: bool, now: Instant) -> bool {
        self.count(reading);
        if waiting || reading.moved != self.last.moved {
            self.active_until = now + ACTIVE_FOR;
        }
        self.last = reading;
        let heard_since = |asked: Instant| now.saturating_duration_since(asked) > reading.silent_for;
        match self.asked {
            Some(asked) if heard_since(asked) => {
                self.asked = None;
                self.silent_since = None;
                false
            }
            Some(asked) => {
                if now.saturating_duration_since(asked) >= ANSWER_DEADLINE {
                    self.silent_since.get_or_insert(now);
                }
                false
            }
            None => {
                let after = if self.is_active(now) { ASK_AFTER } else { ASK_IDLE_AFTER };
                let asks = reading.silent_for >= after;
                if asks {
                    self.asked = Some(now);
                }
                asks
            }
        }
    }

    fn count(&mut self, reading: Reading) {
        // A carrier that lost one of its connections has counted less.
        self.sent += reading.sent.saturating_sub(self.last.sent);
        self.lost += reading.lost.saturating_sub(self.last.lost);
        if self.sent > LOSS_WINDOW {
            self.sent /= 2;
            self.lost /= 2;
        }
    }

    /// Whether something goes on, so that it is worth to look often.
    pub(crate) fn is_active(&self, now: Instant) -> bool {
        now < self.active_until || self.asked.is_some()
    }

    /// For how long the edge has been silent although it was asked; `None` while it answers.
    pub(crate) fn silent_for(&self, now: Instant) -> Option<Duration> {
        self.silent_since.map(|since| now.saturating_duration_since(since))
    }

    /// The part of packets that was lost, if that is known.
    pub(crate) fn loss(&self) -> Option<f64> {
        #[expect(clippy::cast_precision_loss, reason = "at most a few thousand packets")]
        let loss = |lost: u64, sent: u64| lost as f64 / sent as f64;
        match (self.lost, self.sent) {
            (_, ..MIN_PACKETS) => None,
            (..MIN_LOST, _) => Some(0.0),
            (lost, sent) => Some(loss(lost, sent)),
        }
    }

    fn round_trip(&self) -> Option<Duration> {
        Some(self.last.round_trip).filter(|round_trip| !round_trip.is_zero())
    }
}

/// The better one of two carriers that both work.
///
/// HTTP/2 is two to three times as fast for each core on a clean path; QUIC holds one flow's loss back from the others, and
/// keeps its flows when the device's address changes.
pub(crate) fn prefer(current: Transport, http2: &Path, quic: &Path) -> Transport {
    let loss = http2.loss().into_iter().chain(quic.loss()).reduce(f64::max);
    if loss.is_some_and(|loss| loss >= LOSSY) {
        return Transport::Quic;
    }
    if let (Some(tcp), Some(udp)) = (http2.round_trip(), quic.round_trip())
        && tcp > 2 * udp + DETOUR
    {
        return Transport::Quic;
    }
    match loss {
        Some(loss) if loss < CLEAN => Transport::H2,
        Some(_) | None => current,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(100);

    fn reading(silent_for: Duration, sent: u64, lost: u64) -> Reading {
        Reading { silent_for, sent, lost, round_trip: Duration::from_millis(20), moved: 0 }
    }

    fn counted(sent: u64, lost: u64) -> Path {
        let now = Instant::now();
        let mut path = Path::new(reading(Duration::ZERO, 0, 0), now);
        path.look(reading(Duration::ZERO, sent, lost), false, now);
        path
    }

    #[test]
    fn a_way_that_does_not_answer_is_silent_within_a_second_and_a_half() {
        let start = Instant::now();
        let mut path = Path::new(Reading::default(), start);
        let mut asked = 0;
        let mut silent = None;
        for tick in 1..30 {
            let elapsed = TICK * tick;
            asked += u32::from(path.look(reading(elapsed, 0, 0), true, start + elapsed));
            if silent.is_none() && path.silent_for(start + elapsed).is_some() {
                silent = Some(elapsed);
            }
        }
        assert_eq!((asked, silent), (1, Some(Duration::from_millis(1300))));
        // It comes back.
        path.look(reading(TICK, 0, 0), true, start + TICK * 31);
        assert_eq!(path.silent_for(start + TICK * 31), None);
    }

    #[test]
    fn a_way_that_answers_slowly_but_lives_is_not_silent() {
        let start = Instant::now();
        let mut path = Path::new(Reading::default(), start);
        for tick in 1..100_u32 {
            // Something comes every half second.
            let silent_for = TICK * (tick % 5);
            path.look(reading(silent_for, 0, 0), true, start + TICK * tick);
            assert_eq!(path.silent_for(start + TICK * tick), None, "tick {tick}");
        }
    }

    #[test]
    fn an_idle_way_is_asked_seldom() {
        let start = Instant::now();
        let mut path = Path::new(Reading::default(), start);
        let asked = (1..100_u32)
            .filter(|tick| path.look(reading(TICK * *tick, 0, 0), false, start + TICK * *tick))
            .count();
        assert_eq!(asked, 0);
        assert!(path.look(reading(ASK_IDLE_AFTER, 0, 0), false, start + ASK_IDLE_AFTER));
    }

    #[test]
    fn loss_is_known_after_enough_packets_and_forgotten_in_time() {
        assert_eq!(counted(40, 5).loss(), None);
        assert_eq!(counted(100, 1).loss(), Some(0.0));
        assert_eq!(counted(100, 5).loss(), Some(0.05));
        let mut path = counted(100, 20);
        for n in 1..20 {
            path.look(reading(Duration::ZERO, 100 + n * 1000, 20), false, Instant::now());
        }
        assert_eq!(path.loss(), Some(0.0));
    }

    #[test]
    fn a_lossy_way_prefers_quic_and_a_clean_one_http2() {
        #[track_caller]
        fn check(current: Transport, http2: &Path, quic: &Path, expected: Transport) {
            assert_eq!(prefer(current, http2, quic), expected);
        }
        let (h2, quic) = (Transport::H2, Transport::Quic);
        check(h2, &counted(1000, 0), &counted(100, 5), quic);
        check(h2, &counted(1000, 50), &counted(0, 0), quic);
        check(quic, &counted(1000, 0), &counted(100, 1), h2);
        // Between the two it stays as it is.
        check(quic, &counted(0, 0), &counted(1000, 6), quic);
        check(h2, &counted(0, 0), &counted(1000, 6), h2);
        check(quic, &counted(0, 0), &counted(0, 0), quic);
        // A way that delays TCP.
        let mut slow = counted(1000, 0);
        slow.last.round_trip = Duration::from_millis(100);
        check(h2, &slow, &counted(100, 0), quic);
    }
}
