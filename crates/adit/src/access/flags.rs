//! Flags of `adit access tcp`: names, short forms and variables are cloudflared's (tunnel protocol, 8.1).
//!
//! What is typed becomes a checked value while it is parsed, so that all that can be wrong with it is a usage error.

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use http::{HeaderName, HeaderValue, Uri};

use crate::command_line::LogFlags;

/// What follows `adit access`.
#[derive(Debug, Args)]
pub(crate) struct AccessCommand {
    #[command(subcommand)]
    pub(crate) action: AccessAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccessAction {
    /// Carries TCP to the ingress of a public host name, for programs that connect to a local port
    #[command(
        visible_aliases = ["ssh", "rdp", "smb"],
        after_help = "Examples:\n  adit access tcp --hostname db.example.com --url 127.0.0.1:5432"
    )]
    Tcp(Box<TcpFlags>),
}

/// Flags of `adit access tcp`.
#[derive(Debug, Args)]
pub(crate) struct TcpFlags {
    /// Public host name, with a port if it is not 443
    #[arg(
        long,
        visible_alias = "tunnel-host",
        short = 'T',
        env = "TUNNEL_SERVICE_HOSTNAME",
        value_name = "HOST",
        value_parser = Target::parse
    )]
    pub(crate) hostname: Target,
    /// Local address to listen on; without it standard input and output are the connection
    #[arg(
        long,
        visible_alias = "listener",
        short = 'L',
        env = "TUNNEL_SERVICE_URL",
        value_name = "HOST:PORT",
        value_parser = listen_address
    )]
    pub(crate) url: Option<String>,
    /// Where a bastion ingress is to connect to
    #[arg(long, env = "TUNNEL_SERVICE_DESTINATION", value_name = "HOST:PORT", value_parser = header_value)]
    pub(crate) destination: Option<HeaderValue>,
    /// Header of the request; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = Header::parse)]
    pub(crate) headers: Vec<Header>,
    /// Client id of a service token
    #[arg(
        long,
        visible_alias = "id",
        env = "TUNNEL_SERVICE_TOKEN_ID",
        value_name = "ID",
        value_parser = header_value,
        requires = "service_token_secret"
    )]
    pub(crate) service_token_id: Option<HeaderValue>,
    /// Client secret of a service token
    #[arg(
        long,
        visible_alias = "secret",
        env = "TUNNEL_SERVICE_TOKEN_SECRET",
        hide_env_values = true,
        value_name = "SECRET",
        value_parser = secret_value,
        requires = "service_token_id"
    )]
    pub(crate) service_token_secret: Option<HeaderValue>,
    /// Certificates by which to trust the edge; without it the system's are used, or those of SSL_CERT_FILE
    #[arg(long, env = "ADIT_CA", value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Connect to this host instead of the one that is asked for
    #[arg(long, hide = true, value_name = "HOST[:PORT]", value_parser = ConnectTo::parse)]
    pub(crate) connect_to: Option<ConnectTo>,
    #[command(flatten)]
    pub(crate) log: LogFlags,
}

/// The host name that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As the request names it, with a port that is not 443.
    pub(crate) authority: String,
    /// The name alone.
    pub(crate) host: String,
    /// The port, 443 unless given.
    pub(crate) port: u16,
    /// Path and query of the request, `/` unless given.
    pub(crate) path: String,
}

impl Target {
    /// Takes a name, a name with a port, or a URL, whose scheme is taken for https.
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected a host name such as app.example.com, not {text:?}");
        let bare = text.split_once("://").map_or(text, |(_, rest)| rest);
        let uri: Uri = format!("https://{bare}").parse().map_err(|_| wrong())?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        let authority = uri.authority().ok_or_else(wrong)?;
        let port = match authority.port_u16() {
            Some(port) => port,
            None if authority.as_str() == host => HTTPS_PORT,
            None => return Err(wrong()),
        };
        if authority.as_str().contains('@') {
            return Err(wrong());
        }
        let authority = if port == HTTPS_PORT { host.to_owned() } else { authority.to_string() };
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Self { authority, host: host.trim_matches(['[', ']']).to_owned(), port, path })
    }
}

/// One more header of the request. Its value may be a secret.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) name: HeaderName,
    pub(crate) value: HeaderValue,
}

impl Header {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || "expected 'NAME: VALUE'".to_owned();
        let (name, value) = text.split_once(':').ok_or_else(wrong)?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong())?;
        if HANDSHAKE.contains(&name) {
            return Err(format!("the handshake sets {name} itself"));
        }
        let value = HeaderValue::try_from(value.trim()).map_err(|_| wrong())?;
        Ok(Self { name, value })
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: …", self.name)
    }
}

/// Where to connect to instead. cloudflared's form of three parts is not taken, since it checks no certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ConnectTo {
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
}

impl ConnectTo {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected HOST or HOST:PORT, not {text:?}");
        let authority: http::uri::Authority = text.parse().map_err(|_| wrong())?;
        let (host, port) = (authority.host(), authority.port_u16());
        if host.is_empty() || text.contains('@') || (port.is_none() && text != host) {
            return Err(wrong());
        }
        Ok(Self { host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

/// Takes `HOST:PORT`, and a URL of which nothing else counts. The host may be left out.
fn listen_address(text: &str) -> Result<String, String> {
    let wrong = || format!("expected HOST:PORT such as 127.0.0.1:1234, not {text:?}");
    let bare = text.split_once("://").map_or(text, |(_, rest)| rest).trim_end_matches('/');
    let (host, port) = bare.rsplit_once(':').ok_or_else(wrong)?;
    if port.parse::<u16>().is_err() || host.contains(['/', ' ']) {
        return Err(wrong());
    }
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(format!("{host}:{port}"))
}

fn header_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::try_from(text).map_err(|_| "expected visible characters".to_owned())
}

fn secret_value(text: &str) -> Result<HeaderValue, String> {
    let mut value = header_value(text)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The port of https.
const HTTPS_PORT: u16 = 443;
/// Headers of the handshake (RFC 6455, 4.1).
const HANDSHAKE: [HeaderName; 5] = [
    http::header::HOST,
    http::header::CONNECTION,
    http::header::UPGRADE,
    http::header::SEC_WEBSOCKET_KEY,
    http::header::SEC_WEBSOCKET_VERSION,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command_line::{AditCommand, CommandLine};
    use clap::Parser;

    fn parse(arguments: &str) -> Result<TcpFlags, String> {
        let typed = ["adit", "access"].into_iter().chain(arguments.split('|'));
        let command = CommandLine::try_parse_from(typed).map_err(|error| error.to_string())?.command;
        let AditCommand::Access(AccessCommand { action: AccessAction::Tcp(flags) }) = command else {
            panic!("{command:?}")
        };
        Ok(*flags)
    }

    #[test]
    fn a_host_name_is_taken_bare_with_a_port_and_as_a_url() {
        let target = |text: &str| {
            let target = Target::parse(text).unwrap();
            (target.authority, target.host, target.port, target.path)
        };
        let expected = |authority: &str, host: &str, port, path: &str| {
            (authority.to_owned(), host.to_owned(), port, path.to_owned())
        };
        assert_eq!(target("a.example.com"), expected("a.example.com", "a.example.com", 443, "/"));
        assert_eq!(target("http://a.example.com:443"), expected("a.example.com", "a.example.com", 443, "/"));
        assert_eq!(target("a.example:8443/x?y"), expected("a.example:8443", "a.example", 8443, "/x?y"));
        assert_eq!(target("[2001:db8::1]:8443"), expected("[2001:db8::1]:8443", "2001:db8::1", 8443, "/"));
        for wrong in ["", "https://", "a b", "user@a.example", "a.example:", "a.example:99999"] {
            assert!(Target::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn every_alias_and_short_form_of_cloudflared_is_taken() {
        for arguments in [
            "tcp|--hostname|a.example|--url|127.0.0.1:1|-H|a: b|--service-token-id|i|--service-token-secret|s",
            "ssh|--tunnel-host|a.example|--listener|tcp://127.0.0.1:1|--header|a:b|--id|i|--secret|s",
            "rdp|-T|a.example|-L|127.0.0.1:1|-H|a: b|--id|i|--secret|s|--log-level|debug",
        ] {
            let flags = parse(arguments).unwrap();
            assert_eq!(flags.hostname.host, "a.example");
            assert_eq!(flags.url.as_deref(), Some("127.0.0.1:1"));
            assert_eq!(flags.headers, [Header::parse("a:b").unwrap()]);
            assert_eq!(flags.service_token_id.unwrap(), "i");
            assert!(flags.service_token_secret.unwrap().is_sensitive());
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_expected() {
        for (arguments, part) in [
            ("tcp", "--hostname"),
            ("tcp|--hostname|a b", "expected a host name"),
            ("tcp|--hostname|a.example|--url|1234", "expected HOST:PORT"),
            ("tcp|--hostname|a.example|--url|here:x", "expected HOST:PORT"),
            ("tcp|--hostname|a.example|-H|novalue", "expected 'NAME: VALUE'"),
            ("tcp|--hostname|a.example|-H|Host: b", "the handshake sets host itself"),
            ("tcp|--hostname|a.example|--id|i", "--service-token-secret"),
            ("tcp|--hostname|a.example|--connect-to|sni:443:host", "expected HOST or HOST:PORT"),
        ] {
            let error = parse(arguments).unwrap_err();
            assert!(error.contains(part), "{arguments}: {error}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        let flags =
            parse("tcp|--hostname|a.example|-H|Authorization: 5ec4e7|--id|i|--secret|5ec4e7").unwrap();
        assert!(!format!("{flags:?}").contains("5ec4e7"), "{flags:?}");
    }
}
