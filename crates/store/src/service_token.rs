//! Service tokens (contract D, 10.9): who a program is, by an id and a secret of which only the hash is kept.

use adit_model::{AccountId, Change, SecretHash, ServiceToken, ServiceTokenId};
use time::OffsetDateTime;

use crate::row::{Columns, Connection, Fault, Row, to_hex, to_micros};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Page, Store, Window, Written};

/// A service token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceTokenRow {
    /// Its id.
    pub id: ServiceTokenId,
    /// Its account.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// The id that its holder shows.
    pub client_id: String,
    /// What the secret is checked against.
    pub secret_hash: SecretHash,
    /// How often the secret was made, from 1.
    pub secret_version: u32,
    /// The secret before, and until when it is good.
    pub previous: Option<(SecretHash, OffsetDateTime)>,
    /// How long it is good from its making or refreshing, as it was written.
    pub duration: String,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Until when it is good; `None` for ever.
    pub expires_at: Option<OffsetDateTime>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

impl ServiceTokenRow {
    /// Whether this secret is its secret, or its secret before, at this time. Whether it is switched on and not expired
    /// is [`ServiceTokenRow::is_good`].
    pub fn has_secret(&self, secret: &[u8], now: OffsetDateTime) -> bool {
        let current = self.secret_hash.matches(secret);
        let previous = self.previous.is_some_and(|(hash, until)| hash.matches(secret) && now < until);
        current || previous
    }

    /// What an edge needs of it.
    fn change(&self) -> ServiceToken {
        ServiceToken {
            id: self.id,
            account: self.account,
            client_id: self.client_id.clone(),
            secret: self.secret_hash,
            previous: self.previous.map(|(hash, until)| (hash, to_micros(until))),
            enabled: self.enabled,
            expires_at: self.expires_at.map(to_micros),
        }
    }

    /// Whether it is switched on and not expired.
    pub fn is_good(&self, now: OffsetDateTime) -> bool {
        self.enabled && self.expires_at.is_none_or(|until| now < until)
    }
}

/// A service token to make.
#[derive(Debug, Clone)]
pub struct NewServiceToken {
    /// Its name.
    pub name: String,
    /// The id that its holder shows.
    pub client_id: String,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// The number of that secret.
    pub secret_version: u32,
    /// How long it is good, as it was written.
    pub duration: String,
    /// Whether it is switched on.
    pub enabled: bool,
    /// Until when it is good.
    pub expires_at: Option<OffsetDateTime>,
}

/// What to change of a service token; `None` leaves as it is.
#[derive(Debug, Clone, Default)]
pub struct ServiceTokenEdit {
    /// Another name.
    pub name: Option<String>,
    /// Another duration as it was written, and until when it is then good.
    pub duration: Option<(String, Option<OffsetDateTime>)>,
    /// Switched on or off.
    pub enabled: Option<bool>,
    /// Another secret's hash; the one before is good until the time given, if one is given.
    pub secret: Option<(SecretHash, Option<OffsetDateTime>)>,
    /// The number of the secret; without it, a new secret has the next.
    pub secret_version: Option<u32>,
}

impl Store {
    /// Makes a service token.
    pub async fn service_token_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewServiceToken,
    ) -> Result<Written<ServiceTokenRow>, Fault> {
        let mut write = self.write().await?;
        let at = write.at();
        let row = ServiceTokenRow {
            id: ServiceTokenId::from_uuid(new_uuid()),
            account,
            name: new.name,
            client_id: new.client_id,
            secret_hash: new.secret_hash,
            secret_version: new.secret_version,
            previous: None,
            duration: new.duration,
            enabled: new.enabled,
            expires_at: new.expires_at,
            created_at: write.time(),
            updated_at: write.time(),
        };
        sqlx::query(
            "INSERT INTO service_tokens (id, account_id, name, client_id, secret_hash, secret_version, duration, \
             enabled, expires_at, created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
        )
        .bind(row.id.to_string())
        .bind(account.to_string())
        .bind(&row.name)
        .bind(&row.client_id)
        .bind(to_hex(row.secret_hash.bytes()))
        .bind(i64::from(row.secret_version))
        .bind(&row.duration)
        .bind(i64::from(row.enabled))
        .bind(row.expires_at.map(to_micros))
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::ServiceTokenPut(row.change()));
        self.service_token_commit(write, actor, "service_token.create", row).await
    }

    /// Changes a service token.
    pub async fn service_token_update(
        &self,
        actor: &Actor,
        account: AccountId,
        id: ServiceTokenId,
        edit: ServiceTokenEdit,
    ) -> Result<Written<ServiceTokenRow>, FindError> {
        let mut write = self.write().await?;
        let mut row = service_token_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        row.name = edit.name.unwrap_or(row.name);
        row.enabled = edit.enabled.unwrap_or(row.enabled);
        row.updated_at = write.time();
        if let Some((duration, expires_at)) = edit.duration {
            (row.duration, row.expires_at) = (duration, expires_at);
        }
        let action = if edit.secret.is_some() { "service_token.rotate" } else { "service_token.update" };
        if let Some((hash, previous_until)) = edit.secret {
            row.previous = previous_until.map(|until| (row.secret_hash, until));
            row.secret_hash = hash;
            row.secret_version = row.secret_version.saturating_add(1);
        }
        row.secret_version = edit.secret_version.unwrap_or(row.secret_version);
        let at = write.at();
        sqlx::query(
            "UPDATE service_tokens SET name = $2, secret_hash = $3, secret_version = $4, previous_secret_hash = $5, \
             previous_expires_at = $6, duration = $7, enabled = $8, expires_at = $9, updated_at = $10 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(&row.name)
        .bind(to_hex(row.secret_hash.bytes()))
        .bind(i64::from(row.secret_version))
        .bind(row.previous.as_ref().map(|(hash, _)| to_hex(hash.bytes())))
        .bind(row.previous.as_ref().map(|(_, until)| to_micros(*until)))
        .bind(&row.duration)
        .bind(i64::from(row.enabled))
        .bind(row.expires_at.map(to_micros))
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::ServiceTokenPut(row.change()));
        Ok(self.service_token_commit(write, actor, action, row).await?)
    }

    /// Deletes a service token; what it enrolled stays enrolled.
    pub async fn service_token_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: ServiceTokenId,
    ) -> Result<Written<ServiceTokenRow>, FindError> {
        let mut write = self.write().await?;
        let row = service_token_any(write.sql(), account, id).await?.ok_or(FindError::NotFound)?;
        sqlx::query("DELETE FROM service_tokens WHERE id = $1")
            .bind(id.to_string())
            .execute(write.sql())
            .await?;
        write.change(Change::ServiceTokenRemoved { id });
        Ok(self.service_token_commit(write, actor, "service_token.delete", row).await?)
    }

    async fn service_token_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: ServiceTokenRow,
    ) -> Result<Written<ServiceTokenRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "name": row.name, "client_id": row.client_id, "duration": row.duration, "enabled": row.enabled,
        });
        let deed = Deed { account: Some(row.account), action, kind: "service_token", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The service token with this id.
    pub async fn service_token_fetch(
        &self,
        account: AccountId,
        id: ServiceTokenId,
    ) -> Result<ServiceTokenRow, FindError> {
        let mut reader = self.read().await?;
        service_token_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The service token whose holder shows this id, of any account.
    pub async fn service_token_by_client_id(
        &self,
        client_id: &str,
    ) -> Result<Option<ServiceTokenRow>, Fault> {
        let row = sqlx::query("SELECT * FROM service_tokens WHERE client_id = $1")
            .bind(client_id)
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map(service_token_row).transpose()
    }

    /// The service tokens of this name, or all, oldest first.
    pub async fn service_token_list(
        &self,
        account: AccountId,
        name: Option<&str>,
        window: Window,
    ) -> Result<Page<ServiceTokenRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let total: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM service_tokens WHERE account_id = $1 AND ($2 IS NULL OR name = $2)",
        )
        .bind(account.to_string())
        .bind(name)
        .fetch_one(reader.sql())
        .await?;
        let rows = sqlx::query(
            "SELECT * FROM service_tokens WHERE account_id = $1 AND ($2 IS NULL OR name = $2) \
             ORDER BY created_at, id LIMIT $3 OFFSET $4",
        )
        .bind(account.to_string())
        .bind(name)
        .bind(window.limit_sql())
        .bind(window.offset_sql())
        .fetch_all(reader.sql())
        .await?;
        Page::try_from_rows(total, &rows, service_token_row)
    }
}

/// The service token with this id.
pub(crate) async fn service_token_any(
    sql: &mut Connection,
    account: AccountId,
    id: ServiceTokenId,
) -> Result<Option<ServiceTokenRow>, Fault> {
    let row = sqlx::query("SELECT * FROM service_tokens WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(service_token_row).transpose()
}

/// Every account's service tokens, as changes to an empty state.
pub(crate) async fn service_token_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = sqlx::query("SELECT * FROM service_tokens ORDER BY created_at, id").fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::ServiceTokenPut(service_token_row(row)?.change()))).collect()
}

fn service_token_row(row: &Row) -> Result<ServiceTokenRow, Fault> {
    let columns = Columns::new(row, "service_tokens");
    let version = columns.number("secret_version")?;
    let damaged = |_| Fault::Damaged { table: "service_tokens", column: "secret_version" };
    Ok(ServiceTokenRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        name: columns.text("name")?,
        client_id: columns.text("client_id")?,
        secret_hash: columns.hash("secret_hash")?,
        secret_version: u32::try_from(version).map_err(damaged)?,
        previous: columns.maybe_hash("previous_secret_hash")?.zip(columns.maybe_time("previous_expires_at")?),
        duration: columns.text("duration")?,
        enabled: columns.flag("enabled")?,
        expires_at: columns.maybe_time("expires_at")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}
