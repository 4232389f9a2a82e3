//! Headers between client and origin: what ends at the edge, what is the edge's alone, what the edge adds.
//!
//! A connector does not know who wrote a control header: one that a client could send would make the connector dial any
//! address or take another configuration (tunnel protocol, 5.2). So a name is compared in lower case and with `-` for `_`,
//! since many an origin reads both as one (CGI does), and all of `cf-*` is the edge's but for what is listed.

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Takes from a request what ends here and what only the edge may say, and adds what the edge says of the client.
pub(super) fn for_origin(headers: &mut HeaderMap, client: IpAddr, ray: &HeaderValue) {
    remove_hop_by_hop(headers);
    remove(headers, is_edges_own);
    drop_access_cookie(headers);
    // The client has been told to go on, or has gone on.
    headers.remove(header::EXPECT);
    // Authority and Host have been compared, and the connector is told the one.
    headers.remove(header::HOST);
    let address = HeaderValue::try_from(client.to_canonical().to_string());
    if let Ok(address) = address {
        headers.insert(X_FORWARDED_FOR, address.clone());
        headers.insert(CF_CONNECTING_IP, address);
    }
    headers.insert(X_FORWARDED_PROTO, HeaderValue::from_static("https"));
    headers.insert(CF_RAY, ray.clone());
}

/// Takes from an answer what ends here and what is between edge and connector.
pub(super) fn for_client(headers: &mut HeaderMap, ray: &HeaderValue) {
    remove_hop_by_hop(headers);
    remove(headers, |name| {
        ["cf-cloudflared-", "cf-int-", "cf-proxy-", "cf-warp-tag-"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    });
    headers.insert(CF_RAY, ray.clone());
}

/// Whether the client asks for a WebSocket by HTTP/1.1 (RFC 6455, 4.2.1).
pub(super) fn asks_for_websocket(headers: &HeaderMap) -> bool {
    lists(headers, &header::CONNECTION, "upgrade") && lists(headers, &header::UPGRADE, "websocket")
}

/// RFC 9110, 7.6.1: what `Connection` names, and what has always been of one connection.
fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    // Not what the edge itself needs to read or to be right about the body.
    for name in named.iter().filter(|name| !NOT_TO_BE_NAMED.contains(name)) {
        headers.remove(name);
    }
    // gRPC's origins look for it, and it says nothing of a connection.
    let trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&str) -> bool) {
    let names: Vec<HeaderName> = headers
        .keys()
        .filter(|name| is_removed(&name.as_str().to_ascii_lowercase().replace('_', "-")))
        .cloned()
        .collect();
    for name in names {
        headers.remove(name);
    }
}

/// A lower-case name with `-` for `_`.
fn is_edges_own(name: &str) -> bool {
    if name.starts_with("cf-") {
        // Read by a bastion ingress, and the client's to say (tunnel protocol, 8.1).
        return name != "cf-access-jump-destination";
    }
    name.starts_with("x-forwarded-")
        || ["forwarded", "true-client-ip", "uber-trace-id", "cdn-loop"].contains(&name)
}

/// The proof of a sign-in is read by the edge and not passed on (design, section 4).
fn drop_access_cookie(headers: &mut HeaderMap) {
    let ours = |cookie: &str| {
        let name = cookie.split_once('=').map_or(cookie, |(name, _)| name).trim();
        name == "CF_Authorization" || name == "CF_AppSession"
    };
    let cookies: Vec<HeaderValue> = headers.get_all(header::COOKIE).iter().cloned().collect();
    if !cookies.iter().any(|value| value.to_str().is_ok_and(|text| text.split(';').any(ours))) {
        return;
    }
    headers.remove(header::COOKIE);
    for value in cookies {
        let Ok(text) = value.to_str() else { continue };
        let kept: Vec<&str> = text.split(';').map(str::trim).filter(|cookie| !ours(cookie)).collect();
        if let Ok(value) = HeaderValue::try_from(kept.join("; "))
            && !value.is_empty()
        {
            headers.append(header::COOKIE, value);
        }
    }
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case(wanted))
}

/// `Cf-Ray`, in requests and answers: by it a request is found in the edge's records.
pub(super) const CF_RAY: HeaderName = HeaderName::from_static("cf-ray");
const CF_CONNECTING_IP: HeaderName = HeaderName::from_static("cf-connecting-ip");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Headers of one connection.
const HOP_BY_HOP: [HeaderName; 9] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// What `Connection` may not make disappear.
const NOT_TO_BE_NAMED: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::AUTHORIZATION,
    header::SEC_WEBSOCKET_KEY,
];

#[cfg(test)]
mod tests {
    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        headers
    }

    fn passed_on(lines: &[(&str, &str)]) -> Vec<String> {
        let mut headers = map(lines);
        let ray = HeaderValue::from_static("0123456789abcdef-edge01");
        for_origin(&mut headers, "192.0.2.7".parse().unwrap(), &ray);
        for name in [X_FORWARDED_FOR, CF_CONNECTING_IP, X_FORWARDED_PROTO, CF_RAY] {
            assert_eq!(headers.get_all(&name).iter().count(), 1, "{name}");
            headers.remove(name);
        }
        headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
    }

    #[test]
    fn what_is_the_edges_alone_never_passes_in_any_spelling() {
        for name in [
            "Cf-Cloudflared-Proxy-Src",
            "cf_cloudflared_proxy_src",
            "CF-CLOUDFLARED-PROXY-CONNECTION-UPGRADE",
            "cf-cloudflared_proxy-connection_upgrade",
            "Cf-Int-Cloudflared-Tracing",
            "Cf-Proxy-Worker",
            "Cf-Warp-Tag-Id",
            "Cf-Connecting-Ip",
            "Cf_Connecting_Ip",
            "Cf-Access-Jwt-Assertion",
            "Cf-Access-Authenticated-User-Email",
            "Cf-Access-Client-Id",
            "Cf-Access-Client-Secret",
            "Cf-Access-Token",
            "Cf-Client-Cert-Der-Base64",
            "cf-trace-id",
            "X-Forwarded-For",
            "x_forwarded_proto",
            "X-Forwarded-Host",
            "Forwarded",
        ] {
            assert_eq!(passed_on(&[(name, "evil"), ("accept", "*/*")]), ["accept: */*"], "{name}");
        }
    }

    #[test]
    fn what_the_client_may_say_passes_as_it_was_said() {
        let lines =
            [("accept", "a"), ("accept", "b"), ("cf-access-jump-destination", "10.0.0.1:22"), ("x-cf", "1")];
        assert_eq!(
            passed_on(&lines),
            ["accept: a", "accept: b", "cf-access-jump-destination: 10.0.0.1:22", "x-cf: 1"]
        );
    }

    #[test]
    fn what_is_of_one_connection_ends_here() {
        let lines = [
            ("connection", "keep-alive, X-Secret, content-length"),
            ("keep-alive", "timeout=5"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip"),
            ("expect", "100-continue"),
        ];
        assert_eq!(passed_on(&lines), ["content-length: 3"]);
        assert_eq!(passed_on(&[("te", "trailers")]), ["te: trailers"]);
    }

    #[test]
    fn the_cookie_of_a_sign_in_is_taken_out_from_between_the_others() {
        assert_eq!(passed_on(&[("cookie", "a=1; CF_Authorization=x; b=2")]), ["cookie: a=1; b=2"]);
        assert_eq!(passed_on(&[("cookie", "CF_Authorization=x")]), Vec::<String>::new());
        assert_eq!(passed_on(&[("cookie", "a=1;b=2")]), ["cookie: a=1;b=2"]);
    }

    #[test]
    fn an_answer_loses_what_is_between_edge_and_connector() {
        let mut headers = map(&[
            ("cf-int-cloudflared-tracing", "x"),
            ("connection", "close"),
            ("transfer-encoding", "chunked"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
        ]);
        for_client(&mut headers, &HeaderValue::from_static("0-edge01"));
        assert_eq!(headers, map(&[("set-cookie", "a=1"), ("set-cookie", "b=2"), ("cf-ray", "0-edge01")]));
    }

    #[test]
    fn a_websocket_is_asked_for_by_both_headers() {
        assert!(asks_for_websocket(&map(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")])));
        assert!(!asks_for_websocket(&map(&[("upgrade", "websocket")])));
        assert!(!asks_for_websocket(&map(&[("connection", "upgrade"), ("upgrade", "h2c")])));
    }
}
