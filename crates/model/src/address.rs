//! Networks, and the addresses that are never dialled.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

/// A network in CIDR notation whose host bits are zero, neither IPv4-mapped nor inside a space that is never dialled.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr(IpNet);

/// Why a text is no network that a route may carry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CidrError {
    /// Not an address with a prefix length.
    #[error("expected an address or a network such as 10.0.0.0/8 or 2001:db8::/32")]
    Malformed,
    /// Bits are set behind the prefix.
    #[error("host bits are set: the network is {network}")]
    HostBits {
        /// What was probably meant.
        network: IpNet,
    },
    /// An IPv4 network in IPv6 spelling.
    #[error("an IPv4-mapped IPv6 network: write it as IPv4")]
    Mapped,
    /// Inside a space to which nothing is ever dialled (design, section 4).
    #[error("{0} addresses are never dialled")]
    NeverDialled(NeverDialled),
}

impl Cidr {
    /// The network, checked.
    ///
    /// # Errors
    /// Host bits, an IPv4-mapped network, or one inside a space that is never dialled.
    pub fn new(network: IpNet) -> Result<Self, CidrError> {
        if network.trunc() != network {
            return Err(CidrError::HostBits { network: network.trunc() });
        }
        let mapped: Ipv6Net = MAPPED;
        if matches!(network, IpNet::V6(v6) if mapped.contains(&v6)) {
            return Err(CidrError::Mapped);
        }
        match NEVER.iter().find(|(never, _)| never.contains(&network)) {
            Some((_, kind)) => Err(CidrError::NeverDialled(*kind)),
            None => Ok(Self(network)),
        }
    }

    /// The network as a plain value.
    pub const fn net(self) -> IpNet {
        self.0
    }

    /// Whether the address is inside.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(&address)
    }
}

impl FromStr for Cidr {
    type Err = CidrError;

    /// Reads `address/length`, or a bare address as the network of that one address.
    fn from_str(text: &str) -> Result<Self, CidrError> {
        let network = match text.parse::<IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse().map_err(|_| CidrError::Malformed)?,
        };
        Self::new(network)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cidr({})", self.0)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Why an address is never dialled, whatever a route says (design, section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NeverDialled {
    /// 127.0.0.0/8, `::1`.
    #[error("loopback")]
    Loopback,
    /// 0.0.0.0/8, `::`.
    #[error("unspecified")]
    Unspecified,
    /// 224.0.0.0/4, `ff00::/8`, and the limited broadcast address.
    #[error("multicast and broadcast")]
    Multicast,
    /// 169.254.0.0/16 (which holds 169.254.169.254) and `fe80::/10`.
    #[error("link-local")]
    LinkLocal,
    /// `fd00:ec2::254`, a cloud's metadata service outside link-local space.
    #[error("cloud metadata")]
    Metadata,
}

/// Says why nothing may be dialled at this address, also when it is an IPv4 address in IPv6 spelling; `None` if it may.
pub fn never_dialled(address: IpAddr) -> Option<NeverDialled> {
    let plain = match address {
        IpAddr::V6(v6) => embedded_v4(v6).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    NEVER.iter().find(|(network, _)| network.contains(&plain)).map(|(_, kind)| *kind)
}

/// The IPv4 address inside `::ffff:0:0/96` (mapped) or `64:ff9b::/96` (NAT64, RFC 6052), or `::/96` (compatible,
/// RFC 4291 2.5.5.1) when it is neither `::` nor `::1`.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let bits = v6.to_bits();
    let tail = u32::try_from(bits & u128::from(u32::MAX)).ok()?;
    match bits >> 32 {
        0xffff | 0x0064_ff9b_0000_0000_0000_0000 => Some(tail.into()),
        0 if tail > 1 => Some(tail.into()),
        _ => None,
    }
}

const MAPPED: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96);

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(head: [u16; 2], tail: u16, length: u8) -> IpNet {
    IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::new(head[0], head[1], 0, 0, 0, 0, 0, tail), length))
}

const NEVER: [(IpNet, NeverDialled); 10] = [
    (v4(0, 0, 0, 0, 8), NeverDialled::Unspecified),
    (v4(127, 0, 0, 0, 8), NeverDialled::Loopback),
    (v4(169, 254, 0, 0, 16), NeverDialled::LinkLocal),
    (v4(224, 0, 0, 0, 4), NeverDialled::Multicast),
    (v4(255, 255, 255, 255, 32), NeverDialled::Multicast),
    (v6([0, 0], 0, 128), NeverDialled::Unspecified),
    (v6([0, 0], 1, 128), NeverDialled::Loopback),
    (v6([0xfe80, 0], 0, 10), NeverDialled::LinkLocal),
    (v6([0xff00, 0], 0, 8), NeverDialled::Multicast),
    (v6([0xfd00, 0xec2], 0x254, 128), NeverDialled::Metadata),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let actual = text.parse::<Cidr>().map(|cidr| cidr.to_string()).map_err(|error| error.to_string());
        match expected {
            Ok(network) => assert_eq!(actual.as_deref(), Ok(network), "{text}"),
            Err(part) => {
                assert!(actual.as_ref().is_err_and(|error| error.contains(part)), "{text}: {actual:?}");
            }
        }
    }

    #[test]
    fn networks_are_read_or_refused_with_the_reason() {
        check("198.51.100.101/32", Ok("198.51.100.101/32"));
        check("198.51.100.101", Ok("198.51.100.101/32"));
        check("2001:DB8::101/128", Ok("2001:db8::101/128"));
        check("0.0.0.0/0", Ok("0.0.0.0/0"));
        check("10.0.0.1/8", Err("the network is 10.0.0.0/8"));
        check("::ffff:10.0.0.0/104", Err("IPv4-mapped"));
        check("127.0.0.0/8", Err("loopback"));
        check("169.254.169.254", Err("link-local"));
        check("ff02::1", Err("multicast"));
        check("::1", Err("loopback"));
        check("example.com", Err("expected an address"));
    }

    #[test]
    fn special_addresses_are_never_dialled_in_any_spelling() {
        for text in [
            "127.0.0.1",
            "127.255.0.1",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "::127.0.0.1",
        ] {
            assert!(never_dialled(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["198.51.100.101", "10.0.0.1", "2001:db8::101", "fd00::1", "::ffff:10.0.0.1"] {
            assert_eq!(never_dialled(text.parse().unwrap()), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_network_prints_as_it_is_read(address: IpAddr, length in 0u8..=32) {
            let network = IpNet::new(address, length).unwrap().trunc();
            if let Ok(cidr) = Cidr::new(network) {
                prop_assert_eq!(cidr.to_string().parse::<Cidr>().unwrap(), cidr);
                prop_assert!(cidr.contains(network.network()));
            }
        }
    }
}
