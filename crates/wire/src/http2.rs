//! The headers by which the tunnel protocol works over HTTP/2 (contract, 5.2 to 5.6).
//!
//! The connector dials and is then the HTTP/2 server: the edge asks, and says by its control headers what it asks for.
//! They are the edge's alone, see [`is_control_header`]: whoever else could write them would reach any address, or change a
//! connector's configuration. An origin's headers come back in one header of the response, so that nothing on the way can
//! add to them or change them. What always holds: names and values are bytes with limits, and a list that was written is
//! read as it was. The HTTP/2 itself is `transport`'s.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

/// Request header: what the request is, if it is neither HTTP nor TCP.
pub const UPGRADE_HEADER: &str = "cf-cloudflared-proxy-connection-upgrade";
/// Request header: the request is a TCP connection to its `:authority`. Any value that is not empty.
pub const SOURCE_HEADER: &str = "cf-cloudflared-proxy-src";
/// Response header: who answers, see [`ResponseMeta`].
pub const RESPONSE_META_HEADER: &str = "cf-cloudflared-response-meta";
/// Response header: the origin's headers, see [`encode_headers`].
pub const RESPONSE_HEADERS_HEADER: &str = "cf-cloudflared-response-headers";

/// [`UPGRADE_HEADER`] of a configuration push.
pub const UPGRADE_CONFIGURATION: &str = "update-configuration";
/// [`UPGRADE_HEADER`] of a WebSocket.
pub const UPGRADE_WEBSOCKET: &str = "websocket";
/// [`UPGRADE_HEADER`] of the control stream.
pub const UPGRADE_CONTROL_STREAM: &str = "control-stream";

/// Most headers of one origin's response.
pub const MAX_HEADERS: usize = 1024;
/// Longest list of headers, as it is written, in bytes.
pub const MAX_HEADER_LIST_BYTES: usize = 256 << 10;
/// Longest body of a configuration push, in bytes.
pub const MAX_PUSH_BYTES: usize = 4 << 20;

/// What a request of the edge is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// A configuration: [`ConfigurationPush`].
    Configuration,
    /// A WebSocket.
    WebSocket,
    /// A TCP connection.
    Tcp,
    /// The control stream.
    ControlStream,
    /// HTTP.
    Http,
}

impl RequestKind {
    /// The kind of a request with these values of [`UPGRADE_HEADER`] and [`SOURCE_HEADER`], in the contract's order.
    pub fn of(upgrade: Option<&[u8]>, source: Option<&[u8]>) -> Self {
        let upgrades_to = |value: &str| upgrade == Some(value.as_bytes());
        if upgrades_to(UPGRADE_CONFIGURATION) {
            Self::Configuration
        } else if upgrades_to(UPGRADE_WEBSOCKET) {
            Self::WebSocket
        } else if source.is_some_and(|source| !source.is_empty()) {
            Self::Tcp
        } else if upgrades_to(UPGRADE_CONTROL_STREAM) {
            Self::ControlStream
        } else {
            Self::Http
        }
    }
}

/// Whether a header is the edge's alone: no client's header with such a name is passed on, on any transport. Case does not
/// matter, nor whether `_` stands for `-`: some servers take them for the same.
pub fn is_control_header(name: &str) -> bool {
    has_prefix_of(name, &["cf-cloudflared-", "cf-int-", "cf-proxy-", "cf-warp-tag-"])
}

/// Whether an origin's header is kept back by the connector, since its name would mean something to an edge.
pub fn is_control_response_header(name: &str) -> bool {
    has_prefix_of(name, &[":", "cf-cloudflared-", "cf-int-", "cf-proxy-"])
}

fn has_prefix_of(name: &str, prefixes: &[&str]) -> bool {
    let normal = |byte: u8| if byte == b'_' { b'-' } else { byte.to_ascii_lowercase() };
    prefixes.iter().any(|prefix| {
        let mut bytes = name.bytes().map(normal);
        prefix.bytes().all(|expected| bytes.next() == Some(expected))
    })
}

/// Who answered a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseMeta {
    /// The origin.
    Origin,
    /// The connector: there is no answer of the origin.
    Connector,
    /// The connector, since it has as many flows as it takes.
    RateLimited,
}

impl ResponseMeta {
    /// The header's value.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Origin => r#"{"src":"origin"}"#,
            Self::Connector => r#"{"src":"cloudflared"}"#,
            Self::RateLimited => r#"{"src":"cloudflared","flow_rate_limited":true}"#,
        }
    }

    /// Reads the header; `None` if it names no one.
    pub fn parse(value: &[u8]) -> Option<Self> {
        #[derive(Deserialize)]
        struct Meta<'a> {
            #[serde(borrow)]
            src: std::borrow::Cow<'a, str>,
            #[serde(default)]
            flow_rate_limited: bool,
        }
        let meta: Meta<'_> = serde_json::from_slice(value).ok()?;
        match (meta.src.as_ref(), meta.flow_rate_limited) {
            ("origin", _) => Some(Self::Origin),
            ("cloudflared", false) => Some(Self::Connector),
            ("cloudflared", true) => Some(Self::RateLimited),
            _ => None,
        }
    }
}

/// A list of headers cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HeaderListError {
    /// Over [`MAX_HEADER_LIST_BYTES`] or [`MAX_HEADERS`].
    #[error("a list of over {MAX_HEADERS} headers or {MAX_HEADER_LIST_BYTES} bytes")]
    TooLong,
    /// A header without a colon, or not in base64.
    #[error("a header that cannot be read")]
    Malformed,
    /// A name that is no text.
    #[error("a header's name that is no text")]
    Name,
}

/// The value of [`RESPONSE_HEADERS_HEADER`]: `base64(name):base64(value);…`, without padding; values of one name one by
/// one. Empty if there are none. Headers beyond the limits are left out, as a proxy does that cannot hold them.
pub fn encode_headers<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut list = String::new();
    for (name, value) in headers.into_iter().take(MAX_HEADERS) {
        let before = list.len();
        if before > 0 {
            list.push(';');
        }
        STANDARD_NO_PAD.encode_string(name, &mut list);
        list.push(':');
        STANDARD_NO_PAD.encode_string(value, &mut list);
        if list.len() > MAX_HEADER_LIST_BYTES {
            list.truncate(before);
            break;
        }
    }
    list
}

/// Reads the value of [`RESPONSE_HEADERS_HEADER`]. Whether names and values are such as HTTP allows is for the caller to
/// see.
///
/// # Errors
/// It is too long or not what [`encode_headers`] writes.
pub fn decode_headers(list: &[u8]) -> Result<Vec<(String, Vec<u8>)>, HeaderListError> {
    if list.len() > MAX_HEADER_LIST_BYTES {
        return Err(HeaderListError::TooLong);
    }
    let mut headers = Vec::new();
    for entry in list.split(|byte| *byte == b';').filter(|entry| !entry.is_empty()) {
        if headers.len() == MAX_HEADERS {
            return Err(HeaderListError::TooLong);
        }
        let colon = entry.iter().position(|byte| *byte == b':').ok_or(HeaderListError::Malformed)?;
        let (name, value) = entry.split_at(colon);
        let decode = |part| STANDARD_NO_PAD.decode(part).map_err(|_| HeaderListError::Malformed);
        let name = String::from_utf8(decode(name)?).map_err(|_| HeaderListError::Name)?;
        headers.push((name, decode(&value[1..])?));
    }
    Ok(headers)
}

/// The body of a configuration push (contract, 5.4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationPush {
    /// Its number; higher is newer.
    pub version: i32,
    /// The configuration (contract, 4.2).
    pub config: serde_json::Value,
}

impl ConfigurationPush {
    /// The body as JSON.
    pub fn to_json(&self) -> String {
        // Fails only for maps whose keys are no strings, of which there are none.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a body; `None` if it is too long or none.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        if body.len() > MAX_PUSH_BYTES { None } else { serde_json::from_slice(body).ok() }
    }
}

/// The answer to a configuration push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ConfigurationAnswer {
    /// The version that is in force now.
    #[serde(rename = "lastAppliedVersion")]
    pub last_applied_version: i32,
    /// Why the pushed one is not. An unmodified connector writes an object without its words here: go by the version.
    pub err: Option<serde_json::Value>,
}

impl ConfigurationAnswer {
    /// The body as JSON.
    pub fn to_json(&self) -> String {
        // As above.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads a body; `None` if it is none.
    pub fn from_json(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }
}

/// Fuzz body: whatever list or meta header is read is written to something that reads the same.
#[doc(hidden)]
pub fn fuzz_http2_headers(data: &[u8]) {
    if let Ok(headers) = decode_headers(data) {
        let list = encode_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
        assert_eq!(decode_headers(list.as_bytes()), Ok(headers));
    }
    if let Some(meta) = ResponseMeta::parse(data) {
        assert_eq!(ResponseMeta::parse(meta.as_str().as_bytes()), Some(meta));
    }
    if let Some(push) = ConfigurationPush::from_json(data) {
        assert!(ConfigurationPush::from_json(push.to_json().as_bytes()).is_some());
    }
    let _ = RequestKind::of(Some(data), Some(data));
    if let Ok(name) = std::str::from_utf8(data) {
        assert!(is_control_header(&format!("CF_Int-{name}")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn requests_are_told_apart_in_the_contracts_order() {
        for (upgrade, source, expected) in [
            (None, None, RequestKind::Http),
            (Some("update-configuration"), Some("x"), RequestKind::Configuration),
            (Some("websocket"), Some("x"), RequestKind::WebSocket),
            (Some("control-stream"), Some("x"), RequestKind::Tcp),
            (Some("control-stream"), Some(""), RequestKind::ControlStream),
            (Some("control-stream"), None, RequestKind::ControlStream),
            (None, Some("192.0.2.1"), RequestKind::Tcp),
            (None, Some(""), RequestKind::Http),
            (Some("WebSocket"), None, RequestKind::Http),
        ] {
            let actual = RequestKind::of(upgrade.map(str::as_bytes), source.map(str::as_bytes));
            assert_eq!(actual, expected, "{upgrade:?} {source:?}");
        }
    }

    #[test]
    fn control_headers_are_known_in_any_spelling() {
        for name in [
            "cf-cloudflared-proxy-src",
            "Cf-Cloudflared-Proxy-Connection-Upgrade",
            "CF_CLOUDFLARED_PROXY_SRC",
            "cf_int-cloudflared-tracing",
            "Cf-Proxy-Worker",
            "cf-warp-tag-id",
            "cf-int-",
        ] {
            assert!(is_control_header(name), "{name}");
        }
        for name in ["cf-ray", "cf-connecting-ip", "x-cf-int-a", "cf-int", "cf-", "", "cookie", "cf-warp"] {
            assert!(!is_control_header(name), "{name}");
        }
        assert!(is_control_response_header(":status"));
        assert!(is_control_response_header("CF_Int_a"));
        assert!(!is_control_response_header("cf-warp-tag-id"));
    }

    #[test]
    fn a_list_of_headers_is_this_text() {
        let headers = [
            ("Content-Type", &b"text/html"[..]),
            ("Set-Cookie", b"a=1"),
            ("Set-Cookie", b""),
            ("X", b"\xff"),
        ];
        let list = encode_headers(headers);
        assert_eq!(list, "Q29udGVudC1UeXBl:dGV4dC9odG1s;U2V0LUNvb2tpZQ:YT0x;U2V0LUNvb2tpZQ:;WA:/w");
        let expected: Vec<_> =
            headers.iter().map(|(name, value)| ((*name).to_owned(), value.to_vec())).collect();
        assert_eq!(decode_headers(list.as_bytes()), Ok(expected));
        assert_eq!(encode_headers([]), "");
        assert_eq!(decode_headers(b""), Ok(vec![]));
    }

    #[test]
    fn a_list_that_is_malformed_or_too_long_is_refused() {
        for (list, expected) in [
            (&b"WA"[..], HeaderListError::Malformed),
            (b"WA==:WA", HeaderListError::Malformed),
            (b"WA:W", HeaderListError::Malformed),
            (b"/w:WA", HeaderListError::Name),
            (&b"WA:WA;".repeat(MAX_HEADERS + 1), HeaderListError::TooLong),
            (&b"W".repeat(MAX_HEADER_LIST_BYTES + 1), HeaderListError::TooLong),
        ] {
            assert_eq!(decode_headers(list), Err(expected));
        }
        let large = vec![b'x'; MAX_HEADER_LIST_BYTES];
        let list = encode_headers([("a", &b"1"[..]), ("b", &large)]);
        assert_eq!(list, "YQ:MQ");
    }

    #[test]
    fn who_answered_is_read_as_it_is_written() {
        for meta in [ResponseMeta::Origin, ResponseMeta::Connector, ResponseMeta::RateLimited] {
            assert_eq!(ResponseMeta::parse(meta.as_str().as_bytes()), Some(meta));
        }
        assert_eq!(ResponseMeta::parse(br#"{"src":"origin","more":1}"#), Some(ResponseMeta::Origin));
        for wrong in [&b"{}"[..], b"origin", br#"{"src":"else"}"#, b"\xff"] {
            assert_eq!(ResponseMeta::parse(wrong), None);
        }
    }

    #[test]
    fn a_push_and_its_answer_are_this_json() {
        let push = ConfigurationPush { version: 2, config: serde_json::json!({"ingress": []}) };
        assert_eq!(push.to_json(), r#"{"version":2,"config":{"ingress":[]}}"#);
        assert_eq!(ConfigurationPush::from_json(push.to_json().as_bytes()), Some(push));
        assert_eq!(ConfigurationPush::from_json(br#"{"config":{}}"#), None);
        let answer = ConfigurationAnswer { last_applied_version: 2, err: None };
        assert_eq!(answer.to_json(), r#"{"lastAppliedVersion":2,"err":null}"#);
        let failed = br#"{"lastAppliedVersion":1,"err":{}}"#;
        assert_eq!(ConfigurationAnswer::from_json(failed).map(|answer| answer.last_applied_version), Some(1));
    }

    proptest! {
        #[test]
        fn any_list_is_read_as_it_was_written(
            headers in prop::collection::vec((".{0,20}", prop::collection::vec(any::<u8>(), 0..40)), 0..20),
        ) {
            let list = encode_headers(headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())));
            prop_assert_eq!(decode_headers(list.as_bytes()), Ok(headers));
        }

        #[test]
        fn any_bytes_are_headers_or_an_error(data: Vec<u8>) {
            fuzz_http2_headers(&data);
        }

        #[test]
        fn any_text_of_the_alphabet_is_headers_or_an_error(data in "[A-Za-z0-9+/:;=]{0,60}") {
            fuzz_http2_headers(data.as_bytes());
        }
    }
}
