//! The pages that the edge answers itself (Gateway semantics, 6): blocks, redirections, and origins that cannot be used.
//!
//! A person at a browser gets a page ([`html`]), a program one line of text, which is what programs print (kubectl shows
//! bodies of no other type); both say why and what to do, and neither is kept.

mod html;

use std::fmt::Write as _;

use adit_model::{OwnPage, Rule, UntrustedAction};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};

use crate::gate::PageContext;

/// The body of whatever the client is answered.
pub(crate) type Body = UnsyncBoxBody<Bytes, hyper::Error>;

/// The header that says why the edge answered itself.
const REASON: &str = "x-gateway-reason";

/// Why the edge answers itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Why<'a> {
    pub(crate) status: u16,
    /// A word for programs and records.
    pub(crate) reason: &'static str,
    /// A sentence for people.
    pub(crate) sentence: &'a str,
    /// The rule that decided, if one did.
    pub(crate) rule: Option<&'a Rule>,
}

impl Why<'_> {
    /// Whether a rule refuses the request; a rule may also stand beside what failed.
    fn is_block(&self) -> bool {
        self.status == 403 && self.rule.is_some()
    }
}

/// A rule refuses the request.
pub(crate) fn blocked(rule: &Rule) -> Why<'_> {
    let sentence = match rule.settings.block_reason.as_str() {
        "" => "A rule of your organisation does not allow this.",
        reason => reason,
    };
    Why { status: 403, reason: "blocked", sentence, rule: Some(rule) }
}

/// The page for what is so.
pub(crate) fn page(
    why: Why<'_>,
    host: &str,
    context: &PageContext,
    request: &HeaderMap,
    method: &Method,
) -> Response<Body> {
    let own = match context.page.as_deref() {
        Some(OwnPage::CustomizedBlockPage(page)) if why.is_block() => Some(&**page),
        _ => None,
    };
    let navigation = is_read_by_a_person(request, method);
    let (kind, text) = if is_preflight(request, method) {
        (None, String::new())
    } else if navigation {
        (Some("text/html; charset=utf-8"), html::page(why, host, context, own))
    } else {
        (Some("text/plain; charset=utf-8"), line(why, host, context))
    };
    let mut response =
        Response::new(Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(why.status).unwrap_or(StatusCode::BAD_GATEWAY);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REASON, HeaderValue::from_static(why.reason));
    if navigation {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(html::MAY_LOAD));
    }
    if let Some(kind) = kind {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    response
}

/// A browser asks whether another site may ask.
fn is_preflight(request: &HeaderMap, method: &Method) -> bool {
    *method == Method::OPTIONS && request.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether a person will look at the answer.
pub(crate) fn is_read_by_a_person(request: &HeaderMap, method: &Method) -> bool {
    if is_preflight(request, method) {
        return false;
    }
    let text = |name: &str| request.get(name).and_then(|value| value.to_str().ok());
    match text("sec-fetch-dest") {
        Some(destination) => matches!(destination, "document" | "iframe"),
        None => text("accept").is_some_and(|accept| accept.contains("text/html")),
    }
}

fn line(why: Why<'_>, host: &str, context: &PageContext) -> String {
    let mut line = format!("{} [{}; site {host}", Plain(why.sentence), why.reason);
    if let Some(rule) = why.rule {
        let _ = write!(line, "; rule {} \"{}\"", rule.id, Plain(&rule.name));
    }
    let _ = writeln!(line, "; device {}, {}]", Plain(&context.device), Plain(&context.source));
    line
}

/// Text that stays on one line of a terminal.
struct Plain<'a>(&'a str);

impl std::fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| f.write_char(if c.is_control() { ' ' } else { c }))
    }
}

/// Sends the client elsewhere, and tells that place these things. `None` if the target is no URL that fits into a header.
pub(crate) fn redirect(
    target: &str,
    keep: Option<&Uri>,
    told: &[(&'static str, String)],
) -> Option<Response<Body>> {
    let location = match keep {
        Some(original) => with_path_and_query(target, original),
        None => target.to_owned(),
    };
    let location = with_context(&location, told);
    let mut response = Response::new(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::FOUND;
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, HeaderValue::try_from(location).ok()?);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Some(response)
}

/// The target with the original's path behind its own; of two query parameters of one name the target's stays.
fn with_path_and_query(target: &str, original: &Uri) -> String {
    let (target, fragment) =
        target.split_once('#').map_or((target, None), |(target, fragment)| (target, Some(fragment)));
    let (base, own) = target.split_once('?').map_or((target, ""), |(base, query)| (base, query));
    let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let parts =
        |query: &str| query.split('&').filter(|pair| !pair.is_empty()).map(str::to_owned).collect::<Vec<_>>();
    let mut pairs = parts(own);
    let names: Vec<String> = pairs.iter().map(|pair| name(pair)).collect();
    pairs.extend(
        parts(original.query().unwrap_or_default()).into_iter().filter(|pair| !names.contains(&name(pair))),
    );
    let mut location = format!("{}{}", base.trim_end_matches('/'), original.path());
    if !pairs.is_empty() {
        let _ = write!(location, "?{}", pairs.join("&"));
    }
    if let Some(fragment) = fragment {
        let _ = write!(location, "#{fragment}");
    }
    location
}

/// The URL with parameters behind its own.
fn with_context(url: &str, told: &[(&'static str, String)]) -> String {
    if told.is_empty() {
        return url.to_owned();
    }
    let (url, fragment) = url.split_once('#').map_or((url, None), |(url, fragment)| (url, Some(fragment)));
    let mut location = url.to_owned();
    for (name, value) in told {
        let before = if !location.contains('?') {
            "?"
        } else if location.ends_with(['?', '&']) {
            ""
        } else {
            "&"
        };
        let _ = write!(location, "{before}{name}={}", Encoded(value));
    }
    if let Some(fragment) = fragment {
        let _ = write!(location, "#{fragment}");
    }
    location
}

/// Text as a part of a URL (RFC 3986, section 2.1).
struct Encoded<'a>(&'a str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.bytes().try_for_each(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => f.write_char(byte.into()),
            byte => write!(f, "%{byte:02X}"),
        })
    }
}

/// What a rule says about origins whose certificates are not good; without one they are errors.
pub(crate) fn untrusted_action(rule: Option<&Rule>) -> UntrustedAction {
    rule.and_then(|rule| rule.settings.untrusted_cert.as_ref())
        .map_or(UntrustedAction::Error, |setting| setting.action)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_keeps_path_and_query_and_the_targets_own_parameters_win() {
        let original: Uri = "https://old.example.com/a/b?x=1&y=2".parse().unwrap();
        for (target, expected) in [
            ("https://new.example.com", "https://new.example.com/a/b?x=1&y=2"),
            ("https://new.example.com/base/?x=9#top", "https://new.example.com/base/a/b?x=9&y=2#top"),
        ] {
            assert_eq!(with_path_and_query(target, &original), expected);
        }
    }

    #[test]
    fn what_comes_from_elsewhere_is_escaped() {
        assert_eq!(Plain("one\r\nline\u{1b}[2J").to_string(), "one  line [2J");
        let told = [("a", "x & y/ü".to_owned()), ("b", "#?".to_owned())];
        let location = with_context("https://block.example.com/why?mine=1#top", &told);
        assert_eq!(location, "https://block.example.com/why?mine=1&a=x%20%26%20y%2F%C3%BC&b=%23%3F#top");
        assert_eq!(
            with_context("https://block.example.com", &told[1..]),
            "https://block.example.com?b=%23%3F"
        );
    }
}
