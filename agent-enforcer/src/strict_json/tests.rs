use serde::Deserialize;

use super::*;

const LIMITS: Limits = Limits { bytes: 200, depth: 4 };

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Outer {
    name: String,
    #[serde(default, deserialize_with = "present")]
    inner: Option<Vec<Inner>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Inner {
    #[serde(deserialize_with = "text")]
    port: u16,
}

fn refusal(document: &[u8]) -> String {
    decode::<Outer>(document, LIMITS).map(drop).unwrap_err().to_string()
}

#[test]
fn a_sound_document_is_both_typed_and_a_tree() {
    let Decoded { typed, tree } =
        decode::<Outer>(br#"{"name":"a","inner":[{"port":"7"}]}"#, LIMITS).unwrap();
    assert_eq!((typed.name.as_str(), typed.inner.unwrap()[0].port), ("a", 7));
    assert_eq!(tree, serde_json::json!({ "name": "a", "inner": [{ "port": "7" }] }));
}

#[test]
fn refusals_name_path_line_and_column() {
    for (document, expected) in [
        (
            r#"{"name":"a","nom":1}"#,
            "$.nom (line 1, column 17): member `nom` is not known; the members here are `name` or `inner`",
        ),
        (
            "{\"name\":\"a\",\n \"inner\":[{\"port\":\"1\"},\n  {\"port\":\"x\"}]}",
            "$.inner[1].port (line 3, column 13): invalid digit found in string",
        ),
        (
            r#"{"name":"a","inner":[{}]}"#,
            "$.inner[0] (line 1, column 23): member `port` is missing; add it",
        ),
        (
            r#"{"name":"a","name":"b"}"#,
            "$.name (line 1, column 18): member `name` stands twice in one object; keep one",
        ),
        (
            r#"{"name":"a","\u006eame":"b"}"#,
            "$[\"\\u006eame\"] (line 1, column 23): member `name` stands twice in one object; keep one",
        ),
        (
            r#"{"name":"a","inner":null}"#,
            "$.inner (line 1, column 24): invalid type: null, expected a sequence",
        ),
        (
            r#"{"name":7}"#,
            "$.name (line 1, column 9): invalid type: integer `7`, expected a string",
        ),
        (r#"["a"]x"#, "$ (line 1, column 6): trailing characters"),
        ("", "$ (line 1, column 1): EOF while parsing a value"),
        (
            "[[[[[]]]]]",
            "$[0][0][0][0] (line 1, column 6): this is nested deeper than such a document is; remove the inner levels",
        ),
        (
            "[\"\u{1b}\"]",
            "$[0] (line 1, column 3): control character (\\u0000-\\u001F) found while parsing a string",
        ),
    ] {
        let shown = tree(document.as_bytes(), LIMITS)
            .map_or_else(|error| error.to_string(), |_| refusal(document.as_bytes()));
        assert_eq!(shown, expected, "{document}");
    }
}

#[test]
fn numbers_that_not_every_reader_carries_are_refused() {
    for sound in ["9007199254740991", "-9007199254740991", "-0", "1.5", "1e15", "1E-400"] {
        tree(sound.as_bytes(), LIMITS).unwrap();
    }
    for bad in
        ["9007199254740992", "-9007199254740992", "18446744073709551616", "1e16", "-1e300", "1e400"]
    {
        tree(bad.as_bytes(), LIMITS).unwrap_err();
    }
}

#[test]
fn what_is_too_large_is_not_decoded() {
    let large = [b'['; 201];
    assert!(refusal(&large).contains("the document has 201 bytes, more than 200"));
}

#[test]
fn text_that_is_no_text_is_refused_where_it_begins() {
    assert_eq!(
        refusal(b"{\"name\":\n\"\xff\"}"),
        "$.name (line 2, column 1): this byte is not UTF-8; save the document as UTF-8"
    );
    for bad in [&b"\"\\ud800\""[..], b"\"\\udc00\\ud800\"", b"\xef\xbb\xbf1", b"\"\xed\xa0\x80\""] {
        tree(bad, LIMITS).unwrap_err();
    }
}

#[test]
fn what_a_document_says_can_not_steer_a_terminal() {
    let hostile = "{\"a\u{202e}\u{9b}\":1}";
    let error = decode::<Outer>(hostile.as_bytes(), LIMITS).map(drop).unwrap_err().to_string();
    assert!(error.contains("\\u202e\\u009b") && !error.contains(crate::hostile_text::is_hostile));
    let long = format!("{{\"{}\":1}}", "x".repeat(180));
    assert!(refusal(long.as_bytes()).len() < 400);
}

proptest::proptest! {
    #[test]
    fn every_text_ends_in_a_value_or_a_refusal(text in ".{0,80}", offset in 0..100_usize) {
        let _ = tree(text.as_bytes(), LIMITS);
        let _ = path::at(&text, offset);
    }

    #[test]
    fn what_is_accepted_is_what_serde_json_reads(text in r#"[\[\]{}":,a1.e\- ]{0,30}"#) {
        if let Ok(tree) = tree(text.as_bytes(), LIMITS) {
            proptest::prop_assert_eq!(tree, serde_json::from_str::<Value>(&text).unwrap());
        }
    }
}
