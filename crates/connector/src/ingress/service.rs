//! What a rule may name as its service (contract, 6.2).

use std::fmt;
use std::num::IntErrorKind;

use http::StatusCode;

use super::go_url::{GoUrl, UrlError};

/// Where requests go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Service {
    /// `http://`, `https://`, `ws://` and `wss://`.
    Http(HttpService),
    /// `unix:PATH` and `unix+tls:PATH`: HTTP over a socket of this host.
    Unix {
        /// The socket.
        path: String,
        /// With TLS.
        tls: bool,
    },
    /// `tcp://`, `ssh://`, `rdp://`, `smb://`, and any scheme that is none of HTTP: the WebSocket ends here and goes on
    /// as a TCP connection.
    Stream(StreamService),
    /// `bastion`: as before, to where the request says.
    Bastion,
    /// `socks-proxy`: as before, to where the client says in SOCKS5.
    SocksProxy,
    /// `hello_world`.
    HelloWorld,
    /// `http_status:NNN`.
    Status(StatusCode),
}

/// An HTTP server by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpService {
    /// As it is displayed.
    text: String,
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A TCP server by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamService {
    /// As it is displayed.
    text: String,
    /// Name or address, without brackets.
    pub(crate) host: String,
    /// None for an unknown scheme whose address has no port.
    pub(crate) port: Option<u16>,
}

/// A text is no service. The words are cloudflared's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServiceError {
    /// `http_status:` with something else behind it.
    #[error("invalid HTTP status code: {0}")]
    Status(String),
    /// Not a URL.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// A URL without a host.
    #[error("{0} is an invalid address, please make sure it has a scheme and a hostname")]
    Address(String),
    /// A URL with a path.
    #[error(
        "{0} is an invalid address, ingress rules don't support proxying to a different path on the origin service. The path will be the same as the eyeball request's path"
    )]
    Path(String),
}

impl Service {
    /// Reads a service; `bastion_mode` makes a bastion of whatever would be an address.
    pub(super) fn parse(text: &str, bastion_mode: bool) -> Result<Self, ServiceError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix { path: path.to_owned(), tls: false });
        }
        if let Some(path) = text.strip_prefix("unix+tls:") {
            return Ok(Self::Unix { path: path.to_owned(), tls: true });
        }
        if let Some(code) = text.strip_prefix("http_status:") {
            return status(code).map(Self::Status).map_err(ServiceError::Status);
        }
        match text {
            "hello_world" | "hello-world" => Ok(Self::HelloWorld),
            "socks-proxy" => Ok(Self::SocksProxy),
            "bastion" => Ok(Self::Bastion),
            _ if bastion_mode => Ok(Self::Bastion),
            _ => Self::address(text),
        }
    }

    fn address(text: &str) -> Result<Self, ServiceError> {
        let url = GoUrl::parse(text)?;
        if url.scheme.is_empty() || url.host().is_empty() {
            return Err(ServiceError::Address(text.to_owned()));
        }
        if !url.path.is_empty() {
            return Err(ServiceError::Path(text.to_owned()));
        }
        Self::of_url(&url).ok_or_else(|| ServiceError::Address(text.to_owned()))
    }

    /// The service at a URL whose path is looked at by nobody.
    pub(super) fn of_url(url: &GoUrl) -> Option<Self> {
        // Above 65535 is no port; Go says so at the first dial.
        let port = (!url.port().is_empty()).then(|| url.port().parse::<u16>()).transpose().ok()?;
        let host = url.host().to_owned();
        let tls = match url.scheme.as_str() {
            "http" | "ws" => false,
            "https" | "wss" => true,
            scheme => {
                let usual = STREAM_PORTS.iter().find(|(name, _)| *name == scheme).map(|(_, port)| *port);
                let shown = match (port, usual) {
                    (None, Some(usual)) if host.contains(':') => format!("[{host}]:{usual}"),
                    (None, Some(usual)) => format!("{host}:{usual}"),
                    _ => url.authority.clone(),
                };
                let text = format!("{scheme}://{shown}");
                return Some(Self::Stream(StreamService { text, host, port: port.or(usual) }));
            }
        };
        let port = port.unwrap_or(if tls { 443 } else { 80 });
        Some(Self::Http(HttpService { text: url.to_string(), tls, host, port }))
    }
}

/// The service of `--url`: without a scheme it is HTTP, and a path behind a scheme is nobody's.
pub(crate) fn single_service(text: &str) -> Result<Service, String> {
    if text.is_empty() {
        return Err("URL should not be empty".into());
    }
    let invalid = || format!("URL {text} has invalid format");
    let url = if text.contains("://") {
        let url = GoUrl::parse(text).map_err(|_| invalid())?;
        if !SINGLE_SCHEMES.contains(&url.scheme.as_str()) {
            return Err(format!("Currently Cloudflare Tunnel does not support {} protocol.", url.scheme));
        }
        format!("{}://{}", url.scheme, url.authority)
    } else {
        let authority = text.split('/').next().unwrap_or_default();
        // An IPv6 address without brackets, as people write it.
        let bare = authority.parse::<std::net::Ipv6Addr>().is_ok();
        if bare { format!("http://[{authority}]") } else { format!("http://{authority}") }
    };
    let url = GoUrl::parse(&url).map_err(|_| invalid())?;
    Some(&url).filter(|url| !url.host().is_empty()).and_then(Service::of_url).ok_or_else(invalid)
}

/// Schemes of `--url`.
const SINGLE_SCHEMES: [&str; 6] = ["http", "https", "rdp", "ssh", "smb", "tcp"];

/// Ports of schemes whose address names none.
const STREAM_PORTS: [(&str, u16); 4] = [("ssh", 22), ("rdp", 3389), ("smb", 445), ("tcp", 7864)];

fn status(code: &str) -> Result<StatusCode, String> {
    match code.parse::<i64>() {
        Ok(number) => {
            let status = u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok());
            status.ok_or_else(|| number.to_string())
        }
        Err(error) => {
            let range = matches!(error.kind(), IntErrorKind::PosOverflow | IntErrorKind::NegOverflow);
            let what = if range { "value out of range" } else { "invalid syntax" };
            Err(format!("strconv.Atoi: parsing {code:?}: {what}"))
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(service) => f.write_str(&service.text),
            Self::Stream(service) => f.write_str(&service.text),
            Self::Unix { path, tls: false } => write!(f, "unix:{path}"),
            Self::Unix { path, tls: true } => write!(f, "unix+tls:{path}"),
            Self::Bastion => f.write_str("bastion"),
            Self::SocksProxy => f.write_str("socks-proxy"),
            Self::HelloWorld => f.write_str("hello_world"),
            Self::Status(status) => write!(f, "http_status:{}", status.as_u16()),
        }
    }
}
