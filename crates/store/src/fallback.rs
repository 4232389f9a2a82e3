//! Fallback domains (contract D, 11.6): those of an account's devices.

use adit_model::{AccountId, Change, FallbackDomains};
use serde_json::Value;

use crate::row::{Columns, Connection, Fault};
use crate::write::{Actor, Deed};
use crate::{Store, Written};

const TABLE: &str = "fallback_domains";

impl Store {
    /// An account's fallback domains as they were written; an empty array if none were.
    pub async fn fallback_domains_fetch(&self, account: AccountId) -> Result<Value, Fault> {
        let row = sqlx::query("SELECT * FROM fallback_domains WHERE account_id = $1")
            .bind(account.to_string())
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map_or(Ok(Value::Array(Vec::new())), |row| Columns::new(row, TABLE).json("domains"))
    }

    /// Sets an account's fallback domains: as they are written, and what edges need of them.
    pub async fn fallback_domains_put(
        &self,
        actor: &Actor,
        written: Value,
        edge: FallbackDomains,
    ) -> Result<Written<Value>, Fault> {
        let mut write = self.write().await?;
        let (account, at) = (edge.account, write.at());
        let text =
            serde_json::to_string(&edge).map_err(|_| Fault::Damaged { table: TABLE, column: "edge" })?;
        sqlx::query(
            "INSERT INTO fallback_domains (account_id, domains, edge, updated_at) VALUES ($1, $2, $3, $4) \
             ON CONFLICT (account_id) DO UPDATE SET domains = $2, edge = $3, updated_at = $4",
        )
        .bind(account.to_string())
        .bind(written.to_string())
        .bind(text)
        .bind(at)
        .execute(write.sql())
        .await?;
        write.change(Change::FallbackDomainsPut(edge));
        let id = account.to_string();
        let detail = serde_json::json!({ "fallback_domains": written });
        let action = "fallback_domains.update";
        let deed = Deed { account: Some(account), action, kind: "fallback_domains", id: &id, detail };
        self.commit(write, actor, deed, written).await
    }
}

/// Every account's fallback domains, as changes to an empty state.
pub(crate) async fn fallback_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = sqlx::query("SELECT * FROM fallback_domains ORDER BY account_id").fetch_all(sql).await?;
    rows.iter().map(|row| Ok(Change::FallbackDomainsPut(Columns::new(row, TABLE).json_as("edge")?))).collect()
}
