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

use sqlx::any::AnyPoolOptions;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{AnyConnection, AnyPool, Connection as _};
use time::OffsetDateTime;
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::row::run;
use crate::seal::{Place, SEAL_KEY_BYTES, SealKey};
use crate::session::{Backend, CHANNEL};
use crate::write::now_micros;
use crate::{AbortOnDrop, Inner, Records, Store, feed};

/// What every connection to SQLite begins with. The last is how long a statement waits for another connection's lock.
const SQLITE_START: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; \
     PRAGMA busy_timeout = 10000";
/// What every connection to PostgreSQL begins with: no statement, no wait for a lock and no transaction that does nothing
/// holds up the other nodes for long.
const POSTGRES_START: &str = "SET application_name = 'adit'; SET synchronous_commit = on; SET statement_timeout = '30s'; \
     SET lock_timeout = '10s'; SET idle_in_transaction_session_timeout = '30s'";
/// Held by the node that brings the schema of a PostgreSQL database up to date; not the lock of writers.
const MIGRATION_LOCK: &str = "SELECT pg_advisory_lock(4701880136229154676)";
/// Connections that read at once.
const SQLITE_READERS: u32 = 4;
const POSTGRES_READERS: u32 = 8;
const RECORD_READERS: u32 = 2;
/// The log records of a store whose database is SQLite.
const RECORDS_FILE: &str = "records.db";
/// How long a request waits for a connection to read, and to write.
const READ_WAIT: Duration = Duration::from_secs(5);
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How long to wait before listening again, when the database went away.
pub(crate) const LISTEN_AGAIN: Duration = Duration::from_secs(1);
/// A value sealed at the first opening, by which a later one knows its key.
const SEAL_CHECK: &str = "seal_check";
const SEAL_CHECK_PLACE: Place<'static> = Place { table: "meta", column: "value", row: SEAL_CHECK };

/// Every change of the schema, in order; its place in the list is its number, from 1.
pub(crate) const MIGRATIONS: [&str; 15] = [
    include_str!("../migrations/0001_start.sql"),
    include_str!("../migrations/0002_ingress.sql"),
    include_str!("../migrations/0003_audit.sql"),
    include_str!("../migrations/0004_rules.sql"),
    include_str!("../migrations/0005_route_networks.sql"),
    include_str!("../migrations/0006_nodes.sql"),
    include_str!("../migrations/0007_members.sql"),
    include_str!("../migrations/0008_generations.sql"),
    include_str!("../migrations/0009_live_routes.sql"),
    include_str!("../migrations/0010_gateway.sql"),
    include_str!("../migrations/0011_tunnel_kinds.sql"),
    include_str!("../migrations/0012_records.sql"),
    include_str!("../migrations/0013_hostname_routes.sql"),
    include_str!("../migrations/0014_locations.sql"),
    include_str!("../migrations/0015_inspection.sql"),
];

/// The migration after which every account is given its first location.
const LOCATIONS: i64 = 14;

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
    #[error("{place} was written by a newer adit (schema {found}, this one knows {known}): run that version")]
    Newer {
        /// The database.
        place: String,
        /// Its schema.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// The database is there, its key is not.
    #[error(
        "{} is missing, and without it the secrets in {place} cannot be opened: restore it, or copy it from another node \
         of the database",
        path.display()
    )]
    SealKeyMissing {
        /// Where it should be.
        path: PathBuf,
        /// The database.
        place: String,
    },
    /// The key is not this database's, or is no key.
    #[error("{} is not the key that sealed the secrets in {place}: restore the right one", path.display())]
    SealKeyWrong {
        /// The file.
        path: PathBuf,
        /// The database.
        place: String,
    },
    /// The database cannot be named to its driver.
    #[error("the path {} is not UTF-8, which the database needs: use another directory", path.display())]
    Path {
        /// The directory.
        path: PathBuf,
    },
    /// The database cannot be read or brought up to date.
    #[error("cannot open the database {place}")]
    Database {
        /// The database, without a password.
        place: String,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The database of a store.
struct Target {
    backend: Backend,
    url: String,
    /// What it is called in messages: never with a password.
    place: String,
}

impl Store {
    /// Opens the store in this directory, making what is missing: SQLite's database is a file in it.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open(dir: &Path) -> Result<Self, OpenError> {
        let (dir, lock) = directory(dir)?;
        let path = dir.join("adit.db");
        drop(private_file(&path).map_err(file("make", &path))?);
        let text = path.to_str().ok_or_else(|| OpenError::Path { path: dir.clone() })?;
        let url = format!("sqlite://{}?mode=rwc", url_path(text));
        Self::open_target(dir, lock, Target { backend: Backend::Sqlite, url, place: text.to_owned() }).await
    }

    /// Opens a PostgreSQL database, making what is missing. The directory has the key that seals its secrets, which all
    /// nodes of the database need, and nothing else.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub async fn open_postgres(url: &str, dir: &Path) -> Result<Self, OpenError> {
        let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| OpenError::Database {
            place: "of the given URL".into(),
            source: error.into(),
        })?;
        let place = format!(
            "{} on {}:{}",
            options.get_database().unwrap_or_else(|| options.get_username()),
            options.get_socket().map_or_else(|| options.get_host().into(), |path| path.display().to_string()),
            options.get_port()
        );
        let (dir, lock) = directory(dir)?;
        let target = Target { backend: Backend::Postgres, url: url.to_owned(), place };
        Self::open_target(dir, lock, target).await
    }

    async fn open_target(dir: PathBuf, lock: File, target: Target) -> Result<Self, OpenError> {
        sqlx::any::install_default_drivers();
        let mut connection =
            AnyConnection::connect(&target.url).await.map_err(|error| target.failed(error))?;
        let start = target.backend.start();
        run(start, &mut connection).await.map_err(|error| target.failed(error))?;
        if target.backend == Backend::Postgres {
            // Held until the connection closes.
            let locked = run(MIGRATION_LOCK, &mut connection).await;
            locked.map_err(|error| target.failed(error))?;
        }
        target.migrate(&mut connection).await?;
        let seal = target.seal_key(&mut connection, &dir.join("seal.key")).await?;
        let number = last_number(&mut connection).await.map_err(|error| target.failed(error))?;
        connection.close().await.map_err(|error| target.failed(error))?;

        let records = target.records(&dir).await?;
        let (number, _) = watch::channel(number);
        let number = Arc::new(number);
        let readers = match target.backend {
            Backend::Sqlite => SQLITE_READERS,
            Backend::Postgres => POSTGRES_READERS,
        };
        let listener = (target.backend == Backend::Postgres)
            .then(|| AbortOnDrop(tokio::spawn(listen(target.url.clone(), Arc::clone(&number)))));
        Ok(Self(
            Arc::new(Inner {
                dir,
                writer: target.pool(1, WRITE_WAIT).map_err(|error| target.failed(error))?,
                group: crate::group::Group::default(),
                readers: target.pool(readers, READ_WAIT).map_err(|error| target.failed(error))?,
                records,
                backend: target.backend,
                seal,
                number,
                listener,
                _lock: lock,
            }),
            None,
        ))
    }
}

/// Makes and locks the directory, and says where it really is.
fn directory(dir: &Path) -> Result<(PathBuf, File), OpenError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(file("make the directory", dir))?;
    let lock = lock(dir)?;
    Ok((dir.canonicalize().map_err(file("find the directory", dir))?, lock))
}

/// A path as part of a URL.
pub(crate) fn url_path(path: &str) -> String {
    use std::fmt::Write as _;
    path.bytes().fold(String::with_capacity(path.len()), |mut url, byte| {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            url.push(char::from(byte));
        } else {
            let _infallible = write!(url, "%{byte:02X}");
        }
        url
    })
}

/// Passes on what other nodes tell of the change log. What is told while the database is away is made up by
/// [`crate::Feed`], which looks by itself too.
async fn listen(url: String, told: Arc<watch::Sender<u64>>) {
    loop {
        if let Ok(mut listener) = PgListener::connect(&url).await
            && listener.listen(CHANNEL).await.is_ok()
        {
            while let Ok(notice) = listener.recv().await {
                if let Ok(number) = notice.payload().parse() {
                    feed::tell(&told, number);
                }
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

impl Backend {
    const fn start(self) -> &'static str {
        match self {
            Self::Sqlite => SQLITE_START,
            Self::Postgres => POSTGRES_START,
        }
    }

    /// A migration as this database reads it: texts compare by their bytes, whatever the database's language is, and
    /// what only PostgreSQL has is a comment to the other.
    fn migration(self, text: &str) -> String {
        match self {
            Self::Sqlite => text.to_owned(),
            Self::Postgres => text.replace(" TEXT", " TEXT COLLATE \"C\"").replace("\n--postgres ", "\n"),
        }
    }
}

impl Target {
    fn failed(&self, source: sqlx::Error) -> OpenError {
        OpenError::Database { place: self.place.clone(), source: source.into() }
    }

    /// Connections to the database, made when they are needed.
    fn pool(&self, connections: u32, wait: Duration) -> Result<AnyPool, sqlx::Error> {
        self.pool_with(connections, wait, self.backend.start())
    }

    fn pool_with(
        &self,
        connections: u32,
        wait: Duration,
        start: &'static str,
    ) -> Result<AnyPool, sqlx::Error> {
        AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(wait)
            // A file does not go away; asking costs more than the statement.
            .test_before_acquire(self.backend == Backend::Postgres)
            .after_connect(move |connection, _| Box::pin(async move { run(start, connection).await }))
            .connect_lazy(&self.url)
    }

    /// The log records: SQLite's in a file of their own, which is made if it is not there.
    async fn records(&self, dir: &Path) -> Result<Records, OpenError> {
        match self.backend {
            Backend::Postgres => {
                let pool =
                    |connections| self.pool(connections, WRITE_WAIT).map_err(|error| self.failed(error));
                Ok(Records { writer: pool(1)?, readers: pool(RECORD_READERS)? })
            }
            Backend::Sqlite => {
                let path = dir.join(RECORDS_FILE);
                drop(private_file(&path).map_err(file("make", &path))?);
                let text = path.to_str().ok_or_else(|| OpenError::Path { path: path.clone() })?;
                let url = format!("sqlite://{}?mode=rwc", url_path(text));
                let target = Self { backend: self.backend, url, place: text.to_owned() };
                let pool = |connections| {
                    let start = crate::records::SQLITE_START;
                    let pool = target.pool_with(connections, WRITE_WAIT, start);
                    pool.map_err(|error| target.failed(error))
                };
                let records = Records { writer: pool(1)?, readers: pool(RECORD_READERS)? };
                records.make().await.map_err(|error| target.failed(error))?;
                Ok(records)
            }
        }
    }

    async fn migrate(&self, connection: &mut AnyConnection) -> Result<(), OpenError> {
        let failed = |error| self.failed(error);
        let table = "CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, at BIGINT NOT NULL)";
        run(table, connection).await.map_err(failed)?;
        let found: i64 = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM migrations")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if found > known {
            return Err(OpenError::Newer { place: self.place.clone(), found, known });
        }
        for (number, migration) in (1_i64..).zip(MIGRATIONS).filter(|(number, _)| *number > found) {
            let mut step = connection.begin().await.map_err(failed)?;
            let migration = self.backend.migration(migration);
            run(&migration, &mut step).await.map_err(failed)?;
            if number == LOCATIONS {
                let began = crate::location::locations_begin(&mut step, OffsetDateTime::now_utc()).await;
                began.map_err(|fault| OpenError::Database {
                    place: self.place.clone(),
                    source: fault.into(),
                })?;
            }
            sqlx::query("INSERT INTO migrations (number, at) VALUES ($1, $2)")
                .bind(number)
                .bind(now_micros())
                .execute(&mut *step)
                .await
                .map_err(failed)?;
            step.commit().await.map_err(failed)?;
        }
        Ok(())
    }

    /// Reads the key and checks it against the database; makes one for a database that has sealed nothing yet.
    async fn seal_key(&self, connection: &mut AnyConnection, path: &Path) -> Result<SealKey, OpenError> {
        let failed = |error| self.failed(error);
        let wrong = || OpenError::SealKeyWrong { path: path.to_owned(), place: self.place.clone() };
        let stored: Option<String> = sqlx::query_scalar("SELECT value FROM meta WHERE name = $1")
            .bind(SEAL_CHECK)
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?;
        let key = match read_key(path).map_err(file("read", path))? {
            Some(bytes) => bytes.as_slice().try_into().map(SealKey::new).map_err(|_| wrong())?,
            None if stored.is_none() => make_key(path)?,
            None => {
                return Err(OpenError::SealKeyMissing { path: path.to_owned(), place: self.place.clone() });
            }
        };
        if let Some(stored) = stored {
            key.open(SEAL_CHECK_PLACE, &stored).map_err(|_| wrong())?;
            return Ok(key);
        }
        sqlx::query("INSERT INTO meta (name, value) VALUES ($1, $2)")
            .bind(SEAL_CHECK)
            .bind(key.seal(SEAL_CHECK_PLACE, SEAL_CHECK.as_bytes()))
            .execute(connection)
            .await
            .map_err(failed)?;
        Ok(key)
    }
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    move |source| OpenError::File { what, path: path.to_owned(), source }
}

/// Opens a file for its owner only, making it if it is not there.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
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

/// The bytes of the key's file, if there is one.
fn read_key(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn make_key(path: &Path) -> Result<SealKey, OpenError> {
    let mut bytes = Zeroizing::new([0; SEAL_KEY_BYTES]);
    aws_lc_rs::rand::fill(bytes.as_mut_slice())
        .map_err(|error| file("make random bytes for", path)(io::Error::other(error)))?;
    write_whole(path, bytes.as_slice()).map_err(file("write", path))?;
    Ok(SealKey::new(&bytes))
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

async fn last_number(connection: &mut AnyConnection) -> Result<u64, sqlx::Error> {
    let number: i64 =
        sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM changes").fetch_one(connection).await?;
    Ok(u64::try_from(number).unwrap_or(0))
}
