//! A copy of a store's database, taken while it may be in use.
//!
//! What holds: the copy is one committed state of the database, whole or not there at all, and its owner's only. It is put
//! back by making it `adit.db` of a directory with the same `seal.key`, which is no part of it: whoever finds a backup
//! must not have the secrets in it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use sqlx::{AnyConnection, Connection as _};

use crate::open::{private_file, url_path};

/// Why there is no copy.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The directory has no database of SQLite.
    #[error(
        "there is no database in {}: name the directory of `adit up` with --data. A PostgreSQL database is copied by \
         its own programs: pg_dump --format=custom --file=FILE URL, and pg_restore; keep seal.key of the directory too",
        dir.display()
    )]
    NoDatabase {
        /// The directory.
        dir: PathBuf,
    },
    /// The copy's file is there already.
    #[error("{} exists: choose another name", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A path is not UTF-8.
    #[error("the path {} is not UTF-8, which the database needs", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// The copy could not be written.
    #[error("cannot write {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The database could not be copied.
    #[error("cannot copy the database to {}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Copies the database of a directory to a file that is not there yet. Another process may be using it.
///
/// # Errors
/// See [`BackupError`]; there is no copy then.
pub async fn backup(dir: &Path, target: &Path) -> Result<(), BackupError> {
    let database = dir.join("adit.db");
    if !database.exists() {
        return Err(BackupError::NoDatabase { dir: dir.to_owned() });
    }
    if target.exists() {
        return Err(BackupError::Exists { path: target.to_owned() });
    }
    let mut half = target.as_os_str().to_owned();
    half.push(".part");
    let half = PathBuf::from(half);
    let copied = copy(&database, &half, target).await;
    if copied.is_err() {
        // What there is of it is of no use.
        let _none = fs::remove_file(&half);
    }
    copied
}

async fn copy(database: &Path, half: &Path, target: &Path) -> Result<(), BackupError> {
    let file = |source| BackupError::File { path: target.to_owned(), source };
    let failed =
        |source: sqlx::Error| BackupError::Database { path: target.to_owned(), source: source.into() };
    let text = |path: &Path| path.to_str().map(str::to_owned).ok_or(BackupError::Path { path: path.into() });
    // What an earlier try may have left; the copy is made into an empty file that nobody else can read.
    private_file(half).and_then(|half| half.set_len(0)).map_err(file)?;
    let database = text(&database.canonicalize().map_err(file)?)?;
    sqlx::any::install_default_drivers();
    let url = format!("sqlite://{}?mode=rw", url_path(&database));
    let mut connection = AnyConnection::connect(&url).await.map_err(failed)?;
    sqlx::query("VACUUM INTO $1").bind(text(half)?).execute(&mut connection).await.map_err(failed)?;
    connection.close().await.map_err(failed)?;
    File::open(half).and_then(|half| half.sync_all()).map_err(file)?;
    fs::rename(half, target).map_err(file)?;
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all()).map_err(file)
}
