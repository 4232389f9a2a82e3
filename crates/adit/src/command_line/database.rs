//! Where the database is, and what is done with it.

use std::path::PathBuf;

use clap::Args;

/// Where a PostgreSQL database is. It may hold a password, and never shows it.
#[derive(Clone, serde::Deserialize)]
#[serde(transparent)]
pub(crate) struct DatabaseUrl(String);

impl DatabaseUrl {
    /// The URL, for the database's driver.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for DatabaseUrl {
    fn from(url: &str) -> Self {
        Self(url.to_owned())
    }
}

impl std::fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseUrl(..)")
    }
}

/// Copies the database to a file, also while `adit up` runs.
#[derive(Debug, Args)]
pub(crate) struct BackupCommand {
    /// Directory of `adit up`
    #[arg(long, env = "ADIT_DATA", value_name = "DIR", default_value = "./adit-data")]
    pub(crate) data: PathBuf,
    /// Where to write the copy; it must not exist
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
}
