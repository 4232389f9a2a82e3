//! The authorities of accounts on an edge node of its own: signed by the control plane for a key that is made here.
//!
//! What holds: the key leaves this machine as little as the node's own; what was signed is kept beside it, so that TLS is
//! opened after a start without the database. A change that opens an account's TLS waits a moment for what it needs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use adit_control::inspection::{endorse, endorsed};
use adit_edge::InspectionAuthorities;
use adit_model::{AccountId, CertificateId, Change, ChangeBatch, NodeKey};
use adit_store::{Fault, NodeAuthority};
use adit_transport::tls::Identity;
use anyhow::Context;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::RootCertStore;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{Signer, system_roots};
use crate::nodes::Member;
use crate::nodes::identity::{Enrolled, write_private};

/// The authorities of this node.
pub(crate) struct NodeAuthorities {
    member: Member,
    path: PathBuf,
    roots: Arc<RootCertStore>,
    kept: Mutex<Kept>,
    signers: Mutex<Signers>,
}

type Signers = BTreeMap<(AccountId, CertificateId), Arc<Signer>>;

/// What is in the node's directory.
#[derive(Clone, Serialize, Deserialize)]
struct Kept {
    key: String,
    /// Of the key, by the node's own.
    endorsement: String,
    signed: Vec<Signed>,
}

/// What was signed for the key.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Signed {
    account: AccountId,
    certificate: CertificateId,
    chain: String,
}

impl NodeAuthorities {
    /// Reads what is kept in this directory, or makes a key.
    pub(crate) fn open(member: &Member, enrolled: &Enrolled, data: &Path) -> anyhow::Result<Self> {
        let path = data.join(FILE);
        let own = KeyPair::from_pem(&enrolled.key).context("the node's key is damaged")?;
        let own = NodeKey::of_public_key(&own.subject_public_key_info());
        let read = std::fs::read(&path).ok().and_then(|text| serde_json::from_slice::<Kept>(&text).ok());
        let read = read.filter(|kept| endorsed(&kept.endorsement, own).is_some());
        let kept = if let Some(kept) = read {
            kept
        } else {
            let key = KeyPair::generate()?.serialize_pem();
            let endorsement = endorse(&enrolled.key, &key)?;
            let kept = Kept { key, endorsement, signed: Vec::new() };
            kept.write(&path)?;
            kept
        };
        let signers = Mutex::new(kept.signers());
        Ok(Self {
            member: member.clone(),
            path,
            roots: Arc::new(system_roots()),
            kept: Mutex::new(kept),
            signers,
        })
    }

    /// Tells the control plane of the key, and takes what it signs, until the node stops.
    pub(crate) async fn follow(self: Arc<Self>, stop: CancellationToken) {
        let mut notices = self.member.database.notices();
        let mut told = false;
        loop {
            if !told {
                let endorsement = self.kept().endorsement.clone();
                let telling = self.member.database.inspection_key_set(self.member.id, &endorsement).await;
                told = self.member.health.note(telling).is_some();
            }
            self.member.health.note(self.refresh().await);
            tokio::select! {
                () = notices.wait() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Waits a moment for the authorities that changes ask for, before the edge is told of these.
    pub(crate) async fn prepare(&self, batch: &ChangeBatch) {
        let mut wanted = BTreeMap::new();
        for change in &batch.changes {
            if let Change::GatewaySettingsPut(settings) = change {
                wanted.insert(settings.account, settings.tls_decrypt.then_some(settings.certificate));
            }
        }
        let wanted: Vec<(AccountId, CertificateId)> =
            wanted.into_iter().filter_map(|(account, certificate)| Some((account, certificate?))).collect();
        if self.has(&wanted) {
            return;
        }
        let mut notices = self.member.database.notices();
        let waiting = async {
            while self.member.health.note(self.refresh().await).is_none() || !self.has(&wanted) {
                notices.wait().await;
            }
        };
        if tokio::time::timeout(WAIT, waiting).await.is_err() {
            tracing::warn!(
                "TLS cannot be opened for every account yet: the control plane has not signed for this node"
            );
        }
    }

    fn has(&self, wanted: &[(AccountId, CertificateId)]) -> bool {
        let signers = self.signers();
        wanted.iter().all(|wanted| signers.contains_key(wanted))
    }

    /// Reads what was signed for this node.
    async fn refresh(&self) -> Result<(), Fault> {
        let read = self.member.database.authorities(self.member.id).await?;
        let mut kept = self.kept();
        let ours = read.into_iter().filter(|signed| signed.endorsement == kept.endorsement);
        let signed: Vec<Signed> = ours
            .map(|NodeAuthority { account, certificate, chain, .. }| Signed { account, certificate, chain })
            .collect();
        if kept.signed == signed {
            return Ok(());
        }
        kept.signed = signed;
        *self.signers() = kept.signers();
        if let Err(error) = kept.write(&self.path) {
            // It is good until the next start.
            tracing::warn!(error = format!("{error:#}"), "what was signed for this node is not kept");
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signers(&self) -> MutexGuard<'_, Signers> {
        self.signers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn write(&self, path: &Path) -> anyhow::Result<()> {
        write_private(path, &serde_json::to_vec(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn signers(&self) -> Signers {
        let signer = |signed: &Signed| match Signer::new(&signed.chain, &self.key) {
            Ok(signer) => Some(((signed.account, signed.certificate), Arc::new(signer))),
            Err(error) => {
                tracing::warn!(account = %signed.account, error = format!("{error:#}"), "TLS cannot be opened");
                None
            }
        };
        self.signed.iter().filter_map(signer).collect()
    }
}

impl InspectionAuthorities for NodeAuthorities {
    fn leaf(&self, account: AccountId, authority: CertificateId, name: &str) -> Option<Identity> {
        let signer = self.signers().get(&(account, authority)).map(Arc::clone);
        let Some(signer) = signer else {
            tracing::warn!(%account, "TLS cannot be opened on this node yet, and does not pass");
            return None;
        };
        signer.leaf(account, name)
    }

    fn roots(&self) -> Arc<RootCertStore> {
        Arc::clone(&self.roots)
    }
}

impl fmt::Debug for NodeAuthorities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeAuthorities").field("signed", &self.signers().len()).finish_non_exhaustive()
    }
}

/// In the node's directory, 0600.
const FILE: &str = "inspection.json";
/// For the control plane to sign what a change needs: about as long as a change may take to be in force.
const WAIT: Duration = Duration::from_secs(2);
