//! What accounts' authorities have signed for edge nodes of their own, so that TLS can be opened there.
//!
//! What holds: no key is here. A node's stays on the node; it writes the public one, endorsed by the key by which the control
//! plane knows it, and reads what was signed for it and for no other.

use adit_model::{AccountId, CertificateId, NodeId, NodeKey};
use time::OffsetDateTime;

use crate::Store;
use crate::node::{NOTIFY, damaged, key_of};
use crate::row::{Columns, Fault, Row, from_micros, run, to_micros};
use crate::write::{Actor, Deed};

/// A node that can sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SigningNode {
    /// Which.
    pub id: NodeId,
    /// Its name.
    pub name: String,
    /// By what it is known.
    pub key: NodeKey,
    /// The public key with which it signs, endorsed.
    pub endorsement: String,
}

/// What was signed for a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeAuthority {
    /// For which.
    pub node: NodeId,
    /// Whose TLS it opens.
    pub account: AccountId,
    /// The authority of the account that signed it.
    pub certificate: CertificateId,
    /// The endorsement of the key that was signed.
    pub endorsement: String,
    /// The certificate as PEM.
    pub chain: String,
    /// Until when it is good.
    pub expires_at: OffsetDateTime,
}

impl Store {
    /// The nodes that have a key to sign with.
    pub async fn signing_nodes(&self) -> Result<Vec<SigningNode>, Fault> {
        let rows = sqlx::query(
            "SELECT n.id, n.name, n.key_hash, k.endorsement FROM nodes n JOIN node_inspection_keys k ON k.node_id = n.id \
             WHERE n.key_hash IS NOT NULL ORDER BY n.id",
        )
        .fetch_all(self.read().await?.sql())
        .await?;
        rows.iter().map(signing_node).collect()
    }

    /// What was signed for nodes.
    pub async fn node_authorities(&self) -> Result<Vec<NodeAuthority>, Fault> {
        let rows = sqlx::query("SELECT * FROM node_authorities ORDER BY node_id, account_id, certificate_id")
            .fetch_all(self.read().await?.sql())
            .await?;
        rows.iter().map(node_authority).collect()
    }

    /// Stores what was signed for a node, and tells the nodes. What is past its end goes.
    pub async fn node_authority_put(&self, actor: &Actor, signed: &NodeAuthority) -> Result<(), Fault> {
        let mut write = self.write().await?;
        let at = write.at();
        sqlx::query("DELETE FROM node_authorities WHERE expires_at <= $1")
            .bind(at)
            .execute(write.sql())
            .await?;
        sqlx::query(
            "INSERT INTO node_authorities (node_id, account_id, certificate_id, endorsement, chain, expires_at) \
             VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (node_id, account_id, certificate_id) \
             DO UPDATE SET endorsement = $4, chain = $5, expires_at = $6",
        )
        .bind(signed.node.to_string())
        .bind(signed.account.to_string())
        .bind(signed.certificate.to_string())
        .bind(&signed.endorsement)
        .bind(&signed.chain)
        .bind(to_micros(signed.expires_at))
        .execute(write.sql())
        .await?;
        if self.is_shared() {
            run(NOTIFY, write.sql()).await?;
        }
        let id = signed.node.to_string();
        let detail = serde_json::json!({ "certificate": signed.certificate, "node": signed.node });
        let deed = Deed {
            account: Some(signed.account),
            action: "inspection_certificate.sign_node",
            kind: "node",
            id: &id,
            detail,
        };
        self.commit(write, actor, deed, ()).await?;
        Ok(())
    }

    /// The accounts whose TLS is opened, each with the authority that it is opened by.
    pub async fn decrypting_accounts(&self) -> Result<Vec<(AccountId, CertificateId)>, Fault> {
        let rows = crate::gateway::settings_all(self.read().await?.sql()).await?;
        let opened = rows.into_iter().filter(|row| row.edge.tls_decrypt);
        Ok(opened.map(|row| (row.account, row.edge.certificate)).collect())
    }
}

fn signing_node(row: &Row) -> Result<SigningNode, Fault> {
    let columns = Columns::new(row, "nodes");
    let key = columns.maybe_text("key_hash")?.ok_or_else(|| damaged("key_hash"))?;
    Ok(SigningNode {
        id: columns.parsed("id")?,
        name: columns.text("name")?,
        key: key_of(&key)?,
        endorsement: columns.text("endorsement")?,
    })
}

fn node_authority(row: &Row) -> Result<NodeAuthority, Fault> {
    let columns = Columns::new(row, "node_authorities");
    let expires_at = from_micros(columns.number("expires_at")?);
    Ok(NodeAuthority {
        node: columns.parsed("node_id")?,
        account: columns.parsed("account_id")?,
        certificate: columns.parsed("certificate_id")?,
        endorsement: columns.text("endorsement")?,
        chain: columns.text("chain")?,
        expires_at: expires_at.ok_or(Fault::Damaged { table: "node_authorities", column: "expires_at" })?,
    })
}
