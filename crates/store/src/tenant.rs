//! Accounts, and what each begins with.

use adit_model::{AccountId, Change, SecretHash, VirtualNetwork, VirtualNetworkId};
use time::OffsetDateTime;

use crate::location::location_first;
use crate::row::{Columns, Fault, Row, to_hex};
use crate::write::{Actor, Deed, Write, new_uuid};
use crate::{Store, Written};

/// The name of the virtual network that every account begins with (contract D, 6.5).
const FIRST_NETWORK: &str = "default";
/// The name of the first API token.
const FIRST_TOKEN: &str = "admin";

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Its tag.
    pub id: AccountId,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// Where whoever is abused from it may write.
    pub abuse_contact_email: Option<String>,
}

/// All that can be changed of an account.
#[derive(Debug, Clone)]
pub struct AccountEdit {
    /// Its name.
    pub name: String,
    /// Where whoever is abused from it may write; none leaves it as it is.
    pub abuse_contact_email: Option<Option<String>>,
}

/// An account was not changed.
#[derive(Debug, thiserror::Error)]
pub enum AccountUpdateError {
    /// There is none with that id.
    #[error("there is no such account")]
    NotFound,
    /// Another has the name.
    #[error("there is another account of that name")]
    NameTaken,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for AccountUpdateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// What an account begins with.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// The account's tag.
    pub account: AccountId,
    /// The account's name.
    pub name: String,
    /// The hash of the first API token.
    pub token_hash: SecretHash,
    /// The policies of the first API token, as the API would show them.
    pub token_policies: serde_json::Value,
}

/// An account was not made.
#[derive(Debug, thiserror::Error)]
pub enum AccountCreateError {
    /// There is one of that name.
    #[error("there is an account of that name")]
    NameTaken,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for AccountCreateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// The accounts, oldest first.
    pub async fn account_list(&self) -> Result<Vec<AccountRow>, Fault> {
        let rows = sqlx::query("SELECT * FROM accounts ORDER BY created_at, id")
            .fetch_all(self.read().await?.sql())
            .await?;
        rows.iter().map(account_row).collect()
    }

    /// Makes the first account with its virtual network and its first API token. In a store that has an account it
    /// changes nothing and returns `None`, so that a revoked token does not come back.
    pub async fn account_bootstrap(&self, first: &Bootstrap) -> Result<Option<Written<AccountRow>>, Fault> {
        let mut write = self.write().await?;
        let accounts: i64 =
            sqlx::query_scalar("SELECT count(*) FROM accounts").fetch_one(write.sql()).await?;
        if accounts > 0 {
            return Ok(None);
        }
        self.account_insert(write, &Actor::system(), first).await.map(Some)
    }

    /// Makes another account, with its virtual network and its first API token. No two accounts have one name.
    pub async fn account_create(
        &self,
        actor: &Actor,
        new: &Bootstrap,
    ) -> Result<Written<AccountRow>, AccountCreateError> {
        let mut write = self.write().await?;
        let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM accounts WHERE name = $1")
            .bind(new.name.clone())
            .fetch_one(write.sql())
            .await?;
        if taken > 0 {
            return Err(AccountCreateError::NameTaken);
        }
        Ok(self.account_insert(write, actor, new).await?)
    }

    /// Changes an account.
    pub async fn account_update(
        &self,
        actor: &Actor,
        id: AccountId,
        edit: AccountEdit,
    ) -> Result<Written<AccountRow>, AccountUpdateError> {
        let mut write = self.write().await?;
        let text = id.to_string();
        let old = sqlx::query("SELECT * FROM accounts WHERE id = $1").bind(&text);
        let old = old.fetch_optional(write.sql()).await?.ok_or(AccountUpdateError::NotFound)?;
        let old = account_row(&old)?;
        let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM accounts WHERE name = $1 AND id <> $2")
            .bind(&edit.name)
            .bind(&text)
            .fetch_one(write.sql())
            .await?;
        if taken > 0 {
            return Err(AccountUpdateError::NameTaken);
        }
        let abuse_contact_email = edit.abuse_contact_email.unwrap_or(old.abuse_contact_email);
        let value = AccountRow { name: edit.name, abuse_contact_email, ..old };
        sqlx::query("UPDATE accounts SET name = $2, abuse_contact_email = $3 WHERE id = $1")
            .bind(&text)
            .bind(&value.name)
            .bind(&value.abuse_contact_email)
            .execute(write.sql())
            .await?;
        let deed = Deed {
            account: Some(id),
            action: "account.update",
            kind: "account",
            id: &text,
            detail: serde_json::json!({ "name": value.name }),
        };
        Ok(self.commit(write, actor, deed, value).await?)
    }

    async fn account_insert(
        &self,
        mut write: Write,
        actor: &Actor,
        new: &Bootstrap,
    ) -> Result<Written<AccountRow>, Fault> {
        let at = write.at();
        let account = new.account.to_string();
        sqlx::query("INSERT INTO accounts (id, name, created_at) VALUES ($1, $2, $3)")
            .bind(&account)
            .bind(&new.name)
            .bind(at)
            .execute(write.sql())
            .await?;
        let network = VirtualNetworkId::from_uuid(new_uuid());
        sqlx::query(
            "INSERT INTO virtual_networks (id, account_id, name, comment, is_default, created_at) \
             VALUES ($1, $2, $3, '', 1, $4)",
        )
        .bind(network.to_string())
        .bind(&account)
        .bind(FIRST_NETWORK)
        .bind(at)
        .execute(write.sql())
        .await?;
        sqlx::query(
            "INSERT INTO api_tokens (id, account_id, name, hash, policies, disabled, created_at, updated_at) \
             VALUES ($1, $2, $3, $4, $5, 0, $6, $6)",
        )
        .bind(new_uuid().to_string())
        .bind(&account)
        .bind(FIRST_TOKEN)
        .bind(to_hex(new.token_hash.bytes()))
        .bind(new.token_policies.to_string())
        .bind(at)
        .execute(write.sql())
        .await?;
        let network = VirtualNetwork { id: network, account: new.account, is_default: true };
        write.change(Change::VirtualNetworkPut(network));
        let now = write.time();
        let location = location_first(write.sql(), new.account, now).await?;
        write.change(location);
        let value = AccountRow {
            id: new.account,
            name: new.name.clone(),
            created_at: write.time(),
            abuse_contact_email: None,
        };
        let deed = Deed {
            account: Some(new.account),
            action: "account.create",
            kind: "account",
            id: &account,
            detail: serde_json::json!({ "name": new.name }),
        };
        self.commit(write, actor, deed, value).await
    }
}

pub(crate) fn account_row(row: &Row) -> Result<AccountRow, Fault> {
    let columns = Columns::new(row, "accounts");
    Ok(AccountRow {
        id: columns.parsed("id")?,
        name: columns.text("name")?,
        created_at: columns.time("created_at")?,
        abuse_contact_email: columns.maybe_text("abuse_contact_email")?,
    })
}
