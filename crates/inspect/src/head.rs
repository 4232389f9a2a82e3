//! The head of a request, in the spelling in which rules are asked (policy language, 4 and 7.3).

use adit_model::{RequestFacts, ResponseFacts};
use http::header::HeaderValue;
use http::uri::{Authority, Scheme};
use http::{HeaderMap, Request, Uri, Version, header};

/// What is kept of a request while it is on its way.
#[derive(Debug)]
pub(crate) struct Head {
    /// As the client wrote it, with its port.
    pub(crate) authority: String,
    host: Option<String>,
    method: String,
    uri: String,
    path: String,
    path_and_query: String,
    query: Option<String>,
    upload_mime: Option<String>,
    pub(crate) referer: Option<String>,
    pub(crate) user_agent: Option<String>,
    pub(crate) version: &'static str,
}

impl Head {
    /// The head of a request on a connection to `destination`.
    pub(crate) fn of<B>(request: &Request<B>, scheme: &str, destination: &str) -> Self {
        let uri = request.uri();
        let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
        let authority = uri.authority().map(http::uri::Authority::as_str).or(named).unwrap_or(destination);
        let path_and_query = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let absolute = format!("{scheme}://{authority}{path_and_query}");
        Self {
            host: host_of(authority),
            method: request.method().as_str().to_ascii_uppercase(),
            uri: absolute.strip_suffix('/').unwrap_or(&absolute).to_owned(),
            path: uri.path().to_owned(),
            path_and_query: path_and_query.to_owned(),
            query: uri.query().map(str::to_owned),
            upload_mime: mime(request.headers()),
            referer: text(request.headers(), &header::REFERER),
            user_agent: text(request.headers(), &header::USER_AGENT),
            version: if request.version() == Version::HTTP_2 { "HTTP/2" } else { "HTTP/1.1" },
            authority: authority.to_owned(),
        }
    }

    /// The facts, with those of the response once there is one.
    pub(crate) fn facts<'a>(&'a self, response: Option<ResponseFacts<'a>>) -> RequestFacts<'a> {
        RequestFacts {
            host: self.host.as_deref(),
            method: &self.method,
            uri: &self.uri,
            path: &self.path,
            path_and_query: &self.path_and_query,
            query: self.query.as_deref(),
            upload_mime: self.upload_mime.as_deref(),
            response,
        }
    }
}

/// A request says of itself in no way, or in two, which host it is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unclear;

/// Leaves a request with one host, so that the host that rules judge is the one that the origin is asked for.
///
/// Where the request's target has an authority, `Host` says the same or is not there (RFC 9112, section 3.2.2; RFC 9113,
/// section 8.3.1).
///
/// # Errors
///
/// If there are several hosts, or one that is no host.
pub(crate) fn settle_host<B>(request: &mut Request<B>, scheme: &str) -> Result<(), Unclear> {
    let mut named = request.headers().get_all(header::HOST).iter();
    let host = match (named.next(), named.next()) {
        (None, _) => None,
        (Some(host), None) => Some(host.to_str().map_err(|_| Unclear)?.to_owned()),
        (Some(_), Some(_)) => return Err(Unclear),
    };
    let target = request.uri().authority().map(Authority::as_str);
    if target.or(host.as_deref()).is_some_and(|authority| authority.contains('@')) {
        return Err(Unclear);
    }
    let is_http2 = request.version() == Version::HTTP_2;
    match (target.map(str::to_owned), host) {
        (Some(target), Some(_)) if !is_http2 => {
            let value = HeaderValue::try_from(target).map_err(|_| Unclear)?;
            request.headers_mut().insert(header::HOST, value);
        }
        (Some(_), Some(_)) => {
            request.headers_mut().remove(header::HOST);
        }
        (None, Some(host)) if is_http2 => {
            let mut parts = request.uri().clone().into_parts();
            parts.scheme = Some(Scheme::try_from(scheme).map_err(|_| Unclear)?);
            parts.authority = Some(Authority::try_from(host).map_err(|_| Unclear)?);
            *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Unclear)?;
            request.headers_mut().remove(header::HOST);
        }
        (None, Some(host)) if !host.is_empty() && Authority::try_from(host.as_str()).is_err() => {
            return Err(Unclear);
        }
        (None, _) | (Some(_), None) => {}
    }
    Ok(())
}

/// A header for records, no longer than people read.
fn text(headers: &HeaderMap, name: &header::HeaderName) -> Option<String> {
    let value = headers.get(name)?.to_str().ok()?;
    Some(value.chars().take(MAX_RECORDED_CHARS).collect())
}

/// The host of an authority, in lower case, without port, brackets and trailing dot.
pub(crate) fn host_of(authority: &str) -> Option<String> {
    let authority = authority.rsplit('@').next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(bracketed) => bracketed.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    (!host.is_empty()).then(|| host.to_ascii_lowercase())
}

/// The type of a body, without parameters, in lower case.
pub(crate) fn mime(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let mime = value.split(';').next().unwrap_or_default().trim();
    (!mime.is_empty()).then(|| mime.to_ascii_lowercase())
}

/// Longest text of a header in a record, in characters.
const MAX_RECORDED_CHARS: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_left_with_one_host() {
        let settled = |target: &str, version: Version, hosts: &[&str]| {
            let mut request = Request::get(target).version(version);
            for host in hosts {
                request = request.header("host", *host);
            }
            let mut request = request.body(()).unwrap();
            settle_host(&mut request, "https").map(|()| {
                let host = request.headers().get("host").map(|host| host.to_str().unwrap().to_owned());
                (request.uri().to_string(), host)
            })
        };
        let to = |uri: &str, host: Option<&str>| Ok((uri.to_owned(), host.map(str::to_owned)));
        let (old, new) = (Version::HTTP_11, Version::HTTP_2);
        assert_eq!(settled("/a", old, &["b:8443"]), to("/a", Some("b:8443")));
        assert_eq!(settled("https://a/x", old, &["b"]), to("https://a/x", Some("a")));
        assert_eq!(settled("https://a/x", new, &["b"]), to("https://a/x", None));
        assert_eq!(settled("/x", new, &["b"]), to("https://b/x", None));
        for (target, version, hosts) in [
            ("/a", old, &["a", "b"][..]),
            ("/a", old, &["a", "a"]),
            ("/a", old, &["allowed@blocked"]),
            ("https://allowed@blocked/a", new, &[]),
            ("/a", old, &["a b"]),
        ] {
            assert_eq!(settled(target, version, hosts), Err(Unclear), "{target} {hosts:?}");
        }
    }

    #[test]
    fn a_request_is_told_in_the_spelling_of_rules() {
        let request = Request::get("/a/?q=%42").header("host", "API.Example.com.:8443");
        let request = request.header("content-type", "Text/Plain; charset=utf-8").body(()).unwrap();
        let head = Head::of(&request, "https", "198.51.100.7:8443");
        let facts = head.facts(None);
        assert_eq!(facts.host, Some("api.example.com"));
        assert_eq!(facts.uri, "https://API.Example.com.:8443/a/?q=%42");
        assert_eq!((facts.path, facts.path_and_query, facts.query), ("/a/", "/a/?q=%42", Some("q=%42")));
        assert_eq!(facts.upload_mime, Some("text/plain"));
        let root = Request::get("/").body(()).unwrap();
        assert_eq!(Head::of(&root, "http", "[2001:db8::1]:80").facts(None).uri, "http://[2001:db8::1]:80");
        assert_eq!(host_of("[2001:DB8::1]:80").as_deref(), Some("2001:db8::1"));
        assert_eq!(host_of("user@host:1").as_deref(), Some("host"));
        assert_eq!(host_of(":80"), None);
    }
}
