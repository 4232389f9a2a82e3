//! DNS locations (contract D, 9.5). An account always has exactly one that is the default.

use adit_model::{AccountId, Change, Location, LocationEndpoint, LocationId, LocationTtl};
use serde_json::Value;
use time::OffsetDateTime;

use crate::feed::{Whose, change_append};
use crate::row::{Columns, Connection, Fault, Row, to_micros};
use crate::write::{Actor, Deed, FindError, Write, new_uuid};
use crate::{Store, Written};

/// What a location says.
#[derive(Debug, Clone, PartialEq)]
pub struct LocationContent {
    /// Its name, unique in its account.
    pub name: String,
    /// Whether it is the default one of its account.
    pub client_default: bool,
    /// Its networks as they were written, or `null`.
    pub networks: Value,
    /// Its endpoints as they were written, or `null`.
    pub endpoints: Value,
    /// For how long its answers may be kept, as it was written, or `null`.
    pub max_ttl: Value,
    /// What edges need of it; who it is stands beside it.
    pub edge: LocationEdge,
}

/// What edges need of a location, besides who it is.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LocationEdge {
    /// Where its queries come from.
    pub networks: Vec<adit_model::Cidr>,
    /// DNS over HTTPS.
    pub https: LocationEndpoint,
    /// DNS over TLS.
    pub tls: LocationEndpoint,
    /// For how long answers may be kept.
    pub max_ttl: LocationTtl,
}

/// A location.
#[derive(Debug, Clone, PartialEq)]
pub struct LocationRow {
    /// Its id.
    pub id: LocationId,
    /// Its account.
    pub account: AccountId,
    /// The label by which its hosts are asked for. No two locations have the same.
    pub subdomain: String,
    /// What it says.
    pub content: LocationContent,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// When it was last changed.
    pub updated_at: OffsetDateTime,
}

/// A location could not be made, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum LocationWriteError {
    /// This account has none with that id.
    #[error("not found")]
    NotFound,
    /// Another one of the account has the name.
    #[error("the name is taken")]
    NameTaken,
    /// An account has a default location.
    #[error("the default location cannot be removed")]
    DefaultNeeded,
    /// The account has as many as it may.
    #[error("there are too many")]
    TooMany,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for LocationWriteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Makes a location, with a label of its own.
    pub async fn location_create(
        &self,
        actor: &Actor,
        account: AccountId,
        content: LocationContent,
    ) -> Result<Written<LocationRow>, LocationWriteError> {
        let mut write = self.write().await?;
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM locations WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_one(write.sql())
            .await?;
        if count >= MAX_LOCATIONS {
            return Err(LocationWriteError::TooMany);
        }
        let row = LocationRow {
            id: LocationId::from_uuid(new_uuid()),
            account,
            subdomain: new_subdomain(),
            content,
            created_at: write.time(),
            updated_at: write.time(),
        };
        name_free(write.sql(), &row).await?;
        if row.content.client_default {
            default_clear(&mut write, account).await?;
        }
        location_insert(write.sql(), &row).await?;
        write.change(Change::LocationPut(row.change()));
        Ok(self.location_commit(write, actor, "location.create", row).await?)
    }

    /// Gives a location another content. The default one stays so until another one takes its place.
    pub async fn location_replace(
        &self,
        actor: &Actor,
        account: AccountId,
        id: LocationId,
        content: LocationContent,
    ) -> Result<Written<LocationRow>, LocationWriteError> {
        let mut write = self.write().await?;
        let old = location_any(write.sql(), account, id).await?.ok_or(LocationWriteError::NotFound)?;
        match (old.content.client_default, content.client_default) {
            (true, false) => return Err(LocationWriteError::DefaultNeeded),
            (false, true) => default_clear(&mut write, account).await?,
            (true, true) | (false, false) => {}
        }
        let row = LocationRow { content, updated_at: write.time(), ..old };
        name_free(write.sql(), &row).await?;
        let [networks, endpoints, max_ttl, edge] = row.texts()?;
        sqlx::query(
            "UPDATE locations SET name = $2, client_default = $3, networks = $4, endpoints = $5, max_ttl = $6, edge = $7, \
             updated_at = $8 WHERE id = $1",
        )
        .bind(id.to_string())
        .bind(&row.content.name)
        .bind(i64::from(row.content.client_default))
        .bind(networks)
        .bind(endpoints)
        .bind(max_ttl)
        .bind(edge)
        .bind(to_micros(row.updated_at))
        .execute(write.sql())
        .await?;
        write.change(Change::LocationPut(row.change()));
        Ok(self.location_commit(write, actor, "location.update", row).await?)
    }

    /// Deletes a location that is not the default one.
    pub async fn location_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        id: LocationId,
    ) -> Result<Written<LocationRow>, LocationWriteError> {
        let mut write = self.write().await?;
        let row = location_any(write.sql(), account, id).await?.ok_or(LocationWriteError::NotFound)?;
        if row.content.client_default {
            return Err(LocationWriteError::DefaultNeeded);
        }
        sqlx::query("DELETE FROM locations WHERE id = $1").bind(id.to_string()).execute(write.sql()).await?;
        write.change(Change::LocationRemoved { id });
        Ok(self.location_commit(write, actor, "location.delete", row).await?)
    }

    async fn location_commit(
        &self,
        write: Write,
        actor: &Actor,
        action: &'static str,
        row: LocationRow,
    ) -> Result<Written<LocationRow>, Fault> {
        let id = row.id.to_string();
        let detail = serde_json::json!({
            "name": row.content.name, "client_default": row.content.client_default, "networks": row.content.networks,
            "endpoints": row.content.endpoints, "max_ttl": row.content.max_ttl, "doh_subdomain": row.subdomain,
        });
        let deed = Deed { account: Some(row.account), action, kind: "location", id: &id, detail };
        self.commit(write, actor, deed, row).await
    }

    /// The location with this id.
    pub async fn location_fetch(&self, account: AccountId, id: LocationId) -> Result<LocationRow, FindError> {
        let mut reader = self.read().await?;
        location_any(reader.sql(), account, id).await?.ok_or(FindError::NotFound)
    }

    /// An account's locations, oldest first.
    pub async fn location_list(&self, account: AccountId) -> Result<Vec<LocationRow>, Fault> {
        let rows = sqlx::query("SELECT * FROM locations WHERE account_id = $1 ORDER BY created_at, id")
            .bind(account.to_string())
            .fetch_all(self.read().await?.sql())
            .await?;
        rows.iter().map(location_row).collect()
    }
}

impl LocationRow {
    /// What an edge needs of it.
    pub(crate) fn change(&self) -> Location {
        let LocationEdge { networks, https, tls, max_ttl } = self.content.edge.clone();
        Location {
            id: self.id,
            account: self.account,
            name: self.content.name.clone(),
            subdomain: self.subdomain.clone(),
            networks,
            https,
            tls,
            max_ttl,
        }
    }

    /// The columns that are JSON.
    fn texts(&self) -> Result<[String; 4], Fault> {
        let edge = serde_json::to_string(&self.content.edge);
        let edge = edge.map_err(|_| Fault::Damaged { table: TABLE, column: "edge" })?;
        let LocationContent { networks, endpoints, max_ttl, .. } = &self.content;
        Ok([networks.to_string(), endpoints.to_string(), max_ttl.to_string(), edge])
    }

    /// The location that every account begins with: it answers nobody before somebody names networks.
    fn first(account: AccountId, at: OffsetDateTime) -> Self {
        let endpoint = LocationEndpoint { enabled: true, require_token: false, networks: Vec::new() };
        let content = LocationContent {
            name: FIRST.into(),
            client_default: true,
            networks: Value::Null,
            endpoints: Value::Null,
            max_ttl: Value::Null,
            edge: LocationEdge {
                networks: Vec::new(),
                https: endpoint.clone(),
                tls: endpoint,
                max_ttl: LocationTtl::Inherit,
            },
        };
        Self {
            id: LocationId::from_uuid(new_uuid()),
            account,
            subdomain: new_subdomain(),
            content,
            created_at: at,
            updated_at: at,
        }
    }
}

/// Makes the default location of an account that has none, and gives what edges are told.
pub(crate) async fn location_first(
    sql: &mut Connection,
    account: AccountId,
    at: OffsetDateTime,
) -> Result<Change, Fault> {
    let row = LocationRow::first(account, at);
    location_insert(sql, &row).await?;
    Ok(Change::LocationPut(row.change()))
}

/// Gives every account that was made before there were locations its default one, and tells nodes, which know objects by
/// the change log alone, of the service tokens that were made before they were in it.
pub(crate) async fn locations_begin(sql: &mut Connection, at: OffsetDateTime) -> Result<(), Fault> {
    let accounts: Vec<String> =
        sqlx::query_scalar("SELECT id FROM accounts ORDER BY created_at, id").fetch_all(&mut *sql).await?;
    let mut changes = Vec::new();
    for account in accounts {
        let account = account.parse().map_err(|_| Fault::Damaged { table: "accounts", column: "id" })?;
        changes.push(location_first(sql, account, at).await?);
    }
    changes.extend(crate::service_token::service_token_changes(sql).await?);
    if !changes.is_empty() {
        change_append(sql, to_micros(at), Whose::Several, changes).await?;
    }
    Ok(())
}

async fn location_insert(sql: &mut Connection, row: &LocationRow) -> Result<(), Fault> {
    let [networks, endpoints, max_ttl, edge] = row.texts()?;
    sqlx::query(
        "INSERT INTO locations (id, account_id, name, doh_subdomain, client_default, networks, endpoints, max_ttl, edge, \
         created_at, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
    )
    .bind(row.id.to_string())
    .bind(row.account.to_string())
    .bind(&row.content.name)
    .bind(&row.subdomain)
    .bind(i64::from(row.content.client_default))
    .bind(networks)
    .bind(endpoints)
    .bind(max_ttl)
    .bind(edge)
    .bind(to_micros(row.created_at))
    .execute(sql)
    .await?;
    Ok(())
}

async fn location_any(
    sql: &mut Connection,
    account: AccountId,
    id: LocationId,
) -> Result<Option<LocationRow>, Fault> {
    let row = sqlx::query("SELECT * FROM locations WHERE account_id = $1 AND id = $2")
        .bind(account.to_string())
        .bind(id.to_string())
        .fetch_optional(sql)
        .await?;
    row.as_ref().map(location_row).transpose()
}

async fn default_clear(write: &mut Write, account: AccountId) -> Result<(), Fault> {
    sqlx::query("UPDATE locations SET client_default = 0 WHERE account_id = $1 AND client_default = 1")
        .bind(account.to_string())
        .execute(write.sql())
        .await?;
    Ok(())
}

async fn name_free(sql: &mut Connection, row: &LocationRow) -> Result<(), LocationWriteError> {
    let taken: i64 =
        sqlx::query_scalar("SELECT count(*) FROM locations WHERE account_id = $1 AND name = $2 AND id <> $3")
            .bind(row.account.to_string())
            .bind(&row.content.name)
            .bind(row.id.to_string())
            .fetch_one(sql)
            .await?;
    if taken == 0 { Ok(()) } else { Err(LocationWriteError::NameTaken) }
}

/// Every account's locations, as changes to an empty state.
pub(crate) async fn location_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = sqlx::query("SELECT * FROM locations ORDER BY created_at, id").fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::LocationPut(location_row(row)?.change()))).collect()
}

fn location_row(row: &Row) -> Result<LocationRow, Fault> {
    let columns = Columns::new(row, TABLE);
    Ok(LocationRow {
        id: columns.parsed("id")?,
        account: columns.parsed("account_id")?,
        subdomain: columns.text("doh_subdomain")?,
        content: LocationContent {
            name: columns.text("name")?,
            client_default: columns.flag("client_default")?,
            networks: columns.json("networks")?,
            endpoints: columns.json("endpoints")?,
            max_ttl: columns.json("max_ttl")?,
            edge: columns.json_as("edge")?,
        },
        created_at: columns.time("created_at")?,
        updated_at: columns.time("updated_at")?,
    })
}

/// A label that nobody guesses: 20 hexadecimal digits.
fn new_subdomain() -> String {
    let mut text = new_uuid().simple().to_string();
    text.truncate(SUBDOMAIN_DIGITS);
    text
}

const TABLE: &str = "locations";
/// The name of an account's first location.
const FIRST: &str = "Default";
const SUBDOMAIN_DIGITS: usize = 20;
/// Locations of one account: each may cost an edge a certificate.
const MAX_LOCATIONS: i64 = 1000;
