//! A node's own key, and the file in which it keeps what it got when it enrolled.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use adit_model::{NodeId, NodeKey};
use adit_transport::tls::Identity;
use anyhow::Context;
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

/// A node that has enrolled: its key, its certificate, and how it signs in to the database.
#[derive(Serialize, Deserialize)]
pub(crate) struct Enrolled {
    pub(crate) node: NodeId,
    pub(crate) name: String,
    /// The names that its certificate is for.
    pub(crate) hosts: Vec<String>,
    pub(crate) key: String,
    pub(crate) certificate: String,
    /// With which it renews its certificate.
    pub(crate) code: String,
    /// Seconds since 1970.
    pub(crate) renew_at: i64,
    pub(crate) database: Database,
}

/// The database, as the control plane names it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Database {
    /// Without a user.
    pub(crate) url: String,
    /// The node's role in it.
    pub(crate) role: String,
    /// None, if the role was made by hand.
    pub(crate) password: Option<String>,
}

impl Enrolled {
    /// What was kept, if this directory's node has enrolled.
    pub(crate) fn load(data: &Path) -> anyhow::Result<Option<Self>> {
        let path = data.join(FILE);
        match std::fs::read(&path) {
            Ok(text) => {
                let kept = serde_json::from_slice(&text);
                kept.map(Some).with_context(|| format!("{} is damaged", path.display()))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    pub(crate) fn save(&self, data: &Path) -> anyhow::Result<()> {
        let path = data.join(FILE);
        write_private(&path, &serde_json::to_vec_pretty(self)?)
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The node's certificate and key, which are all that it shows, to clients and to other nodes.
    pub(crate) fn identity(&self) -> anyhow::Result<Identity> {
        Ok(Identity::from_pem(self.certificate.as_bytes(), self.key.as_bytes())?)
    }
}

/// Writes a file for its owner only, such that it is there whole or not at all.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(part, path)
}

/// The key of a control plane that is a node too: made the first time, in its data directory.
pub(crate) fn own(data: &Path) -> anyhow::Result<(Identity, NodeKey)> {
    let path = data.join("node.key");
    let pair = match std::fs::read_to_string(&path) {
        Ok(text) => KeyPair::from_pem(&text).with_context(|| format!("{} is damaged", path.display()))?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let pair = KeyPair::generate()?;
            write_private(&path, pair.serialize_pem().as_bytes())
                .with_context(|| format!("cannot write {}", path.display()))?;
            pair
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    // Its name is not looked at: the key tells who it is.
    let certificate =
        rcgen::CertificateParams::new(vec!["node.adit.invalid".to_owned()])?.self_signed(&pair)?;
    let key = NodeKey::of_public_key(&pair.subject_public_key_info());
    let pkcs8 = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    Ok((Identity::new(vec![certificate.der().clone()], pkcs8), key))
}

/// In the node's directory, 0600.
const FILE: &str = "node.json";
