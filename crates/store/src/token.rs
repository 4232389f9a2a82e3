//! API tokens (contract D, 3.3 and 5): the hash of each, and what it may.
//!
//! Policies and conditions are kept as the API was given them; `control` reads them when a token is used.

use adit_model::{AccountId, SecretHash, TokenId};
use serde_json::Value;
use time::OffsetDateTime;

use crate::row::{Columns, Connection, Fault, Row, to_hex, to_micros};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Page, Store, Window, Written};

/// An API token, without its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenRow {
    /// Its id.
    pub id: TokenId,
    /// Its account.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// What it may: an array of policies.
    pub policies: Value,
    /// From where it may be used, if that is limited.
    pub condition: Option<Value>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// From when on it is good.
    pub not_before: Option<OffsetDateTime>,
    /// Until when it is good.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// An API token to make.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// Its name.
    pub name: String,
    /// The hash of its value.
    pub hash: SecretHash,
    /// What it may.
    pub policies: Value,
    /// From where it may be used.
    pub condition: Option<Value>,
    /// From when on it is good.
    pub not_before: Option<OffsetDateTime>,
    /// Until when it is good.
    pub expires_at: Option<OffsetDateTime>,
}

/// All that can be changed of an API token, but its value.
#[derive(Debug, Clone)]
pub struct TokenEdit {
    /// Its name.
    pub name: String,
    /// What it may.
    pub policies: Value,
    /// From where it may be used.
    pub condition: Option<Value>,
    /// Whether it is switched off.
    pub disabled: bool,
    /// From when on it is good.
    pub not_before: Option<OffsetDateTime>,
    /// Until when it is good.
    pub expires_at: Option<OffsetDateTime>,
}

impl Store {
    /// The token with this hash, unless it is revoked. Whether it is good now is the caller's to see.
    pub async fn token_by_hash(&self, hash: SecretHash) -> Result<Option<TokenRow>, Fault> {
        let row = sqlx::query("SELECT * FROM api_tokens WHERE hash = $1 AND revoked_at IS NULL")
            .bind(to_hex(hash.bytes()))
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map(token_row).transpose()
    }

    /// Makes a token.
    pub async fn token_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewToken,
    ) -> Result<Written<TokenRow>, Fault> {
        let mut write = self.write().await?;
        let at = write.at();
        let row = TokenRow {
            id: TokenId::from_uuid(new_uuid()),
            account,
            name: new.name,
            policies: new.policies,
            condition: new.condition,
            disabled: false,
            not_before: new.not_before,
            expires_at: new.expires_at,
            created_at: write.time(),
            updated_at: write.time(),
        };
        sqlx::query(
            "INSERT INTO api_tokens (id, account_id, name, hash, policies, condition, disabled, not_before, \
             expires_at, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $9)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(&row.name)
        .bind(to_hex(new.hash.bytes()))
        .bind(row.policies.to_string())
        .bind(row.condition.as_ref().map(Value::to_string))
        .bind(row.not_before.map(to_micros))
        .bind(row.expires_at.map(to_micros))
        .bind(at)
        .execute(write.sql())
        .await?;
        self.token_commit(write, actor, "api_token.create", row).await
    }

    /// Changes a token.
    pub async fn token_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: TokenId,
        edit: TokenEdit,
    ) -> Result<Written<TokenRow>, FindError> {
        let mut write = self.write().await?;
        let old = token_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let row = TokenRow {
            name: edit.name,
            policies: edit.policies,
            condition: edit.condition,
            disabled: edit.disabled,
            not_before: edit.not_before,
            expires_at: edit.expires_at,
            updated_at: write.time(),
            ..old
        };
        let at = write.at();
        sqlx::query(
            "UPDATE api_tokens SET name = $2, policies = $3, condition = $4, disabled = $5, not_before = $6, \
             expires_at = $7, updated_at = $8 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(&row.name)
        .bind(row.policies.to_string())
        .bind(row.condition.as_ref().map(Value::to_string))
        .bind(i64::from(row.disabled))
        .bind(row.not_before.map(to_micros))
        .bind(row.expires_at.map(to_micros))
        .bind(at)
        .execute(write.sql())
        .await?;
        Ok(self.token_commit(write, actor, "api_token.update", row).await?)
    }

    /// Gives a token another value; the old one is refused from now on.
    pub async fn token_roll(
        &self,
        actor: &Actor,
        account: AccountId,
        id: TokenId,
        hash: SecretHash,
    ) -> Result<Written<TokenRow>, FindError> {
        let mut write = self.write().await?;
        let mut row = token_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let at = write.at();
        sqlx::query("UPDATE api_tokens SET hash = $2, updated_at = $3 WHERE id = $1")
            .bind(id.to_string())
            .bind(to_hex(hash.bytes()))
            .bind(at)
            .execute(write.sql())
            .await?;
        row.updated_at = write.time();
        Ok(self.token_commit(write, actor, "api_token.roll", row).await?)
    }

    /// Revokes a token for ever.
    pub async fn token_revoke(
        &self,
        actor: &Actor,
        account: AccountId,
        id: TokenId,
    ) -> Result<Written<TokenRow>, FindError> {
        let mut write = self.write().await?;
        let row = token_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        let at = write.at();
        sqlx::query("UPDATE api_tokens SET revoked_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        Ok(self.token_commit(write, actor, "api_token.revoke", row).await?)
    }

    async fn token_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: TokenRow,
    ) -> Result<Written<TokenRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({ "name": row.name, "policies": row.policies });
        let deed = Deed { account: Some(row.account), action, kind: "api_token", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The token with this id, unless it is revoked.
    pub async fn token_fetch(&self, account: AccountId, id: TokenId) -> Result<TokenRow, FindError> {
        let mut reader = self.read().await?;
        token_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The tokens that are not revoked, oldest first.
    pub async fn token_list(&self, account: AccountId, window: Window) -> Result<Page<TokenRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let total: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM api_tokens WHERE account_id = $1 AND revoked_at IS NULL",
        )
        .bind(account.to_string())
        .fetch_one(reader.sql())
        .await?;
        let rows = sqlx::query(
            "SELECT * FROM api_tokens WHERE account_id = $1 AND revoked_at IS NULL \
             ORDER BY created_at, id LIMIT $2 OFFSET $3",
        )
        .bind(account.to_string())
        .bind(window.limit_sql())
        .bind(window.offset_sql())
        .fetch_all(reader.sql())
        .await?;
        Page::try_from_rows(total, &rows, token_row)
    }
}

async fn token_any(sql: &mut Connection, account: AccountId, id: TokenId) -> Result<Option<TokenRow>, Fault> {
    let row =
        sqlx::query("SELECT * FROM api_tokens WHERE account_id = $1 AND id = $2 AND revoked_at IS NULL")
            .bind(account.to_string())
            .bind(id.to_string())
            .fetch_optional(sql)
            .await?;
    row.as_ref().map(token_row).transpose()
}

fn token_row(row: &Row) -> Result<TokenRow, Fault> {
    let columns = Columns::new(row, "api_tokens");
    let condition = columns.maybe_text("condition")?;
    let damaged = |_| Fault::Damaged { table: "api_tokens", column: "condition" };
    Ok(TokenRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        name: columns.text("name")?,
        policies: columns.json("policies")?,
        condition: condition.map(|text| serde_json::from_str(&text)).transpose().map_err(damaged)?,
        disabled: columns.flag("disabled")?,
        not_before: columns.maybe_time("not_before")?,
        expires_at: columns.maybe_time("expires_at")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}
