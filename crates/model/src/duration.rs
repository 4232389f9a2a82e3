//! Durations as Go writes them, such as `8760h` or `1h30m` (Go's `time.ParseDuration`): in YAML files, flags and the API.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The longest duration: Go's, 2^63 - 1 nanoseconds, some 292 years.
const MAX_NANOSECONDS: u128 = i64::MAX as u128;
/// Longest text that is read, in bytes.
const MAX_TEXT_BYTES: usize = 64;

/// A duration that is not negative.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GoDuration(Duration);

/// A text is no duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 30s or 1h30m")]
pub struct NotADuration;

impl GoDuration {
    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// The duration as Go's `Duration.String` prints it: `1h0m0s`, `5m0s`, `1.5s`, `20ms`.
    pub fn verbose(self) -> String {
        let (seconds, nanoseconds) = (self.0.as_secs(), self.0.subsec_nanos());
        let decimal = |whole: u64, part: u32, digits: usize, unit: &str| {
            let part = format!("{part:0digits$}");
            let part = part.trim_end_matches('0');
            let point = if part.is_empty() { "" } else { "." };
            format!("{whole}{point}{part}{unit}")
        };
        if seconds == 0 {
            return match nanoseconds {
                0 => "0s".into(),
                1..1_000 => format!("{nanoseconds}ns"),
                1_000..1_000_000 => {
                    decimal(u64::from(nanoseconds / 1_000), nanoseconds % 1_000, 3, "\u{b5}s")
                }
                _ => decimal(u64::from(nanoseconds / 1_000_000), nanoseconds % 1_000_000, 6, "ms"),
            };
        }
        let rest = decimal(seconds % 60, nanoseconds, 9, "s");
        match (seconds / 3600, seconds / 60 % 60) {
            (0, 0) => rest,
            (0, minutes) => format!("{minutes}m{rest}"),
            (hours, minutes) => format!("{hours}h{minutes}m{rest}"),
        }
    }
}

const UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
];

impl FromStr for GoDuration {
    type Err = NotADuration;

    fn from_str(text: &str) -> Result<Self, NotADuration> {
        if text == "0" {
            return Ok(Self(Duration::ZERO));
        }
        if text.is_empty() || text.len() > MAX_TEXT_BYTES {
            return Err(NotADuration);
        }
        let (mut rest, mut total) = (text, 0u128);
        while !rest.is_empty() {
            let (nanoseconds, after) = term(rest).ok_or(NotADuration)?;
            total =
                total.checked_add(nanoseconds).filter(|sum| *sum <= MAX_NANOSECONDS).ok_or(NotADuration)?;
            rest = after;
        }
        u64::try_from(total).map(|total| Self(Duration::from_nanos(total))).map_err(|_| NotADuration)
    }
}

/// Reads one number with its unit: the nanoseconds, and the text behind it.
fn term(text: &str) -> Option<(u128, &str)> {
    let (whole, rest) = digits(text);
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => digits(rest),
        None => ("", rest),
    };
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let unit_end = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let mut nanoseconds = whole.checked_mul(*scale)?;
    // Below a nanosecond nothing counts: 18 digits of a fraction are more than there are nanoseconds in an hour.
    let fraction = &fraction[..fraction.len().min(18)];
    if !fraction.is_empty() {
        let power = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        nanoseconds = nanoseconds.checked_add(fraction.parse::<u128>().ok()?.checked_mul(*scale)? / power)?;
    }
    Some((nanoseconds, rest))
}

fn digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

impl fmt::Display for GoDuration {
    /// Hours, minutes, seconds and nanoseconds, those that are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let parts = [
            (seconds / 3600, "h"),
            (seconds / 60 % 60, "m"),
            (seconds % 60, "s"),
            (u64::from(self.0.subsec_nanos()), "ns"),
        ];
        if self.0.is_zero() {
            return f.write_str("0s");
        }
        parts.iter().filter(|(count, _)| *count > 0).try_for_each(|(count, unit)| write!(f, "{count}{unit}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(text: &str, expected: Option<Duration>) {
        assert_eq!(text.parse::<GoDuration>().ok().map(GoDuration::get), expected, "{text:?}");
    }

    #[test]
    fn durations_are_read_as_go_reads_them() {
        check("8760h", Some(Duration::from_hours(8760)));
        check("1h30m", Some(Duration::from_mins(90)));
        check("1.5h", Some(Duration::from_mins(90)));
        check(".5s", Some(Duration::from_millis(500)));
        check("1h1ns", Some(Duration::new(3600, 1)));
        check("3\u{b5}s", Some(Duration::from_micros(3)));
        check("0", Some(Duration::ZERO));
        check("0s", Some(Duration::ZERO));
        for wrong in ["", "5", "h", ".h", "1d", "-1h", "1 h", "1h ", "99999999999h", "1..5h", "forever"] {
            check(wrong, None);
        }
    }

    #[test]
    fn the_verbose_form_is_gos() {
        for (text, verbose) in [
            ("5m", "5m0s"),
            ("1h", "1h0m0s"),
            ("1h30m0s", "1h30m0s"),
            ("90m", "1h30m0s"),
            ("1.5s", "1.5s"),
            ("1h500ms", "1h0m0.5s"),
            ("20ms", "20ms"),
            ("1500us", "1.5ms"),
            ("1500ns", "1.5\u{b5}s"),
            ("7ns", "7ns"),
            ("0", "0s"),
        ] {
            assert_eq!(text.parse::<GoDuration>().unwrap().verbose(), verbose, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_duration_reads_as_it_prints(nanoseconds in 0..=i64::MAX.unsigned_abs()) {
            let duration = GoDuration(Duration::from_nanos(nanoseconds));
            prop_assert_eq!(duration.verbose().parse(), Ok(duration));
            prop_assert_eq!(duration.to_string().parse(), Ok(duration));
        }

        #[test]
        fn any_text_is_a_duration_or_an_error(text in "[0-9.a-z\u{b5} -]{0,70}") {
            if let Ok(duration) = text.parse::<GoDuration>() {
                prop_assert_eq!(duration.to_string().parse(), Ok(duration));
            }
        }
    }
}
