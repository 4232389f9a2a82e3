//! The tunnel's credentials: `{"AccountTag","TunnelID","TunnelName","TunnelSecret"}` (contract, 6.1).

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use adit_model::TunnelId;
use adit_wire::rpc::TunnelSecret;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::error::{ConfigError, Origin, shortened};

/// Credentials, checked. `Debug` would show the account only; it is not needed.
pub(super) struct Credentials {
    pub(super) tunnel: TunnelId,
    pub(super) account_tag: String,
    pub(super) secret: TunnelSecret,
    pub(super) origin: String,
}

/// As they are written. Other members are left alone: later versions have an `Endpoint`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Typed {
    account_tag: Option<String>,
    #[serde(rename = "TunnelID")]
    tunnel_id: Option<String>,
    tunnel_secret: Option<Zeroizing<String>>,
}

/// Largest credentials file, in bytes. Real ones have 200.
const MAX_FILE_BYTES: u64 = 64 << 10;
/// Longest account tag that is sent anywhere.
const MAX_ACCOUNT_TAG_BYTES: usize = 256;

pub(super) fn read_file(path: &Path) -> io::Result<Zeroizing<String>> {
    let mut contents = Zeroizing::new(String::new());
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_string(&mut contents)?;
    if contents.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("larger than any credentials are"));
    }
    Ok(contents)
}

impl Credentials {
    /// Reads credentials; `tunnel` is the id or name that was given elsewhere, and where.
    pub(super) fn read(
        contents: &str,
        origin: &str,
        tunnel: Option<(&str, Origin)>,
    ) -> Result<Self, ConfigError> {
        let wrong = |problem: String| ConfigError::new(Origin::Named(origin.to_owned()), problem);
        let typed: Typed = serde_json::from_str(contents).map_err(|error| {
            // Its words would repeat values, one of which is a secret.
            let what = if error.is_data() { "every member a text" } else { "JSON" };
            wrong(format!(
                "expected credentials of a tunnel, {what}, at line {} column {}: make them with `adit tunnel create`",
                error.line(),
                error.column()
            ))
        })?;
        let account_tag =
            typed.account_tag.filter(|tag| !tag.is_empty() && tag.len() <= MAX_ACCOUNT_TAG_BYTES);
        let account_tag =
            account_tag.ok_or_else(|| wrong("AccountTag: expected the account's tag".into()))?;
        let secret = typed.tunnel_secret.filter(|secret| !secret.is_empty());
        let secret = secret
            .and_then(|secret| STANDARD.decode(secret.as_bytes()).ok())
            .ok_or_else(|| wrong("TunnelSecret: expected the tunnel's secret in base64".into()))?;
        let own = match typed.tunnel_id.filter(|id| !id.is_empty()) {
            None => None,
            Some(id) => Some(id.parse::<TunnelId>().map_err(|error| wrong(format!("TunnelID: {error}")))?),
        };
        Ok(Self {
            tunnel: agree(own, tunnel, origin)?,
            account_tag,
            secret: TunnelSecret::new(secret),
            origin: origin.to_owned(),
        })
    }
}

/// A token as it is written (contract, 6.3). Its endpoint would name a region; edges are named otherwise here.
#[derive(Deserialize)]
struct Token {
    a: String,
    t: String,
    s: Zeroizing<String>,
}

/// Longest token that is read, in bytes. Real ones have 200.
const MAX_TOKEN_BYTES: usize = 8 << 10;
/// In cloudflared's words.
const INVALID_TOKEN: &str = "Provided Tunnel token is not valid.";

impl Credentials {
    /// Reads a token; `origin` is where it was said.
    pub(super) fn from_token(token: &str, origin: &Origin) -> Result<Self, ConfigError> {
        let wrong = || ConfigError::usage(origin.clone(), INVALID_TOKEN);
        let token = token.trim();
        if token.len() > MAX_TOKEN_BYTES {
            return Err(wrong());
        }
        let json = Zeroizing::new(STANDARD.decode(token).map_err(|_| wrong())?);
        let token: Token = serde_json::from_slice(&json).map_err(|_| wrong())?;
        let secret = STANDARD.decode(token.s.as_bytes()).map_err(|_| wrong())?;
        if token.a.is_empty() || token.a.len() > MAX_ACCOUNT_TAG_BYTES || secret.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            tunnel: token.t.parse().map_err(|_| wrong())?,
            account_tag: token.a,
            secret: TunnelSecret::new(secret),
            origin: origin.to_string(),
        })
    }
}

/// Fuzz body: any bytes are a token or an error that repeats none of them.
#[doc(hidden)]
pub fn fuzz_token(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let read = |text: &str| Credentials::from_token(text, &Origin::Flag("token"));
    for token in [text.to_string(), STANDARD.encode(input)] {
        if let Err(error) = read(&token) {
            assert_eq!(error.to_string(), format!("--token: {INVALID_TOKEN}"));
        }
    }
}

/// The tunnel of the credentials and the one that was named must be the same; a name is the credentials' own affair.
fn agree(
    own: Option<TunnelId>,
    named: Option<(&str, Origin)>,
    credentials: &str,
) -> Result<TunnelId, ConfigError> {
    match (own, named.map(|(text, origin)| (text.parse::<TunnelId>(), text, origin))) {
        (Some(own), None | Some((Err(_), ..))) => Ok(own),
        (Some(own), Some((Ok(named), _, origin))) if own != named => Err(ConfigError::new(
            origin,
            format!("{named} is not the tunnel of the credentials in {credentials}, which are for {own}"),
        )),
        (_, Some((Ok(named), ..))) => Ok(named),
        (None, Some((Err(_), text, origin))) => Err(ConfigError::new(
            origin,
            format!(
                "expected a tunnel's id, since the credentials in {credentials} have no TunnelID, found {:?}",
                shortened(text)
            ),
        )),
        (None, None) => Err(ConfigError::new(
            Origin::Named(credentials.to_owned()),
            "TunnelID: expected the tunnel's id, here or as the key tunnel".into(),
        )),
    }
}
