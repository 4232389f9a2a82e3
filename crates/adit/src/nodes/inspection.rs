//! What a control plane does so that other nodes can open TLS: it signs, for each of them, an authority below that of each
//! account whose TLS is opened. What it signs lies in the database, where each node reads its own.

use std::collections::HashSet;

use adit_control::Control;
use adit_control::inspection::{AuthorityError, RENEWED_BEFORE, authority, endorsed, sign_node};
use adit_model::{AccountId, CertificateId, NodeId};
use adit_store::{Actor, Fault, NodeAuthority, SigningNode};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::Member;

/// What cannot be signed, and has been said.
type Said = HashSet<(NodeId, AccountId, CertificateId)>;

/// Signs whenever something is missing: a node is new, an account has another authority, or what was signed grows old.
pub(crate) async fn sign(control: Control, member: Member, stop: CancellationToken) {
    let (mut nodes, mut changes) = (member.database.notices(), member.database.change_notices());
    let mut said = Said::new();
    loop {
        member.health.note(sign_missing(&control, &mut said).await);
        tokio::select! {
            () = nodes.wait() => {}
            () = changes.wait() => {}
            () = stop.cancelled() => return,
        }
    }
}

async fn sign_missing(control: &Control, said: &mut Said) -> Result<(), Fault> {
    let store = control.store();
    let nodes = store.signing_nodes().await?;
    if nodes.is_empty() {
        return Ok(());
    }
    let there = store.node_authorities().await?;
    let renewed = OffsetDateTime::now_utc() + RENEWED_BEFORE;
    for (account, certificate) in store.decrypting_accounts().await? {
        let has = |node: &SigningNode| {
            there.iter().any(|signed| {
                (signed.node, signed.account, signed.certificate) == (node.id, account, certificate)
                    && signed.endorsement == node.endorsement
                    && signed.expires_at > renewed
            })
        };
        for node in nodes.iter().filter(|node| !has(node)) {
            match sign_one(control, account, certificate, node).await {
                Ok(()) => drop(said.remove(&(node.id, account, certificate))),
                Err(Unsigned::Fault(fault)) => return Err(fault),
                Err(Unsigned::Refused(reason)) => {
                    if said.insert((node.id, account, certificate)) {
                        tracing::warn!(
                            node = node.name, %account, %certificate,
                            "TLS of this account cannot be opened on a node: {reason}"
                        );
                    }
                }
            }
        }
    }
    Ok(())
}

/// Nothing was signed.
enum Unsigned {
    Fault(Fault),
    /// For this reason, until something changes.
    Refused(String),
}

async fn sign_one(
    control: &Control,
    account: AccountId,
    certificate: CertificateId,
    node: &SigningNode,
) -> Result<(), Unsigned> {
    let refused = |reason: &dyn std::fmt::Display| Unsigned::Refused(reason.to_string());
    let Some(key) = endorsed(&node.endorsement, node.key) else {
        return Err(refused(&"its key is not endorsed by the key by which it is known"));
    };
    let authority = authority(control.store(), account, certificate).await.map_err(|error| match error {
        AuthorityError::Fault(fault) => Unsigned::Fault(fault),
        error @ (AuthorityError::Certificate(_) | AuthorityError::NotFound) => refused(&error),
    })?;
    let signed = sign_node(&authority, account, &node.name, &key);
    let (chain, expires_at) = signed.map_err(|error| refused(&error))?;
    let signed = NodeAuthority {
        node: node.id,
        account,
        certificate,
        endorsement: node.endorsement.clone(),
        chain,
        expires_at,
    };
    control.store().node_authority_put(&Actor::system(), &signed).await.map_err(Unsigned::Fault)?;
    tracing::info!(node = node.name, %account, %certificate, "a node may open this account's TLS");
    Ok(())
}
