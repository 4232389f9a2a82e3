//! The change log, and those who follow it.
//!
//! A follower reads the log by number, so that it gets every batch once and in order however slow it is; a notice only
//! tells it when to look. A notice that is missed is made up by looking now and then.

use std::time::Duration;

use adit_model::{AccountId, Change, ChangeBatch};
use sqlx::Row as _;
use tokio::sync::watch;

use crate::Store;
use crate::row::{Connection, Fault};

/// How often a follower looks without a notice.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How many batches are read at a time.
const BATCHES_AT_ONCE: i64 = 256;

/// Follows the change log from a number on.
#[derive(Debug)]
pub struct Feed {
    store: Store,
    notice: watch::Receiver<u64>,
    read: std::collections::VecDeque<ChangeBatch>,
    number: u64,
    /// The log was read to its end: the next look waits for a notice, or a while.
    at_end: bool,
}

impl Feed {
    /// The next batch, as soon as it is committed. May be cancelled: the batch comes with the next call.
    ///
    /// # Errors
    /// The database could not be read; a later call tries again.
    pub async fn next(&mut self) -> Result<ChangeBatch, Fault> {
        loop {
            if let Some(batch) = self.look().await? {
                return Ok(batch);
            }
        }
    }

    /// The next batch, or `None` when the log has just been read and has none: then its follower knows all that there is. A
    /// call after that waits for a notice, for a second at most. May be cancelled as [`Feed::next`].
    ///
    /// # Errors
    /// The database could not be read; a later call tries again.
    pub async fn look(&mut self) -> Result<Option<ChangeBatch>, Fault> {
        if self.read.is_empty() {
            if self.at_end {
                // The sender lives in the store that `self` holds, and a timeout means: look again.
                let _look = tokio::time::timeout(LOOK_INTERVAL, self.notice.changed()).await;
                self.at_end = false;
            }
            self.notice.mark_unchanged();
            self.read = self.store.changes_after(self.number, BATCHES_AT_ONCE).await?.into();
            self.at_end = self.read.is_empty();
        }
        let batch = self.read.pop_front();
        self.number = batch.as_ref().map_or(self.number, |batch| batch.number);
        Ok(batch)
    }

    /// The number of the last batch that was returned.
    pub const fn number(&self) -> u64 {
        self.number
    }
}

impl Store {
    /// Follows the change log behind this number.
    pub fn follow(&self, number: u64) -> Feed {
        let notice = self.0.number.subscribe();
        Feed { store: self.clone(), notice, read: std::collections::VecDeque::new(), number, at_end: false }
    }

    /// Every batch behind this number, in order.
    pub async fn changes_since(&self, number: u64) -> Result<Vec<ChangeBatch>, Fault> {
        self.changes_after(number, i64::MAX).await
    }

    /// The number of the last entry that is of this account, or may be: it changes with whatever is written there, whatever
    /// the clock does. `None` if there is no such entry.
    pub async fn change_last(&self, account: AccountId) -> Result<Option<u64>, Fault> {
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT max(number) FROM (SELECT max(number) AS number FROM changes WHERE account_id = $1 \
             UNION ALL SELECT max(number) AS number FROM changes WHERE account_id IS NULL) AS entries",
        )
        .bind(account.to_string())
        .fetch_one(self.read().await?.sql())
        .await?;
        let damaged = |_| Fault::Damaged { table: "changes", column: "number" };
        last.map(|number| u64::try_from(number).map_err(damaged)).transpose()
    }

    async fn changes_after(&self, number: u64, limit: i64) -> Result<Vec<ChangeBatch>, Fault> {
        let rows =
            sqlx::query("SELECT number, changes FROM changes WHERE number > $1 ORDER BY number LIMIT $2")
                .bind(i64::try_from(number).unwrap_or(i64::MAX))
                .bind(limit)
                .fetch_all(self.read().await?.sql())
                .await?;
        rows.iter()
            .map(|row| {
                let damaged = |column| Fault::Damaged { table: "changes", column };
                let number =
                    u64::try_from(row.try_get::<i64, _>("number")?).map_err(|_| damaged("number"))?;
                let changes: String = row.try_get("changes")?;
                let changes = serde_json::from_str(&changes).map_err(|_| damaged("changes"))?;
                Ok(ChangeBatch { number, changes })
            })
            .collect()
    }
}

/// Wakes those who follow, if they do not know that the log goes up to this number.
pub(crate) fn tell(told: &watch::Sender<u64>, number: u64) {
    told.send_if_modified(|known| {
        let newer = number > *known;
        *known = number.max(*known);
        newer
    });
}

/// Whose an entry of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whose {
    /// Of this account, or of none.
    One(Option<AccountId>),
    /// Of several.
    Several,
}

impl Whose {
    /// Whose it is together with something of this account.
    pub(crate) fn and(this: Option<Self>, account: Option<AccountId>) -> Self {
        match this {
            None => Self::One(account),
            Some(Self::One(one)) if one == account => Self::One(one),
            Some(_) => Self::Several,
        }
    }
}

/// Appends an entry with the next number.
pub(crate) async fn change_append(
    sql: &mut Connection,
    at: i64,
    whose: Whose,
    changes: Vec<Change>,
) -> Result<ChangeBatch, Fault> {
    let text = serde_json::to_string(&changes).map_err(|error| Fault::Database(error.into()))?;
    let number: i64 = sqlx::query_scalar(
        "INSERT INTO changes (number, at, changes, account_id) \
         SELECT coalesce(max(number), 0) + 1, $1, $2, $3 FROM changes RETURNING number",
    )
    .bind(at)
    .bind(text)
    .bind(match whose {
        Whose::One(account) => Some(account.map(|account| account.to_string()).unwrap_or_default()),
        Whose::Several => None,
    })
    .fetch_one(sql)
    .await?;
    let number = u64::try_from(number).map_err(|_| Fault::Damaged { table: "changes", column: "number" })?;
    Ok(ChangeBatch { number, changes })
}
