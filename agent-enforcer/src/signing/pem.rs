//! The text form of a private key file (RFC 7468): one `PRIVATE KEY`, in PKCS#8.
//!
//! In: text. Out: DER, or nothing where the text is anything else: several keys, an encrypted one,
//! the older forms of one curve only.

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// Characters of a line (RFC 7468 section 2).
const WIDTH: usize = 64;

/// The bytes of a file.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    let body = text.trim_ascii().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let encoded: String = body.lines().map(str::trim_ascii).collect();
    STANDARD.decode(encoded).ok()
}

/// The file of bytes.
pub(super) fn encode(der: &[u8]) -> String {
    let mut text = format!("{BEGIN}\n");
    for (at, character) in STANDARD.encode(der).chars().enumerate() {
        if at != 0 && at % WIDTH == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push('\n');
    text.push_str(END);
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_back_its_bytes() {
        for length in [0, 1, 47, 48, 49, 200] {
            let bytes = vec![7; length];
            let text = encode(&bytes);
            assert_eq!(decode(&text), Some(bytes.clone()));
            assert_eq!(decode(&text.replace('\n', "\r\n")), Some(bytes));
            assert!(text.lines().all(|line| line.len() <= WIDTH));
        }
    }

    #[test]
    fn other_files_are_none() {
        let text = encode(&[7; 48]);
        for other in [
            String::new(),
            text.replace("PRIVATE", "PUBLIC"),
            text.replace("PRIVATE KEY", "EC PRIVATE KEY"),
            text.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
            text.clone() + &text,
            text.replace("Bw", "B!"),
            text.replace("-----END PRIVATE KEY-----", ""),
        ] {
            assert_eq!(decode(&other), None, "{other}");
        }
    }
}
