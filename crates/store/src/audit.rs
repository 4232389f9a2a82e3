//! Who did what, and when: one record for each write and each refused credential.

use std::fmt;
use std::str::FromStr;

use adit_model::AccountId;
use time::OffsetDateTime;

use crate::Store;
use crate::row::{Columns, Connection, Fault, Row, to_micros};
use crate::write::{Actor, RawCall, new_uuid, now_micros};

/// One audit record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its id.
    pub id: String,
    /// When.
    pub at: OffsetDateTime,
    /// In which account, if it was in one.
    pub account: Option<AccountId>,
    /// Who, as [`Actor::who`].
    pub actor: String,
    /// Where from.
    pub address: Option<std::net::IpAddr>,
    /// What, such as `tunnel.create`.
    pub action: String,
    /// The kind of object.
    pub object_kind: String,
    /// The object's id.
    pub object_id: String,
    /// Whether it was done or refused.
    pub success: bool,
    /// The id of the request.
    pub request: String,
    /// The request as it was sent.
    pub call: RawCall,
    /// What was set, without secrets.
    pub detail: serde_json::Value,
}

/// Which way a list goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Oldest first.
    Ascending,
    /// Newest first.
    Descending,
}

/// Where a record stands among those of an account: a list can go on behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPlace {
    at: i64,
    id: String,
}

/// A text names no place in the audit records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a cursor as the last answer gave it")]
pub struct NotAPlace;

/// Which audit records are wanted.
#[derive(Debug, Clone)]
pub struct AuditWindow {
    /// Not those before.
    pub since: Option<OffsetDateTime>,
    /// Only those before.
    pub before: Option<OffsetDateTime>,
    /// Which come first.
    pub direction: Direction,
    /// Only those behind this one.
    pub after: Option<AuditPlace>,
    /// How many at most.
    pub limit: u32,
    /// Whether those that belong to no account are wanted too.
    pub unowned: bool,
}

pub(crate) struct Audit<'a> {
    pub(crate) at: i64,
    pub(crate) account: Option<AccountId>,
    pub(crate) actor: &'a Actor,
    pub(crate) action: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) id: &'a str,
    pub(crate) success: bool,
    pub(crate) detail: serde_json::Value,
}

impl Store {
    /// Records that a credential was refused: in the account whose it is, if it is known. The caller bounds how often this
    /// happens.
    pub async fn audit_refusal(
        &self,
        actor: &Actor,
        account: Option<AccountId>,
        reason: &str,
    ) -> Result<(), Fault> {
        let audit = Audit {
            at: now_micros(),
            account,
            actor,
            action: "credential.refuse",
            kind: "credential",
            id: "",
            success: false,
            detail: serde_json::json!({ "reason": reason }),
        };
        audit_insert(&mut *self.0.writer.acquire().await?, &audit).await
    }

    /// A record of this account.
    pub async fn audit_fetch(&self, account: AccountId, id: &str) -> Result<Option<AuditRow>, Fault> {
        let row = sqlx::query("SELECT * FROM audit WHERE account_id = $1 AND id = $2")
            .bind(account.to_string())
            .bind(id)
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map(audit_row).transpose()
    }

    /// The records of this account in a stretch of time, from a place on.
    pub async fn audit_list(&self, account: AccountId, window: &AuditWindow) -> Result<Vec<AuditRow>, Fault> {
        let (order, beyond) = match window.direction {
            Direction::Ascending => ("ASC", ">"),
            Direction::Descending => ("DESC", "<"),
        };
        // Records of no account are refused credentials: the installation's, which one account looks after.
        let whose =
            if window.unowned { "(account_id = $1 OR account_id IS NULL)" } else { "account_id = $1" };
        let text = format!(
            "SELECT * FROM audit WHERE {whose} AND at >= $2 AND at < $3 AND (at {beyond} $4 OR (at = $4 AND id {beyond} \
             $5)) ORDER BY at {order}, id {order} LIMIT $6"
        );
        let start = match window.direction {
            Direction::Ascending => AuditPlace { at: i64::MIN, id: String::new() },
            Direction::Descending => AuditPlace { at: i64::MAX, id: String::new() },
        };
        let after = window.after.as_ref().unwrap_or(&start);
        let rows = sqlx::query(&text)
            .bind(account.to_string())
            .bind(window.since.map_or(i64::MIN, to_micros))
            .bind(window.before.map_or(i64::MAX, to_micros))
            .bind(after.at)
            .bind(&after.id)
            .bind(i64::from(window.limit))
            .fetch_all(self.read().await?.sql())
            .await?;
        rows.iter().map(audit_row).collect()
    }
}

impl AuditRow {
    /// Where it stands in the list.
    pub fn place(&self) -> AuditPlace {
        AuditPlace { at: to_micros(self.at), id: self.id.clone() }
    }
}

impl AuditPlace {
    pub(crate) fn new(at: i64, id: String) -> Self {
        Self { at, id }
    }

    pub(crate) fn parts(&self) -> (i64, &str) {
        (self.at, &self.id)
    }
}

impl fmt::Display for AuditPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.at, self.id)
    }
}

impl FromStr for AuditPlace {
    type Err = NotAPlace;

    fn from_str(text: &str) -> Result<Self, NotAPlace> {
        let (at, id) = text.split_once('_').ok_or(NotAPlace)?;
        let id: uuid::Uuid = id.parse().map_err(|_| NotAPlace)?;
        Ok(Self { at: at.parse().map_err(|_| NotAPlace)?, id: id.to_string() })
    }
}

fn audit_row(row: &Row) -> Result<AuditRow, Fault> {
    let columns = Columns::new(row, "audit");
    Ok(AuditRow {
        id: columns.text("id")?,
        at: columns.time("at")?,
        account: columns.maybe_parsed("account_id")?,
        actor: columns.text("actor")?,
        address: columns.address("actor_address")?,
        action: columns.text("action")?,
        object_kind: columns.text("object_kind")?,
        object_id: columns.text("object_id")?,
        success: columns.flag("success")?,
        request: columns.text("request_id")?,
        call: RawCall {
            method: columns.text("method")?,
            uri: columns.text("uri")?,
            user_agent: columns.text("user_agent")?,
        },
        detail: columns.json("detail")?,
    })
}

pub(crate) async fn audit_insert(sql: &mut Connection, audit: &Audit<'_>) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO audit (id, at, account_id, actor, actor_address, action, object_kind, object_id, success, \
         request_id, detail, method, uri, user_agent) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(new_uuid().to_string())
    .bind(audit.at)
    .bind(audit.account.map(|account| account.to_string()))
    .bind(&audit.actor.who)
    .bind(audit.actor.address.map(|address| address.to_string()))
    .bind(audit.action)
    .bind(audit.kind)
    .bind(audit.id)
    .bind(i64::from(audit.success))
    .bind(&audit.actor.request)
    .bind(audit.detail.to_string())
    .bind(&audit.actor.call.method)
    .bind(&audit.actor.call.uri)
    .bind(&audit.actor.call.user_agent)
    .execute(sql)
    .await?;
    Ok(())
}
