//! Paths and queries, taken apart: split first, decoded then, so that an escaped `/` stays inside its segment (contract
//! D, 1.3).

use adit_store::{Deleted, Window};
use http::StatusCode;
use serde_json::{Value, json};
use std::str::FromStr;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::envelope::ApiError;

/// Most parameters that a query may have; a list of ids is the longest that anyone sends.
const MAX_PARAMETERS: usize = 1000;

/// The segments of a path behind the base, decoded; `None` if one is no text, or holds NUL.
pub(super) fn segments(path: &str) -> Option<Vec<String>> {
    let path = path.trim_matches('/');
    if path.is_empty() {
        return Some(Vec::new());
    }
    path.split('/').map(|segment| decoded(segment.as_bytes())).collect()
}

/// A segment that was escaped twice, decoded for the second time; `None` if it is no text then, or holds NUL.
pub(super) fn unescaped(segment: &str) -> Option<String> {
    decoded(segment.as_bytes())
}

/// Percent-decoding (RFC 3986, 2.1).
fn decoded(text: &[u8]) -> Option<String> {
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let (mut bytes, mut at) = (Vec::with_capacity(text.len()), 0);
    while let Some(&byte) = text.get(at) {
        if byte == b'%' {
            let (high, low) = digit(at + 1).zip(digit(at + 2))?;
            bytes.push(u8::try_from(high << 4 | low).ok()?);
            at += 3;
        } else {
            bytes.push(byte);
            at += 1;
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

/// The parameters of a query. Those that nobody asks for are ignored (contract D, 1.2), empty ones are absent.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

/// Which page of a list is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paging {
    page: u64,
    per_page: u64,
}

impl Query {
    pub(super) fn parse(text: &str) -> Result<Self, ApiError> {
        let form = |part: &str| decoded(part.replace('+', " ").as_bytes());
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            form(name).zip(form(value))
        });
        let wrong = || invalid("the query is no percent-encoded text without NUL");
        let pairs = pairs.take(MAX_PARAMETERS + 1).collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
        if pairs.len() > MAX_PARAMETERS {
            return Err(invalid(&format!("the query has more than {MAX_PARAMETERS} parameters")));
        }
        Ok(Self(pairs))
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, value)| key == name && !value.is_empty()).map(|(_, value)| value.as_str())
    }

    /// An array parameter: its key repeated, its values separated by commas, or both (contract D, 1.10).
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        let values = self.0.iter().filter(|(key, _)| key == name || key.strip_suffix("[]") == Some(name));
        values
            .flat_map(|(_, value)| value.split(','))
            .map(str::trim)
            .filter(|value| !value.is_empty())
            .collect()
    }

    pub(super) fn flag(&self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.text(name) {
            None => Ok(None),
            Some("true" | "1") => Ok(Some(true)),
            Some("false" | "0") => Ok(Some(false)),
            Some(_) => Err(invalid(&format!("{name}: expected true or false"))),
        }
    }

    /// `is_deleted`: absent is both (contract D, 6.2).
    pub(super) fn deleted(&self) -> Result<Deleted, ApiError> {
        Ok(match self.flag("is_deleted")? {
            None => Deleted::Both,
            Some(true) => Deleted::Only,
            Some(false) => Deleted::Without,
        })
    }

    pub(super) fn parsed<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, ApiError> {
        let parse = |text: &str| text.parse().map_err(|error| invalid(&format!("{name}: {error}")));
        self.text(name).map(parse).transpose()
    }

    pub(super) fn parsed_all<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &str,
    ) -> Result<Vec<T>, ApiError> {
        let parse = |text: &str| text.parse().map_err(|error| invalid(&format!("{name}: {error}")));
        self.all(name).into_iter().map(parse).collect()
    }

    pub(super) fn time(&self, name: &str) -> Result<Option<OffsetDateTime>, ApiError> {
        // A `+` of the offset that was not escaped has become a space.
        let parse = |text: &str| {
            let wrong = |_| invalid(&format!("{name}: expected a time such as 2026-01-02T03:04:05Z"));
            OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339).map_err(wrong)
        };
        self.text(name).map(parse).transpose()
    }

    fn count(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|digit| digit.is_ascii_digit());
            // What is more than can be counted is more than any largest.
            let count = digits.then(|| text.parse().unwrap_or(u64::MAX)).filter(|count| *count > 0);
            count.ok_or_else(|| invalid(&format!("{name}: expected a number of at least 1")))
        };
        self.text(name).map(parse).transpose()
    }

    /// How many rows are wanted of a list that goes on by cursor.
    pub(super) fn amount(&self, name: &str, default: u64, largest: u64) -> Result<u64, ApiError> {
        Ok(self.count(name)?.unwrap_or(default).min(largest))
    }

    /// Which page is wanted; a size above the largest is cut to it (contract D, 4).
    pub(super) fn paging(&self, default: u64, largest: u64) -> Result<Paging, ApiError> {
        let page = self.count("page")?.unwrap_or(1);
        let per_page = self.count("per_page")?.unwrap_or(default).min(largest);
        Ok(Paging { page, per_page })
    }
}

impl Paging {
    pub(super) fn window(self) -> Window {
        Window { offset: (self.page - 1).saturating_mul(self.per_page), limit: self.per_page }
    }

    pub(super) const fn page(self) -> u64 {
        self.page
    }

    pub(super) const fn per_page(self) -> u64 {
        self.per_page
    }

    /// The `result_info` of a page with this many rows, of a list with that many.
    pub(super) fn info(self, count: usize, total: u64) -> Value {
        json!({
            "page": self.page, "per_page": self.per_page, "count": count, "total_count": total,
            "total_pages": total.div_ceil(self.per_page),
        })
    }
}

fn invalid(message: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, 1003, message)
}

/// Feeds any text to the parsers of this module.
pub(super) fn fuzz(text: &str) {
    if let Some(segments) = segments(text) {
        assert!(segments.iter().all(|segment| !segment.contains('\0')), "NUL is refused");
    }
    if let Ok(query) = Query::parse(text) {
        let rows = query.paging(20, 1000).map(Paging::per_page);
        assert!(rows.is_err() || rows.is_ok_and(|rows| (1..=1000).contains(&rows)), "pages are bounded");
        let _read = (query.all("a"), query.flag("a"), query.time("a"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_slash_stays_in_its_segment() {
        let read = segments("/routes/network/10.0.0.0%2F8/").unwrap();
        assert_eq!(read, ["routes", "network", "10.0.0.0/8"]);
        assert_eq!(segments("/"), Some(vec![]));
        for wrong in ["/%", "/%2", "/%zz", "/%00", "/%ff"] {
            assert_eq!(segments(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn arrays_come_repeated_or_with_commas() {
        let query = Query::parse("id=a&id=b,c&other=1&id=&id[]=d").unwrap();
        assert_eq!(query.all("id"), ["a", "b", "c", "d"]);
        assert_eq!(query.text("other"), Some("1"));
        assert_eq!(query.text("absent"), None);
    }

    #[test]
    fn sizes_are_cut_and_nonsense_is_refused() {
        let paging = |text: &str| Query::parse(text).unwrap().paging(20, 1000);
        assert_eq!(paging("").unwrap(), Paging { page: 1, per_page: 20 });
        assert_eq!(paging("per_page=5000&page=3").unwrap().window(), Window { offset: 2000, limit: 1000 });
        assert_eq!(paging("per_page=99999999999999999999999").unwrap().window().limit, 1000);
        for wrong in ["page=0", "page=-1", "page=x", "page=%2B1", "page=1.5", "per_page=0"] {
            assert_eq!(paging(wrong).unwrap_err().status, StatusCode::BAD_REQUEST, "{wrong}");
        }
        assert_eq!(paging(&format!("page={}", u64::MAX)).unwrap().window().offset, u64::MAX);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_path_and_a_query_or_an_error(text in "[a-z0-9%&=+/,\\[\\]-]{0,80}") {
            fuzz(&text);
        }
    }
}
