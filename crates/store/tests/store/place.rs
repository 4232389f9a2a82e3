//! Where a store of a test is: a directory of its own, and a database.

use std::path::{Path, PathBuf};

use adit_store::{OpenError, Store};
use sqlx::AnyPool;
use tempfile::TempDir;

use crate::postgres_server::Postgres;

/// A directory with SQLite's file.
pub(crate) struct SqlitePlace {
    _temporary: TempDir,
    dir: PathBuf,
}

impl SqlitePlace {
    /// How many samples a property is tried with.
    pub(crate) const CASES: u32 = 16;

    /// A new place, with nothing in it; `None` if the machine cannot have one, which is then said.
    #[allow(clippy::unnecessary_wraps, reason = "the other database may be missing")]
    pub(crate) fn new() -> Option<Self> {
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("data");
        Some(Self { _temporary: temporary, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) async fn open(&self) -> Result<Store, OpenError> {
        Store::open(&self.dir).await
    }

    /// The database, past the store.
    pub(crate) async fn pool(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        AnyPool::connect(&format!("sqlite://{}", self.dir.join("adit.db").display())).await.unwrap()
    }
}

/// A database of a server that all tests share.
pub(crate) struct PostgresPlace {
    _temporary: TempDir,
    dir: PathBuf,
    server: Postgres,
}

impl PostgresPlace {
    /// How many samples a property is tried with: each has a database made for it.
    pub(crate) const CASES: u32 = 3;

    /// A new place, with nothing in it; `None` if the machine cannot have one, which is then said.
    pub(crate) fn new() -> Option<Self> {
        let server = match Postgres::shared() {
            Ok(server) => server,
            Err(reason) => {
                skipped(&reason);
                return None;
            }
        };
        let temporary = tempfile::tempdir().unwrap();
        let dir = temporary.path().join("data");
        Some(Self { _temporary: temporary, dir, server })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) async fn open(&self) -> Result<Store, OpenError> {
        Store::open_postgres(&self.server.url(), &self.dir).await
    }

    /// How a program names the database.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Opens it as another node does.
    pub(crate) async fn open_in(&self, dir: &Path) -> Result<Store, OpenError> {
        Store::open_postgres(&self.server.url(), dir).await
    }

    /// Opens it as another node does, with the same key.
    pub(crate) async fn open_beside(&self, dir: &Path) -> Result<Store, OpenError> {
        std::fs::copy(self.dir.join("seal.key"), dir.join("seal.key")).unwrap();
        Store::open_postgres(&self.server.url(), dir).await
    }

    /// The database, past the store.
    pub(crate) async fn pool(&self) -> AnyPool {
        sqlx::any::install_default_drivers();
        AnyPool::connect(&self.server.url()).await.unwrap()
    }
}

/// Says that a test was not run.
#[allow(clippy::print_stderr, reason = "who runs the tests is told what was not tested")]
pub(crate) fn skipped(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}
