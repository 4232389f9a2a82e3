//! Hosts whose clients refused our certificate lately: it may be that they accept one alone, which they know (Gateway semantics,
//! 3.2). None of them passes by itself; that there are some is told, so that somebody makes `off` rules.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use adit_model::{AccountId, FirstBytes, FlowFacts};

/// The hosts, and when their clients did so last.
#[derive(Debug, Default)]
pub(crate) struct Pinned(Mutex<HashMap<(AccountId, String), Instant>>);

/// For how long a host is counted, and how many are.
const REMEMBERED: Duration = Duration::from_hours(24);
const MAX_REMEMBERED: usize = 4096;

impl Pinned {
    /// Notes that a client did.
    pub(super) fn note(&self, flow: &FlowFacts, first: &FirstBytes) {
        let host = first.server_name.clone();
        let host = host.unwrap_or_else(|| flow.destination.ip().to_canonical().to_string());
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if hosts.len() >= MAX_REMEMBERED {
            hosts.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if hosts.len() < MAX_REMEMBERED {
            hosts.insert((flow.account, host), Instant::now());
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.values().filter(|at| at.elapsed() < REMEMBERED).count()
    }
}
