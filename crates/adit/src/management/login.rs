//! `tunnel login`: makes an API token that may change tunnels and nothing else, and writes it to `cert.pem`.
//!
//! An API token proves who logs in. One that may not make tokens is written itself, which is said. An existing file is never
//! overwritten, and the token of a file that could not be written is revoked.

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

use super::certificate::{CertificateToken, OriginCertificate, certificates_of};
use super::client::{Address, Client, Query};
use super::failure::Failure;
use super::session::{Session, read, trust};
use super::tunnels::Printed;
use crate::command_line::LoginArgs;

/// What the new token may.
const PERMISSION: &str = "Cloudflare Tunnel Write";
/// Longest token that is read from the standard input, in bytes.
const MAX_TYPED: u64 = 1024;

#[derive(Deserialize)]
struct Named {
    id: String,
}

/// The token that goes into the file.
struct Issued {
    value: String,
    /// Its id, if it was made here.
    id: Option<String>,
}

pub(super) async fn run(session: &Session<'_>, arguments: &LoginArgs) -> Result<Printed, Failure> {
    let path = target(session)?;
    if std::fs::symlink_metadata(&path).is_ok() {
        return Err(Failure::new(format!(
            "You have an existing certificate at {} which login would overwrite.\nIf this is intentional, please move or \
             delete that file then run this command again.",
            path.display()
        )));
    }
    let mut at = Address::parse("login", &arguments.url)?;
    if at.base.is_empty() {
        at.base = "/client/v4".into();
    }
    let authority = arguments.ca.clone().or_else(|| session.flags.cacert.clone());
    let authority = authority.or_else(|| session.api.data.as_ref().map(|data| data.join("ca.pem")));
    let trusted = match &authority {
        Some(file) => certificates_of(&read(file)?).map_err(|problem| {
            Failure::new(problem).within(format_args!("{} holds no certificates", file.display()))
        })?,
        None => String::new(),
    };
    let tls = if at.secure { Some(trust(authority.as_deref(), None)?) } else { None };
    let (token, account, zone) = (presented(session)?, String::new(), String::new());
    let mut client = Client { at, tls, token, account, zone, per_page: 50 };
    client.account = account_of(&client, session.api.account.as_deref()).await?;
    client.zone = zone_of(&client).await?;
    let issued = issue(&client).await?;
    let url = format!(
        "{}://{}{}",
        if client.at.secure { "https" } else { "http" },
        client.at.authority(),
        client.at.base
    );
    let token = CertificateToken {
        zone: client.zone.clone(),
        account: client.account.clone(),
        api_token: issued.value.clone(),
        api_url: Some(url.clone()),
    };
    if let Err(failure) = write(&OriginCertificate { token, trusted }, &path) {
        revoke(&client, &issued).await;
        return Err(failure);
    }
    Ok(Printed { result: success(&path), note: hints(&issued, &url, authority.as_deref()) })
}

fn success(path: &Path) -> String {
    format!(
        "You have successfully logged in.\nIf you wish to copy your credentials to a server, they have been saved to:\n{}\n",
        path.display()
    )
}

fn hints(issued: &Issued, url: &str, authority: Option<&Path>) -> String {
    let kept = match issued.id {
        Some(_) => "The file holds a new API token that may change tunnels and nothing else.\n",
        None => "The token that was given may not make tokens: the file holds that token itself.\n",
    };
    let trust = authority.map(|file| format!("SSL_CERT_FILE={} ", file.display())).unwrap_or_default();
    format!(
        "{kept}cloudflared's commands work with it as well:\n  {trust}cloudflared tunnel --api-url {url} list\n"
    )
}

/// Where the file goes: what `--origincert` names, or the first search directory.
fn target(session: &Session<'_>) -> Result<PathBuf, Failure> {
    match (&session.api.origincert, session.directories.first()) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(directory)) => Ok(directory.join("cert.pem")),
        (None, None) => Err(Failure::new("there is no home directory: say where to write with --origincert")),
    }
}

/// The token that proves who logs in.
fn presented(session: &Session<'_>) -> Result<String, Failure> {
    match (&session.api.api_token, &session.api.data) {
        (Some(token), _) => Ok(token.clone()),
        (None, Some(data)) => read(&data.join("admin-token")),
        (None, None) => typed(),
    }
}

/// Asks for a token.
fn typed() -> Result<String, Failure> {
    let input = std::io::stdin();
    if input.is_terminal() {
        let mut error = std::io::stderr();
        // A prompt that cannot be shown is no reason not to read.
        let _shown = error.write_all(b"API token (shown as you type): ").and_then(|()| error.flush());
    }
    let mut line = String::new();
    let read = std::io::Read::take(input.lock(), MAX_TYPED).read_line(&mut line);
    let token = line.trim();
    if read.is_err() || token.is_empty() {
        let text = "an API token is needed: --api-token or ADIT_API_TOKEN, or --data with the directory of an `adit up` \
                    on this machine";
        return Err(Failure::new(text));
    }
    Ok(token.to_owned())
}

/// The account that was named, or the only one that the token sees.
async fn account_of(client: &Client, named: Option<&str>) -> Result<String, Failure> {
    let accounts: Vec<Named> = client.pages("list accounts", "/accounts", &Query::default()).await?;
    match (named, accounts.as_slice()) {
        (Some(named), seen) if seen.iter().any(|account| account.id == named) => Ok(named.to_owned()),
        (Some(named), _) => Err(Failure::new(format!("the token sees no account {named}"))),
        (None, [one]) => Ok(one.id.clone()),
        (None, []) => Err(Failure::new("the token sees no account")),
        (None, several) => {
            let ids: Vec<&str> = several.iter().map(|account| account.id.as_str()).collect();
            Err(Failure::new(format!(
                "the token sees several accounts, choose one with --account: {}",
                ids.join(", ")
            )))
        }
    }
}

async fn zone_of(client: &Client) -> Result<String, Failure> {
    let query = Query::default().with("account.id", &client.account);
    let zones: Vec<Named> = client.pages("list zones", "/zones", &query).await?;
    match zones.into_iter().next() {
        Some(zone) => Ok(zone.id),
        None => Err(Failure::new("the account has no zone")),
    }
}

/// Makes a token for tunnels with the one that was given, or takes that one.
async fn issue(client: &Client) -> Result<Issued, Failure> {
    let query = Query::default().with("name", &PERMISSION).text();
    let path = client.account(&format!("tokens/permission_groups?{query}"));
    let groups: Result<Vec<Named>, Failure> = client.call("list permission groups", "GET", &path, None).await;
    let Some(group) = groups.ok().and_then(|groups| groups.into_iter().next()) else {
        return Ok(Issued { value: client.token.clone(), id: None });
    };
    let resource = format!("com.cloudflare.api.account.{}", client.account);
    let body = json!({
        "name": "adit tunnel login",
        "policies": [
            { "effect": "allow", "permission_groups": [{ "id": group.id }], "resources": { resource: "*" } },
        ],
    });
    let made = client.call::<Value>("create token", "POST", &client.account("tokens"), Some(&body)).await;
    let made = match made {
        Ok(made) => made,
        // It may read of permissions, and make no tokens.
        Err(failure) if failure.to_string().contains("code: 10000") => {
            return Ok(Issued { value: client.token.clone(), id: None });
        }
        Err(failure) => return Err(failure),
    };
    match (made["value"].as_str(), made["id"].as_str()) {
        (Some(value), Some(id)) => Ok(Issued { value: value.to_owned(), id: Some(id.to_owned()) }),
        _ => Err(Failure::new("the API sent no value of the new token")),
    }
}

fn write(certificate: &OriginCertificate, path: &Path) -> Result<(), Failure> {
    let cannot =
        |error: std::io::Error| Failure::new(format!("error writing cert to {}: {error}", path.display()));
    if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(cannot)?;
    }
    certificate.write(path).map_err(cannot)
}

/// A token that nobody has is revoked again.
async fn revoke(client: &Client, issued: &Issued) {
    let Some(id) = &issued.id else { return };
    let path = client.account(&format!("tokens/{id}"));
    if let Err(error) = client.call::<Value>("revoke token", "DELETE", &path, None).await {
        tracing::warn!(token = id, error = %error, "the new API token is left over; revoke it");
    }
}
