//! Devices and their registrations (contract D, 11): which key stands for whom.
//!
//! A key has at most one registration. A revoked registration keeps its key, so that the key cannot enrol again.

use std::net::IpAddr;

use adit_model::{AccountId, Change, DeviceId, DeviceKey, Registration, RegistrationId, ServiceTokenId};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use time::OffsetDateTime;

use crate::query::QueryBuilder;
use crate::row::{Columns, Connection, Fault, Row, from_hex, to_hex, to_micros};
use crate::service_token::service_token_any;
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Page, Store, Window, Written};

/// A device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRow {
    /// Its id.
    pub id: DeviceId,
    /// Its account.
    pub account: AccountId,
    /// Its name.
    pub name: String,
    /// `linux`, `mac`, `windows`.
    pub device_type: String,
    /// The version of its system.
    pub os_version: String,
    /// The version of its agent.
    pub client_version: String,
    /// Where it was last seen from.
    pub public_ip: Option<IpAddr>,
    /// When it enrolled.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
    /// When it last connected, or enrolled.
    pub last_seen_at: OffsetDateTime,
    /// How many registrations it has that are not revoked.
    pub active_registrations: u32,
    /// Whom its latest registration stands for.
    pub last_seen_user: Option<String>,
}

/// A registration, with its device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationRow {
    /// Its id.
    pub id: RegistrationId,
    /// Its account.
    pub account: AccountId,
    /// The device's id.
    pub device: DeviceId,
    /// The device's name.
    pub device_name: String,
    /// The device's kind.
    pub device_type: String,
    /// The version of the device's system.
    pub os_version: String,
    /// The version of the device's agent.
    pub client_version: String,
    /// Where the device was last seen from.
    pub public_ip: Option<IpAddr>,
    /// The key by its hash.
    pub key: DeviceKey,
    /// The key's SubjectPublicKeyInfo in DER, in base64.
    pub public_key: String,
    /// Whom it stands for.
    pub user: String,
    /// The service token that enrolled it, which may be gone.
    pub service_token: Option<ServiceTokenId>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
    /// When it was last used.
    pub last_seen_at: OffsetDateTime,
    /// When it was revoked, if it is.
    pub revoked_at: Option<OffsetDateTime>,
}

/// A key to bind.
#[derive(Debug, Clone)]
pub struct NewRegistration {
    /// The key's SubjectPublicKeyInfo in DER.
    pub public_key_der: Vec<u8>,
    /// The device's name.
    pub device_name: String,
    /// The device's kind.
    pub device_type: String,
    /// The version of its system.
    pub os_version: String,
    /// The version of its agent.
    pub client_version: String,
    /// Where it enrols from.
    pub public_ip: Option<IpAddr>,
    /// Whom the key is to stand for.
    pub user: String,
    /// The service token that enrols it.
    pub service_token: ServiceTokenId,
}

/// Which registrations by their state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegistrationStatus {
    /// All of them.
    #[default]
    All,
    /// Those that are not revoked.
    Active,
    /// Those that are.
    Revoked,
}

/// Which registrations a list has.
#[derive(Debug, Clone, Default)]
pub struct RegistrationFilter {
    /// Only these, unless empty.
    pub ids: Vec<RegistrationId>,
    /// Only those of these devices, unless empty.
    pub devices: Vec<DeviceId>,
    /// Only those that this service token enrolled.
    pub service_token: Option<ServiceTokenId>,
    /// Only those whose device's name contains this.
    pub search: Option<String>,
    /// By their state.
    pub status: RegistrationStatus,
    /// Only those behind this one in the order of the list.
    pub after: Option<(OffsetDateTime, RegistrationId)>,
}

/// A key could not be bound.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// It has a registration.
    #[error("the key is registered already")]
    KeyTaken,
    /// Its registration is revoked.
    #[error("the key's registration is revoked")]
    KeyRevoked,
    /// The service token is gone, switched off or expired.
    #[error("the service token is not good")]
    ServiceTokenRefused,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for EnrollError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Binds a new device's key to whom it stands for.
    pub async fn registration_create(
        &self,
        actor: &Actor,
        account: AccountId,
        new: NewRegistration,
    ) -> Result<Written<RegistrationRow>, EnrollError> {
        let mut write = self.write().await?;
        let token = service_token_any(write.sql(), account, new.service_token).await?;
        if !token.is_some_and(|token| token.is_good(write.time())) {
            return Err(EnrollError::ServiceTokenRefused);
        }
        let key = DeviceKey::of_public_key(&new.public_key_der);
        key_free(write.sql(), key).await?;
        let row = RegistrationRow {
            id: RegistrationId::from_uuid(new_uuid()),
            account,
            device: DeviceId::from_uuid(new_uuid()),
            device_name: new.device_name,
            device_type: new.device_type,
            os_version: new.os_version,
            client_version: new.client_version,
            public_ip: new.public_ip,
            key,
            public_key: STANDARD.encode(&new.public_key_der),
            user: new.user,
            service_token: Some(new.service_token),
            created_at: write.time(),
            updated_at: write.time(),
            last_seen_at: write.time(),
            revoked_at: None,
        };
        registration_insert(&mut write, &row).await?;
        write.change(Change::RegistrationPut(row.change()));
        Ok(self.registration_commit(write, actor, "registration.create", row).await?)
    }

    async fn registration_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: RegistrationRow,
    ) -> Result<Written<RegistrationRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "device_id": row.device, "device_name": row.device_name, "user": row.user,
            "service_token_id": row.service_token,
        });
        let deed = Deed { account: Some(row.account), action, kind: "registration", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// Revokes registrations, all or (when one is not found) none. Those that are revoked stay so.
    pub async fn registration_revoke(
        &self,
        actor: &Actor,
        account: AccountId,
        ids: &[RegistrationId],
    ) -> Result<Written<()>, FindError> {
        self.registration_mark(actor, account, ids, RegistrationStatus::Revoked).await
    }

    /// Takes the revocation of registrations back, all or none.
    pub async fn registration_unrevoke(
        &self,
        actor: &Actor,
        account: AccountId,
        ids: &[RegistrationId],
    ) -> Result<Written<()>, FindError> {
        self.registration_mark(actor, account, ids, RegistrationStatus::Active).await
    }

    async fn registration_mark(
        &self,
        actor: &Actor,
        account: AccountId,
        ids: &[RegistrationId],
        status: RegistrationStatus,
    ) -> Result<Written<()>, FindError> {
        let mut write = self.write().await?;
        let at = write.at();
        let revoke = status == RegistrationStatus::Revoked;
        for id in ids {
            let mut row = registration_any(write.sql(), account, *id).await?.ok_or(FindError::NotFound)?;
            if row.revoked_at.is_some() == revoke {
                continue;
            }
            row.revoked_at = revoke.then(|| write.time());
            sqlx::query("UPDATE registrations SET revoked_at = $2, updated_at = $3 WHERE id = $1")
                .bind(id.to_string())
                .bind(revoke.then_some(at))
                .bind(at)
                .execute(write.sql())
                .await?;
            write.change(Change::RegistrationPut(row.change()));
        }
        let action = if revoke { "registration.revoke" } else { "registration.unrevoke" };
        Ok(self.registrations_commit(write, actor, account, action, ids).await?)
    }

    /// Removes registrations, all or none; their keys may enrol again.
    pub async fn registration_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        ids: &[RegistrationId],
    ) -> Result<Written<()>, FindError> {
        let mut write = self.write().await?;
        for id in ids {
            registration_any(write.sql(), account, *id).await?.ok_or(FindError::NotFound)?;
            registration_remove(&mut write, *id).await?;
        }
        Ok(self.registrations_commit(write, actor, account, "registration.delete", ids).await?)
    }

    async fn registrations_commit(
        &self,
        write: Write,
        actor: &Actor,
        account: AccountId,
        action: &'static str,
        ids: &[RegistrationId],
    ) -> Result<Written<()>, Fault> {
        let id = match ids {
            [id] => id.to_string(),
            _ => String::new(),
        };
        let detail = serde_json::json!({ "ids": ids });
        let deed = Deed { account: Some(account), action, kind: "registration", id: &id, detail };
        self.commit(write, actor, deed, ()).await
    }

    /// The registration with this id.
    pub async fn registration_fetch(
        &self,
        account: AccountId,
        id: RegistrationId,
    ) -> Result<RegistrationRow, FindError> {
        let mut reader = self.read().await?;
        registration_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// The registrations that pass the filter, oldest first; the total counts all that do, whatever is `after`.
    pub async fn registration_list(
        &self,
        account: AccountId,
        filter: &RegistrationFilter,
        window: Window,
    ) -> Result<Page<RegistrationRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let counted = "SELECT count(*) FROM registrations r JOIN devices d ON d.id = r.device_id WHERE true";
        let count = filter.query(counted, account);
        let total: i64 = count.build_query_scalar().fetch_one(reader.sql()).await?;
        let mut query = filter.query(SELECT, account);
        if let Some((at, id)) = filter.after {
            let at = to_micros(at);
            query.push(" AND (r.created_at > ").push_bind(at);
            query.push(" OR (r.created_at = ").push_bind(at);
            query.push(" AND r.id > ").push_bind(id.to_string()).push("))");
        }
        query.push(" ORDER BY r.created_at, r.id LIMIT ").push_bind(window.limit_sql());
        query.push(" OFFSET ").push_bind(window.offset_sql());
        let rows = query.build().fetch_all(reader.sql()).await?;
        Page::try_from_rows(total, &rows, registration_row)
    }

    /// Notes that a registration was used.
    pub async fn registration_seen(
        &self,
        id: RegistrationId,
        from: IpAddr,
        client_version: &str,
        at: OffsetDateTime,
    ) -> Result<(), Fault> {
        let mut seen = self.0.turn().await?;
        sqlx::query("UPDATE registrations SET last_seen_at = $2 WHERE id = $1")
            .bind(id.to_string())
            .bind(to_micros(at))
            .execute(seen.sql())
            .await?;
        sqlx::query(
            "UPDATE devices SET last_seen_at = $2, public_ip = $3, client_version = $4 \
             WHERE id = (SELECT device_id FROM registrations WHERE id = $1)",
        )
        .bind(id.to_string())
        .bind(to_micros(at))
        .bind(from.to_string())
        .bind(client_version)
        .execute(seen.sql())
        .await?;
        seen.commit(None).await?;
        Ok(())
    }

    /// The device with this id.
    pub async fn device_fetch(&self, account: AccountId, id: DeviceId) -> Result<DeviceRow, FindError> {
        let mut query = device_query(account);
        query.push(" AND d.id = ").push_bind(id.to_string());
        let row = query.build().fetch_optional(self.read().await?.sql()).await?;
        Ok(device_row(&row.ok_or(FindError::NotFound)?)?)
    }

    /// The account's devices behind this one in the order of the list, oldest first; the total counts all.
    pub async fn device_list(
        &self,
        account: AccountId,
        after: Option<(OffsetDateTime, DeviceId)>,
        window: Window,
    ) -> Result<Page<DeviceRow>, Fault> {
        let mut reader = self.snapshot().await?;
        let total: i64 = sqlx::query_scalar("SELECT count(*) FROM devices WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_one(reader.sql())
            .await?;
        let mut query = device_query(account);
        if let Some((at, id)) = after {
            let at = to_micros(at);
            query.push(" AND (d.created_at > ").push_bind(at);
            query.push(" OR (d.created_at = ").push_bind(at);
            query.push(" AND d.id > ").push_bind(id.to_string()).push("))");
        }
        query.push(" ORDER BY d.created_at, d.id LIMIT ").push_bind(window.limit_sql());
        query.push(" OFFSET ").push_bind(window.offset_sql());
        let rows = query.build().fetch_all(reader.sql()).await?;
        Page::try_from_rows(total, &rows, device_row)
    }

    /// Removes a device with its registrations.
    pub async fn device_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: DeviceId,
    ) -> Result<Written<()>, FindError> {
        let mut write = self.write().await?;
        let devices: i64 =
            sqlx::query_scalar("SELECT count(*) FROM devices WHERE account_id = $1 AND id = $2")
                .bind(account.to_string())
                .bind(id.to_string())
                .fetch_one(write.sql())
                .await?;
        if devices == 0 {
            return Err(FindError::NotFound);
        }
        let registrations: Vec<String> =
            sqlx::query_scalar("SELECT id FROM registrations WHERE device_id = $1 ORDER BY id")
                .bind(id.to_string())
                .fetch_all(write.sql())
                .await?;
        for registration in registrations {
            let damaged = |_| Fault::Damaged { table: "registrations", column: "id" };
            registration_remove(&mut write, registration.parse().map_err(damaged)?).await?;
        }
        sqlx::query("DELETE FROM devices WHERE id = $1").bind(id.to_string()).execute(write.sql()).await?;
        let text = id.to_string();
        let deed = Deed {
            account: Some(account),
            action: "device.delete",
            kind: "device",
            id: &text,
            detail: serde_json::Value::Null,
        };
        Ok(self.commit(write, actor, deed, ()).await?)
    }
}

const SELECT: &str = "SELECT r.*, d.name AS device_name, d.device_type, d.os_version, d.client_version, d.public_ip \
     FROM registrations r JOIN devices d ON d.id = r.device_id WHERE true";

fn device_query(account: AccountId) -> QueryBuilder {
    let mut query = QueryBuilder::new(
        "SELECT d.*, \
         (SELECT count(*) FROM registrations r WHERE r.device_id = d.id AND r.revoked_at IS NULL) AS active, \
         (SELECT r.user_name FROM registrations r WHERE r.device_id = d.id \
          ORDER BY r.last_seen_at DESC, r.id LIMIT 1) AS user_name \
         FROM devices d WHERE d.account_id = ",
    );
    query.push_bind(account.to_string());
    query
}

impl RegistrationFilter {
    fn query(&self, select: &str, account: AccountId) -> QueryBuilder {
        let mut query = QueryBuilder::new(select);
        query.push(" AND r.account_id = ").push_bind(account.to_string());
        if !self.ids.is_empty() {
            query.push(" AND r.id IN (").push_binds(self.ids.iter().map(ToString::to_string)).push(")");
        }
        if !self.devices.is_empty() {
            query
                .push(" AND r.device_id IN (")
                .push_binds(self.devices.iter().map(ToString::to_string))
                .push(")");
        }
        if let Some(token) = self.service_token {
            query.push(" AND r.service_token_id = ").push_bind(token.to_string());
        }
        if let Some(search) = &self.search {
            query.push(" AND replace(lower(d.name), lower(").push_bind(search.as_str());
            query.push("), '') <> lower(d.name)");
        }
        match self.status {
            RegistrationStatus::All => {}
            RegistrationStatus::Active => {
                query.push(" AND r.revoked_at IS NULL");
            }
            RegistrationStatus::Revoked => {
                query.push(" AND r.revoked_at IS NOT NULL");
            }
        }
        query
    }
}

impl RegistrationRow {
    /// What an edge needs of it.
    pub(crate) fn change(&self) -> Registration {
        Registration {
            id: self.id,
            account: self.account,
            device: self.device,
            device_name: self.device_name.clone(),
            key: self.key,
            user: self.user.clone(),
            service_token: self.service_token,
            revoked: self.revoked_at.is_some(),
        }
    }
}

async fn key_free(sql: &mut Connection, key: DeviceKey) -> Result<(), EnrollError> {
    let revoked: Option<Option<i64>> =
        sqlx::query_scalar("SELECT revoked_at FROM registrations WHERE key_hash = $1")
            .bind(to_hex(key.bytes()))
            .fetch_optional(sql)
            .await?;
    match revoked {
        None => Ok(()),
        Some(None) => Err(EnrollError::KeyTaken),
        Some(Some(_)) => Err(EnrollError::KeyRevoked),
    }
}

async fn registration_insert(write: &mut Write, row: &RegistrationRow) -> Result<(), Fault> {
    let at = write.at();
    sqlx::query(
        "INSERT INTO devices (id, account_id, name, device_type, os_version, client_version, public_ip, created_at, \
         updated_at, last_seen_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $8)",
    )
    .bind(row.device.to_string())
    .bind(row.account.to_string())
    .bind(&row.device_name)
    .bind(&row.device_type)
    .bind(&row.os_version)
    .bind(&row.client_version)
    .bind(row.public_ip.map(|address| address.to_string()))
    .bind(at)
    .execute(write.sql())
    .await?;
    sqlx::query(
        "INSERT INTO registrations (id, account_id, device_id, key_hash, public_key, user_name, service_token_id, \
         created_at, updated_at, last_seen_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8, $8)",
    )
    .bind(row.id.to_string())
    .bind(row.account.to_string())
    .bind(row.device.to_string())
    .bind(to_hex(row.key.bytes()))
    .bind(&row.public_key)
    .bind(&row.user)
    .bind(row.service_token.map(|id| id.to_string()))
    .bind(at)
    .execute(write.sql())
    .await?;
    Ok(())
}

async fn registration_remove(write: &mut Write, id: RegistrationId) -> Result<(), Fault> {
    sqlx::query("DELETE FROM registrations WHERE id = $1").bind(id.to_string()).execute(write.sql()).await?;
    write.change(Change::RegistrationRemoved { id });
    Ok(())
}

async fn registration_any(
    sql: &mut Connection,
    account: AccountId,
    id: RegistrationId,
) -> Result<Option<RegistrationRow>, Fault> {
    let mut query = QueryBuilder::new(SELECT);
    query.push(" AND r.account_id = ").push_bind(account.to_string());
    query.push(" AND r.id = ").push_bind(id.to_string());
    let row = query.build().fetch_optional(sql).await?;
    row.as_ref().map(registration_row).transpose()
}

fn registration_row(row: &Row) -> Result<RegistrationRow, Fault> {
    let columns = Columns::new(row, "registrations");
    let damaged = Fault::Damaged { table: "registrations", column: "key_hash" };
    Ok(RegistrationRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        device: columns.parsed("device_id")?,
        device_name: columns.text("device_name")?,
        device_type: columns.text("device_type")?,
        os_version: columns.text("os_version")?,
        client_version: columns.text("client_version")?,
        public_ip: columns.address("public_ip")?,
        key: from_hex(&columns.text("key_hash")?).map(DeviceKey::from_bytes).ok_or(damaged)?,
        public_key: columns.text("public_key")?,
        user: columns.text("user_name")?,
        service_token: columns.maybe_parsed("service_token_id")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
        last_seen_at: columns.time("last_seen_at")?,
        revoked_at: columns.maybe_time("revoked_at")?,
    })
}

fn device_row(row: &Row) -> Result<DeviceRow, Fault> {
    let columns = Columns::new(row, "devices");
    Ok(DeviceRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        name: columns.text("name")?,
        device_type: columns.text("device_type")?,
        os_version: columns.text("os_version")?,
        client_version: columns.text("client_version")?,
        public_ip: columns.address("public_ip")?,
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
        last_seen_at: columns.time("last_seen_at")?,
        active_registrations: u32::try_from(columns.number("active")?).unwrap_or(u32::MAX),
        last_seen_user: columns.maybe_text("user_name")?,
    })
}

/// The registrations of all accounts as an edge needs them.
pub(crate) async fn registration_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = sqlx::query(&format!("{SELECT} ORDER BY r.created_at, r.id")).fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::RegistrationPut(registration_row(row)?.change()))).collect()
}
