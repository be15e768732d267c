//! Characters with which a string can deceive whoever reads it.
//!
//! In: text that agents may have chosen. Out: the same text with those characters as `\uXXXX`, the
//! form that JSON reads back. The one list, for events and command line alike.

use std::{borrow::Cow, fmt::Write as _};

/// Whether a character steers a terminal, breaks a line, hides, or changes how others are shown.
pub(crate) const fn is_hostile(character: char) -> bool {
    matches!(character,
        '\0'..='\u{1f}' | '\u{7f}'..='\u{9f}' // C0 with ESC, DEL, C1 with CSI and OSC
        | '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{70f}' | '\u{115f}'..='\u{1160}'
        | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' // zero width, direction marks
        | '\u{2028}'..='\u{202e}' // separators, direction embeddings and overrides
        | '\u{2060}'..='\u{206f}' // joiners, direction isolates
        | '\u{3164}' | '\u{ffa0}' | '\u{feff}' | '\u{fff0}'..='\u{fffb}'
        | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}' // tags, supplementary variation selectors
    )
}

/// Hostile characters as `\uXXXX`. A JSON document means the same afterwards: outside its strings
/// there are none but spaces.
pub(crate) fn json_escaped(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hostile) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_hostile(character) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(safe, "\\u{unit:04x}");
            }
        } else {
            safe.push(character);
        }
    }
    Cow::Owned(safe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_text_has_no_hostile_character() {
        assert_eq!(json_escaped("a\nb\u{e0041}"), "a\\u000ab\\udb40\\udc41");
        assert!(matches!(json_escaped("plain"), Cow::Borrowed("plain")));
    }

    #[test]
    fn escaped_json_means_the_same() {
        let value = serde_json::json!({ "task": "\u{1b}\u{9b}\u{202e}\u{e0041}\u{7f}\"\\ \u{e9}" });
        let text = value.to_string();
        let safe = json_escaped(&text);
        assert!(!safe.contains(is_hostile));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&safe).unwrap(), value);
    }
}
