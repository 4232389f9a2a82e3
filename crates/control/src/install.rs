//! The first start of an installation: an account, and a token with which to begin.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use adit_model::{AccountId, SecretHash};
use adit_store::{Bootstrap, Fault, Store};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tracing::info;

use crate::permission;

/// Random bytes in an API token: 40 characters of URL-safe base64 (contract D, 3.3).
const TOKEN_BYTES: usize = 30;

/// The control plane could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A file could not be written.
    #[error("cannot write {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// The account of this store, made if there is none.
///
/// The token's file is written before the account is: a start that ends between the two begins again with a new token, and
/// an account never exists without a token that someone can read.
pub(crate) async fn install(store: &Store) -> Result<AccountId, StartError> {
    let id_file = store.dir().join("account-id");
    if let Some(account) = store.account_list().await?.first() {
        if !id_file.exists() {
            write_whole(&id_file, &format!("{}\n", account.id), 0o644)?;
        }
        return Ok(account.id);
    }
    let token = new_api_token().ok_or(StartError::Random)?;
    let account = AccountId::from_bytes(random().ok_or(StartError::Random)?);
    write_whole(&store.dir().join("admin-token"), &format!("{token}\n"), 0o600)?;
    let first = Bootstrap {
        account,
        name: "adit".into(),
        token_hash: SecretHash::of(token.as_bytes()),
        token_policies: permission::all_policies(),
    };
    store.account_bootstrap(&first).await?;
    write_whole(&id_file, &format!("{account}\n"), 0o644)?;
    info!(%account, "account created; its first token is in the file admin-token");
    Ok(account)
}

/// A new API token. It does not begin with a dash: as an argument it would be taken for a flag.
pub(crate) fn new_api_token() -> Option<String> {
    loop {
        let token = URL_SAFE_NO_PAD.encode(random::<TOKEN_BYTES>()?);
        if !token.starts_with('-') {
            return Some(token);
        }
    }
}

/// Random bytes for a secret; `None` if the system gives none.
pub(crate) fn random<const LENGTH: usize>() -> Option<[u8; LENGTH]> {
    let mut bytes = [0; LENGTH];
    aws_lc_rs::rand::fill(&mut bytes).ok().map(|()| bytes)
}

fn write_whole(path: &Path, text: &str, mode: u32) -> Result<(), StartError> {
    let half = path.with_extension("new");
    let write = || {
        if let Err(error) = fs::remove_file(&half)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&half)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&half, path)?;
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|source| StartError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_never_taken_for_a_flag() {
        // Of 64 texts one would begin with a dash.
        for _ in 0..2000 {
            let token = new_api_token().unwrap();
            assert!(!token.starts_with('-') && token.len() >= 40, "{token}");
        }
    }
}
