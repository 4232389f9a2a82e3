//! The certificates of one test cluster: a CA, the API server's, an engineer's, and the key that signs service account
//! tokens of a real API server. Nothing of adit's own trusts or uses them.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use crate::net::{API_V4, API_V6, CLUSTER_V4, CLUSTER_V6};

/// The name of the API server in the private network.
pub const API_NAME: &str = "api.cluster.internal";
/// The person whose client certificate the tests use.
pub const ENGINEER: &str = "engineer@example.com";
/// What the same person may show in the place of the certificate, where an API server takes tokens.
pub const ENGINEER_TOKEN: &str = "a-token-of-the-engineer";
/// The group in that certificate: a real API server lets it do anything.
pub const ENGINEER_GROUP: &str = "system:masters";

/// Where the files of [`create`] are.
#[derive(Clone, Debug)]
pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Makes a new set in `dir`, or takes the one that is there.
    pub fn open(dir: &Path) -> Result<Self> {
        let pki = Self { dir: dir.to_owned() };
        if !pki.ca().exists() {
            fs::create_dir_all(dir)?;
            create(&pki)?;
        }
        Ok(pki)
    }

    /// The CA's certificate, PEM.
    pub fn ca(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The API server's certificate and key, PEM. A fake kubelet shows the same.
    pub fn server(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("server.pem"), self.dir.join("server-key.pem"))
    }

    /// The engineer's certificate and key, PEM.
    pub fn client(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("client.pem"), self.dir.join("client-key.pem"))
    }

    /// The tokens that a real API server takes, as its `--token-auth-file`.
    pub fn tokens(&self) -> PathBuf {
        self.dir.join("tokens.csv")
    }

    /// The public and the private key for service account tokens, PEM.
    pub fn service_account(&self) -> (PathBuf, PathBuf) {
        (self.dir.join("service-account.pem"), self.dir.join("service-account-key.pem"))
    }
}

fn create(pki: &Pki) -> Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    ca.distinguished_name.push(DnType::CommonName, "testbed cluster CA");
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let names = ["localhost", "kubernetes", "kubernetes.default.svc", API_NAME].map(ToOwned::to_owned);
    let mut server = CertificateParams::new(names)?;
    server.distinguished_name.push(DnType::CommonName, "kube-apiserver");
    server.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let addresses: [IpAddr; 6] = [
        API_V4.into(),
        API_V6.into(),
        CLUSTER_V4.into(),
        CLUSTER_V6.into(),
        std::net::Ipv4Addr::LOCALHOST.into(),
        std::net::Ipv6Addr::LOCALHOST.into(),
    ];
    server.subject_alt_names.extend(addresses.map(SanType::IpAddress));

    let mut client = CertificateParams::default();
    client.distinguished_name.push(DnType::CommonName, ENGINEER);
    client.distinguished_name.push(DnType::OrganizationName, ENGINEER_GROUP);
    client.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];

    for (params, (certificate_path, key_path)) in [(server, pki.server()), (client, pki.client())] {
        let key = KeyPair::generate()?;
        write(&certificate_path, &params.signed_by(&key, &issuer)?.pem())?;
        write(&key_path, &key.serialize_pem())?;
    }
    let (public, private) = pki.service_account();
    let key = KeyPair::generate()?;
    write(&public, &key.public_key_pem())?;
    write(&private, &key.serialize_pem())?;
    write(&pki.tokens(), &format!("{ENGINEER_TOKEN},{ENGINEER},engineer,{ENGINEER_GROUP}\n"))?;
    // Last: its presence says that the set is whole.
    write(&pki.ca(), &ca_pem)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}
