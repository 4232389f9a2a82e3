//! What a node decides by: where its state comes from when it starts, and how it goes on.
//!
//! The change log is the truth: the database answers, then the node replays it, or goes on behind the snapshot that it has on
//! disk. What holds: a node with a snapshot starts also without its database; one whose snapshot is of another log replays,
//! and if it finds that out only later it goes on, says so, and lets its state grow old.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use adit_edge::{Freshness, Kept, KeptError};
use adit_model::ChangeBatch;
use adit_store::NodeDatabaseError;
use anyhow::Context;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::inspection::NodeAuthorities;
use crate::nodes::Member;
use crate::up::RETRY;

/// The state that a node starts with.
#[derive(Debug)]
pub(super) struct Beginning {
    state: ChangeBatch,
    /// For how long nobody has confirmed it.
    pub(super) age: Duration,
    /// The log of the database is known to be the one that it is of.
    checked: bool,
}

/// The state to start with: the one on disk, or the log replayed, once there is one.
pub(super) async fn begin(member: &Member, kept: &Path) -> anyhow::Result<Beginning> {
    match read(kept) {
        Some(kept) => stand(member, kept).await,
        None => replay(member).await,
    }
}

fn read(path: &Path) -> Option<Kept> {
    match Kept::read(path) {
        Ok(kept) => Some(kept),
        Err(KeptError::File { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, file = %path.display(), "the snapshot on disk is of no use; the change log is replayed");
            None
        }
    }
}

/// Begins with what was kept, unless the database is there and its log is another one.
async fn stand(member: &Member, kept: Kept) -> anyhow::Result<Beginning> {
    let age = kept.age(SystemTime::now());
    let number = kept.state.number;
    let looked = match member.database.check().await {
        Ok(()) => member.database.change_is_there(number).await,
        Err(NodeDatabaseError::Fault(fault)) => Err(fault),
        Err(error) => return Err(anyhow::Error::new(error).context("database")),
    };
    let checked = match member.health.note(looked) {
        Some(false) => {
            tracing::warn!(number, "the snapshot on disk is of another change log; the log is replayed");
            return replay(member).await;
        }
        Some(true) => true,
        None => {
            tracing::warn!(number, age = ?age, "starting by the snapshot on disk, without the database");
            false
        }
    };
    Ok(Beginning { state: kept.state, age, checked })
}

/// The whole change log as one batch, once there is one.
async fn replay(member: &Member) -> anyhow::Result<Beginning> {
    let mut notices = member.database.change_notices();
    let mut state = ChangeBatch { number: 0, changes: Vec::new() };
    let mut checked = false;
    loop {
        if !checked {
            match member.database.check().await {
                Ok(()) => checked = true,
                Err(NodeDatabaseError::Fault(fault)) => {
                    member.health.note::<()>(Err(fault));
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                Err(error) => return Err(anyhow::Error::new(error).context("database")),
            }
        }
        match member.health.note(member.database.changes_after(state.number).await) {
            Some(batches) if batches.is_empty() && state.number > 0 => {
                return Ok(Beginning { state, age: Duration::ZERO, checked });
            }
            Some(batches) if batches.is_empty() => notices.wait().await,
            Some(batches) => {
                for batch in batches {
                    state.number = batch.number;
                    state.changes.extend(batch.changes);
                }
            }
            None => tokio::time::sleep(RETRY).await,
        }
    }
}

impl Beginning {
    /// Waits a moment for what the state needs to open TLS.
    pub(super) async fn prepare(&self, inspection: &NodeAuthorities) {
        inspection.prepare(&self.state).await;
    }

    /// Hands the state to the edge; what is returned hands on what the log says after it, until the node stops.
    pub(super) fn follow(
        self,
        member: Member,
        (changes, inspection): (mpsc::Sender<ChangeBatch>, Arc<NodeAuthorities>),
        freshness: Arc<Freshness>,
        stop: CancellationToken,
    ) -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
        let Self { state, checked, .. } = self;
        let number = state.number;
        changes.try_send(state).context("a new channel has room")?;
        Ok(async move {
            let notices = &mut member.database.change_notices();
            if !checked && !is_of_this_log(&member, number, &freshness, &stop).await {
                return;
            }
            let mut number = number;
            loop {
                let read = member.health.note(member.database.changes_after(number).await);
                let reached = read.is_some();
                let batches = read.unwrap_or_default();
                let more = !batches.is_empty();
                for batch in batches {
                    number = batch.number;
                    inspection.prepare(&batch).await;
                    if changes.send(batch).await.is_err() {
                        return;
                    }
                }
                if reached {
                    freshness.confirm();
                } else {
                    freshness.fail();
                }
                tokio::select! {
                    () = notices.wait(), if !more => {}
                    () = std::future::ready(()), if more => {}
                    () = stop.cancelled() => return,
                }
            }
        })
    }
}

/// Waits until the database answers, and looks whether it can be gone on with.
async fn is_of_this_log(
    member: &Member,
    number: u64,
    freshness: &Freshness,
    stop: &CancellationToken,
) -> bool {
    loop {
        freshness.fail();
        let looked = match member.database.check().await {
            Ok(()) => member.database.change_is_there(number).await,
            Err(NodeDatabaseError::Fault(fault)) => Err(fault),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(
                    error,
                    "the change log cannot be followed; going on with what is known until that is too old"
                );
                return false;
            }
        };
        match member.health.note(looked) {
            Some(true) => return true,
            Some(false) => {
                tracing::error!(
                    number,
                    "the database has another change log than the snapshot on disk; going on with what is known until that is \
                     too old: start this node again to replay the log"
                );
                return false;
            }
            None => tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = stop.cancelled() => return false,
            },
        }
    }
}
