//! What a program asks the proxy for: an address or a name, and a port.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::timeout;

/// Longest host name, in bytes. *RFC 1035 § 2.3.4*.
const MAX_NAME: usize = 253;
/// How long a name may take to resolve.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);
/// How many of a name's addresses are tried.
const MAX_ADDRESSES: usize = 4;

/// Where to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    /// An address and a port, not 0.
    Address(SocketAddr),
    /// A name that may be one, and a port, not 0.
    Name(String, u16),
}

impl Target {
    /// A host, which is an address or a name, with a port.
    pub(super) fn new(host: &str, port: u16) -> Option<Self> {
        let usable = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        if port == 0 {
            return None;
        }
        if let Ok(address) = host.parse() {
            return Some(Self::Address(SocketAddr::new(address, port)));
        }
        let is_name = (1..=MAX_NAME).contains(&host.len()) && host.bytes().all(usable);
        is_name.then(|| Self::Name(host.to_ascii_lowercase(), port))
    }

    /// `HOST:PORT`, an IPv6 address in brackets.
    pub(super) fn from_authority(authority: &str) -> Option<Self> {
        if let Ok(address) = authority.parse::<SocketAddr>() {
            return (address.port() != 0).then_some(Self::Address(address));
        }
        let (host, port) = authority.rsplit_once(':')?;
        // A sign is no digit of a port.
        let port = Some(port).filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))?.parse().ok()?;
        Self::new(host, port)
    }

    /// Its addresses, by the device's resolver if it is a name.
    pub(super) async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Address(address) => Ok(vec![*address]),
            Self::Name(name, port) => {
                let found = timeout(RESOLVE_LIMIT, tokio::net::lookup_host((name.as_str(), *port)));
                let found = found.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
                Ok(found.take(MAX_ADDRESSES).collect())
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Name(name, port) => write!(f, "{name}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_a_host_and_a_port() {
        let address = |text: &str| Some(Target::Address(text.parse().unwrap()));
        assert_eq!(Target::from_authority("192.0.2.1:443"), address("192.0.2.1:443"));
        assert_eq!(Target::from_authority("[2001:db8::1]:443"), address("[2001:db8::1]:443"));
        let name = Some(Target::Name("api.example.com".to_owned(), 6443));
        assert_eq!(Target::from_authority("API.example.com:6443"), name);
        for wrong in [
            "",
            "host",
            "host:",
            ":443",
            "host:0",
            "host:65536",
            "host:+1",
            "2001:db8::1:0",
            "192.0.2.1:0",
            "a b:1",
            "a/b:1",
            "a@b:1",
            "a\r\n:1",
        ] {
            assert_eq!(Target::from_authority(wrong), None, "{wrong:?}");
        }
        assert_eq!(Target::new(&"a".repeat(254), 1), None);
    }
}
