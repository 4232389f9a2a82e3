//! Where log records go: standard output, a file that rotates, the store.
//!
//! What holds: each way out has a queue of its own, and what does not fit into it is dropped and counted, so that no flow
//! waits for a disk, a pipe or a database, and no way out for another one. A process that stops writes what is in its
//! queues, as long as that takes no longer than a few seconds; one that is killed loses what was in them.

mod file;
mod settings;
mod store;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use adit_model::{LogRecord, Record, log_record};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use file::RotatingFile;
pub(crate) use settings::{FileLimits, Outputs, RecordFlags, RetentionFlags, RetentionKeys};
pub(crate) use store::{Database, sweep};

/// Records on their way to one way out: a few seconds of a busy edge.
const QUEUE: usize = 8192;
/// For a disk or a pipe to take what is left when the process stops.
const STOP_DEADLINE: Duration = Duration::from_secs(3);
/// Between two tries to open a file that cannot be written.
const REOPEN: Duration = Duration::from_secs(1);

/// A way out, as a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    output: &'static str,
}

/// Counters of the ways out. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    written: Family<Way, Counter>,
    dropped: Family<Way, Counter>,
}

impl Metrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("adit_records_written", "Log records written, by where", self.written.clone());
        registry.register(
            "adit_records_dropped",
            "Log records that were dropped since there was no room for them, by where",
            self.dropped.clone(),
        );
    }

    fn count_written(&self, output: &'static str, records: usize) {
        self.written.get_or_create(&Way { output }).inc_by(records as u64);
    }

    fn count_dropped(&self, output: &'static str, records: usize) {
        self.dropped.get_or_create(&Way { output }).inc_by(records as u64);
    }
}

/// The ways out.
#[derive(Debug)]
pub(crate) struct Sinks {
    ways: Vec<(&'static str, mpsc::Sender<Arc<LogRecord>>)>,
    metrics: Metrics,
}

impl Sinks {
    /// Starts the ways out; they end when the sinks are dropped.
    pub(crate) fn start(
        outputs: &Outputs,
        database: Option<Database>,
        metrics: &Metrics,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let mut ways = Vec::new();
        let mut way = |name| {
            let (records_in, records) = mpsc::channel(QUEUE);
            ways.push((name, records_in));
            // What a counter shows is there from the start.
            metrics.count_written(name, 0);
            metrics.count_dropped(name, 0);
            records
        };
        if outputs.stdout {
            let (records, metrics) = (way("stdout"), metrics.clone());
            tasks.spawn(joined(stop.clone(), move || print(records, &metrics)));
        }
        if let Some((path, limits)) = &outputs.file {
            let (records, metrics) = (way("file"), metrics.clone());
            let (path, limits) = (path.clone(), *limits);
            tasks.spawn(joined(stop.clone(), move || write(records, &path, limits, &metrics)));
        }
        if let Some(database) = database {
            tasks.spawn(store::write(way("store"), database, metrics.clone()));
        }
        Self { ways, metrics: metrics.clone() }
    }

    /// Takes a report, if it is a log record; else gives it back.
    pub(crate) fn take(&self, record: Record) -> Option<Record> {
        let Some(row) = log_record(&record, uuid::Uuid::new_v4()) else { return Some(record) };
        let row = Arc::new(row);
        for (name, way) in &self.ways {
            if way.try_send(Arc::clone(&row)).is_err() {
                self.metrics.count_dropped(name, 1);
            }
        }
        None
    }
}

/// Takes an edge's reports until it stops: log records go their ways, the others to `others`, which is waited for.
pub(crate) async fn sort(
    mut records: mpsc::Receiver<Record>,
    sinks: Sinks,
    others: mpsc::Sender<Record>,
    stop: CancellationToken,
) {
    loop {
        let record = tokio::select! {
            biased;
            record = records.recv() => record,
            () = stop.cancelled() => break,
        };
        let Some(record) = record else { return };
        if let Some(other) = sinks.take(record)
            && others.send(other).await.is_err()
        {
            break;
        }
    }
    // The edge has stopped: what it left is written still.
    while let Ok(record) = records.try_recv() {
        let _nobody_waits = sinks.take(record);
    }
}

/// Runs what waits for a disk or a pipe on a thread of its own, which is not waited for without end.
async fn joined(stop: CancellationToken, write: impl FnOnce() + Send + 'static) {
    let (ended_in, ended) = tokio::sync::oneshot::channel::<()>();
    let thread = std::thread::Builder::new().name("records".into()).spawn(move || {
        write();
        drop(ended_in);
    });
    match thread {
        Ok(_) => {
            let long_enough = async {
                stop.cancelled().await;
                tokio::time::sleep(STOP_DEADLINE).await;
            };
            tokio::select! {
                _ended = ended => {}
                () = long_enough => tracing::warn!("some log records were not written in time"),
            }
        }
        Err(error) => tracing::warn!(%error, "no thread for log records"),
    }
}

/// Writes records to standard output, one JSON object a line.
fn print(mut records: mpsc::Receiver<Arc<LogRecord>>, metrics: &Metrics) {
    let mut stdout = std::io::BufWriter::new(std::io::stdout());
    while let Some(record) = records.blocking_recv() {
        let written = line(&record).and_then(|line| stdout.write_all(&line));
        // What comes alone is seen at once; many at a time share a write.
        let written = if records.is_empty() { written.and_then(|()| stdout.flush()) } else { written };
        if written.is_err() {
            // Nobody reads any more. Those that follow are counted as dropped by the queue's end.
            metrics.count_dropped("stdout", 1);
            return;
        }
        metrics.count_written("stdout", 1);
    }
}

/// Writes records to a file that rotates.
fn write(mut records: mpsc::Receiver<Arc<LogRecord>>, path: &Path, limits: FileLimits, metrics: &Metrics) {
    let mut file: Option<RotatingFile> = None;
    let mut failed: Option<std::time::Instant> = None;
    while let Some(record) = records.blocking_recv() {
        if file.is_none() && failed.is_none_or(|at| at.elapsed() >= REOPEN) {
            match RotatingFile::open(path, limits) {
                Ok(opened) => file = Some(opened),
                Err(error) => tell(path, &error, &mut failed),
            }
        }
        let Some(opened) = &mut file else {
            metrics.count_dropped("file", 1);
            continue;
        };
        match line(&record).and_then(|line| opened.write(&line)) {
            Ok(()) => metrics.count_written("file", 1),
            Err(error) => {
                metrics.count_dropped("file", 1);
                tell(path, &error, &mut failed);
                file = None;
            }
        }
    }
}

/// Says once that the file cannot be written, until it can be again.
fn tell(path: &Path, error: &std::io::Error, failed: &mut Option<std::time::Instant>) {
    if failed.is_none() {
        tracing::warn!(%error, file = %path.display(), "log records cannot be written to the file: they are dropped");
    }
    *failed = Some(std::time::Instant::now());
}

fn line(record: &LogRecord) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(record)?;
    line.push(b'\n');
    Ok(line)
}
