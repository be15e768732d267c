//! Base64 as JOSE writes it: the URL alphabet, without padding (RFC 7515 section 2).
//!
//! In: text. Out: bytes, where the text is the one that these bytes have: no padding, no spaces,
//! no bits left over. So a signed text can't be changed without its bytes changing.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The bytes of a text; `None` where it is not the text of any.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

/// The text of bytes.
pub(super) fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_one_text() {
        assert_eq!(decode("-_8").unwrap(), [0xfb, 0xff]);
        assert_eq!(encode(&[0xfb, 0xff]), "-_8");
        for other in ["-_8=", "+/8", "-_9", "-_8\n", " -_8", "-_8A==", "-", "\u{e9}a"] {
            assert_eq!(decode(other), None, "{other}");
        }
    }
}
