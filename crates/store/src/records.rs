//! Log records (Gateway semantics, 8): kept for a while, found by what people ask for.
//!
//! On SQLite they lie in `records.db` beside `adit.db`, so that writing them takes no turn of those who change something;
//! on PostgreSQL, in the database that all nodes share. What holds: they are written many at a time, each batch whole or not
//! at all; a process that is killed loses what it had not written yet and nothing else. They are copies of what edges
//! report: nothing is decided by them, and losing the file loses nothing but them. A record says only what is known: what
//! it leaves out is filled in by whoever shows it.

use std::borrow::Borrow;
use std::time::Duration;

use adit_model::{AccountId, Dataset, LogRecord};
use sqlx::AnyPool;
use time::OffsetDateTime;

use crate::audit::{AuditPlace, Direction};
use crate::query::QueryBuilder;
use crate::row::{Columns, Fault, Row, run, to_micros};
use crate::write::now_micros;

/// Rows of one statement: a number that databases take as parameters, times the columns.
const ROWS_AT_ONCE: usize = 100;
/// Rows that one transaction of a sweep removes: readers and writers get in between.
const SWEPT_AT_ONCE: i64 = 2000;
/// Rows that a sweep removes at most: the next one goes on.
const MAX_SWEPT: u64 = 200_000;

/// The schema of SQLite's file; on PostgreSQL it is a migration.
pub(crate) const SQLITE_SCHEMA: &str = "CREATE TABLE IF NOT EXISTS records (\
     account_id TEXT NOT NULL, dataset TEXT NOT NULL, at BIGINT NOT NULL, id TEXT NOT NULL, node_id TEXT NOT NULL, \
     session_id TEXT NOT NULL, policy_id TEXT NOT NULL, device_id TEXT NOT NULL, destination_ip TEXT NOT NULL, \
     action TEXT NOT NULL, record TEXT NOT NULL, PRIMARY KEY (account_id, dataset, at, id)); \
     CREATE INDEX IF NOT EXISTS records_by_time ON records (account_id, at); \
     CREATE INDEX IF NOT EXISTS records_by_session ON records (session_id)";
/// What every connection to SQLite's file begins with: a machine that loses power may lose the last batches, and no more.
pub(crate) const SQLITE_START: &str =
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA busy_timeout = 10000";

/// The records of an installation. Clones share them.
#[derive(Debug, Clone)]
pub struct Records {
    pub(crate) writer: AnyPool,
    pub(crate) readers: AnyPool,
}

/// How long, and how many, records are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Those that are older are removed.
    pub age: Duration,
    /// Of an account that has more, the oldest are removed.
    pub rows: u64,
}

/// Which records are wanted.
#[derive(Debug, Clone)]
pub struct RecordWindow {
    /// Not those before.
    pub since: Option<OffsetDateTime>,
    /// Only those before.
    pub before: Option<OffsetDateTime>,
    /// Which come first.
    pub direction: Direction,
    /// Only those behind this one.
    pub after: Option<AuditPlace>,
    /// How many at most.
    pub limit: u32,
    /// Only those that have these values.
    pub having: Vec<(RecordKey, String)>,
}

/// What records are found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKey {
    /// The flow.
    Session,
    /// The rule that decided.
    Policy,
    /// The device.
    Device,
    /// The address that was asked for.
    Destination,
    /// What was done.
    Action,
}

/// A stored record.
#[derive(Debug, Clone, PartialEq)]
pub struct RecordRow {
    at: i64,
    id: String,
    /// The fields that say something, by name.
    pub fields: serde_json::Map<String, serde_json::Value>,
}

impl RecordKey {
    const fn column(self) -> &'static str {
        match self {
            Self::Session => "session_id",
            Self::Policy => "policy_id",
            Self::Device => "device_id",
            Self::Destination => "destination_ip",
            Self::Action => "action",
        }
    }
}

impl RecordRow {
    /// Where it stands in its list.
    pub fn place(&self) -> AuditPlace {
        AuditPlace::new(self.at, self.id.clone())
    }
}

/// A record's columns, in the order of the table.
pub(crate) struct Columned {
    pub(crate) texts: [String; 9],
    pub(crate) at: i64,
}

/// The columns that are texts, as [`Columned`] has them.
pub(crate) const TEXT_COLUMNS: &str =
    "account_id, dataset, id, session_id, policy_id, device_id, destination_ip, action, record";

pub(crate) fn columned(record: &LogRecord) -> Result<Columned, Fault> {
    let keys = record.keys();
    let fields = serde_json::to_string(&record.stored()).map_err(|error| Fault::Database(error.into()))?;
    let texts = [
        record.account().to_string(),
        record.dataset().as_str().to_owned(),
        record.id().to_string(),
        keys.session.unwrap_or_default(),
        keys.policy.unwrap_or_default(),
        keys.device.unwrap_or_default(),
        keys.destination.map(|address| address.to_string()).unwrap_or_default(),
        keys.action.unwrap_or_default(),
        fields,
    ];
    Ok(Columned { texts, at: to_micros(OffsetDateTime::from(record.at())) })
}

impl Records {
    /// Writes records, all of them or none. Those that are there already, since the answer to an earlier try was lost, are
    /// fine.
    pub async fn add(&self, records: &[impl Borrow<LogRecord>]) -> Result<(), Fault> {
        let rows = records.iter().map(|record| columned(record.borrow())).collect::<Result<Vec<_>, _>>()?;
        let mut transaction = self.writer.begin().await?;
        for rows in rows.chunks(ROWS_AT_ONCE) {
            let mut insert =
                QueryBuilder::new(format!("INSERT INTO records (at, node_id, {TEXT_COLUMNS}) VALUES "));
            for (number, row) in rows.iter().enumerate() {
                insert.push(if number == 0 { "(" } else { ", (" });
                insert.push_bind(row.at).push(", '', ");
                insert.push_binds(row.texts.iter().map(String::as_str)).push(")");
            }
            if let Err(error) = insert.build().execute(&mut *transaction).await {
                return there_already(error);
            }
        }
        Ok(transaction.commit().await?)
    }

    /// An account's records of a dataset in a stretch of time, from a place on.
    pub async fn list(
        &self,
        account: AccountId,
        dataset: Dataset,
        window: &RecordWindow,
    ) -> Result<Vec<RecordRow>, Fault> {
        let (order, beyond) = match window.direction {
            Direction::Ascending => ("ASC", ">"),
            Direction::Descending => ("DESC", "<"),
        };
        let mut list = QueryBuilder::new("SELECT at, id, record FROM records WHERE account_id = ");
        list.push_bind(account.to_string()).push(" AND dataset = ").push_bind(dataset.as_str());
        if let Some(since) = window.since {
            list.push(" AND at >= ").push_bind(to_micros(since));
        }
        if let Some(before) = window.before {
            list.push(" AND at < ").push_bind(to_micros(before));
        }
        if let Some(after) = &window.after {
            let (at, id) = after.parts();
            list.push(format!(" AND (at, id) {beyond} (")).push_bind(at).push(", ").push_bind(id).push(")");
        }
        for (key, value) in &window.having {
            list.push(format!(" AND {} = ", key.column())).push_bind(value.as_str());
        }
        list.push(format!(" ORDER BY at {order}, id {order} LIMIT ")).push_bind(i64::from(window.limit));
        let rows = list.build().fetch_all(&self.readers).await?;
        rows.iter().map(record_row).collect()
    }

    /// Removes what is too old or too much, and what belongs to none of these accounts; how many that were. One call
    /// removes a bounded number, in pieces.
    pub async fn sweep(&self, retention: Retention, accounts: &[AccountId]) -> Result<u64, Fault> {
        let age = i64::try_from(retention.age.as_micros()).unwrap_or(i64::MAX);
        let oldest = now_micros().saturating_sub(age);
        let mut swept = 0;
        for owner in self.owners().await? {
            let lives = accounts.iter().any(|account| account.to_string() == owner);
            let end =
                if lives { self.end_of_surplus(&owner, retention.rows).await?.max(oldest) } else { i64::MAX };
            while swept < MAX_SWEPT {
                let gone = self.remove_before(&owner, end).await?;
                swept += gone;
                if gone == 0 {
                    break;
                }
            }
        }
        Ok(swept)
    }

    /// Whose records there are: found by jumping from one account to the next.
    async fn owners(&self) -> Result<Vec<String>, Fault> {
        let mut owners = Vec::new();
        let mut last = String::new();
        loop {
            let next: Option<String> =
                sqlx::query_scalar("SELECT min(account_id) FROM records WHERE account_id > $1")
                    .bind(&last)
                    .fetch_one(&self.readers)
                    .await?;
            let Some(next) = next else { return Ok(owners) };
            last.clone_from(&next);
            owners.push(next);
        }
    }

    /// The time before which an account's records are more than so many.
    async fn end_of_surplus(&self, account: &str, rows: u64) -> Result<i64, Fault> {
        let last: Option<i64> = sqlx::query_scalar(
            "SELECT at FROM records WHERE account_id = $1 ORDER BY at DESC LIMIT 1 OFFSET $2",
        )
        .bind(account)
        .bind(i64::try_from(rows).unwrap_or(i64::MAX))
        .fetch_optional(&self.readers)
        .await?;
        Ok(last.map_or(i64::MIN, |at| at.saturating_add(1)))
    }

    async fn remove_before(&self, account: &str, end: i64) -> Result<u64, Fault> {
        // By the time of the last of a piece: rows of one moment go together.
        let piece: Option<i64> = sqlx::query_scalar(
            "SELECT max(at) FROM (SELECT at FROM records WHERE account_id = $1 AND at < $2 ORDER BY at LIMIT $3) AS piece",
        )
        .bind(account)
        .bind(end)
        .bind(SWEPT_AT_ONCE)
        .fetch_one(&self.readers)
        .await?;
        let Some(last) = piece else { return Ok(0) };
        let deleted = sqlx::query("DELETE FROM records WHERE account_id = $1 AND at <= $2")
            .bind(account)
            .bind(last)
            .execute(&self.writer)
            .await?;
        Ok(deleted.rows_affected())
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    pub(crate) async fn make(&self) -> Result<(), sqlx::Error> {
        run(SQLITE_SCHEMA, &mut *self.writer.acquire().await?).await
    }
}

/// A row that is there already was written by the same batch, which went whole.
pub(crate) fn there_already(error: sqlx::Error) -> Result<(), Fault> {
    match error.as_database_error() {
        Some(database) if database.is_unique_violation() => Ok(()),
        _ => Err(error.into()),
    }
}

fn record_row(row: &Row) -> Result<RecordRow, Fault> {
    let columns = Columns::new(row, "records");
    Ok(RecordRow { at: columns.number("at")?, id: columns.text("id")?, fields: columns.json_as("record")? })
}
