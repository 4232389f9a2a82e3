//! TLS that turned out to carry something else than HTTP when it was open, and passes unopened the next time, where the
//! account wants that (Gateway semantics, 3.2: `x_non_http_tls`).
//!
//! What holds: it passes for the device that showed it, to the same name and port, and only while its hello offers no
//! protocol, as that of a browser does: what one program sends is no way round the rules for others.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use adit_model::{DeviceId, FirstBytes, FlowFacts};

/// Who spoke something else, and where.
#[derive(Debug, Default)]
pub(crate) struct NotHttp(Mutex<HashMap<Place, Instant>>);

type Place = (DeviceId, String, u16);

impl NotHttp {
    /// Notes that a flow's TLS carried something else.
    pub(super) fn note(&self, flow: &FlowFacts, first: &FirstBytes) {
        let Some(place) = place(flow, first) else { return };
        let mut known = self.lock();
        if known.len() >= MAX_REMEMBERED {
            known.retain(|_, at| at.elapsed() < REMEMBERED);
        }
        if known.len() < MAX_REMEMBERED {
            known.insert(place, Instant::now());
        }
    }

    /// Whether this flow's TLS is known to carry something else.
    pub(super) fn knows(&self, flow: &FlowFacts, first: &FirstBytes) -> bool {
        let known = self.lock();
        place(flow, first).is_some_and(|place| known.get(&place).is_some_and(|at| at.elapsed() < REMEMBERED))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(flow: &FlowFacts, first: &FirstBytes) -> Option<Place> {
    let name = first.server_name.clone();
    let name = name.unwrap_or_else(|| flow.destination.ip().to_canonical().to_string());
    first.application_protocols.is_empty().then(|| (flow.device, name, flow.destination.port()))
}

/// For how long it is remembered, and of how many.
const REMEMBERED: Duration = Duration::from_mins(10);
const MAX_REMEMBERED: usize = 1024;
