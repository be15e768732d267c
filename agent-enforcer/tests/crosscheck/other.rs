//! The other implementation: a Python program in the environment that `cargo xtask setup` makes.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

/// Asks one question; the object has `ask`.
pub(crate) fn ask(question: &Value) -> Value {
    let python = environment().join("bin/python");
    assert!(
        python.is_file(),
        "{} is not there; `cargo xtask setup` makes it from tests/crosscheck/requirements.txt",
        python.display()
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crosscheck/answer.py");
    let mut child = Command::new(python)
        .arg("-I")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(question.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", question["ask"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Where xtask puts it: below cargo's target directory, whose `tmp` cargo tells tests of.
fn environment() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("crosscheck")
}
