//! Opening a store's directory: lock, seal key, database, migrations.
//!
//! What holds when it succeeds: no other process has the directory, the schema is the one that this program knows, and
//! `seal.key` is the one that sealed what the database holds. A failure leaves nothing half-made.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, SqliteConnection};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::seal::{Place, SEAL_KEY_BYTES, SealKey};
use crate::write::now_micros;
use crate::{Inner, Store};

/// How long a statement waits for another connection's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that read at once.
const READERS: u32 = 4;
/// A value sealed at the first opening, by which a later one knows its key.
const SEAL_CHECK: &str = "seal_check";
const SEAL_CHECK_PLACE: Place<'static> = Place { table: "meta", column: "value", row: SEAL_CHECK };

/// Every change of the schema, in order; its place in the list is its number, from 1.
pub(crate) const MIGRATIONS: [&str; 5] = [
    include_str!("../migrations/0001_start.sql"),
    include_str!("../migrations/0002_ingress.sql"),
    include_str!("../migrations/0003_audit.sql"),
    include_str!("../migrations/0004_rules.sql"),
    include_str!("../migrations/0005_route_networks.sql"),
];

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file or the directory could not be made, read or written.
    #[error("cannot {what} {}", path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Another process has it open.
    #[error("{} is in use by another `adit up`: stop that one, or give each its own directory", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// A later program wrote it.
    #[error(
        "{} was written by a newer adit (schema {found}, this one knows {known}): run that version",
        path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// The database is there, its key is not.
    #[error("{} is missing, and without it the secrets in adit.db cannot be opened: restore it", path.display())]
    SealKeyMissing {
        /// Where it should be.
        path: PathBuf,
    },
    /// The key is not this database's, or is no key.
    #[error("{} is not the key that sealed adit.db: restore the right one", path.display())]
    SealKeyWrong {
        /// The file.
        path: PathBuf,
    },
    /// The database cannot be read or brought up to date.
    #[error("cannot open the database {}", path.display())]
    Database {
        /// The database.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Store {
    /// Opens the store in this directory, making what is missing.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file("make the directory", dir))?;
        let lock = lock(dir)?;
        let path = dir.join("adit.db");
        let fresh = !path.exists();
        let seal = seal_key(&dir.join("seal.key"), fresh)?;
        drop(private_file(&path).map_err(file("make", &path))?);

        let database =
            |source: sqlx::Error| OpenError::Database { path: path.clone(), source: source.into() };
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let mut connection = SqliteConnection::connect_with(&options).await.map_err(database)?;
        migrate(&mut connection, &path).await?;
        seal_check(&mut connection, &seal, dir, &path).await?;
        let number = last_number(&mut connection).await.map_err(database)?;
        connection.close().await.map_err(database)?;

        let writer = SqlitePoolOptions::new().max_connections(1);
        let readers = SqlitePoolOptions::new().max_connections(READERS);
        let writer: SqlitePool = writer.connect_with(options.clone()).await.map_err(database)?;
        let readers = readers.connect_with(options).await.map_err(database)?;
        let (number, _) = watch::channel(number);
        Ok(Self(Arc::new(Inner { dir: dir.to_owned(), writer, readers, seal, number, _lock: lock })))
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::File { what, path: path.to_owned(), source }
}

/// Opens a file for its owner only, making it if it is not there.
fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join("adit.lock");
    let lock = private_file(&path).map_err(file("make", &path))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(OpenError::InUse { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(file("lock", &path)(source)),
    }
}

/// Reads the key, or makes one for a database that does not exist yet: an existing one would be lost with a new key.
fn seal_key(path: &Path, fresh: bool) -> Result<SealKey, OpenError> {
    match fs::read(path) {
        Ok(bytes) => {
            let bytes = Zeroizing::new(bytes);
            let key = bytes.as_slice().try_into();
            key.map(SealKey::new).map_err(|_| OpenError::SealKeyWrong { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound && fresh => {
            let mut bytes = Zeroizing::new([0; SEAL_KEY_BYTES]);
            aws_lc_rs::rand::fill(bytes.as_mut_slice())
                .map_err(|error| file("make random bytes for", path)(io::Error::other(error)))?;
            write_whole(path, bytes.as_slice()).map_err(file("write", path))?;
            Ok(SealKey::new(&bytes))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(OpenError::SealKeyMissing { path: path.to_owned() })
        }
        Err(error) => Err(file("read", path)(error)),
    }
}

/// Writes a private file such that it is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let half = path.with_extension("new");
    let mut target = private_file(&half)?;
    target.set_len(0)?;
    target.write_all(bytes)?;
    target.sync_all()?;
    fs::rename(&half, path)?;
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

async fn migrate(connection: &mut SqliteConnection, path: &Path) -> Result<(), OpenError> {
    let database = |source: sqlx::Error| OpenError::Database { path: path.to_owned(), source: source.into() };
    let table = "CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, at BIGINT NOT NULL)";
    sqlx::query(table).execute(&mut *connection).await.map_err(database)?;
    let found: i64 = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM migrations")
        .fetch_one(&mut *connection)
        .await
        .map_err(database)?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    for (number, migration) in (1..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
        let mut step = connection.begin().await.map_err(database)?;
        sqlx::raw_sql(migration).execute(&mut *step).await.map_err(database)?;
        sqlx::query("INSERT INTO migrations (number, at) VALUES ($1, $2)")
            .bind(number)
            .bind(now_micros())
            .execute(&mut *step)
            .await
            .map_err(database)?;
        step.commit().await.map_err(database)?;
    }
    Ok(())
}

async fn seal_check(
    connection: &mut SqliteConnection,
    seal: &SealKey,
    dir: &Path,
    path: &Path,
) -> Result<(), OpenError> {
    let database = |source: sqlx::Error| OpenError::Database { path: path.to_owned(), source: source.into() };
    let stored: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE name = $1")
        .bind(SEAL_CHECK)
        .fetch_optional(&mut *connection)
        .await
        .map_err(database)?;
    if let Some(stored) = stored {
        let wrong = |_| OpenError::SealKeyWrong { path: dir.join("seal.key") };
        return seal.open(SEAL_CHECK_PLACE, &stored).map(drop).map_err(wrong);
    }
    sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2)")
        .bind(SEAL_CHECK)
        .bind(seal.seal(SEAL_CHECK_PLACE, SEAL_CHECK.as_bytes()))
        .execute(connection)
        .await
        .map_err(database)?;
    Ok(())
}

async fn last_number(connection: &mut SqliteConnection) -> Result<u64, sqlx::Error> {
    let number: i64 =
        sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM changes").fetch_one(connection).await?;
    Ok(u64::try_from(number).unwrap_or(0))
}
