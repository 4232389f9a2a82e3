//! The whole state that edges decide by, for one that begins.

use adit_model::{Change, ChangeBatch};

use crate::Store;
use crate::configuration::configuration_changes;
use crate::device::registration_changes;
use crate::fallback::fallback_changes;
use crate::gateway::gateway_changes;
use crate::hostname::hostname_changes;
use crate::hostname_route::hostname_route_changes;
use crate::list::list_changes;
use crate::location::location_changes;
use crate::origin_root::origin_root_changes;
use crate::route::route_changes;
use crate::row::Fault;
use crate::rule::rule_changes;
use crate::service_token::service_token_changes;
use crate::tunnel::tunnel_row;
use crate::virtual_network::virtual_network_row;

impl Store {
    /// The state as changes to an empty one, with the number up to which it is: what [`Store::changes_since`] that
    /// number gives comes after. What an object refers to stands before it.
    pub async fn state(&self) -> Result<ChangeBatch, Fault> {
        let mut reader = self.snapshot().await?;
        let number: i64 = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM changes")
            .fetch_one(reader.sql())
            .await?;
        let mut changes = Vec::new();
        let live = "SELECT * FROM virtual_networks WHERE deleted_at IS NULL ORDER BY created_at, id";
        for row in &sqlx::query(live).fetch_all(reader.sql()).await? {
            changes.push(Change::VirtualNetworkPut(virtual_network_row(row)?.change()));
        }
        let live = "SELECT * FROM tunnels WHERE deleted_at IS NULL ORDER BY created_at, id";
        for row in &sqlx::query(live).fetch_all(reader.sql()).await? {
            changes.push(Change::TunnelPut(tunnel_row(row)?.change()));
        }
        changes.extend(configuration_changes(reader.sql()).await?);
        changes.extend(hostname_changes(reader.sql()).await?);
        changes.extend(route_changes(reader.sql()).await?);
        changes.extend(hostname_route_changes(reader.sql()).await?);
        changes.extend(registration_changes(reader.sql()).await?);
        changes.extend(list_changes(reader.sql()).await?);
        changes.extend(rule_changes(reader.sql()).await?);
        changes.extend(gateway_changes(reader.sql()).await?);
        changes.extend(fallback_changes(reader.sql()).await?);
        changes.extend(location_changes(reader.sql()).await?);
        changes.extend(service_token_changes(reader.sql()).await?);
        changes.extend(origin_root_changes(reader.sql()).await?);
        Ok(ChangeBatch { number: u64::try_from(number).unwrap_or(0), changes })
    }
}
