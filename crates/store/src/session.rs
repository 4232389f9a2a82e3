//! Connections to the database: those that read, and the turn of the one that writes.
//!
//! What holds: one transaction that writes at a time, in this process by a pool of one connection, and among all nodes of a PostgreSQL
//! database by a lock that the transaction holds. So a transaction sees all that was committed before it, checks of
//! uniqueness hold, and the change log has no gaps. A transaction that is dropped is rolled back before its connection is
//! used again; a connection of which that cannot be said is closed.

use sqlx::Any;
use sqlx::pool::PoolConnection;

use crate::batch::Held;
use crate::row::{Connection, Fault, run};
use crate::{Inner, Store};

/// Which database it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Sqlite,
    Postgres,
}

impl Backend {
    /// Begins a transaction that writes, when it is its turn.
    const fn begin_write(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN IMMEDIATE",
            // Any number will do, so long as all nodes take the same.
            Self::Postgres => "BEGIN; SELECT pg_advisory_xact_lock(4701880136229154675)",
        }
    }

    /// Begins a transaction that sees one state of the database.
    const fn begin_read(self) -> &'static str {
        match self {
            Self::Sqlite => "BEGIN",
            Self::Postgres => "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
        }
    }

    /// The database's clock, in microseconds since 1970: the one clock that all nodes share.
    pub(crate) const fn clock(self) -> &'static str {
        match self {
            Self::Sqlite => "CAST(unixepoch('now', 'subsec') * 1000000 AS BIGINT)",
            Self::Postgres => "CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT)",
        }
    }

    /// Commits, and tells the other nodes how far the change log now goes.
    fn commit(self, number: Option<u64>) -> String {
        match (self, number) {
            (Self::Postgres, Some(number)) => format!("SELECT pg_notify('{CHANNEL}', '{number}'); COMMIT"),
            (Self::Sqlite | Self::Postgres, _) => "COMMIT".into(),
        }
    }
}

/// Where PostgreSQL tells of new entries of the change log.
pub(crate) const CHANNEL: &str = "adit_changes";

/// A transaction. Dropped without an end, it has not happened.
#[derive(Debug)]
pub(crate) struct Transaction {
    backend: Backend,
    connection: Option<PoolConnection<Any>>,
}

/// What statements that only read go through.
#[derive(Debug)]
pub(crate) enum Reader {
    /// One statement, or several that need not agree.
    Single(PoolConnection<Any>),
    /// One state of the database.
    Snapshot(Transaction),
    /// The transaction of a batch.
    Batch(Held),
}

impl Inner {
    /// A transaction that writes, when those before it have ended.
    pub(crate) async fn turn(&self) -> Result<Transaction, Fault> {
        let connection = self.writer.acquire().await?;
        Transaction::begin(self.backend, connection, self.backend.begin_write()).await
    }
}

impl Store {
    /// For one statement that reads.
    pub(crate) async fn read(&self) -> Result<Reader, Fault> {
        match &self.1 {
            Some(batch) => Ok(Reader::Batch(batch.hold().await?)),
            None => Ok(Reader::Single(self.0.readers.acquire().await?)),
        }
    }

    /// For several statements that read one state of the database.
    pub(crate) async fn snapshot(&self) -> Result<Reader, Fault> {
        if let Some(batch) = &self.1 {
            return Ok(Reader::Batch(batch.hold().await?));
        }
        let (backend, connection) = (self.0.backend, self.0.readers.acquire().await?);
        Ok(Reader::Snapshot(Transaction::begin(backend, connection, backend.begin_read()).await?))
    }
}

impl Transaction {
    async fn begin(
        backend: Backend,
        connection: PoolConnection<Any>,
        begin: &'static str,
    ) -> Result<Self, Fault> {
        // From here on a caller that is cancelled leaves no open transaction behind.
        let mut transaction = Self { backend, connection: Some(connection) };
        run(begin, transaction.sql()).await?;
        Ok(transaction)
    }

    /// For statements.
    pub(crate) fn sql(&mut self) -> &mut Connection {
        // `commit` and `drop` are what takes it, and nothing comes after them.
        self.connection.as_deref_mut().expect("a transaction that has not ended has its connection")
    }

    /// Ends it; with the number of an entry of the change log, other nodes are told of it.
    pub(crate) async fn commit(mut self, number: Option<u64>) -> Result<(), Fault> {
        let commit = self.backend.commit(number);
        run(&commit, self.sql()).await?;
        self.connection = None;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            // The process is ending: closing the connection rolls back as well.
            drop(connection.detach());
            return;
        };
        runtime.spawn(async move {
            if run("ROLLBACK", &mut connection).await.is_err() {
                // It ended by itself, as after a full disk, or the database is gone.
                let _closed = connection.close().await;
            }
        });
    }
}

impl Reader {
    /// For statements.
    pub(crate) fn sql(&mut self) -> &mut Connection {
        match self {
            Self::Single(connection) => connection,
            Self::Snapshot(transaction) => transaction.sql(),
            Self::Batch(held) => held.sql(),
        }
    }
}
