//! Edge nodes of their own, as the control plane makes and removes them.
//!
//! A node signs in to PostgreSQL with a role of its own. What holds: that role reads the change log, the other nodes with
//! their leases, and commands; it writes its own lease, connections and records (row-level security sees to "its own"), and
//! nothing else. No sealed secret and no table of objects is open to it: what it decides by is the change log, in which a
//! tunnel's secret is a hash. The role's password is made when the node enrols, handed to it, and not kept.

use std::time::Duration;

use adit_model::{Command, NodeId, NodeKey, SecretHash};
use time::OffsetDateTime;

use crate::row::{Columns, Connection, Fault, Row, from_hex, run, to_hex};
use crate::session::Backend;
use crate::write::{Actor, Deed, FindError, new_uuid};
use crate::{Store, Written};

/// A node that has shown no life for so long holds nothing any more.
pub const NODE_SILENT_AFTER: Duration = Duration::from_secs(10);
/// Commands that are kept for nodes that look late.
const COMMANDS_KEPT: i64 = 1000;
/// What a node's role is granted.
const GRANTS: [&str; 10] = [
    "SELECT ON migrations",
    "SELECT ON changes",
    "SELECT ON nodes",
    "SELECT ON node_commands",
    "SELECT, INSERT, UPDATE ON node_leases",
    "SELECT, INSERT, DELETE ON node_connections",
    "INSERT ON node_records",
    "INSERT ON records",
    "SELECT, INSERT, UPDATE ON node_inspection_keys",
    "SELECT ON node_authorities",
];

/// A node, as the control plane lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRow {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The role with which it signs in; none for a control plane that is a node too.
    pub role: Option<String>,
    /// The names and addresses that its certificate is for.
    pub hosts: Vec<String>,
    /// Whether its key is known.
    pub enrolled: bool,
    /// For how long it has shown no life, if it ever did.
    pub silent_for: Option<Duration>,
    /// Connections of connectors that it holds.
    pub connections: u64,
    /// When it was made.
    pub created_at: OffsetDateTime,
}

/// What a node is made of.
#[derive(Debug, Clone)]
pub struct NewNode {
    /// A name that no other has: letters, digits and dashes.
    pub name: String,
    /// The names and addresses that its certificate will be for.
    pub hosts: Vec<String>,
    /// The hash of its one-time code.
    pub code: SecretHash,
    /// For how long the code may be used.
    pub code_valid_for: Duration,
}

/// Who gives a node's role its rights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleMade {
    /// It is made.
    Made,
    /// The control plane's role may not make roles: somebody who may has to run these statements, with a password.
    ByHand(Vec<String>),
}

/// A node was not made.
#[derive(Debug, thiserror::Error)]
pub enum NodeCreateError {
    /// There is one with that name.
    #[error("there is a node with that name")]
    NameTaken,
    /// The database is this machine's own.
    #[error(
        "other edge nodes need a database that they can reach: start adit up with --database postgres://…"
    )]
    NotShared,
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for NodeCreateError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

/// A node that has shown its code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolledNode {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// The names that its certificate is for.
    pub hosts: Vec<String>,
    /// Its role in the database.
    pub role: String,
    /// Whether the role has the password now.
    pub password_set: bool,
}

/// This process cannot be the node that it wants to be.
#[derive(Debug, thiserror::Error)]
pub enum OwnNodeError {
    /// Another one lives under the name.
    #[error("another edge node of this database has the name {0:?}: give each its own with --node")]
    NameTaken(String),
    /// The store failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<sqlx::Error> for OwnNodeError {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(error.into())
    }
}

impl Store {
    /// Whether other machines can reach the database.
    pub fn is_shared(&self) -> bool {
        self.0.backend == Backend::Postgres
    }

    /// Makes a node that may enrol once, and its role in the database.
    ///
    /// # Errors
    /// See [`NodeCreateError`].
    pub async fn node_create(
        &self,
        actor: &Actor,
        new: &NewNode,
    ) -> Result<Written<(NodeId, RoleMade)>, NodeCreateError> {
        if !self.is_shared() {
            return Err(NodeCreateError::NotShared);
        }
        let mut write = self.write().await?;
        let taken: i64 = sqlx::query_scalar("SELECT count(*) FROM nodes WHERE name = $1")
            .bind(&new.name)
            .fetch_one(write.sql())
            .await?;
        if taken > 0 {
            return Err(NodeCreateError::NameTaken);
        }
        let (id, at) = (NodeId::from_uuid(new_uuid()), write.at());
        let role = role_name(&new.name, id);
        sqlx::query("INSERT INTO nodes (id, name, role, hosts, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(id.to_string())
            .bind(&new.name)
            .bind(&role)
            .bind(serde_json::json!(new.hosts).to_string())
            .bind(at)
            .execute(write.sql())
            .await?;
        self.code_put(write.sql(), id, &new.code, new.code_valid_for).await?;
        let made = if may_make_roles(write.sql()).await? {
            run(&format!("CREATE ROLE \"{role}\" LOGIN"), write.sql()).await?;
            run(&grants(&role).join("; "), write.sql()).await?;
            RoleMade::Made
        } else {
            let create = format!("CREATE ROLE \"{role}\" LOGIN PASSWORD '...'");
            RoleMade::ByHand(std::iter::once(create).chain(grants(&role)).collect())
        };
        let detail = serde_json::json!({ "name": new.name, "hosts": new.hosts, "role": role });
        let id_text = id.to_string();
        let deed = Deed { account: None, action: "node.create", kind: "node", id: &id_text, detail };
        Ok(self.commit(write, actor, deed, (id, made)).await?)
    }

    /// Gives a node another one-time code, such as one that lost its key; the one before is good no more.
    pub async fn node_code_create(
        &self,
        actor: &Actor,
        name: &str,
        code: &SecretHash,
        valid_for: Duration,
    ) -> Result<(), FindError> {
        let mut write = self.write().await?;
        let id: Option<String> =
            sqlx::query_scalar("SELECT id FROM nodes WHERE name = $1 AND role IS NOT NULL")
                .bind(name)
                .fetch_optional(write.sql())
                .await?;
        let id_text = id.ok_or(FindError::NotFound)?;
        let id = id_text.parse().map_err(|_| damaged("id"))?;
        self.code_put(write.sql(), id, code, valid_for).await?;
        let detail = serde_json::json!({ "name": name });
        let deed = Deed { account: None, action: "node.code", kind: "node", id: &id_text, detail };
        self.commit(write, actor, deed, ()).await?;
        Ok(())
    }

    async fn code_put(
        &self,
        sql: &mut Connection,
        node: NodeId,
        code: &SecretHash,
        valid_for: Duration,
    ) -> Result<(), Fault> {
        let put = format!(
            "INSERT INTO node_codes (node_id, hash, expires_at) VALUES ($1, $2, {} + $3) \
             ON CONFLICT (node_id) DO UPDATE SET hash = excluded.hash, expires_at = excluded.expires_at",
            self.0.backend.clock()
        );
        sqlx::query(&put)
            .bind(node.to_string())
            .bind(to_hex(code.bytes()))
            .bind(micros(valid_for))
            .execute(sql)
            .await?;
        Ok(())
    }

    /// Uses a code up: the node whose it is has this key from now on, its role this password (hexadecimal), and `next` is
    /// the code with which it renews its certificate. `None`: there is no such code, or it is too old.
    ///
    /// # Errors
    /// The store failed, and the code is as good as before.
    pub async fn node_enrol(
        &self,
        code: &SecretHash,
        next: &SecretHash,
        key: &NodeKey,
        password: &str,
    ) -> Result<Option<EnrolledNode>, Fault> {
        let mut write = self.write().await?;
        let used = format!(
            "UPDATE node_codes SET hash = $2, expires_at = NULL WHERE hash = $1 \
             AND (expires_at IS NULL OR expires_at > {}) RETURNING node_id",
            self.0.backend.clock()
        );
        let id: Option<String> = sqlx::query_scalar(&used)
            .bind(to_hex(code.bytes()))
            .bind(to_hex(next.bytes()))
            .fetch_optional(write.sql())
            .await?;
        let Some(id) = id else { return Ok(None) };
        let row = sqlx::query("UPDATE nodes SET key_hash = $2 WHERE id = $1 RETURNING *")
            .bind(&id)
            .bind(to_hex(key.bytes()))
            .fetch_one(write.sql())
            .await?;
        let columns = Columns::new(&row, "nodes");
        let role = columns.maybe_text("role")?.ok_or_else(|| damaged("role"))?;
        let password_set = self.is_shared() && may_make_roles(write.sql()).await?;
        if password_set {
            let password = password.replace('\'', "''");
            run(&format!("ALTER ROLE \"{role}\" PASSWORD '{password}'"), write.sql()).await?;
        }
        let node = EnrolledNode {
            id: columns.parsed("id")?,
            name: columns.text("name")?,
            hosts: columns.json_as("hosts")?,
            role,
            password_set,
        };
        let detail = serde_json::json!({ "name": node.name, "key": to_hex(key.bytes()) });
        let deed = Deed { account: None, action: "node.enrol", kind: "node", id: &id, detail };
        Ok(Some(self.commit(write, &Actor::system(), deed, node).await?.value))
    }

    /// Makes the row of a control plane that is a node too, or finds it, with this key.
    ///
    /// # Errors
    /// Another node has the name, and lives or signs in with a role.
    pub async fn node_own(&self, name: &str, key: &NodeKey) -> Result<NodeId, OwnNodeError> {
        let mut write = self.write().await?;
        let there = format!(
            "SELECT n.id, n.role, n.key_hash, {} - l.seen_at AS silent \
             FROM nodes n LEFT JOIN node_leases l ON l.node_id = n.id WHERE n.name = $1",
            self.0.backend.clock()
        );
        let row = sqlx::query(&there).bind(name).fetch_optional(write.sql()).await?;
        let key = to_hex(key.bytes());
        let id = if let Some(row) = row {
            let columns = Columns::new(&row, "nodes");
            let id: NodeId = columns.parsed("id")?;
            if columns.maybe_text("key_hash")?.as_ref() == Some(&key) {
                return Ok(id);
            }
            let lives =
                columns.maybe_number("silent")?.is_some_and(|silent| silent < micros(NODE_SILENT_AFTER));
            if lives || columns.maybe_text("role")?.is_some() {
                return Err(OwnNodeError::NameTaken(name.to_owned()));
            }
            sqlx::query("UPDATE nodes SET key_hash = $2 WHERE id = $1")
                .bind(id.to_string())
                .bind(&key)
                .execute(write.sql())
                .await?;
            id
        } else {
            let (id, at) = (NodeId::from_uuid(new_uuid()), write.at());
            sqlx::query(
                "INSERT INTO nodes (id, name, hosts, key_hash, created_at) VALUES ($1, $2, '[]', $3, $4)",
            )
            .bind(id.to_string())
            .bind(name)
            .bind(&key)
            .bind(at)
            .execute(write.sql())
            .await?;
            id
        };
        let (id_text, detail) = (id.to_string(), serde_json::json!({ "name": name, "key": key }));
        let deed = Deed { account: None, action: "node.enrol", kind: "node", id: &id_text, detail };
        self.commit(write, &Actor::system(), deed, ()).await?;
        Ok(id)
    }

    /// Every node, by name.
    pub async fn node_list(&self) -> Result<Vec<NodeRow>, Fault> {
        let list = format!(
            "SELECT n.id, n.name, n.role, n.hosts, n.key_hash, n.created_at, {} - l.seen_at AS silent, \
             (SELECT count(*) FROM node_connections c WHERE c.node_id = n.id) AS connections \
             FROM nodes n LEFT JOIN node_leases l ON l.node_id = n.id ORDER BY n.name",
            self.0.backend.clock()
        );
        let rows = sqlx::query(&list).fetch_all(self.read().await?.sql()).await?;
        rows.iter().map(node_row).collect()
    }

    /// Removes a node and its role; the role's name, if it is left for somebody else to drop.
    pub async fn node_delete(&self, actor: &Actor, name: &str) -> Result<Option<String>, FindError> {
        let mut write = self.write().await?;
        let row = sqlx::query("DELETE FROM nodes WHERE name = $1 RETURNING id, role")
            .bind(name)
            .fetch_optional(write.sql())
            .await?;
        let row = row.ok_or(FindError::NotFound)?;
        let columns = Columns::new(&row, "nodes");
        let (id, role) = (columns.text("id")?, columns.maybe_text("role")?);
        let left = match role {
            Some(role) if self.is_shared() => {
                if may_make_roles(write.sql()).await? && role_exists(write.sql(), &role).await? {
                    run(&revocations(&role).join("; "), write.sql()).await?;
                    None
                } else {
                    Some(role)
                }
            }
            Some(_) | None => None,
        };
        let detail = serde_json::json!({ "name": name });
        let deed = Deed { account: None, action: "node.delete", kind: "node", id: &id, detail };
        Ok(self.commit(write, actor, deed, left).await?.value)
    }

    /// Asks the other nodes to do something; `origin` has been asked already.
    pub async fn node_command(&self, origin: NodeId, command: &Command) -> Result<(), Fault> {
        let text = serde_json::to_string(command).map_err(|error| Fault::Database(error.into()))?;
        let mut turn = self.0.turn().await?;
        let number: i64 = sqlx::query_scalar(
            "INSERT INTO node_commands (number, origin, command) \
             SELECT coalesce(max(number), 0) + 1, $1, $2 FROM node_commands RETURNING number",
        )
        .bind(origin.to_string())
        .bind(text)
        .fetch_one(turn.sql())
        .await?;
        sqlx::query("DELETE FROM node_commands WHERE number <= $1")
            .bind(number - COMMANDS_KEPT)
            .execute(turn.sql())
            .await?;
        if self.is_shared() {
            run(NOTIFY, turn.sql()).await?;
        }
        turn.commit(None).await
    }
}

fn node_row(row: &Row) -> Result<NodeRow, Fault> {
    let columns = Columns::new(row, "nodes");
    let silent = columns.maybe_number("silent")?;
    Ok(NodeRow {
        id: columns.parsed("id")?,
        name: columns.text("name")?,
        role: columns.maybe_text("role")?,
        hosts: columns.json_as("hosts")?,
        enrolled: columns.maybe_hash("key_hash")?.is_some(),
        silent_for: silent.map(|silent| Duration::from_micros(u64::try_from(silent).unwrap_or(0))),
        connections: u64::try_from(columns.number("connections")?).unwrap_or(0),
        created_at: columns.time("created_at")?,
    })
}

/// The role of a node: its name, to be read, and some of its id, since a server has roles for all its databases.
fn role_name(node: &str, id: NodeId) -> String {
    let id = id.to_string();
    // Into statements it goes as text: plain whatever the name is, and short enough for a name of PostgreSQL.
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
    let node: String = node.chars().take(40).map(plain).collect();
    format!("adit_node_{node}_{}", id.split('-').next().unwrap_or(&id))
}

fn grants(role: &str) -> Vec<String> {
    GRANTS.iter().map(|grant| format!("GRANT {grant} TO \"{role}\"")).collect()
}

fn revocations(role: &str) -> Vec<String> {
    let revoked = GRANTS.iter().map(|grant| format!("REVOKE {grant} FROM \"{role}\""));
    revoked.chain([format!("DROP ROLE \"{role}\"")]).collect()
}

async fn may_make_roles(sql: &mut Connection) -> Result<bool, Fault> {
    let may: i64 = sqlx::query_scalar(
        "SELECT CAST(count(*) AS BIGINT) FROM pg_roles WHERE rolname = current_user AND (rolsuper OR rolcreaterole)",
    )
    .fetch_one(sql)
    .await?;
    Ok(may > 0)
}

async fn role_exists(sql: &mut Connection, role: &str) -> Result<bool, Fault> {
    let there: i64 = sqlx::query_scalar("SELECT CAST(count(*) AS BIGINT) FROM pg_roles WHERE rolname = $1")
        .bind(role)
        .fetch_one(sql)
        .await?;
    Ok(there > 0)
}

pub(crate) fn key_of(text: &str) -> Result<NodeKey, Fault> {
    from_hex(text).map(NodeKey::from_bytes).ok_or_else(|| damaged("key_hash"))
}

pub(crate) fn damaged(column: &'static str) -> Fault {
    Fault::Damaged { table: "nodes", column }
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// Where PostgreSQL tells of nodes, leases, records and commands.
pub(crate) const NODES_CHANNEL: &str = "adit_nodes";
pub(crate) const NOTIFY: &str = "NOTIFY adit_nodes";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_has_a_plain_name_whatever_its_node_is_called() {
        let id = NodeId::from_uuid(uuid::Uuid::from_u128(0xabcd_0123 << 96));
        assert_eq!(role_name("Edge-02", id), "adit_node_edge_02_abcd0123");
        let odd = role_name(&format!("a\"; DROP TABLE nodes; --\u{e9}{}", "x".repeat(80)), id);
        assert!(
            odd.len() < 64 && odd.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'),
            "{odd}"
        );
    }
}
