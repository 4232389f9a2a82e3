//! Durations as Go writes them: `300ms`, `1m30s`, `1.5h`.

use std::time::Duration;

/// A text is no duration, or a negative one, or one of more than a century.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected a duration such as 30s or 1m30s")]
pub struct DurationError;

/// Reads a duration: numbers with units `ns us ms s m h`, or a plain `0`.
///
/// # Errors
/// The text is something else.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut nanos = 0_u128;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or(DurationError)?;
        let (number, behind) = rest.split_at(number);
        let (unit, behind) = UNITS
            .iter()
            .find_map(|(name, nanos)| behind.strip_prefix(name).map(|behind| (*nanos, behind)))
            .ok_or(DurationError)?;
        let part = scaled(number, unit).ok_or(DurationError)?;
        nanos = nanos.checked_add(part).filter(|nanos| *nanos <= MAX_NANOS).ok_or(DurationError)?;
        rest = behind;
    }
    if text.is_empty() {
        return Err(DurationError);
    }
    u64::try_from(nanos).map(Duration::from_nanos).map_err(|_| DurationError)
}

/// A decimal number times a unit, exactly, what is below a nanosecond cut off.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    let mut nanos = u128::from(whole).checked_mul(unit)?;
    let mut place = unit;
    for digit in fraction.chars() {
        place /= 10;
        nanos += u128::from(digit.to_digit(10)?) * place;
    }
    Some(nanos)
}

/// Longer names first where one begins with another.
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
/// A century, far below what 64 bits of nanoseconds hold.
const MAX_NANOS: u128 = 100 * 366 * 24 * 3_600_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("300ms", 300),
            ("0", 0),
            ("0s", 0),
            (".5s", 500),
            ("+2s", 2_000),
            ("1h2m3.004s", 3_723_004),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "30", "-1s", "s", "1", ".s", "1d", "1s2", "1..5s", "99999999999h", "1 s"] {
            assert_eq!(parse_duration(text), Err(DurationError), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_duration_or_an_error(text in "[0-9.a-z+-]{0,20}|.{0,12}") {
            let _ = parse_duration(&text);
        }

        #[test]
        fn whole_seconds_are_exact(hours in 0u64..1000, seconds in 0u64..100_000) {
            let text = format!("{hours}h{seconds}s");
            prop_assert_eq!(parse_duration(&text), Ok(Duration::from_secs(hours * 3600 + seconds)));
        }
    }
}
