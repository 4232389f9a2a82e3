//! Log records into the database, many at a time, and out of it when they are old.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adit_control::Control;
use adit_model::{LogRecord, NodeId};
use adit_store::{Fault, NodeDatabase, Records, Retention};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Metrics, STOP_DEADLINE};

/// Records of one transaction.
const BATCH: usize = 500;
/// How long records wait for others to go with them.
const LINGER: Duration = Duration::from_millis(200);
/// Between two tries to write the same records.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks for records that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_mins(1);

/// Where this process writes its records.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    /// The store of a control plane.
    Own(Records),
    /// That of other processes, with the role of a node.
    Shared(NodeDatabase, NodeId),
}

impl Database {
    async fn add(&self, records: &[Arc<LogRecord>]) -> Result<(), Fault> {
        match self {
            Self::Own(own) => own.add(records).await,
            Self::Shared(database, node) => database.log_records(*node, records).await,
        }
    }
}

/// Writes records until nobody sends any more and all are written. While the database is away they wait in their queue, and
/// are dropped by whoever finds it full.
pub(super) async fn write(mut records: mpsc::Receiver<Arc<LogRecord>>, database: Database, metrics: Metrics) {
    let mut batch = Vec::with_capacity(BATCH);
    let mut away = false;
    while records.recv_many(&mut batch, BATCH).await > 0 {
        // Alone it would cost a transaction.
        if batch.len() < BATCH && !records.is_closed() {
            let _ends_in_time = tokio::time::timeout(LINGER, async {
                let mut room = BATCH - batch.len();
                while room > 0 {
                    match records.recv_many(&mut batch, room).await {
                        0 => return,
                        more => room -= more,
                    }
                }
            })
            .await;
        }
        let rows = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        let mut stopping: Option<Instant> = None;
        loop {
            match database.add(&rows).await {
                Ok(()) => {
                    if std::mem::take(&mut away) {
                        tracing::info!("log records are stored again");
                    }
                    metrics.count_written("store", rows.len());
                    break;
                }
                Err(error) => {
                    if !std::mem::replace(&mut away, true) {
                        let error = &error as &dyn std::error::Error;
                        tracing::warn!(
                            error,
                            "log records cannot be stored: they wait, as long as there is room"
                        );
                    }
                }
            }
            if records.is_closed() && stopping.get_or_insert_with(Instant::now).elapsed() > STOP_DEADLINE {
                metrics.count_dropped("store", rows.len() + records.len());
                return;
            }
            tokio::time::sleep(RETRY).await;
        }
    }
}

/// Removes what is too old or too much, now and then.
pub(crate) async fn sweep(control: Control, retention: Retention, stop: CancellationToken) {
    loop {
        let swept = async {
            let accounts: Vec<_> =
                control.store().account_list().await?.into_iter().map(|account| account.id).collect();
            control.store().records().sweep(retention, &accounts).await
        };
        match swept.await {
            Ok(0) => {}
            Ok(count) => tracing::debug!(count, "old log records are removed"),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "old log records cannot be removed");
            }
        }
        if stop.run_until_cancelled(tokio::time::sleep(SWEEP_INTERVAL)).await.is_none() {
            return;
        }
    }
}
