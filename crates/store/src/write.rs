//! One mutation, one transaction: its objects, its audit record and its entry of the change log.

use std::net::IpAddr;

use adit_model::{AccountId, Change, ChangeBatch};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::audit::{Audit, audit_insert};
use crate::batch::Held;
use crate::feed::Whose;
use crate::group::Turn;
use crate::row::{Connection, Fault, from_micros, to_micros};
use crate::{Store, feed};

/// On whose behalf a mutation is made, for the audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    /// Who: `api_token:<id>`, `service_token:<id>` or `system`.
    pub who: String,
    /// Where the request came from.
    pub address: Option<IpAddr>,
    /// The id of the request, as the client was told it.
    pub request: String,
    /// The request's line, as the client sent it.
    pub call: RawCall,
}

/// What of a request is kept in the audit record, besides what it did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RawCall {
    /// The method.
    pub method: String,
    /// Path and query.
    pub uri: String,
    /// How the client calls itself.
    pub user_agent: String,
}

impl Actor {
    /// The program itself.
    pub fn system() -> Self {
        Self { who: "system".into(), address: None, request: String::new(), call: RawCall::default() }
    }
}

/// What a mutation made, and what the edges are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written<T> {
    /// The object as it now is.
    pub value: T,
    /// The entry of the change log; within a batch, what this mutation adds to the batch's entry, with the number 0.
    pub batch: ChangeBatch,
}

/// An object was asked for by its id.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for FindError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// What a mutation did to which object, for the audit record.
pub(crate) struct Deed<'a> {
    pub(crate) account: Option<AccountId>,
    pub(crate) action: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) id: &'a str,
    /// What was set, without secrets.
    pub(crate) detail: serde_json::Value,
}

/// A mutation under way. Dropped without [`Write::commit`], it has not happened.
pub(crate) struct Write {
    place: Place,
    at: i64,
    changes: Vec<Change>,
}

/// Where its statements go.
enum Place {
    Own(Turn),
    Batch(Held),
}

impl Store {
    /// Begins a mutation, when those before it are done.
    pub(crate) async fn write(&self) -> Result<Write, Fault> {
        let (place, at) = if let Some(batch) = &self.1 {
            let (held, at) = batch.begin().await?;
            (Place::Batch(held), at)
        } else {
            let mut turn = self.0.join().await?;
            let at = turn.at();
            (Place::Own(turn), at)
        };
        Ok(Write { place, at, changes: Vec::new() })
    }

    /// Ends a mutation: writes the audit record and the change log, commits (together with those who write at the same time),
    /// and wakes those who follow the log.
    ///
    /// A caller that is cancelled here may have committed: followers also look by themselves (see [`crate::Feed`]).
    pub(crate) async fn commit<T>(
        &self,
        mut write: Write,
        actor: &Actor,
        deed: Deed<'_>,
        value: T,
    ) -> Result<Written<T>, Fault> {
        let audit = Audit {
            at: write.at,
            account: deed.account,
            actor,
            action: deed.action,
            kind: deed.kind,
            id: deed.id,
            success: true,
            detail: deed.detail,
        };
        audit_insert(write.sql(), &audit).await?;
        let changes = write.changes;
        let batch = match write.place {
            Place::Own(mut turn) => {
                let whose = Whose::One(deed.account);
                let batch = feed::change_append(turn.sql(), write.at, whose, changes).await?;
                turn.end(&self.0, batch.number).await?;
                batch
            }
            Place::Batch(held) => {
                held.end(deed.account, changes.clone()).await?;
                ChangeBatch { number: 0, changes }
            }
        };
        Ok(Written { value, batch })
    }
}

impl Write {
    /// The connection, for statements.
    pub(crate) fn sql(&mut self) -> &mut Connection {
        match &mut self.place {
            Place::Own(turn) => turn.sql(),
            Place::Batch(held) => held.sql(),
        }
    }

    /// When the mutation happens, in microseconds since 1970.
    pub(crate) const fn at(&self) -> i64 {
        self.at
    }

    /// When the mutation happens.
    pub(crate) fn time(&self) -> OffsetDateTime {
        from_micros(self.at).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }

    /// Whether it is one of several that happen together: what is so only in the middle of them is no harm.
    pub(crate) const fn is_of_batch(&self) -> bool {
        matches!(self.place, Place::Batch(_))
    }

    /// Tells the edges.
    pub(crate) fn change(&mut self, change: Change) {
        self.changes.push(change);
    }
}

/// The clock, in microseconds since 1970.
pub(crate) fn now_micros() -> i64 {
    to_micros(OffsetDateTime::now_utc())
}

/// A new random id.
pub(crate) fn new_uuid() -> Uuid {
    Uuid::new_v4()
}
