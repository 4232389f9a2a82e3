//! What an edge node does in the database that all nodes share (PostgreSQL), with its own role or the control plane's.
//!
//! It reads the change log, the other nodes, what they hold, and commands; it writes its heartbeat, its connections and its
//! records. What holds: nothing here makes or migrates anything, so that a role that may do no more than this can do all of
//! it; every call has a deadline. A node is live while its heartbeat is young by the database's clock, and a connection
//! counts while its node is live: nobody has to clean up for a lease to end.

use std::borrow::Borrow;
use std::time::Duration;

use adit_model::{
    ChangeBatch, Command, ConnectionOpened, Lease, LocalConfiguration, LogRecord, Node, NodeId,
    RegistrationSeen,
};
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{Executor as _, Row as _};
use tokio::sync::watch;

use crate::AbortOnDrop;
use crate::node::{NODE_SILENT_AFTER, NODES_CHANNEL, NOTIFY, damaged, key_of, micros};
use crate::node_authority::NodeAuthority;
use crate::open::{LISTEN_AGAIN, MIGRATIONS};
use crate::records::{TEXT_COLUMNS, columned, there_already};
use crate::row::{Fault, from_micros};
use crate::session::{Backend, CHANNEL};

/// Connections of one process.
const POOL: u32 = 4;
/// How long a statement may wait for a connection, and take.
const ACQUIRE_DEADLINE: Duration = Duration::from_secs(3);
const CALL_DEADLINE: Duration = Duration::from_secs(5);
/// How often one looks without a notice: one that is missed is made up.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Devices are told no more of a node that has been silent for so long.
const NODE_GONE_AFTER: Duration = Duration::from_mins(1);
/// Batches of the change log read at a time.
const BATCHES_AT_ONCE: i64 = 512;
/// Records taken at a time.
const RECORDS_AT_ONCE: i64 = 256;
/// What every connection begins with.
const START: &str = "SET application_name = 'adit edge'; SET statement_timeout = '4s'; SET lock_timeout = '4s'; \
     SET idle_in_transaction_session_timeout = '10s'";

/// The shared database, as a node uses it. Clones share it.
#[derive(Debug, Clone)]
pub struct NodeDatabase {
    pool: PgPool,
    /// Of the change log, and of nodes.
    told: (watch::Receiver<u64>, watch::Receiver<u64>),
    listening: std::sync::Arc<AbortOnDrop>,
}

/// What a node writes for the control plane, beside its connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub enum NodeRecord {
    /// A device connected.
    Seen(RegistrationSeen),
    /// A connector told its own configuration.
    Configuration(LocalConfiguration),
}

/// Who the nodes are, and which tunnels the live ones hold connections of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cluster {
    /// Every node that has enrolled and has been seen, by id.
    pub nodes: Vec<Node>,
    /// By node and tunnel.
    pub leases: Vec<Lease>,
}

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum NodeDatabaseError {
    /// The URL is none of PostgreSQL. It is not repeated: it may have a password.
    #[error("expected a URL such as postgres://HOST/DATABASE")]
    Url(#[source] sqlx::Error),
    /// The control plane is of another version.
    #[error(
        "the database was written by a newer adit (schema {found}, this one knows {known}): run that version"
    )]
    Newer {
        /// The database's schema.
        found: i64,
        /// The latest that this program knows.
        known: i64,
    },
    /// The database failed.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// Tells when to look.
#[derive(Debug)]
pub struct Notices(watch::Receiver<u64>);

impl Notices {
    /// Waits for a notice of the database, or a while.
    pub async fn wait(&mut self) {
        // A timeout means: look. So does the end of the listener, after a while.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK_INTERVAL, self.0.changed()).await {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }
}

impl NodeDatabase {
    /// The database at this URL, which need not be reachable yet; `role` signs in with a password, unless the URL says who.
    ///
    /// # Errors
    /// The URL cannot be read.
    pub fn at(url: &str, role: Option<(&str, &str)>) -> Result<Self, NodeDatabaseError> {
        let mut options: PgConnectOptions = url.parse().map_err(NodeDatabaseError::Url)?;
        if let Some((role, password)) = role {
            options = options.username(role).password(password);
        }
        let pool = PgPoolOptions::new()
            .max_connections(POOL)
            .acquire_timeout(ACQUIRE_DEADLINE)
            .after_connect(|connection, _| Box::pin(async move { connection.execute(START).await.map(drop) }))
            .connect_lazy_with(options);
        let (changes, of_changes) = watch::channel(0);
        let (nodes, of_nodes) = watch::channel(0);
        let listening = tokio::spawn(listen(pool.clone(), changes, nodes));
        let listening = std::sync::Arc::new(AbortOnDrop(listening));
        Ok(Self { pool, told: (of_changes, of_nodes), listening })
    }

    /// Closes every connection.
    pub async fn close(&self) {
        self.listening.0.abort();
        self.pool.close().await;
    }

    /// Tells when nodes have written something, or are asked for something, from now on.
    pub fn notices(&self) -> Notices {
        Notices(self.told.1.clone())
    }

    /// Tells when the change log has grown, from now on.
    pub fn change_notices(&self) -> Notices {
        Notices(self.told.0.clone())
    }

    /// Whether this program can read what is in the database.
    ///
    /// # Errors
    /// It is of a newer version, or the database failed; the latter for all that follow.
    pub async fn check(&self) -> Result<(), NodeDatabaseError> {
        let found: i64 = within(async {
            Ok(sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM migrations")
                .fetch_one(&self.pool)
                .await?)
        })
        .await?;
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        if found > known { Err(NodeDatabaseError::Newer { found, known }) } else { Ok(()) }
    }

    /// Batches behind this number, the oldest first; none: there are no more.
    pub async fn changes_after(&self, number: u64) -> Result<Vec<ChangeBatch>, Fault> {
        within(async {
            let read = "SELECT number, changes FROM changes WHERE number > $1 ORDER BY number LIMIT $2";
            let rows = sqlx::query(read)
                .bind(i64::try_from(number).unwrap_or(i64::MAX))
                .bind(BATCHES_AT_ONCE)
                .fetch_all(&self.pool)
                .await?;
            rows.iter().map(batch_of).collect()
        })
        .await
    }

    /// Whether the change log has the entry with this number, or the number is 0.
    pub async fn change_is_there(&self, number: u64) -> Result<bool, Fault> {
        if number == 0 {
            return Ok(true);
        }
        within(async {
            let read = "SELECT EXISTS (SELECT 1 FROM changes WHERE number = $1)";
            let number = i64::try_from(number).unwrap_or(i64::MAX);
            Ok(sqlx::query_scalar(read).bind(number).fetch_one(&self.pool).await?)
        })
        .await
    }

    /// Shows that a node lives and where it is found.
    pub async fn beat(&self, node: NodeId, address: &str, devices: &str) -> Result<(), Fault> {
        let clock = Backend::Postgres.clock();
        let beat = format!(
            "INSERT INTO node_leases (node_id, address, devices, seen_at) VALUES ($1, $2, $3, {clock}) \
             ON CONFLICT (node_id) DO UPDATE SET address = $2, devices = $3, seen_at = {clock}"
        );
        within(async {
            sqlx::query(&beat).bind(node.to_string()).bind(address).bind(devices).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    /// Makes what the database has of a node's connections what it holds: these. Others are told.
    pub async fn connections_set(&self, node: NodeId, open: &[ConnectionOpened]) -> Result<(), Fault> {
        let ids: Vec<String> = open.iter().map(|open| open.connection.to_string()).collect();
        let tunnels: Vec<String> = open.iter().map(|open| open.tunnel.to_string()).collect();
        let texts = open.iter().map(json).collect::<Result<Vec<_>, _>>()?;
        within(async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query("DELETE FROM node_connections WHERE node_id = $1 AND NOT id = ANY($2)")
                .bind(node.to_string())
                .bind(&ids)
                .execute(&mut *transaction)
                .await?;
            sqlx::query(
                "INSERT INTO node_connections (id, node_id, tunnel_id, opened) SELECT id, $1, tunnel, opened \
                 FROM UNNEST($2::TEXT[], $3::TEXT[], $4::TEXT[]) AS t (id, tunnel, opened) ON CONFLICT (id) DO NOTHING",
            )
            .bind(node.to_string())
            .bind(&ids)
            .bind(&tunnels)
            .bind(&texts)
            .execute(&mut *transaction)
            .await?;
            transaction.execute(NOTIFY).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Writes a record for the control plane.
    pub async fn record(&self, node: NodeId, record: &NodeRecord) -> Result<(), Fault> {
        let text = json(record)?;
        let insert = format!(
            "INSERT INTO node_records (id, node_id, at, record) VALUES ($1, $2, {}, $3)",
            Backend::Postgres.clock()
        );
        within(async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query(&insert)
                .bind(uuid::Uuid::new_v4().to_string())
                .bind(node.to_string())
                .bind(text)
                .execute(&mut *transaction)
                .await?;
            transaction.execute(NOTIFY).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// Writes log records, all of them or none; those that are there already, since the answer to an earlier try was lost,
    /// are fine.
    pub async fn log_records(&self, node: NodeId, records: &[impl Borrow<LogRecord>]) -> Result<(), Fault> {
        let mut columns: [Vec<String>; 9] = std::array::from_fn(|_| Vec::with_capacity(records.len()));
        let mut times = Vec::with_capacity(records.len());
        for record in records {
            let row = columned(record.borrow())?;
            times.push(row.at);
            row.texts.into_iter().zip(&mut columns).for_each(|(text, column)| column.push(text));
        }
        let insert = format!(
            "INSERT INTO records (at, node_id, {TEXT_COLUMNS}) SELECT at, $1, {TEXT_COLUMNS} FROM UNNEST($2::BIGINT[], \
             $3::TEXT[], $4::TEXT[], $5::TEXT[], $6::TEXT[], $7::TEXT[], $8::TEXT[], $9::TEXT[], $10::TEXT[], $11::TEXT[]) \
             AS t (at, {TEXT_COLUMNS})"
        );
        within(async {
            let insert = sqlx::query(&insert).bind(node.to_string()).bind(&times);
            let insert = columns.iter().fold(insert, sqlx::query::Query::bind);
            match insert.execute(&self.pool).await {
                Ok(_) => Ok(()),
                Err(error) => there_already(error),
            }
        })
        .await
    }

    /// Tells with which key a node signs where it opens TLS: the endorsement of it by the node's own.
    pub async fn inspection_key_set(&self, node: NodeId, endorsement: &str) -> Result<(), Fault> {
        within(async {
            let mut transaction = self.pool.begin().await?;
            sqlx::query(
                "INSERT INTO node_inspection_keys (node_id, endorsement) VALUES ($1, $2) \
                 ON CONFLICT (node_id) DO UPDATE SET endorsement = $2",
            )
            .bind(node.to_string())
            .bind(endorsement)
            .execute(&mut *transaction)
            .await?;
            transaction.execute(NOTIFY).await?;
            Ok(transaction.commit().await?)
        })
        .await
    }

    /// What accounts' authorities have signed for a node.
    pub async fn authorities(&self, node: NodeId) -> Result<Vec<NodeAuthority>, Fault> {
        within(async {
            let read =
                "SELECT * FROM node_authorities WHERE node_id = $1 ORDER BY account_id, certificate_id";
            let rows = sqlx::query(read).bind(node.to_string()).fetch_all(&self.pool).await?;
            rows.iter().map(|row| authority_of(node, row)).collect()
        })
        .await
    }

    /// Who the nodes are, and which tunnels the live ones hold.
    pub async fn cluster(&self) -> Result<Cluster, Fault> {
        within(async {
            let nodes = format!(
                "SELECT n.id, n.name, n.key_hash, l.address, CASE WHEN {LIVE} THEN l.devices ELSE '' END AS devices \
                 FROM nodes n JOIN node_leases l ON l.node_id = n.id WHERE n.key_hash IS NOT NULL ORDER BY n.id"
            );
            let rows = sqlx::query(&nodes).bind(micros(NODE_GONE_AFTER)).fetch_all(&self.pool).await?;
            let nodes = rows.iter().map(node_of).collect::<Result<Vec<_>, Fault>>()?;
            let leases = format!(
                "SELECT DISTINCT c.node_id, c.tunnel_id FROM node_connections c \
                 JOIN node_leases l ON l.node_id = c.node_id WHERE {LIVE} ORDER BY c.node_id, c.tunnel_id",
            );
            let rows = sqlx::query(&leases).bind(micros(NODE_SILENT_AFTER)).fetch_all(&self.pool).await?;
            let leases = rows.iter().map(lease_of).collect::<Result<_, Fault>>()?;
            Ok(Cluster { nodes, leases })
        })
        .await
    }

    /// Commands behind this number that did not come from this node, and the number of the last. `None`: only the number.
    pub async fn commands_after(
        &self,
        node: NodeId,
        number: Option<i64>,
    ) -> Result<(i64, Vec<Command>), Fault> {
        within(async {
            let Some(number) = number else {
                let last = sqlx::query_scalar("SELECT coalesce(max(number), 0) FROM node_commands");
                return Ok((last.fetch_one(&self.pool).await?, Vec::new()));
            };
            let read = "SELECT number, origin, command FROM node_commands WHERE number > $1 ORDER BY number";
            let rows = sqlx::query(read).bind(number).fetch_all(&self.pool).await?;
            let (mut last, mut commands) = (number, Vec::with_capacity(rows.len()));
            for row in rows {
                last = row.try_get("number")?;
                let (origin, text): (String, String) = (row.try_get("origin")?, row.try_get("command")?);
                // What cannot be read is of a version to come.
                commands.extend(
                    serde_json::from_str::<Command>(&text).ok().filter(|_| origin != node.to_string()),
                );
            }
            Ok((last, commands))
        })
        .await
    }
}

/// What a control plane does with what nodes write.
impl NodeDatabase {
    /// The connections that live nodes hold, this one's (`except`) left out.
    ///
    /// # Errors
    /// The database failed; so for the next.
    pub async fn connections(&self, except: NodeId) -> Result<Vec<ConnectionOpened>, Fault> {
        let read = format!(
            "SELECT c.opened FROM node_connections c JOIN node_leases l ON l.node_id = c.node_id \
             WHERE {LIVE} AND c.node_id <> $2"
        );
        within(async {
            let texts: Vec<String> = sqlx::query_scalar(&read)
                .bind(micros(NODE_SILENT_AFTER))
                .bind(except.to_string())
                .fetch_all(&self.pool)
                .await?;
            Ok(texts.iter().filter_map(|text| serde_json::from_str(text).ok()).collect())
        })
        .await
    }

    /// Takes what nodes recorded, the oldest first; what was taken is gone.
    pub async fn records_take(&self) -> Result<Vec<NodeRecord>, Fault> {
        within(async {
            let mut taken: Vec<(i64, String)> = sqlx::query_as(
                "DELETE FROM node_records WHERE id IN (SELECT id FROM node_records ORDER BY at, id LIMIT $1 \
                 FOR UPDATE SKIP LOCKED) RETURNING at, record",
            )
            .bind(RECORDS_AT_ONCE)
            .fetch_all(&self.pool)
            .await?;
            taken.sort_by_key(|(at, _)| *at);
            Ok(taken.iter().filter_map(|(_, text)| serde_json::from_str(text).ok()).collect())
        })
        .await
    }
}

/// Wakes those who wait.
async fn listen(pool: PgPool, changes: watch::Sender<u64>, nodes: watch::Sender<u64>) {
    let tell = |told: &watch::Sender<u64>| told.send_modify(|count| *count = count.wrapping_add(1));
    while !pool.is_closed() {
        if let Ok(mut listener) = PgListener::connect_with(&pool).await
            && listener.listen_all([CHANNEL, NODES_CHANNEL]).await.is_ok()
        {
            tell(&changes);
            tell(&nodes);
            while let Ok(notice) = listener.recv().await {
                tell(if notice.channel() == CHANNEL { &changes } else { &nodes });
            }
        }
        tokio::time::sleep(LISTEN_AGAIN).await;
    }
}

/// A call of the database, which has to answer in time.
async fn within<T>(call: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    let late = || Fault::Unavailable("no answer in time".into());
    tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or_else(|_| Err(late()))
}

fn batch_of(row: &PgRow) -> Result<ChangeBatch, Fault> {
    let (number, changes): (i64, String) = (row.try_get("number")?, row.try_get("changes")?);
    let damaged = |column| Fault::Damaged { table: "changes", column };
    Ok(ChangeBatch {
        number: u64::try_from(number).map_err(|_| damaged("number"))?,
        changes: serde_json::from_str(&changes).map_err(|_| damaged("changes"))?,
    })
}

fn node_of(row: &PgRow) -> Result<Node, Fault> {
    let (id, key): (String, String) = (row.try_get("id")?, row.try_get("key_hash")?);
    Ok(Node {
        id: id.parse().map_err(|_| damaged("id"))?,
        name: row.try_get("name")?,
        key: key_of(&key)?,
        address: row.try_get("address")?,
        devices: row.try_get("devices")?,
    })
}

fn authority_of(node: NodeId, row: &PgRow) -> Result<NodeAuthority, Fault> {
    let (account, certificate): (String, String) =
        (row.try_get("account_id")?, row.try_get("certificate_id")?);
    let damaged = |column| Fault::Damaged { table: "node_authorities", column };
    Ok(NodeAuthority {
        node,
        account: account.parse().map_err(|_| damaged("account_id"))?,
        certificate: certificate.parse().map_err(|_| damaged("certificate_id"))?,
        endorsement: row.try_get("endorsement")?,
        chain: row.try_get("chain")?,
        expires_at: from_micros(row.try_get("expires_at")?).ok_or_else(|| damaged("expires_at"))?,
    })
}

fn lease_of(row: &PgRow) -> Result<Lease, Fault> {
    let (node, tunnel): (String, String) = (row.try_get("node_id")?, row.try_get("tunnel_id")?);
    let damaged = |column| Fault::Damaged { table: "node_connections", column };
    Ok(Lease {
        node: node.parse().map_err(|_| damaged("node_id"))?,
        tunnel: tunnel.parse().map_err(|_| damaged("tunnel_id"))?,
    })
}

fn json<T: Serialize>(value: &T) -> Result<String, Fault> {
    serde_json::to_string(value).map_err(|error| Fault::Database(error.into()))
}

/// A lease `l` that is young; `$1` in microseconds.
const LIVE: &str = "l.seen_at > CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS BIGINT) - $1";
