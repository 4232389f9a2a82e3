//! Domains whose names devices ask of somebody else than the edge (Gateway semantics, 4.2).
//!
//! What holds: a suffix is a domain in lower case, without dots at its ends.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// A domain whose names are resolved past the edge, its rules and its records.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackDomain {
    /// The domain; what is below it belongs to it.
    pub suffix: DomainSuffix,
    /// Who is asked; without one, the resolvers that the device's system had.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
}

/// An account's fallback domains, all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FallbackDomains {
    /// The account.
    pub account: crate::id::AccountId,
    /// Each suffix once.
    pub domains: Vec<FallbackDomain>,
}

/// A domain, in lower case and without dots at its ends.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DomainSuffix(String);

/// A text is no domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a domain such as corp.example")]
pub struct NoDomain;

impl DomainSuffix {
    /// The domain.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a name, in lower case and without a trailing dot, is it or is below it.
    pub fn holds(&self, name: &str) -> bool {
        let before = name.strip_suffix(self.0.as_str());
        before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
    }
}

impl std::str::FromStr for DomainSuffix {
    type Err = NoDomain;

    fn from_str(text: &str) -> Result<Self, NoDomain> {
        let name = text.strip_prefix('.').unwrap_or(text);
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let label = |label: &str| {
            let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            (1..=63).contains(&label.len()) && label.bytes().all(good)
        };
        if name.len() > 253 || !name.split('.').all(label) { Err(NoDomain) } else { Ok(Self(name)) }
    }
}

impl TryFrom<String> for DomainSuffix {
    type Error = NoDomain;

    fn try_from(text: String) -> Result<Self, NoDomain> {
        text.parse()
    }
}

impl From<DomainSuffix> for String {
    fn from(suffix: DomainSuffix) -> Self {
        suffix.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suffix_holds_its_name_and_what_is_below_it() {
        let suffix: DomainSuffix = ".Corp.Example.".parse().unwrap();
        for inside in ["corp.example", "a.corp.example", "a.b.corp.example"] {
            assert!(suffix.holds(inside), "{inside}");
        }
        for outside in ["acorp.example", "example", "corp.example.org", ""] {
            assert!(!suffix.holds(outside), "{outside}");
        }
        for wrong in ["", ".", "a..b", "a b", "..a", "*.example"] {
            assert!(wrong.parse::<DomainSuffix>().is_err(), "{wrong:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_suffix_that_reads_as_it_prints_or_an_error(text in "[a-zA-Z0-9._*-]{0,40}") {
            if let Ok(suffix) = text.parse::<DomainSuffix>() {
                proptest::prop_assert_eq!(suffix.as_str().parse(), Ok(suffix.clone()));
            }
        }
    }
}
