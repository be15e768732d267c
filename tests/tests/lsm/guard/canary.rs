//! A plane that falls silent is told, and what is left denies.

use std::{fs, time::Duration};

use agent_enforcer_tests::{Event, TestHost};

use super::{assert_denied, open, root_agent};

const SWITCH: &str = "/proc/sys/kernel/ftrace_enabled";
/// The daemon looks once a second, and thrice before it tells.
const TOLD: Duration = Duration::from_secs(10);

/// Switches tracing on again, whatever becomes of the test.
struct Switched;

impl Drop for Switched {
    fn drop(&mut self) {
        let _ = fs::write(SWITCH, "1");
    }
}

fn problems(host: &TestHost) -> String {
    host.cli(&["status"])["problems"].to_string()
}

fn is_before_7() -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    release
        .split('.')
        .next()
        .and_then(|major| major.parse().ok())
        .is_some_and(|major: u32| major < 7)
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn silent_lsm_plane_is_told_and_the_cgroup_plane_goes_on() {
    let host = TestHost::start();
    let mut agent = root_agent(&host);
    assert_denied(&agent.run(open(SWITCH.as_ref(), libc::O_WRONLY)), SWITCH);
    let switched = Switched;
    let written = fs::write(SWITCH, "0");
    if is_before_7() {
        assert!(written.is_ok(), "{written:?}");
        let event = host.wait_event_for("the silence", TOLD, |it| it.code() == "plane_silent");
        assert_eq!(event.own("plane"), "lsm");
        assert!(problems(&host).contains("lsm plane is silent"), "{}", problems(&host));
        assert!(agent.connect("s", host.at(50)).is_denied());
        assert!(agent.connect("g", host.at(10)).is_ok());
        drop(switched);
        let back = host.wait_event_for("the return", TOLD, |it| it.code() == "plane_back");
        let finding = |event: &Event| event.text("/finding_info/uid").to_owned();
        assert_eq!(finding(&event), finding(&back));
        assert!(!problems(&host).contains("silent"), "{}", problems(&host));
    } else {
        assert!(written.is_err(), "there is such a switch again");
    }
    assert_denied(&agent.run(open(SWITCH.as_ref(), libc::O_WRONLY)), SWITCH);
}
