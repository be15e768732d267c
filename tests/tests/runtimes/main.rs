//! Programs as people run them, in an agent's place: what they are granted works as ever, what they
//! are not fails as their users expect. `cargo xtask setup` installs them.

#![expect(clippy::expect_used, reason = "a panic is the verdict of a test")]

mod programs;
mod python;

use std::process::{Command, Output, Stdio};

use agent_enforcer_tests::{TestHost, binaries};

/// Runs a program in the cgroup of an agent until it ends.
fn run(host: &TestHost, agent: &str, argv: &[&str]) -> Output {
    let mut command = Command::new(binaries::probe());
    command.arg("launch").arg(host.cgroup(agent)).arg("-").args(argv).stdin(Stdio::null());
    // Nobody's settings change what is tested.
    command.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    command.env_remove("http_proxy").env_remove("all_proxy");
    host.network.agents.inside(|| command.output()).expect("the probe's binary runs")
}

/// What a program that must end well wrote.
fn output_of(host: &TestHost, agent: &str, argv: &[&str]) -> String {
    let Output { status, stdout, stderr } = run(host, agent, argv);
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{argv:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}
