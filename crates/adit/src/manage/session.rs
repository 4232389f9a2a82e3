//! Which installation a command talks to, and by what right.
//!
//! The right comes whole from one place, so that a token never goes to an installation it was not made for: what was typed
//! or is in `ADIT_*`; the data directory of an `adit up` on this machine; the profile that `adit login` wrote; `CLOUDFLARE_*`,
//! if they say where too. A typed `--account` or `--ca` goes before all of them.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::problem::{Code, Problem};
use super::progress::progress;
use crate::management::client::{Address, Client, escape};
use crate::management::session::trust;

/// Where the installation is, and by what right.
#[derive(Debug, Args, Clone, Default)]
#[command(next_help_heading = "Installation")]
pub(crate) struct InstallationFlags {
    /// Data directory of an `adit up` on this machine: gives address, token, account and trust
    #[arg(long, env = "ADIT_DATA", global = true, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// Base URL of the installation, https://HOST[:PORT]
    #[arg(long, env = "ADIT_URL", global = true, value_name = "URL")]
    pub(crate) url: Option<String>,
    /// API token
    #[arg(
        long,
        env = "ADIT_TOKEN",
        global = true,
        hide_env_values = true,
        allow_hyphen_values = true,
        value_name = "TOKEN"
    )]
    pub(crate) token: Option<String>,
    /// Account id; not needed where the token sees one account
    #[arg(long, env = "ADIT_ACCOUNT", global = true, value_name = "ID")]
    pub(crate) account: Option<String>,
    /// Certificates by which to trust the installation; without it the system's are used
    #[arg(long, env = "ADIT_CA", global = true, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
}

/// What `adit login` keeps.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Profile {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) account: String,
    /// Certificates in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
}

/// An open way to an installation.
pub(crate) struct Session {
    client: Client,
}

/// By what right, before it is a client.
struct Right {
    url: String,
    token: String,
    account: Option<String>,
    ca_file: Option<PathBuf>,
    ca_text: Option<String>,
}

impl Session {
    /// Opens the way that the flags say.
    pub(crate) async fn open(flags: &InstallationFlags) -> Result<Self, Problem> {
        let right = right(flags, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))?;
        let at = Address::parse("--url", &with_base(&right.url))
            .map_err(|error| Problem::usage(format!("{error:#}")))?;
        let ca = flags.ca.clone().or(right.ca_file);
        let tls = at.secure.then(|| trust(ca.as_deref(), right.ca_text.as_deref()));
        let tls = tls
            .transpose()
            .map_err(|failure| Problem::usage(failure.to_string().replace("--cacert", "--ca")))?;
        let account = flags.account.clone().or(right.account).unwrap_or_default();
        let client =
            Client { at, tls, token: right.token, zone: account.clone(), account, per_page: PER_PAGE };
        let mut session = Self { client };
        if session.client.account.is_empty() {
            session.find_account().await?;
        }
        Ok(session)
    }

    /// The token's account, where it sees one.
    async fn find_account(&mut self) -> Result<(), Problem> {
        let accounts = self.call("GET", "/accounts", None).await?;
        let ids: Vec<&str> =
            accounts.as_array().into_iter().flatten().filter_map(|one| one["id"].as_str()).collect();
        let [id] = ids.as_slice() else {
            let text = format!("the token sees {} accounts: say which with --account", ids.len());
            return Err(Problem::usage(text));
        };
        (*id).clone_into(&mut self.client.account);
        (*id).clone_into(&mut self.client.zone);
        Ok(())
    }

    pub(crate) fn account(&self) -> &str {
        &self.client.account
    }

    /// The base URL.
    pub(crate) fn url(&self) -> String {
        let at = &self.client.at;
        format!("{}://{}{}", if at.secure { "https" } else { "http" }, at.authority(), at.base)
    }

    pub(crate) fn token(&self) -> &str {
        &self.client.token
    }

    /// Where the installation is, for people.
    pub(crate) fn place(&self) -> String {
        self.client.at.authority()
    }

    /// The path of something of the account.
    pub(crate) fn of_account(&self, rest: &str) -> String {
        self.client.account(rest)
    }

    /// The path of something of the zone.
    pub(crate) fn of_zone(&self, rest: &str) -> String {
        self.client.zone(rest)
    }

    /// The result of one call.
    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Problem> {
        Ok(self.envelope(method, path, body).await?["result"].take())
    }

    /// Every row of a list, page by page.
    pub(crate) async fn list(&self, path: &str, query: &str) -> Result<Vec<Value>, Problem> {
        let mut rows = Vec::new();
        let mut from = String::new();
        for page in 1..=MAX_PAGES {
            // A list has pages or a cursor, and passes over what it does not have.
            let place =
                if from.is_empty() { format!("page={page}") } else { format!("cursor={}", escape(&from)) };
            let path = format!("{path}?{place}&per_page={PER_PAGE}{query}");
            let mut envelope = self.envelope("GET", &path, None).await?;
            let Value::Array(more) = envelope["result"].take() else { break };
            let count = more.len();
            rows.extend(more);
            let info = &envelope["result_info"];
            info["cursor"].as_str().unwrap_or_default().clone_into(&mut from);
            let total = info["total_count"].as_u64();
            // A list without pages says so by its total, or by fewer rows than were asked for.
            if count < PER_PAGE || total.is_some_and(|total| rows.len() as u64 >= total) {
                break;
            }
        }
        Ok(rows)
    }

    async fn envelope(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, Problem> {
        let what = format!("waiting for {}", self.place());
        // Boxed: a connection with its TLS is large, and callers hold several of these.
        let answer = Box::pin(self.client.exchange_json(method, path, body, DEADLINE));
        let answer = progress(&what, answer).await;
        let (status, envelope) = answer.map_err(|error| {
            let hint = "is it running, and is --url right?";
            Problem::new(Code::Unreachable, format!("{}: {error:#}; {hint}", self.place()))
        })?;
        if (200..300).contains(&status) && envelope["success"] == true {
            return Ok(envelope);
        }
        Err(refusal(status, &envelope))
    }
}

/// What the API says of a refusal, in one line.
fn refusal(status: u16, envelope: &Value) -> Problem {
    let code = match status {
        404 => Code::NotFound,
        401 | 403 => Code::NotAllowed,
        409 | 412 => Code::Conflict,
        502..=504 => Code::Unreachable,
        _ => Code::Failed,
    };
    let said = |error: &Value| {
        let message = error["message"].as_str().unwrap_or("no reason was given");
        let pointer = error["source"]["pointer"].as_str().filter(|pointer| !pointer.is_empty());
        let pointer = pointer.map(|pointer| format!(", at {pointer}")).unwrap_or_default();
        format!("{message} (code {}{pointer})", error["code"])
    };
    let errors: Vec<String> = envelope["errors"].as_array().into_iter().flatten().map(said).collect();
    let mut text =
        if errors.is_empty() { format!("refused with status {status}") } else { errors.join("; ") };
    if code == Code::NotAllowed {
        text += "; check the token: it needs the permission, and has to be of this account";
    }
    Problem::new(code, text)
}

fn right(flags: &InstallationFlags, variable: impl Fn(&str) -> Option<String>) -> Result<Right, Problem> {
    let url = flags.url.clone();
    if let Some(token) = flags.token.clone() {
        let of_data = flags.data.as_deref();
        return Ok(Right {
            url: url.or_else(|| of_data.and_then(data_url)).unwrap_or_else(|| DEFAULT_URL.to_owned()),
            token,
            account: of_data.and_then(|data| read(&data.join("account-id")).ok()),
            ca_file: of_data.map(|data| data.join("ca.pem")),
            ca_text: None,
        });
    }
    if let Some(data) = &flags.data {
        return Ok(Right {
            url: url.or_else(|| data_url(data)).unwrap_or_else(|| DEFAULT_URL.to_owned()),
            token: read(&data.join("admin-token"))?,
            account: Some(read(&data.join("account-id"))?),
            ca_file: Some(data.join("ca.pem")),
            ca_text: None,
        });
    }
    let profile = profile_path(&variable);
    if let Some(path) = profile.as_deref().filter(|path| path.is_file()) {
        let kept: Profile = serde_json::from_str(&read(path)?)
            .map_err(|error| Problem::usage(format!("{}: {error}: run `adit login` anew", path.display())))?;
        if url.as_ref().is_none_or(|url| with_base(url) == with_base(&kept.url)) {
            let (account, ca_text) = (Some(kept.account), kept.ca);
            return Ok(Right { url: kept.url, token: kept.token, account, ca_file: None, ca_text });
        }
    }
    match (variable("CLOUDFLARE_API_TOKEN"), url.or_else(|| variable("CLOUDFLARE_BASE_URL"))) {
        (Some(token), Some(url)) => {
            let account = variable("CLOUDFLARE_ACCOUNT_ID");
            Ok(Right { url, token, account, ca_file: None, ca_text: None })
        }
        _ => Err(Problem::new(
            Code::NotAllowed,
            "no installation is known: give --data with the directory of an `adit up` on this machine, or --url with \
             --token, or run `adit login --url URL` once",
        )),
    }
}

/// Where the `adit up` of this directory listens, as it left it.
pub(crate) fn data_url(data: &Path) -> Option<String> {
    read(&data.join(crate::up::URL_FILE)).ok()
}

/// A base URL with the path of the API, which people leave out.
pub(crate) fn with_base(url: &str) -> String {
    let url = url.trim_end_matches('/');
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    if rest.contains('/') { url.to_owned() } else { format!("{url}/client/v4") }
}

/// Where the profile is.
pub(crate) fn profile_path(variable: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let directory = variable("XDG_CONFIG_HOME")
        .map(PathBuf::from)
        .or_else(|| variable("HOME").map(|home| PathBuf::from(home).join(".config")))?;
    Some(directory.join("adit").join("profile.json"))
}

pub(crate) fn read(path: &Path) -> Result<String, Problem> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| Problem::usage(format!("cannot read {}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_secret(path: &Path, text: &str) -> Result<(), Problem> {
    let write = || -> std::io::Result<()> {
        let beside = path.with_extension("new");
        let _stale = std::fs::remove_file(&beside);
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|error| Problem::new(Code::Failed, format!("cannot write {}: {error}", path.display())))
}

/// A value of a query or a path.
pub(crate) fn escaped(text: &str) -> String {
    escape(text)
}

const DEFAULT_URL: &str = "https://localhost";
/// Rows of a list asked for at once.
const PER_PAGE: usize = 100;
/// Pages asked for at most: a million rows.
const MAX_PAGES: usize = 10_000;
/// One call, answer included: ten thousand operations in one take a while.
const DEADLINE: Duration = Duration::from_mins(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_url_may_leave_the_path_out() {
        assert_eq!(with_base("https://adit.example.com"), "https://adit.example.com/client/v4");
        assert_eq!(with_base("https://adit.example.com:8443/"), "https://adit.example.com:8443/client/v4");
        assert_eq!(with_base("https://adit.example.com/client/v4/"), "https://adit.example.com/client/v4");
    }

    #[test]
    fn a_token_of_another_installation_is_not_used() {
        let variable = |name: &str| (name == "CLOUDFLARE_API_TOKEN").then(|| "t".to_owned());
        let problem = right(&InstallationFlags::default(), variable).err().unwrap();
        assert_eq!(problem.code, Code::NotAllowed);
        let flags = InstallationFlags { url: Some("https://adit.example.com".into()), ..Default::default() };
        assert_eq!(right(&flags, variable).ok().unwrap().token, "t");
    }

    #[test]
    fn refusals_have_a_code_by_their_status() {
        let envelope = serde_json::json!({ "errors": [
            { "code": 1014, "message": "taken", "source": { "pointer": "/network" } }
        ] });
        let problem = refusal(409, &envelope);
        assert_eq!((problem.code, problem.text.as_str()), (Code::Conflict, "taken (code 1014, at /network)"));
        assert_eq!(refusal(404, &Value::Null).code, Code::NotFound);
        assert_eq!(refusal(500, &Value::Null).text, "refused with status 500");
    }
}
