//! `cert.pem`: what lets a person's management commands in (tunnel protocol, 6.3).
//!
//! A PEM block `ARGO TUNNEL TOKEN` holds JSON with zone, account and API token, as cloudflared reads it. Ours has one more
//! key, `apiURL`, and behind it may stand the certificates by which that API is trusted: cloudflared passes over both, and
//! adit's commands need no other flag.

use std::io::Read as _;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;
/// Characters in a line of PEM (RFC 7468, 2).
const LINE: usize = 64;
const TOKEN_BLOCK: &str = "ARGO TUNNEL TOKEN";
const CERTIFICATE_BLOCK: &str = "CERTIFICATE";

/// The contents of a `cert.pem`.
#[derive(PartialEq, Eq)]
pub(super) struct OriginCertificate {
    pub(super) token: CertificateToken,
    /// Certificates in PEM, if there are any.
    pub(super) trusted: String,
}

/// The token's JSON.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CertificateToken {
    #[serde(rename = "zoneID", default)]
    pub(super) zone: String,
    #[serde(rename = "accountID", default)]
    pub(super) account: String,
    #[serde(rename = "apiToken", default)]
    pub(super) api_token: String,
    #[serde(rename = "apiURL", default, skip_serializing_if = "Option::is_none")]
    pub(super) api_url: Option<String>,
}

/// The first `cert.pem` in these directories.
pub(super) fn find(directories: &[PathBuf]) -> Option<PathBuf> {
    directories.iter().map(|directory| directory.join("cert.pem")).find(|path| path.is_file())
}

impl OriginCertificate {
    /// Reads a file.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::new(format!("Error locating origin cert: cannot read {}: {error}", path.display()))
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(cannot)?;
        file.take(MAX_BYTES).read_to_string(&mut text).map_err(cannot)?;
        Self::parse(&text).map_err(|problem| {
            Failure::new(format!("Error decoding origin cert: {}: {problem}", path.display()))
        })
    }

    /// Reads the text of a file.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut token, mut trusted) = (None, String::new());
        for (label, bytes) in blocks(text)? {
            match label {
                TOKEN_BLOCK if token.is_some() => {
                    return Err("found multiple tokens in the certificate".into());
                }
                // A token that is no JSON is one of a time before.
                TOKEN_BLOCK => token = serde_json::from_slice::<CertificateToken>(&bytes).ok(),
                CERTIFICATE_BLOCK => trusted.push_str(&block(CERTIFICATE_BLOCK, &bytes)),
                "PRIVATE KEY" => {}
                other => return Err(format!("unknown block {other} in the certificate")),
            }
        }
        match token {
            Some(token) if !token.zone.is_empty() && !token.api_token.is_empty() => {
                Ok(Self { token, trusted })
            }
            Some(_) | None => Err("missing token in the certificate".into()),
        }
    }

    /// The text of a file.
    pub(super) fn text(&self) -> String {
        let json = serde_json::to_vec(&self.token).unwrap_or_default();
        format!("{}{}", block(TOKEN_BLOCK, &json), self.trusted)
    }

    /// Writes a file that is not there yet, for its owner only.
    pub(super) fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(self.text().as_bytes())?;
        file.sync_all()
    }
}

/// The certificates of a PEM file, one behind the other, and nothing else of it.
pub(super) fn certificates_of(text: &str) -> Result<String, String> {
    let blocks = blocks(text)?;
    let certificates = blocks.iter().filter(|(label, _)| *label == CERTIFICATE_BLOCK);
    Ok(certificates.map(|(label, bytes)| block(label, bytes)).collect())
}

/// The blocks of a PEM text: their labels and contents. What stands between them is passed over.
fn blocks(text: &str) -> Result<Vec<(&str, Vec<u8>)>, String> {
    let mut found = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let label = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        let Some(label) = label else { continue };
        let end = format!("-----END {label}-----");
        let mut body = String::new();
        loop {
            match lines.next() {
                Some(line) if line == end => break,
                Some(line) => body.push_str(line),
                None => return Err(format!("block {label} has no end")),
            }
        }
        let bytes = STANDARD.decode(body).map_err(|_| format!("block {label} is no base64"))?;
        found.push((label, bytes));
    }
    Ok(found)
}

fn block(label: &str, bytes: &[u8]) -> String {
    let body = STANDARD.encode(bytes);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = body.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    text + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn certificate() -> OriginCertificate {
        let token = CertificateToken {
            zone: "7b0a4d77dfb881c1a3b7d61ea9443e19".into(),
            account: "abcdabcdabcdabcd1234567890abcdef".into(),
            api_token: "secret".into(),
            api_url: Some("https://adit.example.com/client/v4".into()),
        };
        OriginCertificate { token, trusted: block(CERTIFICATE_BLOCK, b"a certificate") }
    }

    #[test]
    fn a_file_is_read_as_it_is_written() {
        let text = certificate().text();
        assert!(text.starts_with("-----BEGIN ARGO TUNNEL TOKEN-----\neyJ6b25lSUQiOi"), "{text}");
        assert!(text.lines().all(|line| line.len() <= LINE), "{text}");
        assert!(OriginCertificate::parse(&text).is_ok_and(|read| read == certificate()));
        assert_eq!(certificates_of(&text), Ok(certificate().trusted));
    }

    #[test]
    fn a_file_of_cloudflared_is_read_and_what_is_none_is_refused() {
        let json = r#"{"zoneID":"z","accountID":"a","apiToken":"t","endpoint":""}"#;
        let old = format!("{}{}", block("PRIVATE KEY", b"k"), block(TOKEN_BLOCK, json.as_bytes()));
        let read = OriginCertificate::parse(&old).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((read.token.api_token.as_str(), read.token.api_url), ("t", None));
        let wrong = |text: &str| OriginCertificate::parse(text).err().unwrap_or_default();
        assert_eq!(wrong(""), "missing token in the certificate");
        assert_eq!(wrong(&block(TOKEN_BLOCK, br#"{"zoneID":"z"}"#)), "missing token in the certificate");
        assert_eq!(wrong(&block("SONNET", b"x")), "unknown block SONNET in the certificate");
        assert_eq!(wrong(&format!("{old}{old}")), "found multiple tokens in the certificate");
        assert_eq!(wrong("-----BEGIN X-----\nabc"), "block X has no end");
        assert_eq!(wrong("-----BEGIN X-----\n!\n-----END X-----"), "block X is no base64");
    }
}
