//! Public host names: what a person asks for in the world and a tunnel's ingress rules answer.
//!
//! A [`PublicHostname`] is lower-case and without a trailing dot, so that two spellings of one name are one value. It says
//! nothing of whose name it is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Bytes in a name, RFC 1035, 2.3.4, without the length and the root.
const MAX_NAME: usize = 253;
/// Bytes in a label, RFC 1035, 2.3.4.
const MAX_LABEL: usize = 63;

/// A public host name, such as `app.example.com`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicHostname(String);

/// A text that is no [`PublicHostname`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Empty, or over 253 bytes.
    #[error("a host name has 1 to 253 characters")]
    Length,
    /// A label is empty or over 63 bytes.
    #[error("each label of a host name has 1 to 63 characters")]
    Label,
    /// Something else than letters, digits, `-` and `_`, or a `-` at an end of a label.
    #[error(
        "a host name has letters, digits, hyphens and underscores only, and no hyphen at an end of a label"
    )]
    Character,
    /// One label only, or nothing but digits at the end: an address, or a name of a local network.
    #[error("a public host name has two labels or more and does not end in a number")]
    NotPublic,
}

impl PublicHostname {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PublicHostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, HostnameError> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() || name.len() > MAX_NAME {
            return Err(HostnameError::Length);
        }
        for label in name.split('.') {
            if label.is_empty() || label.len() > MAX_LABEL {
                return Err(HostnameError::Label);
            }
            let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            if !label.bytes().all(known) || label.starts_with('-') || label.ends_with('-') {
                return Err(HostnameError::Character);
            }
        }
        let last = name.rsplit_once('.').map(|(_, last)| last).ok_or(HostnameError::NotPublic)?;
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(HostnameError::NotPublic);
        }
        Ok(Self(name.to_ascii_lowercase()))
    }
}

impl TryFrom<String> for PublicHostname {
    type Error = HostnameError;

    fn try_from(text: String) -> Result<Self, HostnameError> {
        text.parse()
    }
}

impl From<PublicHostname> for String {
    fn from(hostname: PublicHostname) -> Self {
        hostname.0
    }
}

impl fmt::Display for PublicHostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_one_name_are_one_value() {
        let name: PublicHostname = "App.Example.COM.".parse().expect("a name");
        assert_eq!(name.as_str(), "app.example.com");
        assert_eq!(Ok(name), "app.example.com".parse());
    }

    #[test]
    fn what_is_no_public_name_is_refused() {
        let long = format!("{}.example.com", "a".repeat(64));
        let very_long = format!("{}com", "a.".repeat(126));
        for (text, error) in [
            ("", HostnameError::Length),
            (".", HostnameError::Length),
            (very_long.as_str(), HostnameError::Length),
            (long.as_str(), HostnameError::Label),
            ("a..example.com", HostnameError::Label),
            ("*.example.com", HostnameError::Character),
            ("-a.example.com", HostnameError::Character),
            ("a.example.com/", HostnameError::Character),
            ("localhost", HostnameError::NotPublic),
            ("192.0.2.1", HostnameError::NotPublic),
        ] {
            assert_eq!(text.parse::<PublicHostname>(), Err(error), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_name_that_reads_as_it_prints_or_an_error(text in "[a-zA-Z0-9._*-]{0,40}") {
            if let Ok(name) = text.parse::<PublicHostname>() {
                proptest::prop_assert_eq!(name.as_str().parse(), Ok(name.clone()));
                proptest::prop_assert_eq!(String::from(name), text.trim_end_matches('.').to_ascii_lowercase());
            }
        }
    }
}
