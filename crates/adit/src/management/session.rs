//! What a management command begins with: which API, and by what right.
//!
//! The right is, in this order: an API token that was given; a `cert.pem` that was named; the data directory of an `adit
//! up` on this machine; the first `cert.pem` in the search directories.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use adit_model::TunnelId;
use adit_transport::tls;
use anyhow::Context;

use super::certificate::{self, OriginCertificate};
use super::client::{Address, Client, Query};
use super::failure::Failure;
use super::object::Tunnel;
use crate::command_line::{ApiFlags, TunnelFlags};
use crate::manage::session::{data_url, with_base};

/// The flags of one command.
pub(super) struct Session<'a> {
    pub(super) api: &'a ApiFlags,
    pub(super) flags: &'a TunnelFlags,
    /// Where certificates and credentials are looked for when nothing names them.
    pub(super) directories: &'a [PathBuf],
}

/// A client, and where its `cert.pem` was found.
pub(super) struct Entry {
    pub(super) client: Client,
    pub(super) certificate: Option<PathBuf>,
}

/// By what right, before it is a client.
struct Right {
    token: String,
    account: String,
    zone: Option<String>,
    url: Option<String>,
    trusted: Option<String>,
    certificate: Option<PathBuf>,
}

const DEFAULT_URL: &str = "https://localhost/client/v4";
/// Rows of a list asked for at once, if nothing is said.
const PER_PAGE: usize = 100;

impl Session<'_> {
    /// The client.
    pub(super) fn client(&self) -> Result<Client, Failure> {
        Ok(self.enter()?.client)
    }

    /// The client, and where its `cert.pem` was found.
    pub(super) fn enter(&self) -> Result<Entry, Failure> {
        let right = self.right()?;
        let given = self.api.api_url.clone().or(right.url);
        let of_data = || self.api.data.as_deref().and_then(data_url).map(|url| with_base(&url));
        let url = given.or_else(of_data).unwrap_or_else(|| DEFAULT_URL.to_owned());
        let at = Address::parse("--api-url", &url)?;
        let tls = if at.secure { Some(self.trust(right.trusted.as_deref())?) } else { None };
        let per_page = self.api.max_fetch_size.and_then(|rows| usize::try_from(rows).ok());
        Ok(Entry {
            client: Client {
                at,
                tls,
                // An account's one zone has the account's tag.
                zone: right.zone.unwrap_or_else(|| right.account.clone()),
                token: right.token,
                account: right.account,
                per_page: per_page.filter(|rows| *rows > 0).unwrap_or(PER_PAGE),
            },
            certificate: right.certificate,
        })
    }

    fn right(&self) -> Result<Right, Failure> {
        let api = self.api;
        if let Some(token) = &api.api_token {
            let account = self.given_account()?.ok_or_else(|| {
                Failure::new("--account is missing: an API token needs it, or --data with the directory of an `adit up`")
            })?;
            let (zone, url, trusted, certificate) = (None, None, None, None);
            return Ok(Right { token: token.clone(), account, zone, url, trusted, certificate });
        }
        match (&api.origincert, &api.data) {
            (Some(path), _) => self.certified(path),
            (None, Some(data)) => {
                let account = self.given_account()?.unwrap_or_default();
                let token = read(&data.join("admin-token"))?;
                Ok(Right { token, account, zone: None, url: None, trusted: None, certificate: None })
            }
            (None, None) => match certificate::find(self.directories) {
                Some(path) => self.certified(&path),
                None => Err(self.no_right()),
            },
        }
    }

    fn certified(&self, path: &Path) -> Result<Right, Failure> {
        let OriginCertificate { token, trusted } = OriginCertificate::read(path)?;
        let account = self.api.account.clone().unwrap_or(token.account);
        if account.is_empty() {
            let text = format!("{} names no account: run `adit tunnel login` anew", path.display());
            return Err(Failure::new(text));
        }
        // Certificates of a cert.pem that is not ours are for other ends.
        let trusted = token.api_url.as_ref().map(|_| trusted).filter(|trusted| !trusted.is_empty());
        Ok(Right {
            token: token.api_token,
            account,
            zone: Some(token.zone),
            url: token.api_url,
            trusted,
            certificate: Some(path.to_owned()),
        })
    }

    fn no_right(&self) -> Failure {
        let places: Vec<_> =
            self.directories.iter().map(|directory| directory.display().to_string()).collect();
        let text = format!(
            "Error locating origin cert: no cert.pem in {}: run `adit tunnel login https://HOST`, or give --origincert, or \
             --data with the directory of an `adit up` on this machine, or --api-token with --account",
            places.join(", ")
        );
        Failure::new(text)
    }

    /// The account that was given, or the data directory's.
    fn given_account(&self) -> Result<Option<String>, Failure> {
        match (&self.api.account, &self.api.data) {
            (Some(account), _) => Ok(Some(account.clone())),
            (None, Some(data)) => read(&data.join("account-id")).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Whom to trust: `--cacert`, what `cert.pem` brings, the data directory's `ca.pem`, the system.
    fn trust(&self, brought: Option<&str>) -> Result<Arc<rustls::ClientConfig>, Failure> {
        let of_data = self.api.data.as_ref().map(|data| data.join("ca.pem")).filter(|_| brought.is_none());
        trust(self.flags.cacert.clone().or(of_data).as_deref(), brought)
    }

    /// As [`Self::tunnel_id`], and asks for a right only where the API has to be asked.
    pub(super) async fn resolve(&self, tunnel: &str) -> Result<TunnelId, Failure> {
        match uuid(tunnel).ok().or_else(|| self.credentials_tunnel()) {
            Some(id) => Ok(TunnelId::from_uuid(id)),
            None => self.tunnel_id(&self.client()?, tunnel).await,
        }
    }

    /// The id of a tunnel by its id, its credentials file or its name.
    pub(super) async fn tunnel_id(&self, client: &Client, tunnel: &str) -> Result<TunnelId, Failure> {
        if let Some(id) = uuid(tunnel).ok().or_else(|| self.credentials_tunnel()) {
            return Ok(TunnelId::from_uuid(id));
        }
        let unknown =
            || Failure::new(format!("{tunnel} is neither the ID nor the name of any of your tunnels"));
        named(client, tunnel).await?.first().map(|found| found.id).ok_or_else(unknown)
    }

    /// The ids of several tunnels: those given by id first.
    pub(super) async fn tunnel_ids(
        &self,
        client: &Client,
        tunnels: &[String],
    ) -> Result<Vec<TunnelId>, Failure> {
        let mut ids: Vec<TunnelId> =
            tunnels.iter().filter_map(|tunnel| uuid(tunnel).ok()).map(TunnelId::from_uuid).collect();
        for name in tunnels.iter().filter(|tunnel| uuid(tunnel).is_err()) {
            let found = named(client, name).await?;
            let [one] = found.as_slice() else {
                let text = format!("there should only be 1 non-deleted Tunnel named {name}");
                return Err(Failure::new(text));
            };
            ids.push(one.id);
        }
        Ok(ids)
    }

    /// The tunnel of the credentials file that was given, if it names one.
    fn credentials_tunnel(&self) -> Option<uuid::Uuid> {
        let text = std::fs::read_to_string(self.flags.credentials_file.as_ref()?).ok()?;
        let credentials: serde_json::Value = serde_json::from_str(&text).ok()?;
        uuid(credentials["TunnelID"].as_str()?).ok()
    }

    /// The credentials file of a tunnel, if there is one: the one that was given, the one beside `cert.pem`, or one in the
    /// search directories.
    pub(super) fn credentials_of(&self, certificate: Option<&Path>, id: TunnelId) -> Option<PathBuf> {
        if let Some(given) = &self.flags.credentials_file {
            return Some(given.clone()).filter(|path| path.is_file());
        }
        let beside = certificate.and_then(Path::parent).map(Path::to_owned);
        let directories = beside.iter().chain(self.directories);
        directories.map(|directory| directory.join(format!("{id}.json"))).find(|path| path.is_file())
    }
}

/// The live tunnels of this name.
async fn named(client: &Client, name: &str) -> Result<Vec<Tunnel>, Failure> {
    let query = Query::default().with("is_deleted", &false).with("name", &name);
    client.pages("list tunnels", &client.account("cfd_tunnel"), &query).await
}

/// How to trust: a file, or certificates in PEM, or the system.
pub(crate) fn trust(
    file: Option<&Path>,
    brought: Option<&str>,
) -> Result<Arc<rustls::ClientConfig>, Failure> {
    let config = || -> anyhow::Result<rustls::ClientConfig> {
        let roots = match (file, brought) {
            (Some(file), _) => {
                let pem = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
                tls::roots_from_pem(&pem).with_context(|| file.display().to_string())?
            }
            (None, Some(pem)) => tls::roots_from_pem(pem.as_bytes()).context("cert.pem")?,
            (None, None) => tls::system_roots().context("give --cacert")?,
        };
        Ok(tls::client_config(roots, &[b"http/1.1"])?)
    };
    Ok(Arc::new(config()?))
}

pub(super) fn read(path: &Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    Ok(text?.trim().to_owned())
}

/// A UUID in any of its spellings, or why it is none.
pub(super) fn uuid(text: &str) -> Result<uuid::Uuid, String> {
    uuid::Uuid::try_parse(text).map_err(|_| match text.len() {
        32 | 36 | 38 | 45 => "invalid UUID format".to_owned(),
        length => format!("invalid UUID length: {length}"),
    })
}
