//! What a list that has one page is asked for (contract D, 7.2 and 8.1): `search`, `filter`, `order_by`, `direction`.

use std::cmp::Ordering;

use super::body::Family;
use super::envelope::ApiError;
use super::path::Query;

/// What a row says of itself to those who look for it.
pub(super) trait Selected {
    /// The texts in which `search` looks.
    fn texts(&self) -> Vec<&str>;

    /// The value of a key of `filter=KEY:VALUE`; none where there is no such key.
    fn value(&self, key: &str) -> Option<String>;

    /// The order by a key of `order_by`; none where there is no such key.
    fn order(&self, key: &str, other: &Self) -> Option<Ordering>;
}

/// Takes the rows that were asked for, in the order that was asked for; without one, in that in which they are.
pub(super) fn select<R: Selected>(
    mut rows: Vec<R>,
    query: &Query,
    family: Family,
    (filters, orders): (&[&str], &[&str]),
) -> Result<Vec<R>, ApiError> {
    if let Some(wanted) = query.text("search") {
        let wanted = wanted.to_lowercase();
        rows.retain(|row| row.texts().iter().any(|text| text.to_lowercase().contains(&wanted)));
    }
    for filter in query.all("filter") {
        let (key, wanted) = filter.split_once(':').unwrap_or((filter, ""));
        if !filters.contains(&key) {
            let message = format!("filter: expected KEY:VALUE with a KEY of {}", filters.join(", "));
            return Err(family.invalid(&message));
        }
        rows.retain(|row| row.value(key).is_some_and(|value| value.eq_ignore_ascii_case(wanted)));
    }
    if let Some(key) = query.text("order_by") {
        if !orders.contains(&key) {
            return Err(family.invalid(&format!("order_by: expected {}", orders.join(", "))));
        }
        rows.sort_by(|a, b| a.order(key, b).unwrap_or(Ordering::Equal));
    }
    match query.text("direction") {
        None | Some("asc") => {}
        Some("desc") => rows.reverse(),
        Some(_) => return Err(family.invalid("direction: expected asc or desc")),
    }
    Ok(rows)
}
