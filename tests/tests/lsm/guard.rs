//! Self-protection: what no agent may do to the kernel, the daemon and others' processes, tried by
//! agents that have as much of a user's and of root's rights as an agent may have.

mod calls;
mod canary;
mod files;

use std::{fs, path::Path};

use agent_enforcer_tests::{Event, Op, Probe, Reply, TestHost, Trick, Word, binaries, trick::call};
use libc::{EACCES, SYS_capset, SYS_prctl};

/// A user that owns nothing.
const USER: u32 = 64_000;

fn numbers<const N: usize>(numbers: [i64; N]) -> [Word; N] {
    numbers.map(Word::Number)
}

fn bytes(words: &[i32]) -> Word {
    Word::Bytes(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

/// uid 0 without capabilities, which it does not get back.
fn without_capabilities(mut probe: Probe) -> Probe {
    // include/uapi/linux/capability.h, securebits.h: all locked, so that uid 0 is nothing special.
    const VERSION_3: i32 = 0x2008_0522;
    const ALL_LOCKED: i64 = 0x2f;
    let locked = probe.run(call(SYS_prctl, numbers([28, ALL_LOCKED])));
    assert!(locked.is_ok(), "{locked:?}");
    let dropped = probe.run(call(SYS_capset, [bytes(&[VERSION_3, 0]), bytes(&[0; 6])]));
    assert!(dropped.is_ok(), "{dropped:?}");
    let status = fs::read_to_string(format!("/proc/{}/status", probe.pid())).expect("a process");
    assert!(status.contains("CapPrm:\t0000000000000000\n"), "{status}");
    probe
}

fn root_agent(host: &TestHost) -> Probe {
    without_capabilities(host.agent("strict"))
}

fn user_agent(host: &TestHost) -> Probe {
    host.probe(binaries::probe(), "strict", Some(USER))
}

/// With the same rights, and no agent's.
fn root_stranger(host: &TestHost) -> Probe {
    without_capabilities(host.stranger())
}

fn user_stranger(host: &TestHost) -> Probe {
    host.probe(binaries::probe(), "strangers", Some(USER))
}

/// A child of the probe; it ends with it.
fn child_of(probe: &mut Probe) -> u32 {
    let child = probe.run(Trick::Child.into());
    assert!(child.is_ok(), "{child:?}");
    u32::try_from(child.value).expect("a process id")
}

fn open(path: &Path, flags: i32) -> Op {
    call(libc::SYS_open, [path.into(), i64::from(flags).into(), 0o600_i64.into()])
}

fn assert_denied(reply: &Reply, what: &str) {
    assert_eq!(reply.errno, EACCES, "{what}: {reply:?}");
}

/// Denied by the guard, or by what the kernel asks before it, or as the call puts every denial.
fn assert_refused(reply: &Reply, what: &str) {
    assert!(matches!(reply.errno, EACCES | libc::EPERM), "{what}: {reply:?}");
}

fn wait_guarded(host: &TestHost, guard: &str, pid: u32) -> Event {
    host.wait_event(&format!("{guard} of {pid}"), |event| {
        event.code() == "guarded"
            && event.own("guard") == guard
            && event.number("/evidences/0/process/pid") == Some(pid.into())
    })
}

/// Attempts that the events so far tell of.
fn told(host: &TestHost) -> u64 {
    host.events().iter().filter(|event| event.code() == "guarded").map(Event::count).sum()
}
