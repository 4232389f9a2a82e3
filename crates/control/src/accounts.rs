//! Making and deleting accounts: for whoever has the database, never over the API (contract D, 5).
//!
//! These are functions of the store and not of [`crate::Control`], so that a program may call them where no control plane
//! runs. A running one follows by the change log: the edges close what was the account's.

use std::fmt;

use adit_model::{AccountId, SecretHash};
use adit_store::{
    AccountCreateError, AccountDeleteError, AccountRow, Actor, Bootstrap, Cascade, Fault, Store,
};

use crate::install::{new_api_token, random};
use crate::permission;

/// Longest name of an account, in characters.
pub(crate) const MAX_NAME: usize = 100;

/// A new account, and the token with which to begin. The token is stored nowhere.
pub struct NewAccount {
    /// The account.
    pub account: AccountRow,
    /// Its first token, which may do everything in it.
    pub token: String,
}

impl fmt::Debug for NewAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewAccount").field("account", &self.account).finish_non_exhaustive()
    }
}

/// An account was not made or not deleted.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// The name is none.
    #[error("expected a name of 1 to {MAX_NAME} printable characters that is no account's id")]
    Name,
    /// There is one of that name.
    #[error("there is an account of that name already")]
    NameTaken,
    /// There is none with that id.
    #[error("there is no such account")]
    NotFound,
    /// It owns live objects.
    #[error("the account has {0}: delete them first, or all of it with --cascade")]
    InUse(String),
    /// It is the first one.
    #[error("the installation's first account stays as long as the installation does")]
    First,
    /// The system gave no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Makes an account with its default virtual network and a token that may do everything in it.
///
/// # Errors
/// See [`AccountError`].
pub async fn create(store: &Store, actor: &Actor, name: &str) -> Result<NewAccount, AccountError> {
    let printable = !name.chars().any(char::is_control) && !name.trim().is_empty();
    if !printable || name.chars().count() > MAX_NAME || name.parse::<AccountId>().is_ok() {
        return Err(AccountError::Name);
    }
    let account = AccountId::from_bytes(random().ok_or(AccountError::Random)?);
    let token = new_api_token().ok_or(AccountError::Random)?;
    let new = Bootstrap {
        account,
        name: name.to_owned(),
        token_hash: SecretHash::of(token.as_bytes()),
        token_policies: permission::policies_of(account),
    };
    let made = store.account_create(actor, &new).await.map_err(|error| match error {
        AccountCreateError::NameTaken => AccountError::NameTaken,
        AccountCreateError::Fault(fault) => fault.into(),
    })?;
    Ok(NewAccount { account: made.value, token })
}

/// Deletes an account, with all that it owns if the cascade says so. The first one stays.
///
/// # Errors
/// See [`AccountError`].
pub async fn delete(
    store: &Store,
    actor: &Actor,
    account: AccountId,
    cascade: Cascade,
) -> Result<(), AccountError> {
    if store.account_list().await?.first().is_some_and(|first| first.id == account) {
        return Err(AccountError::First);
    }
    match store.account_delete(actor, account, cascade).await {
        Ok(_) => Ok(()),
        Err(AccountDeleteError::NotFound) => Err(AccountError::NotFound),
        Err(AccountDeleteError::InUse(holdings)) => Err(AccountError::InUse(holdings.to_string())),
        Err(AccountDeleteError::Fault(fault)) => Err(fault.into()),
    }
}
