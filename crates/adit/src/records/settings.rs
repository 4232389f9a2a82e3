//! Where log records go and how long they are kept: flags, and what they mean.

use std::path::PathBuf;
use std::time::Duration;

use adit_model::GoDuration;
use adit_store::Retention;
use anyhow::{Context as _, ensure};
use clap::Args;

/// Where log records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outputs {
    pub(crate) stdout: bool,
    pub(crate) file: Option<(PathBuf, FileLimits)>,
}

/// How much of a file there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileLimits {
    /// Of one file.
    pub(crate) bytes: u64,
    /// Those put aside included.
    pub(crate) files: u32,
}

/// Flags of where log records go.
#[derive(Debug, Args, Default)]
pub(crate) struct RecordFlags {
    /// Whether log records are written to standard output, as JSON lines: true or false [default: true]
    #[arg(long = "record-stdout", env = "ADIT_RECORD_STDOUT", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub(crate) stdout: Option<bool>,
    /// File that log records are written to as well, as JSON lines
    #[arg(long = "record-file", env = "ADIT_RECORD_FILE", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Size in MiB at which the file of log records is put aside [default: 64]
    #[arg(long = "record-file-size", env = "ADIT_RECORD_FILE_SIZE", value_name = "MIB")]
    pub(crate) size: Option<u32>,
    /// Files of log records, those put aside included [default: 5]
    #[arg(long = "record-files", env = "ADIT_RECORD_FILES", value_name = "N")]
    pub(crate) files: Option<u32>,
}

/// Flags of how long log records are kept in the store.
#[derive(Debug, Args, Default)]
pub(crate) struct RetentionFlags {
    /// For how long log records are kept for the API; 0s keeps none [default: 336h]
    #[arg(long, env = "ADIT_RECORD_AGE", value_name = "DURATION")]
    pub(crate) record_age: Option<String>,
    /// How many log records of an account are kept for the API [default: 500000]
    #[arg(long, env = "ADIT_RECORD_ROWS", value_name = "N")]
    pub(crate) record_rows: Option<u64>,
}

/// The same, as a file has them.
#[derive(Debug, Default)]
pub(crate) struct RetentionKeys {
    pub(crate) record_age: Option<String>,
    pub(crate) record_rows: Option<u64>,
}

impl RecordFlags {
    /// What was typed, over what a file has, over the defaults.
    pub(crate) fn over(self, in_file: Self) -> anyhow::Result<Outputs> {
        let mebibytes = self.size.or(in_file.size).unwrap_or(64);
        let files = self.files.or(in_file.files).unwrap_or(5);
        ensure!(mebibytes >= 1, "record-file-size: expected 1 MiB or more");
        ensure!((1..=1000).contains(&files), "record-files: expected 1 to 1000 files");
        let limits = FileLimits { bytes: u64::from(mebibytes) << 20, files };
        Ok(Outputs {
            stdout: self.stdout.or(in_file.stdout).unwrap_or(true),
            file: self.file.or(in_file.file).map(|path| (path, limits)),
        })
    }
}

impl RetentionFlags {
    /// The same; none: nothing is kept.
    pub(crate) fn over(self, file: RetentionKeys) -> anyhow::Result<Option<Retention>> {
        let rows = self.record_rows.or(file.record_rows).unwrap_or(500_000);
        let age = match self.record_age.or(file.record_age) {
            None => Duration::from_hours(14 * 24),
            Some(text) => text
                .parse::<GoDuration>()
                .ok()
                .map(GoDuration::get)
                .with_context(|| format!("record-age: expected a duration such as 336h, not {text:?}"))?,
        };
        Ok((!age.is_zero() && rows > 0).then_some(Retention { age, rows }))
    }
}
