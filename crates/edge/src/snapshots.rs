//! The current snapshot, and those who wait for the next one.

use std::sync::{Arc, Mutex, PoisonError};

use adit_model::ChangeBatch;
use adit_policy::{Snapshot, State};
use arc_swap::ArcSwap;
use tokio::sync::{mpsc, watch};

use crate::Shared;

/// The snapshot behind an atomic pointer, and the state it was compiled from.
#[derive(Debug)]
pub(crate) struct Snapshots {
    current: ArcSwap<Snapshot>,
    state: Mutex<State>,
    number: watch::Sender<u64>,
}

impl Snapshots {
    pub(crate) fn new(first: ChangeBatch) -> Self {
        let mut state = State::default();
        state.apply(first);
        let snapshot = state.snapshot();
        let number = watch::Sender::new(snapshot.number());
        Self { current: ArcSwap::new(snapshot), state: Mutex::new(state), number }
    }

    /// What to decide by, now.
    pub(crate) fn current(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The number of the current snapshot, for those who wait for a change.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// All that was applied, as one batch.
    pub(crate) fn to_batch(&self) -> ChangeBatch {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).to_batch()
    }

    fn apply(&self, batches: Vec<ChangeBatch>) -> Arc<Snapshot> {
        let snapshot = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            for batch in batches {
                state.apply(batch);
            }
            state.snapshot()
        };
        self.current.store(Arc::clone(&snapshot));
        self.number.send_replace(snapshot.number());
        snapshot
    }
}

/// Applies changes as they come, several at once when they come fast, and cuts what they no longer permit.
pub(crate) async fn follow(shared: Arc<Shared>, mut changes: mpsc::Receiver<ChangeBatch>) {
    let mut batches = Vec::new();
    loop {
        tokio::select! {
            received = changes.recv_many(&mut batches, MAX_BATCHES) => if received == 0 { break },
            () = shared.stopping.cancelled() => return,
        }
        let snapshot = shared.snapshots.apply(std::mem::take(&mut batches));
        shared.metrics.snapshot(snapshot.number());
        shared.sessions.cut_revoked(&snapshot);
        shared.connections.close_removed(&snapshot);
        shared.hostnames.cut_removed(&snapshot);
        tracing::debug!(number = snapshot.number(), "snapshot");
    }
    // Fail static (design, section 3): what is known goes on deciding.
    tracing::warn!("no more changes will come; deciding by the last snapshot");
}

/// Batches applied before the next snapshot is shown.
const MAX_BATCHES: usize = 1024;
