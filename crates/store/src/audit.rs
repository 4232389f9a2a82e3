//! Who did what, and when: one record for each write and each refused credential.

use adit_model::AccountId;
use sqlx::{Row, SqliteConnection};
use time::OffsetDateTime;

use crate::row::{Columns, Fault};
use crate::write::{Actor, new_uuid, now_micros};
use crate::{Store, Window};

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
    /// What was set, without secrets.
    pub detail: serde_json::Value,
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
    /// Records that a credential was refused. The caller bounds how often this happens.
    pub async fn audit_refusal(&self, actor: &Actor, reason: &str) -> Result<(), Fault> {
        let audit = Audit {
            at: now_micros(),
            account: None,
            actor,
            action: "credential.refuse",
            kind: "credential",
            id: "",
            success: false,
            detail: serde_json::json!({ "reason": reason }),
        };
        let mut writer = self.0.writer.acquire().await?;
        audit_insert(&mut writer, &audit).await
    }

    /// The records of this account and those of none, newest first.
    pub async fn audit_list(&self, account: AccountId, window: Window) -> Result<Vec<AuditRow>, Fault> {
        let rows = sqlx::query(
            "SELECT * FROM audit WHERE account_id = $1 OR account_id IS NULL ORDER BY at DESC, id LIMIT $2 OFFSET $3",
        )
        .bind(account.to_string())
        .bind(window.limit_sql())
        .bind(window.offset_sql())
        .fetch_all(&self.0.readers)
        .await?;
        rows.iter()
            .map(|row| {
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
                    request: row.try_get("request_id")?,
                    detail: columns.json("detail")?,
                })
            })
            .collect()
    }
}

pub(crate) async fn audit_insert(sql: &mut SqliteConnection, audit: &Audit<'_>) -> Result<(), Fault> {
    sqlx::query(
        "INSERT INTO audit (id, at, account_id, actor, actor_address, action, object_kind, object_id, success, \
         request_id, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
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
    .execute(sql)
    .await?;
    Ok(())
}
