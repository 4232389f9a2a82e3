//! The block page in an account's own words (contract D, 9.2, `block_page`), as a setting of the gateway.
//!
//! What holds: what is kept is shown or followed. Older clients send every key; those that say nothing are legal.

use adit_model::{BlockPage, CustomPage, OwnPage};
use serde_json::Value;

use super::rule::is_url;

const CUSTOM: &str = "customized_block_page";
const REDIRECT: &str = "redirect_uri";
/// Longest text, in characters, and longest URL or address.
const MAX_TEXT: usize = 2048;
/// Longest name and subject, in characters.
const MAX_NAME: usize = 256;
/// Texts, and how long they may be.
const TEXTS: [(&str, usize, &str); 5] = [
    ("name", MAX_NAME, "name: expected at most 256 characters, and no control characters"),
    ("header_text", MAX_TEXT, "header_text: expected at most 2048 characters, and no control characters"),
    ("footer_text", MAX_TEXT, "footer_text: expected at most 2048 characters, and no control characters"),
    ("mailto_address", MAX_NAME, "mailto_address: expected an e-mail address"),
    (
        "mailto_subject",
        MAX_NAME,
        "mailto_subject: expected at most 256 characters, and no control characters",
    ),
];

/// What is wrong with the setting, if anything is.
pub(super) fn wrong(value: &Value) -> Option<&'static str> {
    let Some(map) = value.as_object() else { return Some("expected an object") };
    let given = |key: &str| map.get(key).filter(|value| !value.is_null());
    for flag in ["enabled", "suppress_footer", "include_context"] {
        if given(flag).is_some_and(|value| !value.is_boolean()) {
            return Some("expected true or false for enabled, suppress_footer and include_context");
        }
    }
    for (key, most, wrong) in TEXTS {
        let fits = |text: &str| {
            text.chars().count() <= most && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\r')
        };
        if given(key).is_some_and(|value| !value.as_str().is_some_and(fits)) {
            return Some(wrong);
        }
    }
    let text = |key: &str| given(key).map_or(Some(""), Value::as_str);
    let unless_empty =
        |key: &str, good: fn(&str) -> bool| text(key).is_some_and(|text| text.is_empty() || good(text));
    if !unless_empty("mailto_address", is_address) {
        return Some("mailto_address: expected an e-mail address");
    }
    if !unless_empty("background_color", is_colour) {
        return Some("background_color: expected a colour such as #0b5fff");
    }
    if !unless_empty("logo_path", is_url) {
        return Some("logo_path: expected the URL of an image");
    }
    if !unless_empty("target_uri", is_url) {
        return Some("target_uri: expected a URL such as https://example.com/blocked");
    }
    if !["", CUSTOM, REDIRECT].iter().any(|mode| text("mode") == Some(mode)) {
        return Some("mode: expected customized_block_page or redirect_uri");
    }
    let leads_nowhere = text("mode") == Some(REDIRECT) && text("target_uri") == Some("");
    leads_nowhere.then_some("target_uri: redirect_uri needs a URL")
}

/// What edges are told of a setting that nothing is wrong with.
pub(super) fn page(value: &Value) -> Option<OwnPage> {
    if value["enabled"] != true {
        return None;
    }
    let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
    Some(match value["mode"].as_str() {
        Some(REDIRECT) => OwnPage::RedirectUri(BlockPage {
            target_uri: text("target_uri"),
            include_context: value["include_context"].as_bool(),
        }),
        _ => OwnPage::CustomizedBlockPage(Box::new(CustomPage {
            name: text("name"),
            header_text: text("header_text"),
            footer_text: text("footer_text"),
            logo_path: text("logo_path"),
            background_color: text("background_color"),
            mailto_address: text("mailto_address"),
            mailto_subject: text("mailto_subject"),
            suppress_footer: value["suppress_footer"] == true,
        })),
    })
}

fn is_address(text: &str) -> bool {
    let parts = text.split_once('@');
    parts.is_some_and(|(name, host)| !name.is_empty() && host.contains('.') && !host.contains('@'))
        && !text.chars().any(char::is_whitespace)
}

fn is_colour(text: &str) -> bool {
    text.strip_prefix('#')
        .is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}
