//! How often one source may begin a handshake, on both transports (tunnel protocol, 1.2 and section 10, point 8).
//!
//! A connector with a single address redials without a pause when a dial fails, ten thousand times a second. What always
//! holds: the table has one size whatever arrives, a look costs one atomic exchange, and a hundred connectors behind one
//! address come up without noticing. Two sources may share a bucket by chance, which no one can choose.

use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Handshakes that a source may begin at once: a hundred connectors of four connections.
const BURST: u64 = 400;
/// Time for which a source earns one more: 50 a second.
const EARN: Duration = Duration::from_millis(20);
/// Buckets, 8 bytes each.
const BUCKETS: usize = 1 << 14;

/// A bucket for each source.
#[derive(Debug)]
pub(crate) struct Handshakes {
    began: Instant,
    seed: RandomState,
    /// By source: microseconds after `began` at which the bucket will be full again.
    full_at: Box<[AtomicU64]>,
}

impl Default for Handshakes {
    fn default() -> Self {
        let full_at = std::iter::repeat_with(AtomicU64::default).take(BUCKETS).collect();
        Self { began: Instant::now(), seed: RandomState::new(), full_at }
    }
}

impl Handshakes {
    /// Whether `source` may begin one more handshake at `now`; if so, it counts.
    pub(crate) fn admit(&self, source: IpAddr, now: Instant) -> bool {
        let earn = micros(EARN);
        let now = micros(now.saturating_duration_since(self.began));
        let taken = self.bucket(source).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
            let next = full_at.max(now) + earn;
            (next - now <= BURST * earn).then_some(next)
        });
        taken.is_ok()
    }

    fn bucket(&self, source: IpAddr) -> &AtomicU64 {
        let hash = match source.to_canonical() {
            IpAddr::V4(v4) => self.seed.hash_one(v4),
            // A host has a whole /64 to itself.
            IpAddr::V6(v6) => self.seed.hash_one(&v6.octets()[..8]),
        };
        let index = usize::try_from(hash % BUCKETS as u64).unwrap_or(0);
        &self.full_at[index]
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_that_never_pauses_gets_its_burst_and_then_what_it_earns() {
        let handshakes = Handshakes::default();
        let source = "192.0.2.1".parse().unwrap();
        let mut now = handshakes.began;
        let mut admitted = 0;
        for _ in 0..40_000 {
            admitted += u64::from(handshakes.admit(source, now));
            now += Duration::from_micros(100);
        }
        // The last is earned at the end of the four seconds.
        assert_eq!(admitted, BURST + 4 * 50 - 1);
        now += EARN * 400;
        assert!((0..BURST).all(|_| handshakes.admit(source, now)), "a pause fills the bucket");
    }

    #[test]
    fn sources_do_not_hinder_each_other_and_a_host_cannot_change_its_bucket() {
        let handshakes = Handshakes::default();
        let now = handshakes.began;
        let flood = (0..=u16::MAX).map(|low| format!("2001:db8::{low:x}").parse().unwrap());
        assert_eq!(flood.filter(|source| handshakes.admit(*source, now)).count() as u64, BURST);
        let others = (0..100).map(|number| format!("192.0.2.{number}").parse().unwrap());
        assert!(others.filter(|source| handshakes.admit(*source, now)).count() >= 99);
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert!(std::ptr::eq(handshakes.bucket(mapped), handshakes.bucket("192.0.2.1".parse().unwrap())));
    }
}
