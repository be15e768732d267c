//! Text for terminals.
//!
//! In: strings that agents may have chosen (paths, tasks, destinations), moments, durations. Out:
//! text that can't move the cursor, change colours, hide or reverse characters, whoever wrote it.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use crate::hostile_text::is_hostile;

/// One line: hostile characters as `\n`, `\u{1b}`, `\u{202e}`.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    escaped(text, is_hostile)
}

/// As [`printable`], with its newline.
pub(super) fn line(text: &str) -> String {
    printable(text).into_owned() + "\n"
}

/// As [`printable`], but newlines stay.
pub(super) fn printable_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| character != '\n' && is_hostile(character))
}

fn escaped(text: &str, hostile: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if hostile(character) {
            safe.extend(character.escape_default());
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

/// The two largest units that matter: `350 ms`, `12s`, `4m`, `4m 10s`, `3h 5m`, `2d 4h`.
pub(super) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{large}{unit}")
        } else {
            format!("{large}{unit} {small}{small_unit}")
        }
    };
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

/// `in 4m`, `12s ago`, `now`.
pub(super) fn relative(moment: SystemTime, now: SystemTime) -> String {
    let second = Duration::from_secs(1);
    match moment.duration_since(now) {
        Ok(ahead) if ahead >= second => format!("in {}", span(ahead)),
        Err(past) if past.duration() >= second => format!("{} ago", span(past.duration())),
        Ok(_) | Err(_) => "now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_can_not_reach_a_terminal() {
        for (hostile, shown) in [
            ("a\u{1b}[31mred", "a\\u{1b}[31mred"),
            ("\u{1b}]52;c;AAAA\u{7}", "\\u{1b}]52;c;AAAA\\u{7}"),
            ("two\nlines\r", "two\\nlines\\r"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("exe\u{202e}gpj.sh", "exe\\u{202e}gpj.sh"),
            ("a\u{2028}b\u{200b}c\0", "a\\u{2028}b\\u{200b}c\\u{0}"),
            ("caf\u{e9} \u{4e16}\u{754c}", "caf\u{e9} \u{4e16}\u{754c}"),
        ] {
            assert_eq!(printable(hostile), shown);
        }
        assert_eq!(printable_lines("a: 1\nb: \u{1b}\n"), "a: 1\nb: \\u{1b}\n");
    }

    #[test]
    fn durations_are_short() {
        for (ms, shown) in [
            (0, "0 ms"),
            (350, "350 ms"),
            (12_000, "12s"),
            (240_000, "4m"),
            (250_000, "4m 10s"),
            (11_100_000, "3h 5m"),
            (187_200_000, "2d 4h"),
            (172_800_000, "2d"),
        ] {
            assert_eq!(span(Duration::from_millis(ms)), shown);
        }
    }

    #[test]
    fn moments_are_told_from_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(1);
        assert_eq!(relative(now + Duration::from_mins(4), now), "in 4m");
        assert_eq!(relative(now - Duration::from_secs(12), now), "12s ago");
        assert_eq!(relative(now + Duration::from_millis(400), now), "now");
        assert_eq!(relative(now - Duration::from_millis(400), now), "now");
    }
}
