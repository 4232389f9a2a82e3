//! Where the edge is: a host and a port, written as an `https` address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use rustls_pki_types::ServerName;
use serde::{Deserialize, Serialize};

/// Port of `https`.
const DEFAULT_PORT: u16 = 443;

/// An edge: `https://HOST` or `https://HOST:PORT`. HOST is a name or an address, IPv6 in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EdgeAddress {
    host: ServerName<'static>,
    port: u16,
}

/// A text is no [`EdgeAddress`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected the edge's address, as in https://edge.example.com or https://192.0.2.1:8443")]
pub struct EdgeAddressError;

impl EdgeAddress {
    /// The host as TLS checks it.
    pub fn server_name(&self) -> &ServerName<'static> {
        &self.host
    }

    /// The host's address, if it is written as one.
    pub fn address(&self) -> Option<IpAddr> {
        if let ServerName::IpAddress(address) = &self.host { Some((*address).into()) } else { None }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Host and port, as in the `Host` header; the port is left out if it is 443.
    pub fn authority(&self) -> String {
        let host = match self.address() {
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            Some(IpAddr::V4(_)) | None => self.host.to_str().into_owned(),
        };
        if self.port == DEFAULT_PORT { host } else { format!("{host}:{}", self.port) }
    }
}

impl FromStr for EdgeAddress {
    type Err = EdgeAddressError;

    fn from_str(text: &str) -> Result<Self, EdgeAddressError> {
        let text = text.strip_prefix("https://").unwrap_or(text);
        let authority = text.strip_suffix('/').unwrap_or(text);
        let (host, port) = match authority.strip_prefix('[').map(|rest| rest.split_once(']')) {
            Some(Some((host, ""))) => (host, None),
            Some(Some((host, port))) => (host, Some(port.strip_prefix(':').ok_or(EdgeAddressError)?)),
            Some(None) => return Err(EdgeAddressError),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0).ok_or(EdgeAddressError)?,
            None => DEFAULT_PORT,
        };
        let host = ServerName::try_from(host.to_owned()).map_err(|_| EdgeAddressError)?;
        Ok(Self { host, port })
    }
}

impl TryFrom<String> for EdgeAddress {
    type Error = EdgeAddressError;

    fn try_from(text: String) -> Result<Self, EdgeAddressError> {
        text.parse()
    }
}

impl fmt::Display for EdgeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

impl From<EdgeAddress> for String {
    fn from(edge: EdgeAddress) -> Self {
        edge.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_written_as_they_are_read() {
        #[track_caller]
        fn check(text: &str, expected: Option<&str>) {
            let read = text.parse::<EdgeAddress>().ok().map(|edge| edge.to_string());
            assert_eq!(read.as_deref(), expected, "{text}");
        }
        check("https://edge.example.com", Some("https://edge.example.com"));
        check("https://edge.example.com/", Some("https://edge.example.com"));
        check("edge.example.com:8443", Some("https://edge.example.com:8443"));
        check("https://192.0.2.1:443", Some("https://192.0.2.1"));
        check("https://[2001:db8::1]:8443", Some("https://[2001:db8::1]:8443"));
        check("[2001:db8::1]", Some("https://[2001:db8::1]"));
        check("http://edge.example.com", None);
        check("https://edge.example.com/path", None);
        check("https://edge.example.com:0", None);
        check("https://edge.example.com:port", None);
        check("https://[2001:db8::1", None);
        check("https://[2001:db8::1]8443", None);
        check("https://user@edge.example.com", None);
        check("", None);
    }
}
