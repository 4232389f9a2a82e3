//! Mutations of those who write at the same time, one after another in one transaction and committed together: the disk
//! is waited for once for all of them.
//!
//! What holds: each mutation is a savepoint, so that one that fails or is given up leaves nothing and harms no other; each has
//! its own entry of the change log and its own audit record; none is acknowledged before the commit that has it, and when that
//! commit fails all of its mutations are answered so. Nobody waits to be joined by others: a group is who stood in line when
//! its first mutation was done, which for a writer alone is itself.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::Inner;
use crate::row::{Connection, Fault, run};
use crate::session::Transaction;
use crate::write::now_micros;

/// Undoes a mutation that did not come to its end.
const UNDO: &str = "ROLLBACK TO SAVEPOINT deed; RELEASE SAVEPOINT deed";
/// How long a mutation waits for those before it.
const TURN_WAIT: Duration = Duration::from_secs(10);

/// The line of those who write, and the transaction of those whose mutations are done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Group(Arc<Mutex<Option<Open>>>);

/// Whether the commit succeeded, once it has been tried.
type Outcome = Option<Result<(), Arc<Fault>>>;

#[derive(Debug)]
struct Open {
    transaction: Transaction,
    /// Mutations that are done and wait for the commit.
    done: u32,
    /// The last of their numbers in the change log.
    number: u64,
    /// When the last mutation was: the order of lists is the order of mutations.
    at: i64,
    outcome: watch::Sender<Outcome>,
}

/// The turn of one mutation. Dropped without [`Turn::end`], it has not happened.
#[derive(Debug)]
pub(crate) struct Turn {
    /// `None` once it is given back.
    held: Option<OwnedMutexGuard<Option<Open>>>,
}

impl Inner {
    /// The turn of a mutation when those before it are done: in the transaction that they left open, or a new one.
    pub(crate) async fn join(&self) -> Result<Turn, Fault> {
        let line = tokio::time::timeout(TURN_WAIT, Arc::clone(&self.group.0).lock_owned()).await;
        let mut held = line.map_err(|_| Fault::Unavailable(sqlx::Error::PoolTimedOut.into()))?;
        if held.is_none() {
            let (outcome, _) = watch::channel(None);
            let transaction = self.turn().await?;
            *held = Some(Open { transaction, done: 0, number: 0, at: 0, outcome });
        }
        let mut turn = Turn { held: Some(held) };
        let open = turn.open();
        open.at = now_micros().max(open.at + 1);
        run("SAVEPOINT deed", turn.sql()).await?;
        Ok(turn)
    }
}

impl Turn {
    /// For statements.
    pub(crate) fn sql(&mut self) -> &mut Connection {
        self.open().transaction.sql()
    }

    /// When the mutation happens, in microseconds since 1970.
    pub(crate) fn at(&mut self) -> i64 {
        self.open().at
    }

    /// Ends the mutation, whose entry of the change log has this number, and waits until it is committed. A caller that is
    /// cancelled here does not cancel the commit, which is others' too.
    pub(crate) async fn end(self, inner: &Arc<Inner>, number: u64) -> Result<(), Fault> {
        let inner = Arc::clone(inner);
        tokio::spawn(self.ended(inner, number)).await.map_err(|_| Fault::Ended)?
    }

    async fn ended(mut self, inner: Arc<Inner>, number: u64) -> Result<(), Fault> {
        run("RELEASE SAVEPOINT deed", self.sql()).await?;
        let open = self.open();
        open.done += 1;
        open.number = number;
        let mut outcome = open.outcome.subscribe();
        // Those who stand in line come first. Whoever of the group is then first again commits for all.
        self.held = None;
        let line = Arc::clone(&inner.group.0).lock_owned();
        let held = tokio::select! {
            biased;
            () = async { drop(outcome.wait_for(Option::is_some).await) } => None,
            held = line => Some(held),
        };
        match held {
            Some(held) => commit(held, &inner).await,
            None => outcome
                .borrow()
                .as_ref()
                .map_or(Err(Fault::Ended), |known| known.as_ref().map_err(again).copied()),
        }
    }

    fn open(&mut self) -> &mut Open {
        // It is there from `join` until `ended` or `drop`, which are what takes it.
        self.held.as_mut().and_then(|held| held.as_mut()).expect("a turn has the transaction")
    }
}

async fn commit(mut held: OwnedMutexGuard<Option<Open>>, inner: &Inner) -> Result<(), Fault> {
    let Some(Open { transaction, number, outcome, .. }) = held.take() else { return Err(Fault::Ended) };
    let committed = transaction.commit(Some(number)).await.map_err(Arc::new);
    if committed.is_ok() {
        inner.tell(number);
    }
    let answer = committed.as_ref().map_err(again).copied();
    outcome.send_replace(Some(committed));
    answer
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(mut held) = self.held.take() else { return };
        let others = held.as_ref().is_some_and(|open| open.done > 0);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            *held = None;
            return;
        };
        if !others {
            // Rolled back as a whole.
            *held = None;
            return;
        }
        runtime.spawn(async move {
            let Some(open) = held.as_mut() else { return };
            if let Err(error) = run(UNDO, open.transaction.sql()).await {
                // The database has ended the transaction, as after a full disk, or is gone: what was done before is undone.
                let fault = Arc::new(Fault::Unavailable(error.into()));
                open.outcome.send_replace(Some(Err(fault)));
                *held = None;
            }
        });
    }
}

/// What went wrong for all, told to each.
fn again(fault: &Arc<Fault>) -> Fault {
    let cause = Box::new(Common(Arc::clone(fault)));
    match &**fault {
        Fault::Unavailable(_) => Fault::Unavailable(cause),
        Fault::Full(_) => Fault::Full(cause),
        Fault::Database(_) => Fault::Database(cause),
        Fault::Damaged { table, column } => Fault::Damaged { table, column },
        Fault::Ended => Fault::Ended,
    }
}

/// The cause of a failure that several have.
#[derive(Debug, thiserror::Error)]
#[error("the commit of several writers failed")]
struct Common(#[source] Arc<Fault>);
