//! Blocking callers that are stopped until their call is decided, and everything that may happen to
//! them meanwhile.

use std::{fs, os::unix::net::UnixListener, time::Duration};

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, Reply, TestHost, Ticket, Trick, What, Word,
    host::HASTE,
    trick::{StormCalls, Writer, call},
    wait::{SOON, slowed, wait_until},
};
use libc::{EACCES, EAGAIN, EINTR, SOCK_DGRAM};
use rustix::process::Signal;

const UNGRANTED: u8 = 20;

fn name(name: &str) -> String {
    name.to_owned()
}

/// The letter of a process's state, proc(5).
fn state_of(pid: u32) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().and_then(|rest| rest.chars().next())
}

/// Whether a process is stopped, as its parent and its shell see it.
fn is_stopped(pid: u32) -> bool {
    state_of(pid) == Some('T')
}

fn wait_stopped(agent: &Probe) {
    wait_until("the caller is stopped", SOON, || is_stopped(agent.pid()));
}

fn begin_send(agent: &mut Probe, host: &TestHost, socket: &str) -> Ticket {
    assert!(agent.socket(socket, host.at(UNGRANTED), SOCK_DGRAM).is_ok());
    agent.begin(Op::SendTo {
        name: name(socket),
        address: host.at(UNGRANTED),
        data: name("hello"),
        flags: 0,
    })
}

fn assert_arrives(host: &TestHost, data: &[u8]) {
    let wanted = What::Datagram(data.to_vec());
    wait_until("the datagram arrives", SOON, || {
        host.servers.at(host.at(UNGRANTED)).contains(&wanted)
    });
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn blocking_datagram_waits_for_its_grant() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let sent = begin_send(&mut agent, &host, "u");
    host.wait_call("stalled", "stalled", agent.pid());
    wait_stopped(&agent);
    let pending = host.pending();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0]["destination"], format!("{}/udp", host.at(UNGRANTED)));
    assert!(host.servers.at(host.at(UNGRANTED)).is_empty(), "nothing before the decision");
    host.grant(&GrantRequest::agent("waits", "web"));
    let reply = agent.finish(sent);
    assert!(reply.is_ok() && reply.value == 5, "{reply:?}");
    assert_arrives(&host, b"hello");
    assert!(host.pending().is_empty());
    assert_eq!(host.calls("stalled", "stalled"), 1);
    assert_eq!(host.calls("allowed", "allowed_grant"), 1);
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn blocking_write_into_a_connected_datagram_socket_waits_whatever_writes() {
    for writer in [Writer::Plain, Writer::Vector] {
        let host = TestHost::start();
        let mut agent = host.agent("waits");
        assert!(agent.socket("u", host.at(UNGRANTED), SOCK_DGRAM).is_ok());
        let connect = Op::Connect { name: name("u"), address: host.at(UNGRANTED) };
        assert!(agent.run(connect).is_ok());
        let sent =
            agent.begin(Trick::Write { name: name("u"), data: name("hello"), writer }.into());
        wait_stopped(&agent);
        assert!(host.servers.at(host.at(UNGRANTED)).is_empty(), "nothing before the decision");
        host.grant(&GrantRequest::agent("waits", "web"));
        let reply = agent.finish(sent);
        assert!(reply.is_ok(), "{writer:?} {reply:?}");
        assert_arrives(&host, b"hello");
    }
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn blocking_datagram_that_nobody_grants_fails_after_the_stall_limit() {
    let host = TestHost::start();
    let mut agent = host.agent("hasty");
    let reply = agent.send_to("u", host.at(UNGRANTED), "leak");
    assert_eq!(reply.errno, EACCES, "{reply:?}");
    assert!((slowed(HASTE * 9 / 10)..slowed(4 * HASTE)).contains(&reply.took()), "{reply:?}");
    host.wait_denied("stall_timeout", agent.pid());
    assert_eq!(host.calls("denied", "stall_timeout"), 1);
    assert!(host.servers.at(host.at(UNGRANTED)).is_empty());
    assert!(agent.send_to("g", host.at(10), "hello").is_ok());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn callers_that_must_not_wait_are_told_to_try_again() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let to = host.at(UNGRANTED);
    let (flags, data) = (libc::MSG_DONTWAIT, name("leak"));
    assert!(agent.socket("u", to, SOCK_DGRAM).is_ok());
    let once = Op::SendTo { name: name("u"), address: to, data: data.clone(), flags };
    assert_eq!(agent.run(once).errno, EAGAIN);
    assert!(agent.run(Op::Nonblocking { name: name("u"), on: true }).is_ok());
    let never = Op::SendTo { name: name("u"), address: to, data, flags: 0 };
    assert_eq!(agent.run(never).errno, EAGAIN);
    assert!(!is_stopped(agent.pid()));
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn h01_caller_that_somebody_else_continues_waits_on() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let sent = begin_send(&mut agent, &host, "u");
    wait_stopped(&agent);
    for _ in 0..20 {
        agent.signal(Signal::CONT);
        wait_stopped(&agent);
    }
    assert!(host.servers.at(host.at(UNGRANTED)).is_empty());
    assert_eq!(host.pending().len(), 1);
    assert_eq!(host.calls("stalled", "stalled"), 1, "one call, one event");
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(sent).is_ok());
    assert_arrives(&host, b"hello");
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn h02_stopped_caller_that_is_killed_dies_at_once_and_waits_no_more() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    begin_send(&mut agent, &host, "u");
    wait_stopped(&agent);
    let pid = agent.pid();
    agent.kill();
    host.wait_denied("caller_gone", pid);
    assert!(host.pending().is_empty());
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn h03_signals_with_handlers_end_no_stopped_call_wrongly() {
    for restart in [true, false] {
        let host = TestHost::start();
        let mut agent = host.agent("waits");
        assert!(agent.run(Op::Alarm { after_ms: 200, restart }).is_ok());
        let sent = begin_send(&mut agent, &host, "u");
        wait_stopped(&agent);
        // The alarm is delivered when the caller is continued.
        assert!(agent.wait_for(sent, Duration::from_millis(400)).is_none());
        agent.signal(Signal::CONT);
        wait_stopped(&agent);
        host.grant(&GrantRequest::agent("waits", "web"));
        let reply = agent.finish(sent);
        assert!(reply.is_ok(), "restart {restart}: {reply:?}");
        assert_arrives(&host, b"hello");
    }
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn caller_that_outlives_the_daemon_is_continued_by_the_next_one_and_asks_again() {
    let mut host = TestHost::start();
    let mut agent = host.agent("waits");
    let sent = begin_send(&mut agent, &host, "u");
    wait_stopped(&agent);
    host.daemon.kill();
    assert!(is_stopped(agent.pid()), "nobody has decided");
    host.daemon.start();
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(sent).is_ok());
    assert_arrives(&host, b"hello");
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn daemon_that_ends_leaves_nobody_stopped() {
    let mut host = TestHost::start();
    let mut agent = host.agent("waits");
    let sent = begin_send(&mut agent, &host, "u");
    wait_stopped(&agent);
    host.daemon.stop();
    let reply = agent.finish(sent);
    assert_eq!(reply.errno, EACCES, "{reply:?}");
    assert!(host.servers.at(host.at(UNGRANTED)).is_empty());
}

/// How the calls of a storm ended.
struct Weathered {
    sent: u16,
    denied: u16,
    interrupted: u16,
    reply: Reply,
}

fn weather(agent: &mut Probe, calls: StormCalls, rounds: u16, restart: bool) -> Weathered {
    let ticket = agent.begin(Trick::Storm { calls, rounds, restart }.into());
    let reply = agent.wait_for(ticket, Duration::from_mins(1)).expect("it ends");
    let (mut denied, mut interrupted, mut others) = (0, 0, 0);
    for (errno, count) in reply.data.split(' ').filter_map(|word| word.split_once(':')) {
        let count: u16 = count.parse().expect("a number");
        match errno.parse().expect("a number") {
            EACCES => denied += count,
            EINTR if !restart => interrupted += count,
            _ => others += count,
        }
    }
    assert_eq!(others, 0, "ended otherwise: {reply:?}");
    let sent = u16::try_from(reply.value).expect("not more than there were");
    Weathered { sent, denied, interrupted, reply }
}

/// As the next, for the calls that are no datagrams: `connect` of an agent that parks, `socket`, and
/// `connect` of unix sockets.
#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn ten_thousand_stopped_connects_and_sockets_under_signals_are_denied() {
    const ROUNDS: u16 = 1700;
    const LISTENERS: u16 = 400;
    let flags = ["--wait-turns=0", "--requests-per-second=1000000"];
    let host = flags.iter().fold(crate::host(), |host, flag| host.flag(flag)).build();
    let prefix = host.directory().join("s").display().to_string();
    let listeners: Vec<_> = (0..LISTENERS)
        .map(|number| UnixListener::bind(format!("{prefix}{number}")).expect("a listener"))
        .collect();
    let mut all = 0;
    for restart in [true, false] {
        let mut agent = host.agent("parks");
        let protocol = if restart { 1000 } else { 5000 };
        let (mut v4, mut v6) = (host.at(50), host.at6(50));
        v4.set_port(10_000);
        v6.set_port(10_000);
        for (calls, rounds) in [
            (StormCalls::Connects { address: v4 }, ROUNDS),
            (StormCalls::Connects { address: v6 }, ROUNDS),
            (StormCalls::Sockets { protocol }, ROUNDS),
            (StormCalls::Unix { prefix: prefix.clone() }, LISTENERS),
        ] {
            let Weathered { denied, reply, .. } = weather(&mut agent, calls, rounds, restart);
            assert_eq!(denied, rounds, "{reply:?}");
            all += u64::from(rounds);
        }
    }
    assert!(all >= 10_000, "{all}");
    let parked = host.counter("parked");
    assert!(parked >= all * 9 / 10, "{parked} of {all} were stopped");
    assert_eq!(host.counter("park_failed"), 0);
    drop(listeners);
}

/// A debugger may continue what it traces as often as it likes, and keep it from being stopped: the call
/// is made again each time, and undecided each time.
#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn stopped_caller_under_a_debugger_waits_on() {
    const PTRACE_CONT: i64 = 7;
    const PTRACE_ATTACH: i64 = 16;
    const PTRACE_DETACH: i64 = 17;
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let mut debugger = host.stranger();
    let sent = begin_send(&mut agent, &host, "u");
    wait_stopped(&agent);
    // The thread that calls, not the one that reads what the probe is to do.
    let mut threads = fs::read_dir(format!("/proc/{}/task", agent.pid())).expect("threads");
    let caller: u32 = threads
        .find_map(|thread| {
            thread.ok()?.file_name().to_str()?.parse().ok().filter(|id| *id != agent.pid())
        })
        .expect("a thread that calls");
    let mut trace = |request: i64| {
        let arguments = [request, i64::from(caller), 0, 0].map(Word::Number);
        let traced = debugger.run(call(libc::SYS_ptrace, arguments));
        assert!(traced.is_ok(), "{request}: {traced:?}");
    };
    trace(PTRACE_ATTACH);
    wait_until("it is the debugger's", SOON, || state_of(caller) == Some('t'));
    for _ in 0..20 {
        // Without the signal that it has stopped with.
        trace(PTRACE_CONT);
        wait_until("it stops again", SOON, || state_of(caller) == Some('t'));
    }
    assert!(host.servers.at(host.at(UNGRANTED)).is_empty(), "nothing before the decision");
    assert_eq!(host.pending().len(), 1);
    trace(PTRACE_DETACH);
    host.grant(&GrantRequest::agent("waits", "web"));
    let reply = agent.finish(sent);
    assert!(reply.is_ok(), "{reply:?}");
    assert_arrives(&host, b"hello");
    assert_eq!(host.calls("stalled", "stalled"), 1, "one call, one event");
}

/// Every call is stopped, as none waits in the hook, and denied; what asks for the restart is seen by
/// no program.
#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn ten_thousand_stopped_calls_under_signals_end_as_they_must() {
    const ROUNDS: u16 = 2500;
    let flags = ["--wait-turns=0", "--requests-per-second=1000000"];
    let host = flags.iter().fold(TestHost::builder(), |host, flag| host.flag(flag)).build();
    let mut agent = host.agent("waits");
    for (address, restart) in
        [(host.at(50), true), (host.at(50), false), (host.at6(50), true), (host.at6(50), false)]
    {
        let mut address = address;
        address.set_port(if restart { 10_000 } else { 20_000 });
        let calls = StormCalls::Datagrams { address };
        let Weathered { sent, denied, interrupted, reply } =
            weather(&mut agent, calls, ROUNDS, restart);
        // Without SA_RESTART a copy of a file may be interrupted, and says so.
        assert_eq!(sent + denied + interrupted, ROUNDS, "{reply:?}");
        // Before 6.5 no program of BPF LSM sees `sendfile`: what is undecided is lost at egress.
        let unseen = (0..ROUNDS).filter(|round| round % 6 == 5).count();
        assert!(sent == 0 || usize::from(sent + interrupted) == unseen, "{reply:?}");
    }
    let parked = host.counter("parked");
    assert!(parked >= 3 * u64::from(ROUNDS), "{parked} were stopped");
    assert_eq!(host.counter("park_failed"), 0);
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn process_that_its_owner_has_stopped_is_left_alone() {
    let host = TestHost::start();
    let mut agent = host.agent("waits");
    let sent = begin_send(&mut agent, &host, "u");
    wait_stopped(&agent);
    host.grant(&GrantRequest::agent("waits", "web"));
    assert!(agent.finish(sent).is_ok());
    agent.signal(Signal::STOP);
    wait_stopped(&agent);
    // Longer than it takes to find a caller that was forgotten.
    let end = std::time::Instant::now() + slowed(Duration::from_secs(2));
    while std::time::Instant::now() < end {
        assert!(is_stopped(agent.pid()), "it was stopped by its owner");
    }
    agent.signal(Signal::CONT);
    let reply: Reply = agent.send_to("v", host.at(UNGRANTED), "again");
    assert!(reply.is_ok(), "{reply:?}");
}
