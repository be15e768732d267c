//! Moments as documents and command lines write them (RFC 3339).
//!
//! In: text, with `Z` or an offset from UTC. Out: a moment; `None` for every other text. The shape is
//! checked here, the calendar by humantime, which passes over what follows a sound time.

use std::time::{Duration, SystemTime};

/// Digits of a second's fraction: nanoseconds.
const FRACTION_LIMIT: usize = 9;
/// `2030-01-31T12:00:00`, a digit for each `0`.
const SHAPE: &str = "0000-00-00T00:00:00";

/// The moment of a text.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    let (local, offset) = split_offset(text)?;
    let (whole, fraction) = local.split_at_checked(SHAPE.len())?;
    let fits = |(byte, shape): (u8, u8)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    };
    if !whole.bytes().zip(SHAPE.bytes()).all(fits) || !is_fraction(fraction) {
        return None;
    }
    let time = humantime::parse_rfc3339(&format!("{local}Z")).ok()?;
    match offset {
        Offset::East(by) => time.checked_sub(by),
        Offset::West(by) => time.checked_add(by),
    }
}

/// A moment in UTC, in whole seconds.
pub(crate) fn render(moment: SystemTime) -> String {
    humantime::format_rfc3339_seconds(moment).to_string()
}

enum Offset {
    East(Duration),
    West(Duration),
}

fn is_fraction(text: &str) -> bool {
    let Some(digits) = text.strip_prefix('.') else { return text.is_empty() };
    (1..=FRACTION_LIMIT).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn split_offset(text: &str) -> Option<(&str, Offset)> {
    if let Some(local) = text.strip_suffix('Z') {
        return Some((local, Offset::East(Duration::ZERO)));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hours, minutes) = offset.get(1..)?.split_once(':')?;
    let digits = |text: &str, limit: u64| {
        let all = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u64>().ok().filter(|number| all && *number < limit)
    };
    let by = Duration::from_secs(digits(hours, 24)? * 3600 + digits(minutes, 60)? * 60);
    match offset.as_bytes().first()? {
        b'+' => Some((local, Offset::East(by))),
        b'-' => Some((local, Offset::West(by))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_may_have_an_offset() {
        let utc = parse("2030-01-31T12:00:00Z").unwrap();
        for same in [
            "2030-01-31T13:00:00+01:00",
            "2030-01-31T06:30:00-05:30",
            "2030-01-31T12:00:00.000+00:00",
        ] {
            assert_eq!(parse(same), Some(utc), "{same}");
        }
        assert_eq!(render(utc), "2030-01-31T12:00:00Z");
        let fraction = parse("2030-01-31T12:00:00.5Z").unwrap();
        assert_eq!(fraction.duration_since(utc).unwrap(), Duration::from_millis(500));
    }

    #[test]
    fn other_texts_are_no_times() {
        for bad in [
            "",
            "Z",
            "tomorrow",
            "2030-01-31",
            "2030-01-31T12:00:00",
            "2030-01-31 12:00:00Z",
            "2030-01-31t12:00:00z",
            "2030-01-31T12:00:00+1:00",
            "2030-01-31T12:00:00+25:00",
            "2030-01-31T12:00:00+00:60",
            "2030-01-31T12:00:00ZabcZ",
            "2030-01-31T12:00:00.Z",
            "2030-01-31T12:00:00.1234567890Z",
            "2030-01-31T12:00:00,5Z",
            "2030-01-31T12:00Z",
            "2030-13-31T12:00:00Z",
            "2030-02-30T12:00:00Z",
            "2030-01-31T24:00:00Z",
            "1969-12-31T23:59:59Z",
            "+030-01-31T12:00:00Z",
            "\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
