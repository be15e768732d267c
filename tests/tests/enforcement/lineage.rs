//! Whatever an agent's process becomes, it stays the agent's; and nobody else inherits that.

use agent_enforcer_tests::{ForkKind, Op, Probe, Reply, TestHost, planes};

fn dial(host: &TestHost, to: u8) -> Op {
    Op::Dial { address: host.at(to) }
}

/// `wrap` makes a dial happen somewhere below the agent: denied to nobody's tool, allowed to a
/// standing one, and both told of the agent's own instance.
fn assert_stays_agent(wrap: impl Fn(&TestHost, Op) -> Op) {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("own", host.at(10)).is_ok());
    let own = host.wait_call("allowed", "allowed_standing", agent.pid());
    let denied = agent.run(wrap(&host, dial(&host, 50)));
    assert!(denied.is_denied(), "{denied:?}");
    assert!(host.servers.at(host.at(50)).is_empty());
    let allowed = agent.run(wrap(&host, dial(&host, 10)));
    assert!(allowed.is_ok(), "{allowed:?}");
    let event = host.wait_event("the denial", |event| event.own("reason") == "no_tool");
    assert_eq!(event.own("instance"), own.own("instance"));
    assert_eq!(event.own("agent"), "strict");
}

fn run(argv: &[&str]) -> Op {
    Op::Run { argv: argv.iter().map(|word| (*word).to_owned()).collect() }
}

fn once(op: &Op) -> String {
    serde_json::to_string(op).unwrap()
}

fn probe() -> String {
    agent_enforcer_tests::binaries::probe().display().to_string()
}

#[test]
fn forked_child_stays_the_agents() {
    assert_stays_agent(|_, op| Op::Fork { kind: ForkKind::Plain, op: Box::new(op) });
}

#[test]
fn e01_orphan_of_a_double_fork_stays_the_agents() {
    assert_stays_agent(|_, op| Op::Fork { kind: ForkKind::Double, op: Box::new(op) });
}

#[test]
fn thread_stays_the_agents() {
    assert_stays_agent(|_, op| Op::InThread { op: Box::new(op) });
}

#[test]
fn e02_spawned_program_stays_the_agents() {
    assert_stays_agent(|_, op| run(&[&probe(), "once", &once(&op)]));
}

#[test]
fn e06_copied_program_stays_the_agents() {
    assert_stays_agent(|host, op| {
        let copy = host.copy_of_probe("harmless");
        run(&[&copy.display().to_string(), "once", &once(&op)])
    });
}

#[test]
fn e07_program_in_memory_stays_the_agents() {
    assert_stays_agent(|_, op| Op::RunMemfd { op: Box::new(op) });
}

#[test]
fn e08_program_behind_the_loader_stays_the_agents() {
    assert_stays_agent(|_, op| run(&["/lib64/ld-linux-x86-64.so.2", &probe(), "once", &once(&op)]));
}

#[test]
fn e08_program_behind_shells_and_sessions_stays_the_agents() {
    assert_stays_agent(|_, op| {
        let script = r#"setsid -w env "$0" once "$1""#;
        run(&["sh", "-c", script, &probe(), &once(&op)])
    });
}

/// `change` alters the agent's process itself.
fn assert_changed_process_stays_agent(change: impl FnOnce(&TestHost, &mut Probe) -> Reply) {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    assert!(agent.connect("before", host.at(10)).is_ok());
    let before = host.wait_call("allowed", "allowed_standing", agent.pid());
    let changed = change(&host, &mut agent);
    assert!(changed.is_ok(), "{changed:?}");
    assert!(agent.run(dial(&host, 50)).is_denied());
    assert!(agent.run(dial(&host, 10)).is_ok());
    let event = host.wait_denied("no_tool", agent.pid());
    assert_eq!(event.own("instance"), before.own("instance"));
    assert!(agent.echoes("before"), "a granted flow is cut off");
}

#[test]
fn e04_process_that_leaves_its_cgroup_stays_the_agents() {
    if planes::lsm_is_promised() {
        // There it does not even leave it.
        let host = TestHost::start();
        let directory = host.cgroup("strangers").display().to_string();
        let left = host.agent("strict").run(Op::EnterCgroup { directory });
        assert_eq!(left.errno, libc::EACCES, "{left:?}");
        return;
    }
    assert_changed_process_stays_agent(|host, agent| {
        let directory = host.cgroup("strangers").display().to_string();
        agent.run(Op::EnterCgroup { directory })
    });
}

#[test]
fn e05_process_that_changes_its_user_stays_the_agents() {
    assert_changed_process_stays_agent(|_, agent| agent.run(Op::SetUser { uid: 64_000 }));
}

#[test]
fn e15_process_that_executes_a_trusted_program_stays_the_agents() {
    assert_changed_process_stays_agent(|host, agent| {
        let path = host.copy_of_probe("trusted");
        let reply = agent.become_program(&path, false);
        let path = path.display().to_string();
        assert!(agent.run(dial(host, 40)).is_denied());
        let event = host.wait_denied("tool_not_approved", agent.pid());
        assert_eq!(event.text("/actor/process/file/path"), path);
        reply
    });
}

#[test]
fn thread_that_executes_a_program_stays_the_agents() {
    assert_changed_process_stays_agent(|_, agent| {
        agent.become_program(agent_enforcer_tests::binaries::probe(), true)
    });
}

#[test]
fn process_whose_leading_thread_has_exited_stays_the_agents() {
    assert_changed_process_stays_agent(|_, agent| agent.run(Op::LeaderExit));
}

/// Starts processes until one has this pid.
fn with_pid(pid: u32, start: impl Fn() -> Probe) -> Probe {
    // Whatever starts it takes some pids for threads of its own.
    let found = (1..=3).cycle().take(300).find_map(|before| {
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - before).to_string()).expect("root");
        Some(start()).filter(|probe| probe.pid() == pid)
    });
    found.expect("the pid of the dead agent again")
}

#[test]
fn e10_stranger_with_the_reused_pid_of_an_agent_is_untouched() {
    let host = TestHost::start();
    let mut agent = host.agent("strict");
    let pid = agent.pid();
    assert!(agent.run(dial(&host, 50)).is_denied());
    agent.kill();
    host.wait_event("its instance ends", |event| event.code() == "instance_ended");
    let mut stranger = with_pid(pid, || host.stranger());
    assert!(stranger.run(dial(&host, 50)).is_ok());
    assert_eq!(host.explain(pid, "192.0.2.50:7000")["outcome"], "not_an_agent");
}

#[test]
fn e10_agent_with_the_reused_pid_of_another_is_an_instance_of_its_own() {
    let host = TestHost::start();
    let mut first = host.agent("strict");
    let pid = first.pid();
    assert!(first.run(dial(&host, 10)).is_ok());
    let before = host.wait_call("allowed", "allowed_standing", pid);
    first.kill();
    let mut second = with_pid(pid, || host.agent("hasty"));
    assert!(second.run(dial(&host, 40)).is_denied());
    let event = host.wait_denied("tool_not_approved", pid);
    assert_eq!(event.own("agent"), "hasty");
    assert_ne!(event.own("instance"), before.own("instance"));
    assert_ne!(event.text("/actor/process/uid"), before.text("/actor/process/uid"));
}
