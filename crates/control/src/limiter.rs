//! Counting requests: refused credentials by address, and all requests by token.
//!
//! Refusals are answered 429 past a limit, so that guessing costs the guesser more than us. A good credential passes all
//! the same: keys of 240 bits are not guessed, and who shares an address with a broken client must not be locked out.
//! Loopback is the operator's own machine and has no limits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use adit_model::TokenId;

/// How many refused credentials an address may send in a [`FAILURE_WINDOW`].
const MAX_FAILURES: u32 = 30;
const FAILURE_WINDOW: Duration = Duration::from_mins(1);
/// How many requests a token may send in a [`REQUEST_WINDOW`] (contract D, 4).
pub(crate) const MAX_REQUESTS: u32 = 1200;
pub(crate) const REQUEST_WINDOW: Duration = Duration::from_mins(5);
/// How many addresses or tokens are counted at once. Past it, those whose window has ended are dropped, then all.
const MAX_COUNTED: usize = 8192;

/// Events in windows of time, by key.
#[derive(Debug)]
struct Windows<K> {
    length: Duration,
    counts: HashMap<K, (Instant, u32)>,
}

impl<K: std::hash::Hash + Eq> Windows<K> {
    fn new(length: Duration) -> Self {
        Self { length, counts: HashMap::new() }
    }

    /// Counts one event: how many there were in its window, and how long until the window ends.
    fn count(&mut self, key: K, now: Instant) -> (u32, Duration) {
        if self.counts.len() >= MAX_COUNTED && !self.counts.contains_key(&key) {
            self.counts.retain(|_, (began, _)| now.duration_since(*began) < self.length);
            if self.counts.len() >= MAX_COUNTED {
                self.counts.clear();
            }
        }
        let (began, count) = self.counts.entry(key).or_insert((now, 0));
        if now.duration_since(*began) >= self.length {
            (*began, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        (*count, self.length.saturating_sub(now.duration_since(*began)))
    }
}

/// Refused credentials by address; IPv6 by its /64, which one holder usually has.
#[derive(Debug)]
pub(crate) struct FailureLimiter(Windows<IpAddr>);

impl Default for FailureLimiter {
    fn default() -> Self {
        Self(Windows::new(FAILURE_WINDOW))
    }
}

impl FailureLimiter {
    /// Counts a refusal. `Err` with the time to wait if there were too many.
    pub(crate) fn refuse(&mut self, address: Option<IpAddr>, now: Instant) -> Result<(), Duration> {
        let Some(address) = address.map(|address| address.to_canonical()) else { return Ok(()) };
        if address.is_loopback() {
            return Ok(());
        }
        let key = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() & !u128::from(u64::MAX)).into()),
        };
        let (count, wait) = self.0.count(key, now);
        if count > MAX_FAILURES { Err(wait) } else { Ok(()) }
    }
}

/// Requests by token.
#[derive(Debug)]
pub(crate) struct RequestCounter(Windows<TokenId>);

/// What a token has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// How many requests; `None` if this one was one too many.
    pub(crate) remaining: Option<u32>,
    /// How many seconds until all are there again.
    pub(crate) reset_seconds: u64,
}

impl Default for RequestCounter {
    fn default() -> Self {
        Self(Windows::new(REQUEST_WINDOW))
    }
}

impl RequestCounter {
    /// Counts a request.
    pub(crate) fn take(&mut self, token: TokenId, now: Instant) -> Allowance {
        let (count, wait) = self.0.count(token, now);
        Allowance { remaining: MAX_REQUESTS.checked_sub(count), reset_seconds: wait.as_secs().max(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_until_its_window_ends() {
        let (mut limiter, begin) = (FailureLimiter::default(), Instant::now());
        let address = |text: &str| Some(text.parse().unwrap());
        for _ in 0..MAX_FAILURES {
            assert!(limiter.refuse(address("192.0.2.1"), begin).is_ok());
        }
        assert_eq!(limiter.refuse(address("192.0.2.1"), begin), Err(FAILURE_WINDOW));
        assert!(limiter.refuse(address("::ffff:192.0.2.1"), begin).is_err(), "the same in IPv6 spelling");
        assert!(limiter.refuse(address("192.0.2.2"), begin).is_ok());
        assert!(limiter.refuse(address("192.0.2.1"), begin + FAILURE_WINDOW).is_ok());
        for _ in 0..2 * MAX_FAILURES {
            assert!(limiter.refuse(address("127.0.0.1"), begin).is_ok());
        }
    }

    #[test]
    fn many_addresses_take_a_bounded_space() {
        let (mut limiter, begin) = (FailureLimiter::default(), Instant::now());
        for bits in 0..u32::try_from(3 * MAX_COUNTED).unwrap() {
            let _counted = limiter.refuse(Some(IpAddr::V4((0x0a00_0000 + bits).into())), begin);
        }
        assert!(limiter.0.counts.len() <= MAX_COUNTED);
    }
}
