//! The names under which search engines and YouTube serve what is fit for everybody.
//!
//! Each provider documents a name that a resolver may answer with in place of its own.

use adit_model::Action;

/// What a name is answered with by a rule of this action; `None` for names that have no such place.
pub(crate) fn safe_host(action: Action, name: &str) -> Option<&'static str> {
    if action == Action::Ytrestricted {
        return YOUTUBE.contains(&name).then_some("restrict.youtube.com");
    }
    let bare = name.strip_prefix("www.").unwrap_or(name);
    let known = SEARCH.iter().find(|(names, _)| names.contains(&bare)).map(|(_, safe)| *safe);
    known.or_else(|| is_google(bare).then_some("forcesafesearch.google.com"))
}

/// `google.` and a top-level domain, or one of those below which countries register: `google.com`, `google.de`,
/// `google.co.uk`, `google.com.br`.
fn is_google(bare: &str) -> bool {
    let country = |label: &str| label.len() == 2 && label.bytes().all(|byte| byte.is_ascii_lowercase());
    match bare.strip_prefix("google.") {
        None => false,
        Some("com" | "cat") => true,
        Some(rest) => match rest.split_once('.') {
            None => country(rest),
            Some((second, first)) => matches!(second, "co" | "com") && country(first),
        },
    }
}

const SEARCH: [(&[&str], &str); 5] = [
    (&["bing.com"], "strict.bing.com"),
    (&["duckduckgo.com", "start.duckduckgo.com"], "safe.duckduckgo.com"),
    (&["yandex.com", "yandex.ru", "yandex.kz", "yandex.by"], "familysearch.yandex.ru"),
    (&["pixabay.com"], "safesearch.pixabay.com"),
    (&["ecosia.org"], "strict-safe-search.ecosia.org"),
];

const YOUTUBE: [&str; 5] = [
    "www.youtube.com",
    "m.youtube.com",
    "youtubei.googleapis.com",
    "youtube.googleapis.com",
    "www.youtube-nocookie.com",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_engine_has_a_safe_host_and_nobody_else_has() {
        #[track_caller]
        fn check(name: &str, expected: Option<&str>) {
            assert_eq!(safe_host(Action::Safesearch, name), expected, "{name}");
        }
        for google in ["google.com", "www.google.com", "www.google.de", "google.co.uk", "www.google.com.br"] {
            check(google, Some("forcesafesearch.google.com"));
        }
        check("www.bing.com", Some("strict.bing.com"));
        check("duckduckgo.com", Some("safe.duckduckgo.com"));
        for other in
            ["mail.google.com", "google.example.com", "google.org.evil", "notbing.com", "www.youtube.com", ""]
        {
            check(other, None);
        }
        assert_eq!(safe_host(Action::Ytrestricted, "m.youtube.com"), Some("restrict.youtube.com"));
        assert_eq!(safe_host(Action::Ytrestricted, "www.google.com"), None);
    }
}
