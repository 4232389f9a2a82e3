//! Pages for people: the one that is built in, and the account's own.
//!
//! What holds: all that comes from elsewhere is escaped, an account's words included; a page runs no script, and loads
//! nothing but an image.

use std::fmt::Write as _;

use adit_model::CustomPage;

use super::{Encoded, Why};
use crate::gate::PageContext;

/// What a page may do, for browsers (Content Security Policy).
pub(super) const MAY_LOAD: &str = "default-src 'none'; img-src http: https:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// The page for what is so; a block in the account's words, if it has some.
pub(super) fn page(why: Why<'_>, host: &str, context: &PageContext, own: Option<&CustomPage>) -> String {
    let built_in = CustomPage::default();
    let own = own.unwrap_or(&built_in);
    let title = match own.name.as_str() {
        "" if why.is_block() => "Access is blocked",
        "" => "The site cannot be reached",
        name => name,
    };
    let heading = if own.header_text.is_empty() { title } else { &own.header_text };
    let mut page = String::from("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>");
    let _ = write!(page, "{}</title>", Escaped(title));
    if is_colour(&own.background_color) {
        let _ = write!(page, "<style>body{{background-color:{}}}</style>", own.background_color);
    }
    if !own.logo_path.is_empty() {
        let _ = write!(page, "<img src=\"{}\" alt=\"{}\">", Escaped(&own.logo_path), Escaped(title));
    }
    let _ = write!(page, "<h1>{}</h1><p>{}</p><dl>", Escaped(heading), Escaped(why.sentence));
    let rule = why.rule.map(|rule| rule.id.to_string());
    let rows = [
        ("Site", Some(host)),
        ("Rule", rule.as_deref()),
        ("Reason", Some(why.reason)),
        ("Your address", Some(context.source.as_str())),
        ("Your device", Some(context.device.as_str())),
        ("Time", Some(context.time.as_str())),
    ];
    for (name, value) in rows {
        if let Some(value) = value {
            let _ = write!(page, "<dt>{name}<dd>{}", Escaped(value));
        }
    }
    page.push_str("</dl>");
    if !own.mailto_address.is_empty() {
        let _ = write!(page, "<p><a href=\"mailto:{}", Escaped(&address(&own.mailto_address)));
        if !own.mailto_subject.is_empty() {
            let _ = write!(page, "?subject={}", Encoded(&own.mailto_subject));
        }
        let _ = write!(page, "\">{}</a></p>", Escaped(&own.mailto_address));
    }
    if !own.suppress_footer && !own.footer_text.is_empty() {
        let _ = write!(page, "<footer>{}</footer>", Escaped(&own.footer_text));
    }
    page.push_str("</html>\n");
    page
}

/// An address of mail as a part of a URL: its `@` stays.
fn address(text: &str) -> String {
    text.split('@').map(|part| Encoded(part).to_string()).collect::<Vec<_>>().join("@")
}

/// `#rrggbb`, which is looked at again where it goes into a style.
fn is_colour(text: &str) -> bool {
    text.strip_prefix('#')
        .is_some_and(|digits| digits.len() == 6 && digits.bytes().all(|digit| digit.is_ascii_hexdigit()))
}

struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '&' => f.write_str("&amp;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> PageContext {
        PageContext {
            account: "account".into(),
            source: "203.0.113.9".into(),
            device: "laptop".into(),
            user: "jo@example.com".into(),
            time: "2026-01-02T03:04:05Z".into(),
            destination: "198.51.100.7:443".parse().unwrap(),
            page: None,
        }
    }

    const WHY: Why<'static> = Why { status: 403, reason: "blocked", sentence: "No.", rule: None };

    #[test]
    fn what_comes_from_elsewhere_is_escaped() {
        assert_eq!(Escaped("<script>'\"&").to_string(), "&lt;script&gt;&#39;&quot;&amp;");
        assert_eq!(address("a b\"@example.com"), "a%20b%22@example.com");
        assert!(is_colour("#00aaFF") && !is_colour("#00aaF") && !is_colour("red}") && !is_colour("#00aaF;"));
    }

    proptest::proptest! {
        #[test]
        fn an_accounts_words_open_no_tag(text in "[a-z<>\"'&;=/@ ]{0,40}", host in "[a-z<>\"']{0,20}") {
            let own = CustomPage {
                name: text.clone(),
                header_text: text.clone(),
                footer_text: text.clone(),
                logo_path: text.clone(),
                background_color: text.clone(),
                mailto_address: text.clone(),
                mailto_subject: text.clone(),
                suppress_footer: false,
            };
            let written = page(WHY, &host, &context(), Some(&own));
            let words = "x".repeat(text.chars().count().min(1));
            let plain = CustomPage {
                name: words.clone(),
                header_text: words.clone(),
                footer_text: words.clone(),
                logo_path: words.clone(),
                background_color: String::new(),
                mailto_address: words.clone(),
                mailto_subject: words,
                suppress_footer: false,
            };
            let bare = page(WHY, "x", &context(), Some(&plain));
            let tags = |page: &str| (page.matches('<').count(), page.matches('>').count(), page.matches('"').count());
            proptest::prop_assert_eq!(tags(&written), tags(&bare));
        }
    }
}
