//! Lists of values that rules name by their ids, as an edge needs them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{AccountId, ListId};

/// What a list's items are. A list keeps its kind for life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ListKind {
    /// Serial numbers of devices.
    Serial,
    /// URLs.
    Url,
    /// Host names, each for itself and not for what is below it.
    Domain,
    /// E-mail addresses.
    Email,
    /// Addresses and prefixes.
    Ip,
    /// Numbers of categories.
    Category,
    /// Locations, by their UUIDs.
    Location,
    /// Devices, by their UUIDs.
    Device,
    /// Models of authenticators, by their UUIDs.
    Aaguid,
}

/// A text names no kind of list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected SERIAL, URL, DOMAIN, EMAIL, IP, CATEGORY, LOCATION, DEVICE or AAGUID")]
pub struct UnknownListKind;

impl ListKind {
    /// All kinds.
    pub const ALL: [Self; 9] = [
        Self::Serial,
        Self::Url,
        Self::Domain,
        Self::Email,
        Self::Ip,
        Self::Category,
        Self::Location,
        Self::Device,
        Self::Aaguid,
    ];

    /// The kind's spelling in the API.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Serial => "SERIAL",
            Self::Url => "URL",
            Self::Domain => "DOMAIN",
            Self::Email => "EMAIL",
            Self::Ip => "IP",
            Self::Category => "CATEGORY",
            Self::Location => "LOCATION",
            Self::Device => "DEVICE",
            Self::Aaguid => "AAGUID",
        }
    }
}

impl fmt::Display for ListKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ListKind {
    type Err = UnknownListKind;

    fn from_str(text: &str) -> Result<Self, UnknownListKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(UnknownListKind)
    }
}

/// A list, whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Its id.
    pub id: ListId,
    /// Its account; rules of no other name it.
    pub account: AccountId,
    /// What its items are.
    pub kind: ListKind,
    /// Its items as they are compared, each once.
    pub items: Vec<String>,
}

/// What changed in a list: so much smaller than the list, when one of many items comes or goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListItemsChange {
    /// The list.
    pub id: ListId,
    /// Items that it has no longer.
    pub removed: Vec<String>,
    /// Items that it has from now on.
    pub added: Vec<String>,
}
