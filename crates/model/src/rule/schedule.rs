//! When a rule is in force: times of each day of the week (contract D, 8.8).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The days by their keys in the API, Monday first.
pub const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// The most pieces of one day (contract D, 8.8).
pub const MAX_TIMES_OF_DAY: usize = 6;
/// The minutes of a day.
const DAY: u16 = 24 * 60;
/// The longest text of a day, in bytes: six pieces with blanks around every number.
const MAX_TEXT_BYTES: usize = 200;

/// Pieces of one day, in minutes since midnight: ascending, none empty, none touching another's inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DayTimes(Vec<(u16, u16)>);

/// A text that is no [`DayTimes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// Not pieces of a day.
    #[error("expected times such as 08:00-12:30,13:30-17:00, each from 00:00 to 24:00")]
    Malformed,
    /// A piece ends before it begins, or begins before the one before it ends.
    #[error("expected times that ascend and do not overlap, such as 08:00-12:30,13:30-17:00")]
    Order,
    /// More than [`MAX_TIMES_OF_DAY`].
    #[error("expected at most {MAX_TIMES_OF_DAY} pieces of a day")]
    TooMany,
}

impl DayTimes {
    /// From and until when, in minutes since midnight, the end exclusive.
    pub fn minutes(&self) -> &[(u16, u16)] {
        &self.0
    }
}

impl FromStr for DayTimes {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(ScheduleError::Malformed);
        }
        let mut pieces: Vec<(u16, u16)> = Vec::new();
        for piece in text.split(',') {
            let (from, until) = piece.split_once('-').ok_or(ScheduleError::Malformed)?;
            let minute = |text: &str| minute(text.trim_matches(' ')).ok_or(ScheduleError::Malformed);
            let (from, until) = (minute(from)?, minute(until)?);
            if from >= until || pieces.last().is_some_and(|(_, before)| from < *before) {
                return Err(ScheduleError::Order);
            }
            pieces.push((from, until));
        }
        if pieces.len() > MAX_TIMES_OF_DAY {
            return Err(ScheduleError::TooMany);
        }
        Ok(Self(pieces))
    }
}

/// Reads `HH:MM`, up to `24:00`.
fn minute(text: &str) -> Option<u16> {
    let (hour, minute) = text.split_once(':')?;
    let two = |text: &str| {
        let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (hour, minute) = (two(hour)?, two(minute)?);
    let whole = hour * 60 + minute;
    (minute < 60 && whole <= DAY).then_some(whole)
}

impl fmt::Display for DayTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (from, until)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{:02}:{:02}-{:02}:{:02}", from / 60, from % 60, until / 60, until % 60)?;
        }
        Ok(())
    }
}

impl TryFrom<String> for DayTimes {
    type Error = ScheduleError;

    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<DayTimes> for String {
    fn from(times: DayTimes) -> Self {
        times.to_string()
    }
}

/// A week. A day without times is one on which the rule is not in force.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Schedule {
    /// The days, Monday first.
    pub days: [Option<DayTimes>; 7],
    /// The time zone by its IANA name; without one, UTC.
    pub time_zone: Option<String>,
}

/// Feeds any bytes to the parser of times.
#[doc(hidden)]
pub fn fuzz_schedule(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(times) = text.parse::<DayTimes>()
    {
        assert_eq!(times.to_string().parse(), Ok(times.clone()), "times read as they print");
        let mut last = 0;
        for (from, until) in times.minutes() {
            assert!(*from >= last && from < until && *until <= DAY, "times ascend");
            last = *until;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Result<&str, ScheduleError>) {
        let read = text.parse::<DayTimes>().map(|times| times.to_string());
        assert_eq!(read, expected.map(str::to_owned), "{text:?}");
    }

    #[test]
    fn times_are_read_in_order_and_written_without_blanks() {
        check("08:00-12:30,13:30-17:00", Ok("08:00-12:30,13:30-17:00"));
        check(" 08:00 - 12:30 , 12:30-24:00 ", Ok("08:00-12:30,12:30-24:00"));
        check("00:00-24:00", Ok("00:00-24:00"));
        for wrong in ["", "8:00-9:00", "08:00", "08:00-12:60", "08:00-24:01", "08:00-12:00,", "+1:00-02:00"] {
            check(wrong, Err(ScheduleError::Malformed));
        }
        check("08:00-08:00", Err(ScheduleError::Order));
        check("12:00-13:00,08:00-09:00", Err(ScheduleError::Order));
        check("08:00-12:00,11:59-13:00", Err(ScheduleError::Order));
        let seven = (0..7).map(|hour| format!("0{hour}:00-0{hour}:30")).collect::<Vec<_>>().join(",");
        check(&seven, Err(ScheduleError::TooMany));
    }

    proptest! {
        #[test]
        fn any_text_is_times_or_an_error(text in "[0-9:, -]{0,40}", pieces in "([0-2][0-9]:[0-5][0-9]-[0-2][0-9]:[0-5][0-9],?){0,4}") {
            fuzz_schedule(text.as_bytes());
            fuzz_schedule(pieces.trim_end_matches(',').as_bytes());
        }
    }
}
