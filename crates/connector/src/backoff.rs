//! How long to wait before a connection is tried again (contract, 2.7).
//!
//! As in cloudflared the limit doubles with every failure and the wait is drawn anew below it, so that connectors which
//! lost the same edge do not come back in one moment. Two things differ. A wait is never shorter than [`SHORTEST`], so
//! that no edge and no mistake makes this a busy loop. And while a connection that was registered is being recovered,
//! the limit stays at [`RECOVERY_LIMIT`] for [`RECOVERY`]: an edge that restarts has its connectors back in seconds.

use std::time::{Duration, Instant};

/// The state of one connection's retries. It has neither clock nor dice.
#[derive(Debug)]
pub(crate) struct Backoff {
    /// Failures beyond which the limit grows no more.
    most: u32,
    failures: u32,
    recovering_since: Option<Instant>,
}

/// Shortest wait.
pub(crate) const SHORTEST: Duration = Duration::from_millis(100);
/// The limit before the first retry.
const BASE: Duration = Duration::from_secs(1);
/// For how long after a registered connection was lost it is called for eagerly.
const RECOVERY: Duration = Duration::from_mins(1);
/// The limit while it is.
const RECOVERY_LIMIT: Duration = Duration::from_secs(2);

impl Backoff {
    pub(crate) fn new(most: u32) -> Self {
        Self { most, failures: 0, recovering_since: None }
    }

    /// Failed attempts since the last registration.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// A registered connection was lost at this time: count anew.
    pub(crate) fn lost(&mut self, now: Instant) {
        self.failures = 0;
        self.recovering_since = Some(now);
    }

    /// Whether a registered connection was lost a short while ago.
    pub(crate) fn is_recovering(&self, now: Instant) -> bool {
        self.recovering_since.is_some_and(|since| now.saturating_duration_since(since) < RECOVERY)
    }

    /// Counts a failure; gives the limit of the wait after it, and the wait that `random` draws.
    pub(crate) fn next(&mut self, now: Instant, random: u64) -> (Duration, Duration) {
        let doubled = BASE.saturating_mul(1 << self.failures.min(self.most).min(31));
        let limit = if self.is_recovering(now) { doubled.min(RECOVERY_LIMIT) } else { doubled };
        self.failures = self.failures.saturating_add(1);
        let span =
            u64::try_from(limit.saturating_sub(SHORTEST).as_millis()).unwrap_or(u64::MAX).saturating_add(1);
        (limit, SHORTEST + Duration::from_millis(random % span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(backoff: &mut Backoff, now: Instant, count: usize) -> Vec<u64> {
        (0..count).map(|_| backoff.next(now, 0).0.as_secs()).collect()
    }

    #[test]
    fn the_limit_doubles_up_to_the_number_of_retries() {
        let mut backoff = Backoff::new(5);
        assert_eq!(limits(&mut backoff, Instant::now(), 8), [1, 2, 4, 8, 16, 32, 32, 32]);
    }

    #[test]
    fn a_lost_connection_is_called_for_eagerly_for_a_minute() {
        let now = Instant::now();
        let mut backoff = Backoff::new(5);
        backoff.lost(now);
        assert_eq!(limits(&mut backoff, now, 4), [1, 2, 2, 2]);
        assert_eq!(limits(&mut backoff, now + RECOVERY, 2), [16, 32]);
        backoff.lost(now + RECOVERY);
        assert_eq!(limits(&mut backoff, now + RECOVERY, 2), [1, 2]);
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_limit_and_never_none(most in 0u32..20, randoms: Vec<u64>, lost: bool) {
            let now = Instant::now();
            let mut backoff = Backoff::new(most);
            if lost {
                backoff.lost(now);
            }
            for random in randoms {
                let (limit, wait) = backoff.next(now, random);
                prop_assert!(SHORTEST <= wait && wait <= limit, "{wait:?} of {limit:?}");
            }
        }
    }
}
