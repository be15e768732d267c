//! One event, one line, whatever the strings in it.
//!
//! In: anything that serialises. Out: JSON without a raw control character, line separator,
//! invisible or direction-changing character: each is written as `\uXXXX`, so that no name that
//! an agent chose can break a line, or rewrite it in a terminal. Nothing is dropped.

use std::{borrow::Cow, fmt::Write as _, io, path::Path};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

use crate::hostile_text::json_escaped;

/// The line of a value, without the newline.
pub(super) fn line<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::with_capacity(2048);
    value.serialize(&mut Serializer::with_formatter(&mut bytes, LineFormatter))?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// A path as text. The flag says that it is not UTF-8: then the bytes that are not, and `%`,
/// are written as `%XX`, so that the path can be had back byte by byte.
pub(crate) fn path_text(path: &Path) -> (Cow<'_, str>, bool) {
    if let Some(text) = path.to_str() {
        return (Cow::Borrowed(text), false);
    }
    let mut out = String::new();
    for chunk in std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()).utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '%' => out.push_str("%25"),
                other => out.push(other),
            }
        }
        for byte in chunk.invalid() {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    (Cow::Owned(out), true)
}

struct LineFormatter;

impl Formatter for LineFormatter {
    fn write_string_fragment<W>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + io::Write,
    {
        if fragment.is_ascii() && !fragment.contains('\u{7f}') {
            return writer.write_all(fragment.as_bytes());
        }
        writer.write_all(json_escaped(fragment).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};

    use proptest::prelude::*;

    use super::*;
    use crate::hostile_text::is_hostile;

    #[test]
    fn hostile_strings_stay_on_their_line_and_come_back_whole() {
        for (name, hostile) in [
            ("newline", "a\nb\r\nc"),
            ("escape", "\u{1b}[2J\u{1b}[1;31m"),
            ("osc 52", "\u{1b}]52;c;ZWNobw==\u{7}"),
            ("nul", "a\0b"),
            ("delete", "a\u{7f}b"),
            ("c1 csi", "a\u{9b}31mb\u{85}c"),
            ("line separator", "a\u{2028}b\u{2029}c"),
            ("right-to-left override", "exe\u{202e}gpj.\u{2066}x\u{2069}\u{200f}\u{61c}"),
            ("zero width and byte order mark", "a\u{200b}\u{feff}\u{2060}b"),
            ("tags outside the basic plane", "a\u{e0041}\u{e007f}b"),
            ("quotes and backslashes", "\"},{\"sequence\":1,\\u0041"),
        ] {
            let line = line(&hostile).unwrap();
            assert!(!line.contains(is_hostile), "{name}: {line:?}");
            assert_eq!(serde_json::from_str::<String>(&line).unwrap(), hostile, "{name}");
        }
    }

    #[test]
    fn letters_of_any_language_stay_readable() {
        assert_eq!(line(&"Grüße, 世界").unwrap(), "\"Grüße, 世界\"");
    }

    #[test]
    fn path_that_is_not_utf8_is_flagged_and_nothing_of_it_is_lost() {
        let path = Path::new(OsStr::from_bytes(b"/tmp/100%/\xff\xc3(/\xe2\x82/ok"));
        let (text, encoded) = path_text(path);
        assert_eq!((text.as_ref(), encoded), ("/tmp/100%25/%FF%C3(/%E2%82/ok", true));
        assert_eq!(path_text(Path::new("/tmp/100%/ok")), ("/tmp/100%/ok".into(), false));
    }

    proptest! {
        #[test]
        fn any_string_is_one_line_and_comes_back(text in any::<String>()) {
            let line = line(&text).unwrap();
            prop_assert!(!line.contains(is_hostile));
            prop_assert_eq!(serde_json::from_str::<String>(&line).unwrap(), text);
        }

        #[test]
        fn any_path_comes_back(bytes in proptest::collection::vec(1_u8.., 0..64)) {
            let (text, encoded) = path_text(Path::new(OsStr::from_bytes(&bytes)));
            let back = if encoded { percent_decode(&text) } else { text.as_bytes().to_vec() };
            prop_assert_eq!(back, bytes);
        }
    }

    fn percent_decode(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, after)) = rest.split_first() {
            if first == b'%' {
                let hex = std::str::from_utf8(&after[..2]).unwrap();
                out.push(u8::from_str_radix(hex, 16).unwrap());
                rest = &after[2..];
            } else {
                out.push(first);
                rest = after;
            }
        }
        out
    }
}
