//! The table of operations: each resource's file exports its rows, and what the API has is what the rows say.
//!
//! The table finds the operation of a method and a path, says which permission it needs (before a body is read), which
//! body it takes (checked whole before the handler runs) and how its list is paged, and is printed as the OpenAPI document
//! ([`super::openapi`]). What is not in it answers 404. A segment that is written out in a pattern wins over a parameter.

use std::pin::Pin;

use super::Call;
use super::answer::{Kind, Member};
use super::body::Family;
use super::body_shape::{Field, Shape};
use super::envelope::{ApiError, Reply};
use super::{
    account, audit_log, batch, certificate, connectivity, device, explain, fallback, gateway, hostname_route,
    list, location, logging, member, openapi, origin_root, plan, route, rule, service_token, token, tunnel,
    virtual_network, warp_connector, zone,
};
use crate::permission::{Area, Level};

/// What a handler returns.
pub(super) type Outcome<'a> = Pin<Box<dyn Future<Output = Result<Reply, ApiError>> + Send + 'a>>;

/// What a body of ids is.
const IDS: &str = "an array of 1 to 200 ids";
/// The rows of every resource.
static TABLE: [&[Operation]; 25] = [
    openapi::OPERATIONS,
    account::OPERATIONS,
    member::OPERATIONS,
    audit_log::OPERATIONS,
    batch::OPERATIONS,
    token::OPERATIONS,
    tunnel::OPERATIONS,
    warp_connector::OPERATIONS,
    route::OPERATIONS,
    hostname_route::OPERATIONS,
    virtual_network::OPERATIONS,
    connectivity::OPERATIONS,
    zone::OPERATIONS,
    service_token::OPERATIONS,
    list::OPERATIONS,
    rule::OPERATIONS,
    gateway::OPERATIONS,
    location::OPERATIONS,
    certificate::OPERATIONS,
    origin_root::OPERATIONS,
    logging::OPERATIONS,
    plan::OPERATIONS,
    explain::OPERATIONS,
    device::OPERATIONS,
    fallback::OPERATIONS,
];

/// The methods that mean something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

impl Verb {
    pub(super) fn of(method: &http::Method) -> Option<Self> {
        [Self::Get, Self::Post, Self::Put, Self::Patch, Self::Delete]
            .into_iter()
            .find(|verb| verb.as_str().eq_ignore_ascii_case(method.as_str()))
    }

    /// As OpenAPI writes it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Post => "post",
            Self::Put => "put",
            Self::Patch => "patch",
            Self::Delete => "delete",
        }
    }
}

/// Who may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Every token that is good.
    Anyone,
    /// A token with this permission on the account.
    Needs(Area, Level),
}

/// How a list is paged (contract D, 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    /// It is no list.
    None,
    /// `page` and `per_page`.
    Page,
    /// One page with everything.
    Single,
    /// `cursor` and `per_page`.
    Cursor,
    /// `cursor` and `limit`.
    CursorAfter,
}

/// One row.
#[derive(Clone, Copy)]
pub(super) struct Operation {
    pub(super) verb: Verb,
    /// Segments behind the base; `{name}` is a parameter, and `{account}` or `{zone}` in second place is the account.
    pub(super) path: &'static str,
    pub(super) summary: &'static str,
    pub(super) access: Access,
    pub(super) style: Style,
    /// What its query may hold beside its paging; everything else there is ignored.
    pub(super) query: &'static [Member],
    pub(super) body: Option<(Family, Shape)>,
    /// What it answers; of a list, what a row of it is.
    pub(super) answer: Kind,
    pub(super) run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
}

impl Operation {
    const fn new(
        verb: Verb,
        path: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
    ) -> Self {
        let (access, style) = (Access::Anyone, Style::None);
        Self { verb, path, summary, access, style, query: &[], body: None, answer: Kind::Null, run }
    }

    pub(super) const fn get(
        path: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
    ) -> Self {
        Self::new(Verb::Get, path, summary, run)
    }

    pub(super) const fn post(
        path: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
    ) -> Self {
        Self::new(Verb::Post, path, summary, run)
    }

    pub(super) const fn put(
        path: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
    ) -> Self {
        Self::new(Verb::Put, path, summary, run)
    }

    pub(super) const fn patch(
        path: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
    ) -> Self {
        Self::new(Verb::Patch, path, summary, run)
    }

    pub(super) const fn delete(
        path: &'static str,
        summary: &'static str,
        run: for<'a> fn(&'a Call<'a>) -> Outcome<'a>,
    ) -> Self {
        Self::new(Verb::Delete, path, summary, run)
    }

    /// The permission that it needs.
    pub(super) const fn needs(self, area: Area, level: Level) -> Self {
        Self { access: Access::Needs(area, level), ..self }
    }

    /// It is a list of these, paged like this, which these parameters narrow.
    pub(super) const fn list(self, style: Style, row: Kind, query: &'static [Member]) -> Self {
        Self { style, query, answer: row, ..self }
    }

    /// What it answers; nothing but `null` if it is not said.
    pub(super) const fn answers(self, answer: Kind) -> Self {
        Self { answer, ..self }
    }

    /// What its query may hold.
    pub(super) const fn query(self, query: &'static [Member]) -> Self {
        Self { query, ..self }
    }

    /// Its body is an object with these fields.
    pub(super) const fn body(self, family: Family, fields: &'static [Field]) -> Self {
        Self { body: Some((family, Shape::Object(fields))), ..self }
    }

    /// Its body is an array of this shape, which its handler reads.
    pub(super) const fn items(self, family: Family, shape: Shape) -> Self {
        Self { body: Some((family, shape)), ..self }
    }

    /// Its body is an array of ids, which its handler reads.
    pub(super) const fn ids(self) -> Self {
        Self { body: Some((Family::Device, Shape::List(&Shape::Uuid, 200, IDS))), ..self }
    }

    fn pattern(&self) -> impl Iterator<Item = &'static str> {
        self.path.trim_start_matches('/').split('/')
    }

    /// Which segments of a matching path are parameters, the first in the highest bit: the smaller, the closer.
    fn closeness(&self, verb: Verb, segments: &[&str]) -> Option<u32> {
        let fits = |(pattern, segment): (&str, &&str)| parameter(pattern).is_some() || pattern == *segment;
        if self.verb != verb || self.pattern().count() != segments.len() {
            return None;
        }
        if !self.pattern().zip(segments).all(fits) {
            return None;
        }
        let bit = |bits, pattern| bits << 1 | u32::from(parameter(pattern).is_some());
        Some(self.pattern().fold(0, bit))
    }

    /// The parameters of a path that it fits.
    pub(super) fn parameters(&self, segments: &[&str]) -> Vec<(&'static str, String)> {
        let pairs = self.pattern().zip(segments);
        pairs.filter_map(|(pattern, segment)| Some((parameter(pattern)?, (*segment).to_owned()))).collect()
    }
}

/// The name of a parameter in a pattern.
pub(super) fn parameter(pattern: &str) -> Option<&str> {
    pattern.strip_prefix('{')?.strip_suffix('}')
}

/// Every operation.
pub(super) fn all() -> impl Iterator<Item = &'static Operation> {
    TABLE.iter().copied().flatten()
}

/// The operation of a method and a path.
pub(super) fn find(verb: Verb, segments: &[&str]) -> Option<&'static Operation> {
    let fitting = all().filter_map(|row| Some((row.closeness(verb, segments)?, row)));
    fitting.min_by_key(|(closeness, _)| *closeness).map(|(_, row)| row)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn check(verb: Verb, path: &str, expected: Option<&str>) {
        let segments: Vec<&str> = path.split('/').collect();
        assert_eq!(find(verb, &segments).map(|row| row.path), expected, "{path}");
    }

    #[test]
    fn a_written_segment_wins_over_a_parameter() {
        check(Verb::Get, "accounts/a/tokens/verify", Some("/accounts/{account}/tokens/verify"));
        check(Verb::Get, "accounts/a/tokens/x", Some("/accounts/{account}/tokens/{token}"));
        check(
            Verb::Get,
            "accounts/a/devices/registrations",
            Some("/accounts/{account}/devices/registrations"),
        );
        check(Verb::Get, "accounts/a/devices/x", Some("/accounts/{account}/devices/{id}"));
        check(Verb::Put, "accounts/a/devices/x", None);
        check(Verb::Get, "accounts/a/cfd_tunnel/x/y/z/w", None);
    }

    #[test]
    fn no_operation_stands_twice_in_the_table() {
        let place = |row: &Operation| {
            let pattern: Vec<&str> =
                row.pattern().map(|part| if parameter(part).is_some() { "{}" } else { part }).collect();
            (row.verb.as_str(), pattern.join("/"))
        };
        let distinct: BTreeSet<_> = all().map(place).collect();
        assert_eq!(distinct.len(), all().count());
    }

    #[test]
    fn what_changes_something_needs_a_permission() {
        // The first three are always refused, and each operation of a batch needs what it needs alone.
        let others = [
            (Verb::Patch, "/user"),
            (Verb::Post, "/accounts"),
            (Verb::Delete, "/accounts/{account}"),
            (Verb::Post, "/accounts/{account}/x/batch"),
        ];
        for row in all().filter(|row| row.verb != Verb::Get && !others.contains(&(row.verb, row.path))) {
            assert!(matches!(row.access, Access::Needs(_, Level::Write)), "{:?} {}", row.verb, row.path);
        }
    }
}
