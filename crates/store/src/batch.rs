//! Several mutations as one: all of them or none, and one entry of the change log.
//!
//! What holds: what reads and writes through [`Batch::store`] sees the batch's own writes, in one transaction; each
//! mutation has its own audit record; one that fails is undone by itself, and the batch can go on. Until its end nobody
//! else writes, so whoever begins a batch ends it soon. What is only noted (when a device was last seen, when a tunnel
//! lost its last connection) is no part of it.

use std::sync::Arc;

use adit_model::{AccountId, Change, ChangeBatch, RuleId};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::feed::Whose;
use crate::row::{Connection, Fault, run};
use crate::rule::{PrecedenceTaken, rules_settle};
use crate::session::Transaction;
use crate::write::now_micros;
use crate::{Store, feed};

/// Undoes a mutation that did not come to its end.
const UNDO: &str = "ROLLBACK TO SAVEPOINT deed; RELEASE SAVEPOINT deed";

/// Mutations that stand or fall together. Dropped without [`Batch::commit`], none of them has happened.
#[derive(Debug)]
pub struct Batch {
    store: Store,
    open: Open,
}

/// A batch has not happened.
#[derive(Debug, thiserror::Error)]
pub enum BatchCommitError {
    /// A rule was given a precedence that another still has at the batch's end.
    #[error("the precedence of rule {rule} is taken by {by}")]
    PrecedenceTaken {
        /// The rule.
        rule: RuleId,
        /// The other rule's name.
        by: String,
    },
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The transaction that the stores of a batch share.
#[derive(Debug, Clone)]
pub(crate) struct Open(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// `None` when the batch is over.
    transaction: Option<Transaction>,
    changes: Vec<Change>,
    /// Whose the mutations are; `None` before the first.
    whose: Option<Whose>,
    /// When the last mutation was: the order of lists is the order of mutations.
    at: i64,
    /// A mutation was begun and has not come to its end.
    half_done: bool,
}

/// The transaction of a batch, held by who sends statements.
#[derive(Debug)]
pub(crate) struct Held(OwnedMutexGuard<State>);

impl Store {
    /// Begins a batch, when the mutations before it have ended.
    pub async fn begin(&self) -> Result<Batch, Fault> {
        let state = State {
            transaction: Some(self.0.turn().await?),
            changes: Vec::new(),
            whose: None,
            at: now_micros(),
            half_done: false,
        };
        let open = Open(Arc::new(Mutex::new(state)));
        Ok(Batch { store: Self(Arc::clone(&self.0), Some(open.clone())), open })
    }
}

impl Batch {
    /// A store that reads and writes within the batch. After the batch's end it fails.
    pub const fn store(&self) -> &Store {
        &self.store
    }

    /// Gives the rules that were put aside their places ([`crate::rule`]), for those who look at what the batch would make.
    ///
    /// # Errors
    /// A rule's place is still another's. The batch can go on, or be dropped.
    pub async fn settle(&self) -> Result<(), BatchCommitError> {
        settled(&mut self.open.hold().await?).await
    }

    /// Makes all of it happen: the entry of the change log has the changes of all mutations, in order. Rules that were put
    /// aside get their places.
    ///
    /// # Errors
    /// None of it has happened, unless the database was lost while it said so.
    pub async fn commit(self) -> Result<ChangeBatch, BatchCommitError> {
        let mut held = self.open.hold().await?;
        settled(&mut held).await?;
        let whose = held.0.whose.unwrap_or(Whose::One(None));
        let mut transaction = held.0.transaction.take().ok_or(Fault::Ended)?;
        let changes = std::mem::take(&mut held.0.changes);
        let batch = feed::change_append(transaction.sql(), now_micros(), whose, changes).await?;
        transaction.commit(Some(batch.number)).await?;
        self.store.0.tell(batch.number);
        Ok(batch)
    }
}

async fn settled(held: &mut Held) -> Result<(), BatchCommitError> {
    match rules_settle(held.sql()).await? {
        Some(PrecedenceTaken { rule, by }) => Err(BatchCommitError::PrecedenceTaken { rule, by }),
        None => Ok(()),
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // Stores of the batch may live on, and one of them may be in the middle of a statement.
        if let Ok(mut state) = self.open.0.try_lock() {
            state.transaction = None;
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let open = self.open.clone();
            runtime.spawn(async move { open.0.lock().await.transaction = None });
        }
    }
}

impl Open {
    /// Waits until no other statement is under way.
    pub(crate) async fn hold(&self) -> Result<Held, Fault> {
        let mut held = Held(Arc::clone(&self.0).lock_owned().await);
        if held.0.transaction.is_none() {
            return Err(Fault::Ended);
        }
        if held.0.half_done {
            run(UNDO, held.sql()).await?;
            held.0.half_done = false;
        }
        Ok(held)
    }

    /// Begins a mutation, and says when it happens.
    pub(crate) async fn begin(&self) -> Result<(Held, i64), Fault> {
        let mut held = self.hold().await?;
        run("SAVEPOINT deed", held.sql()).await?;
        held.0.half_done = true;
        held.0.at = now_micros().max(held.0.at + 1);
        let at = held.0.at;
        Ok((held, at))
    }
}

impl Held {
    /// For statements.
    pub(crate) fn sql(&mut self) -> &mut Connection {
        // `hold` looked, and who holds it is alone.
        self.0.transaction.as_mut().expect("a batch that is held is not over").sql()
    }

    /// Ends a mutation.
    pub(crate) async fn end(mut self, account: Option<AccountId>, changes: Vec<Change>) -> Result<(), Fault> {
        run("RELEASE SAVEPOINT deed", self.sql()).await?;
        self.0.half_done = false;
        self.0.changes.extend(changes);
        self.0.whose = Some(Whose::and(self.0.whose, account));
        Ok(())
    }
}
