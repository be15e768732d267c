//! One text for one JSON value: the JSON Canonicalization Scheme (RFC 8785).
//!
//! In: a JSON tree. Out: the bytes that are hashed and signed, the same on every machine and in
//! every language: members sorted by UTF-16, no spaces, numbers as ECMAScript writes them.

use serde_json::Value;

/// The value has no canonical form.
#[derive(Debug, thiserror::Error)]
#[error("the document has no canonical form ({0}); write numbers that an f64 holds")]
pub struct CanonicalError(#[from] serde_json::Error);

/// The canonical bytes of a value.
pub fn canonical(value: &Value) -> Result<Vec<u8>, CanonicalError> {
    Ok(serde_jcs::to_vec(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(json: &str) -> String {
        let value: Value = serde_json::from_str(json).unwrap();
        String::from_utf8(canonical(&value).unwrap()).unwrap()
    }

    #[test]
    fn members_are_sorted_by_utf16_and_not_by_utf8() {
        // RFC 8785 section 3.2.3: U+1F600 is D83D DE00, before U+FB33, whose UTF-8 is smaller.
        let json = "{\"\u{20ac}\":1,\"\\r\":2,\"\u{fb33}\":3,\"1\":4,\"\u{1f600}\":5,\"\u{80}\":6,\"\u{f6}\":7}";
        assert_eq!(
            text(json),
            "{\"\\r\":2,\"1\":4,\"\u{80}\":6,\"\u{f6}\":7,\"\u{20ac}\":1,\"\u{1f600}\":5,\"\u{fb33}\":3}"
        );
    }

    #[test]
    fn numbers_are_written_as_ecmascript_writes_them() {
        assert_eq!(
            text(
                "[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001,-0,0.1e-6,1e21,1e20]"
            ),
            "[333333333.3333333,1e+30,4.5,0.002,1e-27,0,1e-7,1e+21,100000000000000000000]"
        );
    }

    #[test]
    fn strings_are_escaped_as_little_as_json_allows() {
        assert_eq!(
            text(r#""\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/\u007f\b""#),
            "\"\u{20ac}$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\u{7f}\\b\""
        );
    }
}
