//! The files under `policies/`: what they say must be what the loader says.

use std::{
    collections::BTreeSet,
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
};

use super::{Policy, json_schema, testing::load_text};

/// Set to write the expected texts and the schema anew instead of comparing; review the difference.
const BLESS: &str = "AGENT_ENFORCER_BLESS";

fn policies() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies")
}

fn entries(dir: &Path) -> BTreeSet<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn compare(path: &Path, actual: &str) -> Option<String> {
    if env::var_os(BLESS).is_some() {
        fs::write(path, actual).unwrap();
        return None;
    }
    let expected = fs::read_to_string(path).unwrap_or_else(|error| format!("({error})\n"));
    (expected != actual)
        .then(|| format!("{}\nexpected:\n{expected}found:\n{actual}", path.display()))
}

/// Loads one invalid case, a file or a directory, alone in its directory.
fn errors_of(case: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    let files = if case.is_dir() { entries(case) } else { BTreeSet::from([case.to_owned()]) };
    for file in files {
        fs::copy(&file, dir.path().join(file.file_name().unwrap())).unwrap();
    }
    let errors = Policy::load(dir.path()).expect_err(&case.display().to_string());
    let here = dir.path().display().to_string();
    format!("{errors}\n").replace(&format!("{here}/"), "").replace(&here, ".")
}

#[test]
fn every_invalid_policy_gets_its_expected_errors() {
    let twin = Some(OsStr::new("expected"));
    let (twins, cases): (BTreeSet<_>, BTreeSet<_>) =
        entries(&policies().join("invalid")).into_iter().partition(|p| p.extension() == twin);
    assert!(cases.len() > 70);
    let wanted: BTreeSet<_> = cases.iter().map(|case| case.with_extension("expected")).collect();
    let orphans: Vec<_> = twins.difference(&wanted).collect();
    assert!(orphans.is_empty(), "expected texts without a policy: {orphans:?}");
    let wrong: Vec<_> = cases
        .iter()
        .filter_map(|case| compare(&case.with_extension("expected"), &errors_of(case)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_message_is_one_line_without_control_characters() {
    for case in entries(&policies().join("invalid")) {
        if case.extension() != Some(OsStr::new("expected")) {
            let errors = errors_of(&case);
            assert!(errors.lines().all(|line| !line.chars().any(char::is_control)), "{errors:?}");
        }
    }
}

#[test]
fn examples_are_valid_together_and_their_normal_form_says_the_same() {
    let policy = Policy::load(&policies().join("examples")).unwrap();
    assert_eq!((policy.tools().len(), policy.agents().len()), (13, 6));
    let basics = policy.tool_named("host-basics").unwrap().id;
    assert!(policy.agents().iter().all(|agent| agent.stands(basics)));
    let normal = policy.to_yaml();
    assert_eq!(load_text(&normal).unwrap(), policy, "{normal}");
}

#[test]
fn the_schema_for_editors_is_up_to_date() {
    let wrong = compare(&policies().join("schema.json"), &json_schema());
    assert!(wrong.is_none(), "run the test with {BLESS}=1 set, then commit\n{wrong:?}");
}

#[test]
fn examples_name_the_schema_for_editors() {
    for example in entries(&policies().join("examples")) {
        let text = fs::read_to_string(&example).unwrap();
        assert!(text.starts_with("# yaml-language-server: $schema=../schema.json\n"));
    }
}
