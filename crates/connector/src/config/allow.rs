//! `allow-networks`: addresses and ports beyond which this connector dials nothing, whatever an edge asks.
//!
//! It is the connector's own key: an edge cannot push it. Written as networks, each perhaps with ports
//! (`198.51.100.0/24:443,6443`, `[2001:db8::]/32:8000-8100`, `10.0.0.0/8`), or as a mapping of networks to ports. Without
//! the key everything is permitted but what is never dialled (design, section 4); that holds beside this list.

#![expect(clippy::wildcard_enum_match_arm, reason = "whatever is not of the kind that was expected is wrong")]

use std::net::IpAddr;
use std::ops::RangeInclusive;

use ipnet::IpNet;

use super::at::At;
use super::error::{ConfigError, Origin, shortened};
use super::yaml::Node;

/// Entries of one list: each costs a look at every dial.
const MAX_ENTRIES: usize = 1024;

/// What may be dialled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowNetworks(Option<Vec<Entry>>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    network: IpNet,
    /// Empty: every port, and what has none.
    ports: Vec<RangeInclusive<u16>>,
}

impl AllowNetworks {
    /// Whether everything is permitted.
    pub fn is_unlimited(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this port of this address may be dialled. An IPv4 address in IPv6 spelling is an IPv4 address.
    pub fn permits(&self, address: IpAddr, port: u16) -> bool {
        self.matches(address, |entry| {
            entry.ports.is_empty() || entry.ports.iter().any(|range| range.contains(&port))
        })
    }

    /// Whether an ICMP echo may be sent there: only where no ports are named.
    pub fn permits_echo(&self, address: IpAddr) -> bool {
        self.matches(address, |entry| entry.ports.is_empty())
    }

    fn matches(&self, address: IpAddr, suits: impl Fn(&Entry) -> bool) -> bool {
        let address = address.to_canonical();
        let inside = |entry: &&Entry| entry.network.contains(&address);
        self.0.as_ref().is_none_or(|entries| entries.iter().filter(inside).any(suits))
    }

    /// Reads the texts of a flag, a variable or a list. A text without a network belongs to the one before it, since
    /// commas separate both networks and ports.
    pub(super) fn parse(texts: &[String], origin: &Origin) -> Result<Self, ConfigError> {
        let wrong = |text: &str| {
            let problem = format!("expected {EXPECTED}, found {:?}", shortened(text));
            ConfigError::new(origin.clone(), problem)
        };
        let mut entries: Vec<Entry> = Vec::new();
        for text in texts.iter().flat_map(|text| text.split(',')).map(str::trim) {
            if let Some(range) = ports(text) {
                let previous = entries.last_mut().filter(|entry| !entry.ports.is_empty());
                previous.ok_or_else(|| wrong(text))?.ports.push(range);
                continue;
            }
            entries.push(entry(text).ok_or_else(|| wrong(text))?);
        }
        if entries.len() > MAX_ENTRIES {
            return Err(ConfigError::new(origin.clone(), format!("expected at most {MAX_ENTRIES} networks")));
        }
        Ok(Self(Some(entries)))
    }

    /// Reads the key of a file.
    pub(super) fn read(at: &At<'_>) -> Result<Self, ConfigError> {
        let Node::Map(entries) = &at.value.value else {
            let texts = at.texts(EXPECTED)?;
            if texts.is_empty() {
                // Nothing, said on purpose, would read as "nothing is allowed" to one and "no limit" to another.
                return Err(at.expected(EXPECTED));
            }
            return Self::parse(&texts, &at.origin());
        };
        if entries.len() > MAX_ENTRIES {
            return Err(at.wrong(format!("expected at most {MAX_ENTRIES} networks")));
        }
        let mut read = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let below = At { source: at.source, key: format!("{}.{}", at.key, key.value), value };
            let network = entry(&key.value).filter(|entry| entry.ports.is_empty());
            let mut entry = network.ok_or_else(|| below.wrong(format!("expected {EXPECTED}")))?;
            entry.ports = mapped_ports(&below)?;
            read.push(entry);
        }
        Ok(Self(Some(read)))
    }
}

fn mapped_ports(at: &At<'_>) -> Result<Vec<RangeInclusive<u16>>, ConfigError> {
    let one = |node: &Node| match node {
        Node::Number(number) => ports(&number.to_string()),
        Node::Text(text) => ports(text.trim()),
        _ => None,
    };
    let found: Option<Vec<_>> = match &at.value.value {
        Node::Null => return Ok(Vec::new()),
        Node::List(list) => list.iter().map(|item| one(&item.value)).collect(),
        Node::Text(text) => text.split(',').map(|part| ports(part.trim())).collect(),
        node => one(node).map(|range| vec![range]),
    };
    found.filter(|ranges| !ranges.is_empty()).ok_or_else(|| at.expected("ports such as [443, 8000-8100]"))
}

/// A port or a range of ports.
fn ports(text: &str) -> Option<RangeInclusive<u16>> {
    let port = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten()
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    (first != 0 && first <= last).then_some(first..=last)
}

/// A network, perhaps with one port or range behind it.
fn entry(text: &str) -> Option<Entry> {
    let (network, behind) = if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']')?;
        let (length, behind) = rest.split_once(':').map_or((rest, None), |(a, b)| (a, Some(b)));
        (format!("{address}{length}"), behind)
    } else if let Some((address, rest)) = text.split_once('/') {
        let (length, behind) = rest.split_once(':').map_or((rest, None), |(a, b)| (a, Some(b)));
        (format!("{address}/{length}"), behind)
    } else if text.parse::<IpAddr>().is_ok() {
        (text.to_owned(), None)
    } else {
        let (address, behind) = text.split_once(':')?;
        (address.to_owned(), Some(behind))
    };
    let network = match network.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => network.parse::<IpNet>().ok()?,
    };
    // Host bits are a mistake that would allow less or more than was meant.
    if network.trunc() != network {
        return None;
    }
    let ports = behind.map_or(Some(Vec::new()), |text| ports(text).map(|range| vec![range]))?;
    Some(Entry { network, ports })
}

const EXPECTED: &str = "networks such as 10.0.0.0/8 or 198.51.100.0/24:443,6443, without host bits, or a mapping of networks to ports";

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(texts: &[&str]) -> Result<AllowNetworks, String> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        AllowNetworks::parse(&texts, &Origin::Flag("allow-networks")).map_err(|error| error.to_string())
    }

    fn permits(list: &AllowNetworks, destination: &str) -> bool {
        let destination: std::net::SocketAddr = destination.parse().unwrap();
        list.permits(destination.ip(), destination.port())
    }

    #[test]
    fn only_what_is_listed_is_permitted() {
        let list =
            parsed(&["198.51.100.0/24:443,6443,8000-8100", "10.0.0.0/8", "[2001:db8::]/32:443"]).unwrap();
        for destination in [
            "198.51.100.7:443",
            "198.51.100.7:6443",
            "198.51.100.7:8050",
            "10.1.2.3:1",
            "[2001:db8::9]:443",
            "[::ffff:10.0.0.1]:5",
        ] {
            assert!(permits(&list, destination), "{destination}");
        }
        for destination in ["198.51.100.7:80", "192.0.2.1:443", "[2001:db8::9]:80", "[2001:db9::9]:443"] {
            assert!(!permits(&list, destination), "{destination}");
        }
        assert!(list.permits_echo("10.1.2.3".parse().unwrap()));
        assert!(!list.permits_echo("198.51.100.7".parse().unwrap()), "ports were named");
        assert!(!list.is_unlimited());
    }

    #[test]
    fn without_the_key_everything_is() {
        assert!(AllowNetworks::default().is_unlimited());
        assert!(permits(&AllowNetworks::default(), "192.0.2.1:1"));
    }

    #[test]
    fn addresses_stand_for_themselves() {
        let list = parsed(&["192.0.2.1:22", "2001:db8::1", "[2001:db8::2]:80"]).unwrap();
        assert!(permits(&list, "192.0.2.1:22") && !permits(&list, "192.0.2.1:23"));
        assert!(permits(&list, "[2001:db8::1]:9") && permits(&list, "[2001:db8::2]:80"));
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in [
            "10.0.0.1/8",
            "443",
            "10.0.0.0/8:0",
            "10.0.0.0/8:5-4",
            "example.com",
            "",
            "10.0.0.0/8,443",
            "10.0.0.0/33",
        ] {
            let error = parsed(&[text]).unwrap_err();
            assert!(
                error.starts_with("--allow-networks: expected networks such as 10.0.0.0/8"),
                "{text}: {error}"
            );
        }
    }
}
