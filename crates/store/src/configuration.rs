//! Configurations of remotely managed tunnels (contract D, 6.2): the latest of each, with its number.

use adit_model::{AccountId, Change, TunnelConfiguration, TunnelId};
use time::OffsetDateTime;

use crate::row::{Columns, Connection, Fault, Row};
use crate::tunnel::{ConfigSource, tunnel_live, tunnel_switch_to_control};
use crate::write::{Actor, Deed, FindError};
use crate::{Store, Written};

/// A tunnel's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigurationRow {
    /// The tunnel.
    pub tunnel: TunnelId,
    /// 1 for the tunnel's first, and one more for each later one.
    pub version: i32,
    /// The JSON text as it is pushed.
    pub config: String,
    /// When it was stored.
    pub created_at: OffsetDateTime,
}

impl Store {
    /// Stores a live tunnel's next configuration. A tunnel with a local one is remotely managed from now on.
    pub async fn configuration_put(
        &self,
        actor: &Actor,
        account: AccountId,
        tunnel: TunnelId,
        config: String,
    ) -> Result<Written<ConfigurationRow>, FindError> {
        let mut write = self.write().await?;
        let found = tunnel_live(write.sql(), account, tunnel).await?.ok_or(FindError::NotFound)?;
        if found.config_source == ConfigSource::Local {
            tunnel_switch_to_control(&mut write, found).await?;
        }
        let at = write.at();
        let version: i64 = sqlx::query_scalar(
            "INSERT INTO tunnel_configurations (tunnel_id, version, config, created_at) VALUES ($1, 1, $2, $3) \
             ON CONFLICT (tunnel_id) DO UPDATE SET version = tunnel_configurations.version + 1, config = $2, created_at = $3 \
             RETURNING version",
        )
        .bind(tunnel.to_string())
        .bind(&config)
        .bind(at)
        .fetch_one(write.sql())
        .await?;
        let damaged = |_| Fault::Damaged { table: TABLE, column: "version" };
        let version = i32::try_from(version).map_err(damaged)?;
        let row = ConfigurationRow { tunnel, version, config, created_at: write.time() };
        write.change(Change::TunnelConfigurationPut(row.change()));
        let id = tunnel.to_string();
        let detail = serde_json::json!({ "version": version });
        let action = "tunnel.configure";
        let deed = Deed { account: Some(account), action, kind: "tunnel", id: &id, detail };
        Ok(self.commit(write, actor, deed, row).await?)
    }

    /// The latest configuration that was stored for a tunnel, if one was. Whose the tunnel is, is the caller's to check.
    pub async fn configuration_fetch(&self, tunnel: TunnelId) -> Result<Option<ConfigurationRow>, Fault> {
        let row = sqlx::query("SELECT * FROM tunnel_configurations WHERE tunnel_id = $1")
            .bind(tunnel.to_string())
            .fetch_optional(self.read().await?.sql())
            .await?;
        row.as_ref().map(configuration_row).transpose()
    }
}

const TABLE: &str = "tunnel_configurations";

impl ConfigurationRow {
    /// What an edge needs of it.
    fn change(&self) -> TunnelConfiguration {
        TunnelConfiguration { tunnel: self.tunnel, version: self.version, config: self.config.clone() }
    }
}

/// The configuration of every live tunnel, as a change to an empty state.
pub(crate) async fn configuration_changes(sql: &mut Connection) -> Result<Vec<Change>, Fault> {
    let rows = sqlx::query(
        "SELECT c.* FROM tunnel_configurations c JOIN tunnels t ON t.id = c.tunnel_id \
         WHERE t.deleted_at IS NULL ORDER BY t.created_at, t.id",
    )
    .fetch_all(sql)
    .await?;
    rows.iter().map(|row| Ok(Change::TunnelConfigurationPut(configuration_row(row)?.change()))).collect()
}

fn configuration_row(row: &Row) -> Result<ConfigurationRow, Fault> {
    let columns = Columns::new(row, TABLE);
    let damaged = |_| Fault::Damaged { table: TABLE, column: "version" };
    Ok(ConfigurationRow {
        tunnel: columns.parsed("tunnel_id")?,
        version: i32::try_from(columns.number("version")?).map_err(damaged)?,
        config: columns.text("config")?,
        created_at: columns.time("created_at")?,
    })
}
