//! bpf(2), ptrace, signals, limits.

use agent_enforcer_tests::{
    Op, Probe, TestHost, Word,
    wait::{SOON, poll_for, wait_until},
};
use libc::{SYS_bpf, SYS_kill};

use super::{
    assert_denied, assert_refused, bytes, call, child_of, numbers, open, root_agent, root_stranger,
    told, user_agent, user_stranger, wait_guarded,
};

/// `BPF_MAP_GET_NEXT_ID`.
const MAP_GET_NEXT_ID: i64 = 12;
/// `BPF_MAP_CREATE`.
const MAP_CREATE: i64 = 0;
/// `BPF_OBJ_GET`.
const OBJ_GET: i64 = 7;
const PTRACE_TRACEME: i64 = 0;
const PTRACE_DETACH: i64 = 17;
const PTRACE_SEIZE: i64 = 0x4206;

fn bpf(command: i64) -> Op {
    call(SYS_bpf, [command.into(), Word::Bytes(vec![0; 64]), 64_i64.into()])
}

fn seize(pid: u32) -> Op {
    call(libc::SYS_ptrace, numbers([PTRACE_SEIZE, pid.into(), 0, 0]))
}

fn detach(pid: u32) -> Op {
    call(libc::SYS_ptrace, numbers([PTRACE_DETACH, pid.into(), 0, 0]))
}

fn kill(pid: u32, signal: i64) -> Op {
    call(SYS_kill, numbers([pid.into(), signal]))
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn j05_agents_use_no_bpf() {
    let host = TestHost::start();
    for mut agent in [root_agent(&host), user_agent(&host)] {
        for command in [MAP_GET_NEXT_ID, OBJ_GET, i64::from(u32::MAX)] {
            assert_denied(&agent.run(bpf(command)), "bpf");
        }
        // `kernel.unprivileged_bpf_disabled` comes first.
        assert_refused(&agent.run(bpf(MAP_CREATE)), "bpf");
        let event = wait_guarded(&host, "bpf", agent.pid());
        assert_eq!(event.own("agent"), "strict");
        assert_eq!(event.number("/class_uid"), Some(2004));
    }
    assert!(host.stranger().run(bpf(MAP_GET_NEXT_ID)).is_ok());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn flood_of_attempts_is_counted_to_the_last() {
    const ATTEMPTS: u64 = 300;
    let host = TestHost::start();
    let mut agent = root_agent(&host);
    let before = host.reason_counter("guarded");
    for _ in 0..ATTEMPTS {
        assert_denied(&agent.run(bpf(MAP_GET_NEXT_ID)), "bpf");
    }
    assert_eq!(host.reason_counter("guarded") - before, ATTEMPTS);
    wait_until("every attempt is told", SOON, || told(&host) == before + ATTEMPTS);
    let lines = host.events().iter().filter(|event| event.code() == "guarded").count();
    assert!(u64::try_from(lines).expect("few") < ATTEMPTS, "{lines} lines");
}

/// Who may trace `target` by its rights is told by a stranger.
fn assert_not_traced(host: &TestHost, agent: &mut Probe, stranger: &mut Probe, target: u32) {
    let traced = stranger.run(seize(target));
    assert!(traced.is_ok(), "{traced:?}");
    // It is let go while it is stopped only; its tracer's end lets it go as well.
    stranger.kill();
    assert_denied(&agent.run(seize(target)), "PTRACE_SEIZE");
    let memory = format!("/proc/{target}/mem");
    assert_denied(&agent.run(open(memory.as_ref(), libc::O_RDWR)), &memory);
    let pidfd = agent.run(call(libc::SYS_pidfd_open, numbers([target.into(), 0])));
    assert!(pidfd.is_ok(), "{pidfd:?}");
    let taken = agent.run(call(libc::SYS_pidfd_getfd, numbers([pidfd.value, 0, 0])));
    assert_refused(&taken, "pidfd_getfd");
    let event = wait_guarded(host, "ptrace", agent.pid());
    assert_eq!(event.number("/unmapped/agent_enforcer/target_pid"), Some(target.into()));
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn d04_agents_trace_processes_of_their_own_instance_only() {
    let host = TestHost::start();
    // Debian leaves it off; what is tested here is not yama.
    let _absent = std::fs::write("/proc/sys/kernel/yama/ptrace_scope", "0");
    let (target, mut stranger, mut agent) =
        (root_stranger(&host), root_stranger(&host), root_agent(&host));
    assert_not_traced(&host, &mut agent, &mut stranger, target.pid());
    let (target, mut stranger, mut user) =
        (user_stranger(&host), user_stranger(&host), user_agent(&host));
    assert_not_traced(&host, &mut user, &mut stranger, target.pid());
    // Another instance of the same agent.
    assert_denied(&user.run(seize(user_agent(&host).pid())), "PTRACE_SEIZE of another instance");
    // The test's own process, no agent's, would trace it.
    let traceme = call(libc::SYS_ptrace, numbers([PTRACE_TRACEME, 0, 0, 0]));
    assert_denied(&user.run(traceme), "PTRACE_TRACEME");
    for mut agent in [agent, user] {
        let child = child_of(&mut agent);
        let memory = format!("/proc/{child}/mem");
        assert!(agent.run(open(memory.as_ref(), libc::O_RDWR)).is_ok(), "its own child's memory");
        assert!(agent.run(seize(child)).is_ok(), "its own child");
        assert_eq!(agent.run(detach(child)).errno, libc::ESRCH, "which is not stopped");
    }
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn j07_agents_read_nothing_of_the_daemon() {
    let host = TestHost::start();
    let daemon = host.daemon.pid();
    for mut agent in [root_agent(&host), user_agent(&host)] {
        for file in ["environ", "maps", "mem"] {
            let path = format!("/proc/{daemon}/{file}");
            let reply = agent.run(open(path.as_ref(), libc::O_RDONLY));
            // The capabilities that it lacks are asked for first.
            assert_refused(&reply, &path);
        }
        assert_refused(&agent.run(seize(daemon)), "PTRACE_SEIZE");
    }
    // With capabilities too; of memory alone CAP_PERFMON shows more (6.15).
    let executable = format!("/proc/{daemon}/exe");
    let executable = std::path::Path::new(&executable);
    let room = Word::Bytes(vec![0; 256]);
    let read = call(libc::SYS_readlink, [executable.into(), room, 256_i64.into()]);
    let mut agent = host.agent("strict");
    assert_denied(&agent.run(read.clone()), "readlink");
    assert!(host.stranger().run(read).is_ok());
    wait_guarded(&host, "ptrace", agent.pid());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn j01_agents_do_not_signal_the_daemon() {
    let host = TestHost::start();
    let daemon = host.daemon.pid();
    let mut agent = root_agent(&host);
    for signal in [0, libc::SIGCONT, libc::SIGSTOP, libc::SIGTERM, libc::SIGKILL] {
        assert_denied(&agent.run(kill(daemon, signal.into())), "kill");
    }
    let pidfd = agent.run(call(libc::SYS_pidfd_open, numbers([daemon.into(), 0])));
    let sent = call(libc::SYS_pidfd_send_signal, numbers([pidfd.value, 9, 0, 0]));
    assert_denied(&agent.run(sent), "pidfd_send_signal");
    let event = wait_guarded(&host, "signal", agent.pid());
    assert_eq!(event.number("/unmapped/agent_enforcer/target_pid"), Some(daemon.into()));
    assert!(!user_agent(&host).run(kill(daemon, 0)).is_ok());
    assert!(root_stranger(&host).run(kill(daemon, 0)).is_ok(), "whoever else is root may");
    let child = child_of(&mut agent);
    assert!(agent.run(kill(child, libc::SIGKILL.into())).is_ok(), "its own child");
    assert_eq!(host.daemon.pid(), daemon);
    host.cli(&["status"]);
}

/// Has the kernel send `target` a signal as soon as a file is opened; the number of the inotify.
fn ask_for_signal(probe: &mut Probe, target: u32, signal: i32) {
    let watched = std::path::Path::new("/proc/version");
    let inotify = probe.run(call(libc::SYS_inotify_init1, numbers([0]))).value;
    let watch = [inotify.into(), watched.into(), i64::from(libc::IN_OPEN).into()];
    assert!(probe.run(call(libc::SYS_inotify_add_watch, watch)).is_ok());
    let set =
        |command: i32, value: i64| call(libc::SYS_fcntl, numbers([inotify, command.into(), value]));
    // F_SETSIG, include/uapi/asm-generic/fcntl.h.
    for (command, value) in [
        (10, signal.into()),
        (libc::F_SETOWN, target.into()),
        (libc::F_SETFL, libc::O_ASYNC.into()),
    ] {
        let reply = probe.run(set(command, value));
        assert!(reply.is_ok(), "{command}: {reply:?}");
    }
    assert!(probe.run(open(watched, libc::O_RDONLY)).is_ok());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn signals_that_a_file_sends_do_not_reach_the_daemon() {
    let host = TestHost::start();
    let mut agent = root_agent(&host);
    // A process that nobody guards ends so.
    let mut victim = host.stranger();
    ask_for_signal(&mut agent, victim.pid(), libc::SIGKILL);
    let status = format!("/proc/{}/status", victim.pid());
    let ended = || {
        let status = std::fs::read_to_string(&status).unwrap_or_default();
        (status.is_empty() || status.contains("State:\tZ")).then_some(())
    };
    assert!(poll_for(SOON, ended).is_some(), "the signal is sent at all");
    victim.kill();
    ask_for_signal(&mut agent, host.daemon.pid(), libc::SIGKILL);
    let event = wait_guarded(&host, "signal", agent.pid());
    assert_eq!(event.number("/unmapped/agent_enforcer/argument"), Some(9));
    host.cli(&["status"]);
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn agents_do_not_limit_or_slow_down_the_daemon() {
    const NOFILE: i64 = 7;
    const IDLE: i64 = 5;
    const IO_IDLE: i64 = 3 << 13;
    let host = TestHost::start();
    // Capabilities that it lacks are asked for first; with all of them it may as little.
    let (mut poor, mut agent) = (root_agent(&host), host.agent("strict"));
    let attempts = |target: u32| {
        let target = i64::from(target);
        let unlimited = bytes(&[1 << 10, 0, 1 << 10, 0]);
        [
            call(libc::SYS_prlimit64, [target.into(), NOFILE.into(), unlimited, 0_i64.into()]),
            call(libc::SYS_setpriority, numbers([0, target, 19])),
            call(libc::SYS_sched_setscheduler, [target.into(), IDLE.into(), bytes(&[0])]),
            call(libc::SYS_sched_setaffinity, [target.into(), 8_i64.into(), bytes(&[1, 0])]),
            call(libc::SYS_ioprio_set, numbers([1, target, IO_IDLE])),
        ]
    };
    let own = child_of(&mut agent);
    for (attempt, twin) in attempts(host.daemon.pid()).into_iter().zip(attempts(own)) {
        let what = format!("{attempt:?}");
        assert_refused(&poor.run(attempt.clone()), &what);
        assert_denied(&agent.run(attempt), &what);
        let twin = agent.run(twin);
        assert!(twin.is_ok(), "{what} of its own child: {twin:?}");
    }
    wait_guarded(&host, "limits", agent.pid());
    let set = call(libc::SYS_setpriority, numbers([0, host.daemon.pid().into(), 0]));
    assert!(host.stranger().run(set).is_ok());
}
