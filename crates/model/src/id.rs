//! Identifiers: one type for each kind, so that a tunnel's id cannot stand where a route's is meant.
//!
//! Ids are UUIDs with dashes (contract D, 1.9); an account's tag is 32 lower-case hex digits without them.
//! This crate makes no random ids: whoever creates an object passes the UUID in.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text was not an id of the kind that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {kind} id: expected {expected}")]
pub struct IdError {
    kind: &'static str,
    expected: &'static str,
    text: String,
}

/// Longest piece of a wrong id that an error repeats, in characters.
const QUOTED_ID_CHARS: usize = 64;

macro_rules! uuid_id {
    ($($(#[$doc:meta])* $name:ident, $kind:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// The id that this UUID is.
            pub const fn from_uuid(uuid: Uuid) -> Self {
                Self(uuid)
            }

            /// The UUID that this id is.
            pub const fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.as_hyphenated().fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            /// Reads a UUID with dashes, or 32 hex digits without (contract D, 1.9).
            fn from_str(text: &str) -> Result<Self, IdError> {
                let plain = text.len() == 32 || text.len() == 36;
                plain.then(|| Uuid::try_parse(text).ok()).flatten().map(Self).ok_or_else(|| IdError {
                    kind: $kind,
                    expected: "a UUID such as 8e343b13-a087-48ea-825f-9783931ff2a5",
                    text: text.chars().take(QUOTED_ID_CHARS).collect(),
                })
            }
        }
    )*};
}

uuid_id! {
    /// A tunnel: the identity that several connectors share.
    TunnelId, "tunnel";
    /// One connector process (`ClientInfo.clientId`, contract of the tunnel protocol, 2.3).
    ConnectorId, "connector";
    /// One of a connector's connections to an edge.
    ConnectionId, "connection";
    /// An edge node.
    NodeId, "node";
    /// A route: a network behind a tunnel.
    RouteId, "route";
    /// A public host name.
    HostnameId, "host name";
    /// A virtual network: a space of routes in which no two networks are equal.
    VirtualNetworkId, "virtual network";
    /// A device.
    DeviceId, "device";
    /// A registration: one device key bound to a person or a service token.
    RegistrationId, "registration";
    /// A service token.
    ServiceTokenId, "service token";
    /// An API token.
    TokenId, "token";
    /// A person who belongs to an account.
    MemberId, "member";
    /// A rule.
    RuleId, "rule";
    /// A list of values that rules name.
    ListId, "list";
    /// A place from which devices without the agent ask for names.
    LocationId, "location";
    /// An authority by which an account's TLS is opened.
    CertificateId, "certificate";
    /// Authorities by which an account's own origins are trusted.
    OriginRootId, "origin root";
    /// One flow, for its log record.
    FlowId, "flow";
}

impl CertificateId {
    /// The authority that every account has (contract D, 9.2).
    pub const BUILT_IN: Self = Self(Uuid::nil());
}

/// An account's tag: 32 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AccountId([u8; 16]);

impl AccountId {
    /// The account whose tag is these 16 bytes in hex.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccountId({self})")
    }
}

impl FromStr for AccountId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError {
            kind: "account",
            expected: "32 lower-case hex digits",
            text: text.chars().take(QUOTED_ID_CHARS).collect(),
        };
        let digits = text.as_bytes();
        if digits.len() != 32 {
            return Err(wrong());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = hex_digit(pair[0])
                .zip(hex_digit(pair[1]))
                .map(|(high, low)| high << 4 | low)
                .ok_or_else(wrong)?;
        }
        Ok(Self(bytes))
    }
}

const fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for AccountId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AccountId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn uuid_ids_are_read_with_and_without_dashes_and_printed_with_them() {
        let text = "8e343b13-a087-48ea-825f-9783931ff2a5";
        let id: TunnelId = text.parse().unwrap();
        assert_eq!(id.to_string(), text);
        assert_eq!(text.replace('-', "").parse::<TunnelId>().unwrap(), id);
    }

    #[test]
    fn a_wrong_id_says_what_was_expected() {
        let error = "nonsense".parse::<TunnelId>().unwrap_err().to_string();
        assert!(error.contains("tunnel id") && error.contains("UUID"), "{error}");
        assert!("{8e343b13-a087-48ea-825f-9783931ff2a5}".parse::<TunnelId>().is_err());
    }

    proptest! {
        #[test]
        fn account_tags_round_trip(bytes: [u8; 16]) {
            let id = AccountId::from_bytes(bytes);
            prop_assert_eq!(id.to_string().parse::<AccountId>().unwrap(), id);
        }

        #[test]
        fn any_text_is_an_account_tag_or_an_error(text in ".{0,40}") {
            if let Ok(id) = text.parse::<AccountId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
