//! `--url`, `--hello-world`, `--unix-socket` and `--bastion`: one rule for every request, when the file has no `ingress`.

use super::error::{ConfigError, Origin};
use super::flags::Said;
use super::origin::{MAX_KEEP_ALIVE_CONNECTIONS, OriginOptions};
use crate::ingress::{Rules, Service, single_service};

/// The rules of the file, or the one that flags make, or none.
pub(super) fn rules(said: Said<'_>) -> Result<Rules, ConfigError> {
    let rules = Rules::of_file(said.file)?;
    let Some((service, origin)) = service(said)? else { return Ok(rules) };
    if !rules.are_none() {
        return Err(ConfigError::new(origin, URL_WITH_RULES.to_owned()));
    }
    let options = options(said)?;
    Rules::single(service, &options).map_err(|error| ConfigError::new(origin, error.to_string()))
}

const URL_WITH_RULES: &str =
    "You can't set the --url flag (or $TUNNEL_URL) when using multiple-origin ingress rules";

fn service(said: Said<'_>) -> Result<Option<(Service, Origin)>, ConfigError> {
    let set = |key| Ok(said.switch(key)?.filter(|set| *set).and_then(|_| said.text(key)));
    if let Some((_, origin)) = set("hello-world")? {
        return Ok(Some((Service::HelloWorld, origin)));
    }
    if let Some((_, origin)) = set("bastion")? {
        return Ok(Some((Service::Bastion, origin)));
    }
    let (url, socket) = (said.text("url"), said.text("unix-socket"));
    match (url, socket) {
        (Some(_), Some((_, origin))) => {
            Err(ConfigError::new(origin, "--unix-socket must be used exclusively.".to_owned()))
        }
        (Some((url, origin)), None) => match single_service(url) {
            Ok(service) => Ok(Some((service, origin))),
            Err(problem) => Err(ConfigError::new(origin, format!("Error validating origin URL: {problem}"))),
        },
        (None, Some((path, origin))) => {
            Ok(Some((Service::Unix { path: path.to_owned(), tls: false }, origin)))
        }
        (None, None) => Ok(None),
    }
}

fn options(said: Said<'_>) -> Result<OriginOptions, ConfigError> {
    Ok(OriginOptions {
        connect_timeout: said.duration("proxy-connect-timeout")?,
        tls_timeout: said.duration("proxy-tls-timeout")?,
        tcp_keep_alive: said.duration("proxy-tcp-keepalive")?,
        no_happy_eyeballs: said.switch("proxy-no-happy-eyeballs")?,
        keep_alive_connections: said.number("proxy-keepalive-connections", MAX_KEEP_ALIVE_CONNECTIONS)?,
        keep_alive_timeout: said.duration("proxy-keepalive-timeout")?,
        http_host_header: said.owned("http-host-header"),
        origin_server_name: said.owned("origin-server-name"),
        match_sni_to_host: said.switch("match-sni-to-host")?,
        ca_pool: said.owned("origin-ca-pool"),
        no_tls_verify: said.switch("no-tls-verify")?,
        disable_chunked_encoding: said.switch("no-chunked-encoding")?,
        http2_origin: said.switch("http2-origin")?,
        proxy_type: said.switch("socks5")?.filter(|set| *set).map(|_| "socks".to_owned()),
        ..said.file.ingress().1.clone()
    })
}
