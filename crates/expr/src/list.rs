//! Lists that expressions name by their ids: what they are called, what they hold, and how it is asked.
//!
//! A list is resolved when an expression is evaluated, so that changing it takes effect without touching a rule. Its
//! items were validated where they were stored; here they are made comparable by value.

use std::collections::HashMap;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;

use crate::range::RangeSet;
use crate::set::{IpSet, TextSet, prefix_range};

/// The id of a list: in an expression `$` and its 32 hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListId([u8; 16]);

impl ListId {
    /// From the bytes of a UUID.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The bytes of its UUID.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// From 32 hex digits in lower case.
    pub fn from_hex(text: &str) -> Option<Self> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Some(byte - b'0'),
            b'a'..=b'f' => Some(byte - b'a' + 10),
            _ => None,
        };
        let mut bytes = [0; 16];
        if text.len() != 32 {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl fmt::Display for ListId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What a list's items are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    /// Locations.
    Location,
    /// Devices.
    Device,
    /// Models of authenticators.
    Aaguid,
}

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
    pub fn as_str(self) -> &'static str {
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

    /// The kind that is spelled like this.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for ListKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An item that its list's kind does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("item {index} is not of kind {kind}")]
pub struct ItemError {
    /// Which item, from 0.
    pub index: usize,
    /// The list's kind.
    pub kind: ListKind,
}

/// A list, ready to be asked.
#[derive(Debug, Clone)]
pub struct List(Items);

#[derive(Debug, Clone)]
enum Items {
    Ips(IpSet),
    Numbers(RangeSet<i64>),
    Texts(TextSet),
}

impl List {
    /// A list of these items. Host names and e-mail addresses are made lower case; a URL loses its last `/`, its host is
    /// made lower case, and without a scheme it stands for `http` and `https`; a location is known with and without
    /// dashes (section 11).
    pub fn new<'a>(kind: ListKind, items: impl IntoIterator<Item = &'a str>) -> Result<Self, ItemError> {
        let items = items.into_iter();
        let wrong = |index| ItemError { index, kind };
        let text = |text: String| text.into_bytes().into_boxed_slice();
        Ok(Self(match kind {
            ListKind::Ip => {
                let ranges = items.enumerate().map(|(index, item)| item_range(item).ok_or(wrong(index)));
                Items::Ips(IpSet::new(ranges.collect::<Result<Vec<_>, _>>()?))
            }
            ListKind::Category => {
                let numbers = items.enumerate().map(|(index, item)| match item.parse::<i64>() {
                    Ok(number) => Ok((number, number)),
                    Err(_) => Err(wrong(index)),
                });
                Items::Numbers(RangeSet::new(numbers.collect::<Result<Vec<_>, _>>()?))
            }
            ListKind::Domain => Items::Texts(TextSet::new(
                items.map(|item| text(item.strip_suffix('.').unwrap_or(item).to_ascii_lowercase())),
            )),
            ListKind::Email => Items::Texts(TextSet::new(items.map(str::to_ascii_lowercase).map(text))),
            ListKind::Url => Items::Texts(TextSet::new(items.flat_map(url).map(text))),
            ListKind::Location => {
                let both = |item: &str| [item.to_owned(), item.replace('-', "")];
                Items::Texts(TextSet::new(items.flat_map(both).map(text)))
            }
            ListKind::Serial | ListKind::Device | ListKind::Aaguid => {
                Items::Texts(TextSet::new(items.map(str::to_owned).map(text)))
            }
        }))
    }

    /// Whether an address is in a list of addresses.
    #[inline]
    pub fn contains_ip(&self, address: IpAddr) -> bool {
        match &self.0 {
            Items::Ips(set) => set.contains(address),
            Items::Numbers(_) | Items::Texts(_) => false,
        }
    }

    /// Whether a string is in a list of strings.
    #[inline]
    pub fn contains_text(&self, text: &[u8]) -> bool {
        match &self.0 {
            Items::Texts(set) => set.contains(text),
            Items::Ips(_) | Items::Numbers(_) => false,
        }
    }

    /// Whether a number is in a list of numbers.
    #[inline]
    pub fn contains_number(&self, number: i64) -> bool {
        match &self.0 {
            Items::Numbers(set) => set.contains(number),
            Items::Ips(_) | Items::Texts(_) => false,
        }
    }
}

/// The addresses of an item: an address or a prefix without host bits.
fn item_range(item: &str) -> Option<(IpAddr, IpAddr)> {
    let Some((network, length)) = item.split_once('/') else {
        let address = item.parse().ok()?;
        return Some((address, address));
    };
    let network: IpAddr = network.parse().ok()?;
    let range = prefix_range(network, length.parse().ok()?)?;
    (range.0 == network).then_some(range)
}

fn url(item: &str) -> Vec<String> {
    let item = item.strip_suffix('/').unwrap_or(item);
    let (scheme, rest) = match item.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, item),
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let whole =
        |scheme: &str| format!("{}://{}{path}", scheme.to_ascii_lowercase(), host.to_ascii_lowercase());
    match scheme {
        Some(scheme) => vec![whole(scheme)],
        None => vec![whole("http"), whole("https")],
    }
}

/// The lists there are, asked while an expression is evaluated.
pub trait Lists {
    /// The list of this id, if it exists.
    fn list(&self, id: ListId) -> Option<&List>;
}

/// The kinds of lists, asked while an expression is checked.
pub trait ListKinds {
    /// The kind of the list of this id, if it exists.
    fn list_kind(&self, id: ListId) -> Option<ListKind>;
}

impl<S: BuildHasher> Lists for HashMap<ListId, List, S> {
    fn list(&self, id: ListId) -> Option<&List> {
        self.get(&id)
    }
}

impl<S: BuildHasher> ListKinds for HashMap<ListId, ListKind, S> {
    fn list_kind(&self, id: ListId) -> Option<ListKind> {
        self.get(&id).copied()
    }
}

/// No lists at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLists;

impl Lists for NoLists {
    fn list(&self, _: ListId) -> Option<&List> {
        None
    }
}

impl ListKinds for NoLists {
    fn list_kind(&self, _: ListId) -> Option<ListKind> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hex_digits_in_lower_case() {
        let id = ListId::from_hex("f174e90afafe4643bbbc4a0ed4fc8415").unwrap();
        assert_eq!(id.to_string(), "f174e90afafe4643bbbc4a0ed4fc8415");
        assert_eq!(ListId::from_hex("F174E90AFAFE4643BBBC4A0ED4FC8415"), None);
        assert_eq!(ListId::from_hex("f174"), None);
    }

    #[test]
    fn addresses_are_compared_by_value() {
        let list = List::new(ListKind::Ip, ["198.51.100.0/24", "2001:DB8::101/128", "10.0.0.1"]).unwrap();
        let holds = |text: &str| list.contains_ip(text.parse().unwrap());
        assert!(holds("198.51.100.7") && holds("2001:db8::101") && holds("10.0.0.1"));
        assert!(!holds("198.51.101.0") && !holds("2001:db8::102") && !holds("::ffff:10.0.0.1"));
    }

    #[test]
    fn a_wrong_item_is_named() {
        let refused = List::new(ListKind::Ip, ["10.0.0.1", "10.0.0.1/8"]).unwrap_err();
        assert_eq!(refused, ItemError { index: 1, kind: ListKind::Ip });
        assert!(List::new(ListKind::Category, ["x"]).is_err());
    }

    #[test]
    fn urls_and_names_have_one_spelling() {
        let list = List::new(ListKind::Url, ["Example.com/A/", "https://b.test"]).unwrap();
        assert!(list.contains_text(b"https://example.com/A") && list.contains_text(b"http://example.com/A"));
        assert!(list.contains_text(b"https://b.test") && !list.contains_text(b"http://b.test"));
        let list = List::new(ListKind::Domain, ["Example.COM."]).unwrap();
        assert!(list.contains_text(b"example.com") && !list.contains_text(b"www.example.com"));
    }
}
