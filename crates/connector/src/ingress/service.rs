//! What a rule may name as its service (contract, 6.2).

use std::fmt;

use http::StatusCode;

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
    /// `http_status:NNN`.
    Status(StatusCode),
}

/// An HTTP server by its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HttpService {
    /// As it was written, for display.
    pub(crate) text: String,
    pub(crate) tls: bool,
    /// Name or address, without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A text is no service. The words are cloudflared's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ServiceError {
    /// `http_status:` with something else behind it.
    #[error("invalid HTTP status code: {0}")]
    Status(String),
    /// Not a URL with a host.
    #[error("{0} is an invalid address, please make sure it has a scheme and a hostname")]
    Address(String),
    /// A URL with a path.
    #[error(
        "{0} is an invalid address, ingress rules don't support proxying to a different path on the origin service. The path will be the same as the eyeball request's path"
    )]
    Path(String),
}

impl Service {
    pub(super) fn parse(text: &str) -> Result<Self, ServiceError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return Ok(Self::Unix { path: path.to_owned(), tls: false });
        }
        if let Some(path) = text.strip_prefix("unix+tls:") {
            return Ok(Self::Unix { path: path.to_owned(), tls: true });
        }
        if let Some(code) = text.strip_prefix("http_status:") {
            let status = code.parse::<u16>().ok().and_then(|code| StatusCode::from_u16(code).ok());
            return status.map(Self::Status).ok_or_else(|| ServiceError::Status(code.to_owned()));
        }
        let address = || ServiceError::Address(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(address)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        if !path.is_empty() {
            return Err(ServiceError::Path(text.to_owned()));
        }
        let tls = match scheme {
            "http" | "ws" => false,
            "https" | "wss" => true,
            _ => return Err(address()),
        };
        let authority: http::uri::Authority = authority.parse().map_err(|_| address())?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(address());
        }
        let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Ok(Self::Http(HttpService { text: text.to_owned(), tls, host, port }))
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(service) => f.write_str(&service.text),
            Self::Unix { path, tls: false } => write!(f, "unix:{path}"),
            Self::Unix { path, tls: true } => write!(f, "unix+tls:{path}"),
            Self::Status(status) => write!(f, "http_status:{}", status.as_u16()),
        }
    }
}
