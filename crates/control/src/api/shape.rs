//! How values are written in every object.

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::format_description::well_known::Rfc3339;
use time::macros::format_description;

const TIME: &[BorrowedFormatItem<'static>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z");

/// A time in UTC with microseconds (contract D, 1.8).
pub(super) fn time(time: OffsetDateTime) -> Value {
    let utc = time.to_offset(time::UtcOffset::UTC);
    utc.format(TIME).map_or(Value::Null, Value::String)
}

/// A time in UTC with as many digits as it needs, as people write it: what they wrote comes back.
pub(super) fn whole_time(time: OffsetDateTime) -> Value {
    let utc = time.to_offset(time::UtcOffset::UTC);
    utc.format(&Rfc3339).map_or(Value::Null, Value::String)
}

/// A time, or `null`: never an empty text (contract D, 1.8).
pub(super) fn maybe_time(moment: Option<OffsetDateTime>) -> Value {
    moment.map_or(Value::Null, time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_in_utc_with_microseconds() {
        let moment = time::macros::datetime!(2026-01-02 05:04:05.123456789 +02:00);
        assert_eq!(time(moment), "2026-01-02T03:04:05.123456Z");
        assert_eq!(maybe_time(None), Value::Null);
    }
}
