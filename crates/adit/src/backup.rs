//! `adit backup`: a copy of the database, also while `adit up` uses it.

use std::io::Write as _;

use anyhow::Context;

use crate::command_line::BackupCommand;
use crate::manage::progress::progress;

pub(crate) const EXAMPLES: &str = "Examples:
  adit backup --data /var/lib/adit /backup/adit-2026-05-01.db

To restore it: stop adit up, remove adit.db-wal and adit.db-shm of its directory, copy the backup over adit.db there, make
sure that seal.key is the one of the time of the backup, and start adit up.";

pub(crate) fn run(command: &BackupCommand) -> anyhow::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let what = format!("copying the database to {}", command.file.display());
    runtime.block_on(progress(&what, adit_store::backup(&command.data, &command.file)))?;
    let key = command.data.join("seal.key");
    writeln!(
        std::io::stdout(),
        "Wrote {}.\nKeep a copy of {} too, in another place: without it the secrets in the backup cannot be read.",
        command.file.display(),
        key.display()
    )
    .context("cannot print")
}
