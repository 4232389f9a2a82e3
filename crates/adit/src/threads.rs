//! The threads of an edge or a connector.

use anyhow::Context;
use tokio::runtime::{Builder, Runtime};

/// A runtime with one worker fewer than there are cores, and at least one.
///
/// The kernel's side of every packet runs on some core as well, and on two cores one worker carries as much as two, without
/// the wake-ups from one to the other (BENCHMARKS.md, Threads).
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = cores.saturating_sub(1).max(1);
    Builder::new_multi_thread().worker_threads(workers).enable_all().build().context("cannot start threads")
}
