//! Being called: an agent answers only at the addresses of its host that a tool names, whoever calls.

use std::{fs, net::SocketAddr, time::Duration};

use agent_enforcer_tests::{
    GrantRequest, Op, Probe, TestHost,
    network::{v4, v6},
    wait::{SOON, wait_until},
};
use libc::SOCK_STREAM;

/// The agent `server` may be called at one port of the test network's addresses, `@STANDING@` without a
/// grant, and calls nobody.
const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: service, listen: ["192.0.2.1:@PORT@", "[2001:db8::1]:@PORT@", "127.0.0.0/8:@PORT@"] }
agents:
  - name: server
    owner: owner@example.com
    purpose: Is called
    selectors: [["cgroup:path:@CG@/server"]]
    tools: [service]
    standing: [@STANDING@]
    stall_limit: @PATIENCE@
"#;

/// A policy with a server that may be called at a port, without a grant.
pub(crate) fn called_at(port: &str) -> String {
    POLICY.replace("@PORT@", port).replace("@STANDING@", "service")
}

fn with_grant_only(port: &str) -> String {
    POLICY.replace("@PORT@", port).replace("@STANDING@", "")
}

fn name(name: &str) -> String {
    name.to_owned()
}

fn listen(agent: &mut Probe, listener: &str, own: SocketAddr) {
    assert!(agent.socket(listener, own, SOCK_STREAM).is_ok());
    assert!(agent.run(Op::Bind { name: name(listener), address: own }).is_ok());
    assert!(agent.run(Op::Listen { name: name(listener) }).is_ok());
}

/// Somebody on the other side of the cable.
fn outsider(host: &TestHost) -> Probe {
    let program = agent_enforcer_tests::binaries::probe();
    Probe::start(program, &host.cgroup("strangers"), None, &host.network.remote)
}

fn begin_call(caller: &mut Probe, socket: &str, to: SocketAddr) {
    assert!(caller.socket(socket, to, SOCK_STREAM).is_ok());
    assert!(caller.run(Op::Nonblocking { name: name(socket), on: true }).is_ok());
    caller.run(Op::Connect { name: name(socket), address: to });
}

fn is_connected(caller: &mut Probe, socket: &str, timeout_ms: i32) -> bool {
    caller.run(Op::Connected { name: name(socket), timeout_ms }).is_ok()
}

/// Both sides hear each other.
fn talk(agent: &mut Probe, listener: &str, caller: &mut Probe, socket: &str) {
    let connection = format!("{listener}-{socket}");
    assert!(agent.run(Op::Accept { name: name(listener), connection: connection.clone() }).is_ok());
    assert!(agent.send(&connection, "answer").is_ok());
    assert_eq!(caller.receive(socket).data, "answer");
    assert!(caller.send(socket, "question").is_ok());
    assert_eq!(agent.receive(&connection).data, "question");
}

#[test]
fn agent_answers_where_it_may_be_called_and_nowhere_else() {
    let host = TestHost::builder().policy(&called_at("8000")).build();
    let mut agent = host.agent("server");
    let mut outsider = outsider(&host);
    for (number, address) in [(0, v4(1)), (1, v6(1))] {
        let (granted, other) = (SocketAddr::new(address, 8000), SocketAddr::new(address, 8001));
        let [l, e, g] = ["l", "e", "g"].map(|socket| format!("{socket}{number}"));
        listen(&mut agent, &l, granted);
        listen(&mut agent, &e, other);
        begin_call(&mut outsider, &e, other);
        wait_until("a denial", SOON, || host.calls("denied", "no_tool") > number);
        assert!(!is_connected(&mut outsider, &e, 500));
        begin_call(&mut outsider, &g, granted);
        assert!(is_connected(&mut outsider, &g, 5000));
        talk(&mut agent, &l, &mut outsider, &g);
    }
    let denied = host.wait_denied("no_tool", agent.pid());
    assert_eq!(denied.own("destination"), "listen:192.0.2.1:8001/tcp");
    assert_eq!(denied.text("/connection_info/direction"), "Inbound");
    // To be called is no right to call: the same peer, the other way round.
    assert!(agent.connect("back", host.at(10)).is_denied());
    assert!(host.servers.at(host.at(10)).is_empty());
}

#[test]
fn wildcard_listener_answers_at_the_addresses_that_are_named() {
    let policy = called_at("8000").replace("\"127.0.0.0/8:8000\"", "\"127.0.0.2:8000\"");
    let host = TestHost::builder().policy(&policy).build();
    let mut agent = host.agent("server");
    listen(&mut agent, "l", "0.0.0.0:8000".parse().unwrap());
    let program = agent_enforcer_tests::binaries::probe();
    let mut local = Probe::start(program, &host.cgroup("strangers"), None, &host.network.agents);
    begin_call(&mut local, "e", "127.0.0.1:8000".parse().unwrap());
    host.wait_denied("no_tool", agent.pid());
    assert!(!is_connected(&mut local, "e", 500));
    begin_call(&mut local, "g", "127.0.0.2:8000".parse().unwrap());
    assert!(is_connected(&mut local, "g", 5000));
    talk(&mut agent, "l", &mut local, "g");
    let mut outsider = outsider(&host);
    begin_call(&mut outsider, "g", SocketAddr::new(v4(1), 8000));
    assert!(is_connected(&mut outsider, "g", 5000));
    talk(&mut agent, "l", &mut outsider, "g");
}

#[test]
fn listener_without_a_port_of_its_own_is_judged_by_the_one_it_gets() {
    let host = TestHost::builder().policy(&called_at("1-1023")).build();
    let mut agent = host.agent("server");
    // listen() without bind() takes any port.
    assert!(agent.socket("l", "127.0.0.1:0".parse().unwrap(), SOCK_STREAM).is_ok());
    assert!(agent.run(Op::Listen { name: name("l") }).is_ok());
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", agent.pid())).unwrap();
    let port = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let local = fields.get(1)?.split_once(':')?;
        (fields[3] == "0A").then(|| u16::from_str_radix(local.1, 16).unwrap())
    });
    let mut outsider = outsider(&host);
    begin_call(&mut outsider, "e", SocketAddr::new(v4(1), port.expect("a listener")));
    host.wait_denied("no_tool", agent.pid());
    assert!(!is_connected(&mut outsider, "e", 500));
}

#[test]
fn caller_waits_for_the_grant_to_be_called() {
    let host = TestHost::builder().policy(&with_grant_only("8000")).build();
    let mut agent = host.agent("server");
    let own = SocketAddr::new(v4(1), 8000);
    listen(&mut agent, "l", own);
    let mut outsider = outsider(&host);
    begin_call(&mut outsider, "g", own);
    host.wait_call("stalled", "stalled", agent.pid());
    assert!(!is_connected(&mut outsider, "g", 200));
    host.grant(&GrantRequest::agent("server", "service"));
    assert!(is_connected(&mut outsider, "g", 10_000));
    talk(&mut agent, "l", &mut outsider, "g");
    let allowed = host.wait_call("allowed", "allowed_grant", agent.pid());
    assert_eq!(allowed.own("principal"), "ada@example.com");
}

#[test]
fn expiry_ends_accepted_connections_and_a_new_grant_opens_the_listener_again() {
    let host = TestHost::builder().policy(&with_grant_only("8000")).build();
    let mut agent = host.agent("server");
    let own = SocketAddr::new(v4(1), 8000);
    listen(&mut agent, "l", own);
    let mut outsider = outsider(&host);
    host.grant(&GrantRequest::agent("server", "service").lasting("2s"));
    begin_call(&mut outsider, "g", own);
    assert!(is_connected(&mut outsider, "g", 5000));
    talk(&mut agent, "l", &mut outsider, "g");
    // Until its end; then the connection is reset, and what is sent goes nowhere.
    let cut = agent.begin(Op::Stream { name: name("l-g"), data: name("x"), pause_us: 20_000 });
    let cut = agent.wait_for(cut, Duration::from_secs(20)).expect("an end");
    assert!(!cut.is_ok(), "{cut:?}");
    begin_call(&mut outsider, "late", own);
    assert!(!is_connected(&mut outsider, "late", 500));
    host.grant(&GrantRequest::agent("server", "service"));
    begin_call(&mut outsider, "again", own);
    assert!(is_connected(&mut outsider, "again", 10_000));
    assert!(agent.run(Op::Accept { name: name("l"), connection: name("first") }).is_ok());
}

#[test]
fn who_calls_again_and_again_fills_no_log() {
    let host = TestHost::builder().policy(&called_at("8000")).build();
    let mut agent = host.agent("server");
    let own = SocketAddr::new(v4(1), 8001);
    listen(&mut agent, "l", own);
    let mut outsider = outsider(&host);
    // As many as its queue takes; each SYN-ACK comes again besides.
    for number in 0..12 {
        begin_call(&mut outsider, &format!("e{number}"), own);
    }
    host.wait_denied("no_tool", agent.pid());
    wait_until("all are counted", SOON, || host.reason_counter("no_tool") >= 24);
    let told = host.calls("denied", "no_tool");
    assert!(told < 5, "{told} denials of one listener were told");
}

#[test]
fn accepted_socket_that_calls_somebody_itself_is_judged_by_whom_it_calls() {
    let host = TestHost::builder().policy(&called_at("8000")).build();
    let mut agent = host.agent("server");
    let own = SocketAddr::new(v4(1), 8000);
    listen(&mut agent, "l", own);
    let mut outsider = outsider(&host);
    begin_call(&mut outsider, "g", own);
    assert!(is_connected(&mut outsider, "g", 5000));
    talk(&mut agent, "l", &mut outsider, "g");
    for socket in ["l-g", "l"] {
        assert!(agent.run(Op::Disconnect { name: name(socket) }).is_ok());
        let called = agent.run(Op::Connect { name: name(socket), address: host.at(10) });
        assert!(called.is_denied(), "{socket}: {called:?}");
    }
    assert!(host.servers.at(host.at(10)).is_empty());
}
