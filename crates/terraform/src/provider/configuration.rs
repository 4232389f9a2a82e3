//! The provider's block: where the API is, and by what right. Each setting has a variable too; the block goes first.

use std::env;
use std::path::Path;

use tokio_util::sync::CancellationToken;

use crate::client::{Client, ClientError};
use crate::diagnostic;
use crate::protocol::Diagnostic;
use crate::schema::{Attribute, Kind};
use crate::value::{Object, Value, of};

/// The attributes of the block.
pub(super) const ATTRIBUTES: &[Attribute] = &[
    Attribute::optional(
        "base_url",
        Kind::Text,
        "The API, such as `https://adit.example.com/client/v4`. Or `ADIT_BASE_URL`, `CLOUDFLARE_BASE_URL`.",
    ),
    Attribute::optional(
        "api_hostname",
        Kind::Text,
        "The API's host, instead of a whole URL. Or `CLOUDFLARE_API_HOSTNAME`.",
    ),
    Attribute::optional(
        "api_base_path",
        Kind::Text,
        "The API's path on that host; `/client/v4` if left out. Or `CLOUDFLARE_API_BASE_PATH`.",
    ),
    Attribute::optional(
        "api_token",
        Kind::Text,
        "An API token. Or `ADIT_API_TOKEN`, `CLOUDFLARE_API_TOKEN`.",
    )
    .sensitive(),
    Attribute::optional(
        "ca_file",
        Kind::Text,
        "A file of certificates to trust beside the machine's: adit's `ca.pem`. Or `ADIT_CA`.",
    ),
];

/// The client that a configuration describes; none while a part of it is not known.
pub(super) fn client(
    config: &Object,
    engine: &str,
    stopped: CancellationToken,
) -> Result<Option<Client>, Diagnostic> {
    if config.values().any(|value| *value == Value::Unknown) {
        return Ok(None);
    }
    let setting = |name: &str, variables: &[&str]| {
        let set = of(config, name).text().map(str::to_owned);
        let set = set.or_else(|| variables.iter().find_map(|variable| env::var(variable).ok()));
        set.map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    };
    let by_host = || {
        let host = setting("api_hostname", &["CLOUDFLARE_API_HOSTNAME"])?;
        let path = setting("api_base_path", &["CLOUDFLARE_API_BASE_PATH"]);
        Some(format!("https://{host}/{}", path.as_deref().unwrap_or("client/v4").trim_start_matches('/')))
    };
    // A host in the block goes before a URL in the environment.
    let host_first = of(config, "base_url").is_null() && !of(config, "api_hostname").is_null();
    let base_url = if host_first {
        by_host()
    } else {
        setting("base_url", &["ADIT_BASE_URL", "CLOUDFLARE_BASE_URL"]).or_else(by_host)
    };
    let Some(base_url) = base_url else {
        let detail =
            "Set base_url to the API's URL, such as https://adit.example.com/client/v4, or ADIT_BASE_URL.";
        return Err(diagnostic::error_at("base_url", "The API's URL is missing", detail));
    };
    let Some(token) = setting("api_token", &["ADIT_API_TOKEN", "CLOUDFLARE_API_TOKEN"]) else {
        let detail = "Set api_token, or ADIT_API_TOKEN. An adit's first token is in the file admin-token.";
        return Err(diagnostic::error_at("api_token", "The API token is missing", detail));
    };
    let authorities = setting("ca_file", &["ADIT_CA"]);
    let client = Client::new(&base_url, &token, authorities.as_deref().map(Path::new), engine, stopped);
    client.map(Some).map_err(|error| {
        let name = match error {
            ClientError::Address(_) => "base_url",
            ClientError::Token => "api_token",
            ClientError::Authorities(..) | ClientError::Certificate(..) | ClientError::Tls(_) => "ca_file",
        };
        diagnostic::error_at(name, "The provider cannot be configured", diagnostic::chain(&error))
    })
}
