//! RFC 8785, text by text.

use agent_enforcer::signing::canonical;
use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};
use serde_json::{Value, json};

use crate::other::ask;

fn compare(texts: &[String]) {
    let answer = ask(&json!({ "ask": "canonical", "texts": texts }));
    let theirs = answer["texts"].as_array().unwrap();
    assert_eq!(theirs.len(), texts.len());
    for (text, theirs) in texts.iter().zip(theirs) {
        let value: Value = serde_json::from_str(text).unwrap();
        let ours = String::from_utf8(canonical(&value).unwrap()).unwrap();
        assert_eq!(Some(ours.as_str()), theirs.as_str(), "{text}");
    }
}

#[test]
#[ignore = "needs the environment that `cargo xtask setup` makes; run with `--ignored`"]
fn hard_cases_have_one_form() {
    let texts = [
        // Order by UTF-16: U+1F600 before U+FB33, U+E000 after U+10000.
        r#"{"\ufb33":1,"\ud83d\ude00":2,"\u20ac":3,"\r":4,"1":5,"\u0080":6,"\u00f6":7}"#,
        r#"{"\ue000":1,"\ud800\udc00":2,"\uffff":3,"\udbff\udfff":4,"":5,"a":6,"A":7,"aa":8}"#,
        r#"{"peach":"p","p\u00e9ch\u00e9":"a","p\u00eache":"b","sin":"c"}"#,
        // Never normalised: two texts that look the same stay two members.
        r#"{"\u00e9":1,"e\u0301":2}"#,
        r#""\u0000\u0001\b\t\n\u000b\f\r\u001f\u007f\u0080\u2028\u2029\"\\\/""#,
        "[56,{\"d\":true,\"10\":null,\"1\":[]}]",
        // ECMAScript's numbers.
        "[0,-0.0,1,-1,1.0,1e0,10e-1,0.1,1e21,1e20,123456789012345680000.0,1e-6,1e-7,999999999999999900000.0]",
        "[5e-324,-5e-324,1.7976931348623157e308,2.2250738585072014e-308,9007199254740991,-9007199254740991]",
        "[9007199254740992.0,295147905179352830000.0,0.000001,0.0000001,333333333.33333329,1E30,4.50,2e-3]",
        "[333333333333333333.0,1.5,333333333.3333332,333333333.33333325,333333333.3333333,-0.0000033333333333333333,1424953923781206.2]",
    ];
    compare(&texts.map(str::to_owned));
}

#[test]
#[ignore = "needs the environment that `cargo xtask setup` makes; run with `--ignored`"]
fn random_documents_have_one_form() {
    let number = any::<u64>().prop_filter_map("a number", |bits| {
        let float = f64::from_bits(bits);
        float.is_finite().then(|| json!(float))
    });
    let integer = (-9_007_199_254_740_991..=9_007_199_254_740_991_i64).prop_map(|n| json!(n));
    let text = ".{0,12}";
    let leaf = prop_oneof![
        number,
        integer,
        text.prop_map(|text| json!(text)),
        any::<bool>().prop_map(|truth| json!(truth)),
        Just(Value::Null),
    ];
    let document = leaf.prop_recursive(4, 32, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec((text, inner), 0..6)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    });
    // Another one each time; shown where the test fails, to be put here.
    let seed: [u8; 32] = agent_enforcer::signing::random().unwrap();
    println!("seed {seed:?}");
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let texts: Vec<String> =
        (0..3000).map(|_| document.new_tree(&mut runner).unwrap().current().to_string()).collect();
    compare(&texts);
}
