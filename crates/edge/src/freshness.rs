//! How long ago it was known that the snapshot is what the control plane wants: fail static, within a bound (design, section 3).
//!
//! Whoever reads the change log says each time that it has read it to its end ([`Freshness::confirm`]) or could not
//! ([`Freshness::fail`]). What holds: an edge decides by its last snapshot until that is older than the limit, and from then on
//! lets no new flow through until the log is read again; `/ready` and the metrics tell age and limit at all times. Time is the
//! monotonic clock's, so that setting the other one makes no snapshot old or young.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;

/// For how long an installation decides by a snapshot that nobody confirms, unless it says otherwise (design, section 3).
pub const DEFAULT_MAX_STALENESS: Duration = Duration::from_hours(24);

/// The age of what an edge decides by.
#[derive(Debug)]
pub struct Freshness {
    /// Times are counted from here.
    base: Instant,
    /// How old the state was then.
    age_at_base: Duration,
    /// When it was last confirmed, in milliseconds from `base`, and one more; 0: not yet.
    confirmed: AtomicU64,
    /// The last try to read the change log failed.
    failing: AtomicBool,
    limit: Duration,
}

impl Freshness {
    /// Of a state that has this age now.
    pub fn new(limit: Duration, age: Duration) -> Self {
        Self {
            base: Instant::now(),
            age_at_base: age,
            confirmed: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            limit,
        }
    }

    /// The change log has been read to its end.
    pub fn confirm(&self) {
        let millis = u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.confirmed.store(millis + 1, Ordering::Relaxed);
        self.failing.store(false, Ordering::Relaxed);
    }

    /// The change log could not be read.
    pub fn fail(&self) {
        self.failing.store(true, Ordering::Relaxed);
    }

    /// Whether the last try to read the change log succeeded.
    pub fn is_reached(&self) -> bool {
        !self.failing.load(Ordering::Relaxed)
    }

    /// For how long nobody knows whether the state is the latest.
    pub fn age(&self) -> Duration {
        let elapsed = self.base.elapsed();
        match self.confirmed.load(Ordering::Relaxed).checked_sub(1) {
            Some(confirmed) => elapsed.saturating_sub(Duration::from_millis(confirmed)),
            None => elapsed.saturating_add(self.age_at_base),
        }
    }

    /// The age from which on no new flow is let through.
    pub const fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether the state is too old to let a flow through.
    pub fn is_stale(&self) -> bool {
        self.age() > self.limit
    }
}

impl Default for Freshness {
    /// Of a new state, with the usual limit.
    fn default() -> Self {
        Self::new(DEFAULT_MAX_STALENESS, Duration::ZERO)
    }
}

/// Shows it when metrics are asked for: an age grows without anybody doing something.
#[derive(Debug)]
pub(crate) struct Shown(pub(crate) Arc<Freshness>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut show = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            let encoder = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(encoder)
        };
        show(
            "adit_edge_snapshot_age_seconds",
            "Time since the change log was last read to its end",
            self.0.age().as_secs_f64(),
        )?;
        show(
            "adit_edge_snapshot_age_limit_seconds",
            "Age of the snapshot from which on no new flow is let through",
            self.0.limit().as_secs_f64(),
        )?;
        show(
            "adit_edge_change_log_reached",
            "1 if the last try to read the change log succeeded, else 0",
            f64::from(u8::from(self.0.is_reached())),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_nobody_confirms_becomes_stale_and_one_that_is_confirmed_is_fresh_again() {
        let freshness = Freshness::new(Duration::from_hours(1), Duration::from_hours(2));
        assert!(freshness.is_stale() && freshness.is_reached());
        freshness.fail();
        assert!(freshness.is_stale() && !freshness.is_reached());
        freshness.confirm();
        assert!(!freshness.is_stale() && freshness.is_reached());
        assert!(freshness.age() < Duration::from_hours(1));
        freshness.fail();
        assert!(!freshness.is_stale(), "a failure alone makes nothing old");
    }

    #[test]
    fn without_a_confirmation_the_age_goes_on_from_what_it_was() {
        let freshness = Freshness::new(DEFAULT_MAX_STALENESS, Duration::from_mins(5));
        assert!(freshness.age() >= Duration::from_mins(5) && !freshness.is_stale());
    }
}
