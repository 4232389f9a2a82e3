//! The end of an account: everything that it owns goes with it, for good.
//!
//! What holds: one table ([`OWNED`]) lists all that an account can own, in an order in which nothing refers to what is gone
//! already; a test fails on a table of the schema that is not in it. The edges are told of each object that they know. The
//! audit records stay.

use std::fmt;

use adit_model::{AccountId, Change, FallbackDomains, GatewaySettings};

use crate::row::Fault;
use crate::tenant::account_row;
use crate::write::{Actor, Deed, Write};
use crate::{Cascade, Store, Written};

/// A kind of object that belongs to an account.
struct Owned {
    table: &'static str,
    /// The rows of the account that is `$1`.
    of_account: &'static str,
    /// What its live rows are called, and which those are, if they stand in the way of a deletion.
    counted: Option<(&'static str, &'static str)>,
    /// What edges are told, made of a column.
    change: Option<(&'static str, Told)>,
}

/// What edges are told of a row with this key; `None` if it is no key.
type Told = fn(&str) -> Option<Change>;

const BY_ACCOUNT: &str = "account_id = $1";
const LIVE: &str = " AND deleted_at IS NULL";

/// All that belongs to an account. What refers to another stands before it.
const OWNED: [Owned; 22] = [
    Owned {
        table: "rule_lists",
        of_account: "rule_id IN (SELECT id FROM rules WHERE account_id = $1)",
        counted: None,
        change: None,
    },
    Owned {
        table: "rules",
        of_account: BY_ACCOUNT,
        counted: Some(("rules", LIVE)),
        change: Some(("id", |id| Some(Change::RuleRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "list_items",
        of_account: "list_id IN (SELECT id FROM lists WHERE account_id = $1)",
        counted: None,
        change: None,
    },
    Owned {
        table: "lists",
        of_account: BY_ACCOUNT,
        counted: Some(("lists", "")),
        change: Some(("id", |id| Some(Change::ListRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "tunnel_configurations",
        of_account: "tunnel_id IN (SELECT id FROM tunnels WHERE account_id = $1)",
        counted: None,
        change: None,
    },
    Owned {
        table: "hostnames",
        of_account: BY_ACCOUNT,
        counted: Some(("public host names", LIVE)),
        change: Some(("hostname", |name| Some(Change::HostnameRemoved { hostname: name.parse().ok()? }))),
    },
    Owned {
        table: "hostname_routes",
        of_account: BY_ACCOUNT,
        counted: Some(("hostname routes", LIVE)),
        change: Some(("id", |id| Some(Change::HostnameRouteRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "routes",
        of_account: BY_ACCOUNT,
        counted: Some(("routes", LIVE)),
        change: Some(("id", |id| Some(Change::RouteRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "tunnels",
        of_account: BY_ACCOUNT,
        counted: Some(("tunnels", LIVE)),
        change: Some(("id", |id| Some(Change::TunnelRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "virtual_networks",
        of_account: BY_ACCOUNT,
        counted: Some(("virtual networks", " AND is_default = 0 AND deleted_at IS NULL")),
        change: Some(("id", |id| Some(Change::VirtualNetworkRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "registrations",
        of_account: BY_ACCOUNT,
        counted: Some(("registrations", " AND revoked_at IS NULL")),
        change: Some(("id", |id| Some(Change::RegistrationRemoved { id: id.parse().ok()? }))),
    },
    Owned { table: "devices", of_account: BY_ACCOUNT, counted: None, change: None },
    Owned {
        table: "service_tokens",
        of_account: BY_ACCOUNT,
        counted: Some(("service tokens", "")),
        change: Some(("id", |id| Some(Change::ServiceTokenRemoved { id: id.parse().ok()? }))),
    },
    Owned {
        table: "locations",
        of_account: BY_ACCOUNT,
        counted: Some(("DNS locations", " AND client_default = 0")),
        change: Some(("id", |id| Some(Change::LocationRemoved { id: id.parse().ok()? }))),
    },
    Owned { table: "members", of_account: BY_ACCOUNT, counted: None, change: None },
    Owned {
        table: "gateway_settings",
        of_account: BY_ACCOUNT,
        counted: None,
        change: Some(("account_id", |id| {
            Some(Change::GatewaySettingsPut(GatewaySettings::of(id.parse().ok()?)))
        })),
    },
    Owned {
        table: "origin_roots",
        of_account: BY_ACCOUNT,
        counted: None,
        change: Some(("id", |id| Some(Change::OriginRootRemoved { id: id.parse().ok()? }))),
    },
    Owned { table: "node_authorities", of_account: BY_ACCOUNT, counted: None, change: None },
    Owned { table: "inspection_certificates", of_account: BY_ACCOUNT, counted: None, change: None },
    Owned {
        table: "fallback_domains",
        of_account: BY_ACCOUNT,
        counted: None,
        change: Some(("account_id", |id| {
            let none = FallbackDomains { account: id.parse().ok()?, domains: Vec::new() };
            Some(Change::FallbackDomainsPut(none))
        })),
    },
    Owned { table: "inspection_authorities", of_account: BY_ACCOUNT, counted: None, change: None },
    Owned { table: "api_tokens", of_account: BY_ACCOUNT, counted: None, change: None },
];

/// An account was not deleted.
#[derive(Debug, thiserror::Error)]
pub enum AccountDeleteError {
    /// There is none with that id.
    #[error("there is no such account")]
    NotFound,
    /// It owns live objects, and they were not to go with it.
    #[error("the account has {0}")]
    InUse(Holdings),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for AccountDeleteError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// How many live objects of which kind an account has; it reads as `2 tunnels, 1 routes`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings(Vec<(&'static str, i64)>);

impl fmt::Display for Holdings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (kind, count)) in self.0.iter().enumerate() {
            let kind = if *count == 1 { kind.trim_end_matches('s') } else { kind };
            write!(f, "{}{count} {kind}", if at == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl Store {
    /// Deletes an account and what it owns. Without a cascade, one that has live objects is left as it is; its API tokens
    /// and its default virtual network are not in the way.
    pub async fn account_delete(
        &self,
        actor: &Actor,
        account: AccountId,
        cascade: Cascade,
    ) -> Result<Written<()>, AccountDeleteError> {
        let mut write = self.write().await?;
        let id = account.to_string();
        let row = sqlx::query("SELECT * FROM accounts WHERE id = $1")
            .bind(id.clone())
            .fetch_optional(write.sql())
            .await?;
        let row = account_row(&row.ok_or(AccountDeleteError::NotFound)?)?;
        if cascade == Cascade::Refuse {
            let holdings = holdings(&mut write, &id).await?;
            if !holdings.0.is_empty() {
                return Err(AccountDeleteError::InUse(holdings));
            }
        }
        for owned in &OWNED {
            owned.remove(&mut write, &id).await?;
        }
        sqlx::query("DELETE FROM accounts WHERE id = $1").bind(id.clone()).execute(write.sql()).await?;
        let detail = serde_json::json!({ "name": row.name });
        let deed =
            Deed { account: Some(account), action: "account.delete", kind: "account", id: &id, detail };
        Ok(self.commit(write, actor, deed, ()).await?)
    }
}

async fn holdings(write: &mut Write, account: &str) -> Result<Holdings, Fault> {
    let mut found = Vec::new();
    for owned in &OWNED {
        let Some((kind, live)) = owned.counted else { continue };
        let query = format!("SELECT count(*) FROM {} WHERE {}{live}", owned.table, owned.of_account);
        let count: i64 = sqlx::query_scalar(&query).bind(account.to_owned()).fetch_one(write.sql()).await?;
        if count > 0 {
            found.push((kind, count));
        }
    }
    Ok(Holdings(found))
}

impl Owned {
    /// Deletes the account's rows, and tells the edges.
    async fn remove(&self, write: &mut Write, account: &str) -> Result<(), Fault> {
        if let Some((column, change)) = self.change {
            let query = format!("SELECT {column} FROM {} WHERE {}", self.table, self.of_account);
            let keys: Vec<String> =
                sqlx::query_scalar(&query).bind(account.to_owned()).fetch_all(write.sql()).await?;
            for key in keys {
                let change = change(&key).ok_or(Fault::Damaged { table: self.table, column })?;
                write.change(change);
            }
        }
        let query = format!("DELETE FROM {} WHERE {}", self.table, self.of_account);
        sqlx::query(&query).bind(account.to_owned()).execute(write.sql()).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_that_refers_to_an_account_is_emptied_with_it() {
        let tables: Vec<&str> = OWNED.iter().map(|owned| owned.table).collect();
        for migration in crate::open::MIGRATIONS {
            // What belongs to an edge node is the installation's.
            let owned = |text: &&str| text.contains("REFERENCES ") && !text.contains("REFERENCES nodes ");
            for statement in migration.split(';').filter(owned) {
                let (_, named) = statement.split_once("CREATE TABLE ").unwrap();
                let table = named.split_whitespace().next().unwrap();
                assert!(tables.contains(&table), "{table} is missing in OWNED");
            }
        }
    }

    #[test]
    fn what_is_in_the_way_is_told_in_words() {
        let holdings = Holdings(vec![("tunnels", 2), ("routes", 1)]);
        assert_eq!(holdings.to_string(), "2 tunnels, 1 route");
    }
}
