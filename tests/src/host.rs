//! One host under test: daemon, cgroup, namespaces, servers and policy, all of it the test's own.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    binaries,
    cgroup::Cgroup,
    daemon::Daemon,
    events::{self, Event},
    network::{HOSTS, Network, v4, v6},
    probe::Probe,
    servers::Servers,
    wait::{SOON, poll_for, slowed},
};

/// Every server listens here.
pub const PORT: u16 = 7000;

/// How long the agent `hasty` of [`POLICY`] waits; before [`slowed`].
pub const HASTE: Duration = Duration::from_millis(500);

/// How long the agent `waits` of [`POLICY`] waits; before [`slowed`].
const PATIENCE: Duration = Duration::from_secs(15);

/// The policy of a test that names none. `@CG@` stands for the test's cgroup.
///
/// Hosts .10 are standing, .20 and .30 need a grant, .40 is approved for nobody, .50 no tool.
/// Port 7001 of loopback is standing for `strict`.
pub const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: model, cidrs: [192.0.2.10, "2001:db8::10"], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: web, cidrs: [192.0.2.20, "2001:db8::20"], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: mail, cidrs: [192.0.2.30, "2001:db8::30"], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: admin, cidrs: [192.0.2.40, "2001:db8::40"], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: local, cidrs: [127.0.0.1, "::1"], ports: [7001] }
agents:
  - name: waits
    owner: owner@example.com
    purpose: Waits long for its grants
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [model, web, mail]
    standing: [model]
    stall_limit: @PATIENCE@
  - name: hasty
    owner: owner@example.com
    purpose: Waits half a second
    selectors: [["cgroup:path:@CG@/hasty"]]
    tools: [model, web, mail]
    standing: [model]
    stall_limit: @HASTE@
  - name: strict
    owner: owner@example.com
    purpose: Never waits
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, web, mail, local]
    standing: [model, local]
    stall_limit: 0s
    socket_mark: 42
  - name: curt
    owner: owner@example.com
    purpose: Is denied by the kernel what it has no verdict for
    selectors: [["cgroup:path:@CG@/curt"]]
    tools: [model, web, mail]
    standing: [model]
    on_miss: deny
  - name: watched
    owner: owner@example.com
    purpose: Is only watched
    selectors: [["cgroup:path:@CG@/watched"]]
    tools: [model, web]
    standing: [model]
    mode: audit
"#;

/// What a host is to be like.
#[derive(Debug)]
pub struct HostBuilder {
    policy: String,
    flags: Vec<String>,
    start: bool,
}

impl HostBuilder {
    /// Another policy; `@CG@` stands for the test's cgroup, `@DIR@` for its directory.
    #[must_use]
    pub fn policy(mut self, policy: &str) -> Self {
        policy.clone_into(&mut self.policy);
        self
    }

    /// One more argument of `agent-enforcer run`; `@DIR@` stands for the test's directory.
    #[must_use]
    pub fn flag(mut self, flag: &str) -> Self {
        self.flags.push(flag.to_owned());
        self
    }

    /// The daemon is not started.
    #[must_use]
    pub const fn stopped(mut self) -> Self {
        self.start = false;
        self
    }

    /// Makes the host.
    pub fn build(self) -> TestHost {
        let Self { policy, flags, start } = self;
        let mut host = TestHost::prepare(&flags);
        host.write_policy(&policy);
        if start {
            host.daemon.start();
        }
        host
    }
}

/// What a grant is to be like; for fifteen minutes where nothing else is said.
#[derive(Debug, Clone)]
pub struct GrantRequest {
    arguments: Vec<String>,
    lifetime: String,
}

impl GrantRequest {
    /// Permits an agent to use a tool.
    pub fn agent(agent: &str, tool: &str) -> Self {
        Self::new("--agent", agent, tool)
    }

    /// Permits one instance to use a tool.
    pub fn instance(instance: &str, tool: &str) -> Self {
        Self::new("--instance", instance, tool)
    }

    fn new(kind: &str, holder: &str, tool: &str) -> Self {
        let arguments = [
            "grant",
            "issue",
            kind,
            holder,
            "--tool",
            tool,
            "--on-behalf-of",
            "ada@example.com",
            "--task",
            "TASK-1",
        ];
        Self { arguments: arguments.map(str::to_owned).to_vec(), lifetime: "15m".to_owned() }
    }

    /// How long it lasts.
    #[must_use]
    pub fn lasting(mut self, lifetime: &str) -> Self {
        lifetime.clone_into(&mut self.lifetime);
        self
    }

    /// From when on, RFC 3339.
    #[must_use]
    pub fn not_before(self, time: &str) -> Self {
        self.and("--not-before", time)
    }

    /// How many calls it admits.
    #[must_use]
    pub fn uses(self, uses: u32) -> Self {
        self.and("--max-uses", &uses.to_string())
    }

    fn and(mut self, option: &str, value: &str) -> Self {
        self.arguments.extend([option.to_owned(), value.to_owned()]);
        self
    }
}

/// A host under test. Fields go in this order: what others need goes last.
#[derive(Debug)]
pub struct TestHost {
    /// The daemon.
    pub daemon: Daemon,
    /// Servers at every remote address, [`PORT`].
    pub servers: Servers,
    cgroup: Cgroup,
    _pins: Mounted,
    /// Both namespaces.
    pub network: Network,
    directory: TempDir,
}

#[derive(Debug)]
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // Pins go with their file system, and with them what is attached.
        if let Err(error) = unmount(&self.0, UnmountFlags::DETACH) {
            eprintln!("{} is left mounted: {error}", self.0.display());
        }
    }
}

impl TestHost {
    /// A host with [`POLICY`], enforcing.
    pub fn start() -> Self {
        Self::builder().build()
    }

    /// A host to be changed first.
    pub fn builder() -> HostBuilder {
        HostBuilder { policy: POLICY.to_owned(), flags: Vec::new(), start: true }
    }

    fn prepare(flags: &[String]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(
            rustix::process::geteuid().is_root(),
            "T1 tests load eBPF programs and make cgroups: run them as root"
        );
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = tempfile::Builder::new().prefix("ae-t1-").tempdir().expect("a directory");
        for name in ["policy", "bpf", "run", "state"] {
            let path = directory.path().join(name);
            fs::create_dir(&path).expect("a new directory");
            let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            fs::set_permissions(&path, private).expect("an own directory");
        }
        let bpffs = directory.path().join("bpf");
        mount("bpf", &bpffs, "bpf", MountFlags::empty(), None::<&std::ffi::CStr>)
            .expect("a bpf file system; T1 tests need a kernel with BPF");
        let mounted = Mounted(bpffs);
        // A slice: what is made in it can be a unit, as below system.slice.
        let cgroup = Cgroup::create(&format!("ae-t1-{}-{number}.slice", std::process::id()));
        let network = Network::new();
        let addresses: Vec<_> = HOSTS
            .iter()
            .flat_map(|host| [v4(*host), v6(*host)])
            .map(|address| SocketAddr::new(address, PORT))
            .collect();
        let servers = Servers::start(&network.remote, &addresses);
        let place = directory.path().display().to_string();
        let flags: Vec<_> = flags.iter().map(|flag| flag.replace("@DIR@", &place)).collect();
        let daemon = Daemon::new(directory.path(), cgroup.path(), &flags);
        Self { daemon, servers, cgroup, _pins: mounted, network, directory }
    }

    /// A directory of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The test's cgroup as selectors name it.
    pub fn cgroup_name(&self) -> String {
        self.cgroup.name()
    }

    /// A cgroup below the test's, made where it is not there.
    pub fn cgroup(&self, name: &str) -> PathBuf {
        self.cgroup.child(name)
    }

    /// The server of an IPv4 host.
    pub fn at(&self, host: u8) -> SocketAddr {
        SocketAddr::new(v4(host), PORT)
    }

    /// The server of an IPv6 host.
    pub fn at6(&self, host: u8) -> SocketAddr {
        SocketAddr::new(v6(host), PORT)
    }

    /// Puts a policy where the daemon will read it.
    pub fn write_policy(&self, policy: &str) {
        let directory = self.directory.path().display().to_string();
        let haste = format!("{}ms", slowed(HASTE).as_millis());
        let policy = policy.replace("@CG@", &self.cgroup.name()).replace("@DIR@", &directory);
        let patience = format!("{}s", slowed(PATIENCE).as_secs());
        let policy = policy.replace("@HASTE@", &haste).replace("@PATIENCE@", &patience);
        fs::write(self.daemon.policy_directory().join("policy.yaml"), policy).expect("an own file");
    }

    /// A probe in the cgroup that belongs to an agent of [`POLICY`], attested if a daemon runs: its
    /// first call does not wait for its digest.
    pub fn agent(&self, name: &str) -> Probe {
        let probe = Probe::start(binaries::probe(), &self.cgroup(name), None, &self.network.agents);
        self.wait_attested(&probe);
        probe
    }

    fn wait_attested(&self, probe: &Probe) {
        if !self.daemon.is_started() {
            return;
        }
        let known = poll_for(SOON, || {
            let explained = self.explain(probe.pid(), "192.0.2.50:7000");
            let hashing = explained["steps"].to_string().contains("is being hashed");
            (!hashing).then_some(())
        });
        assert!(known.is_some(), "the probe is not hashed\n{}", self.daemon.log());
    }

    /// A probe that is no agent's.
    pub fn stranger(&self) -> Probe {
        self.agent("strangers")
    }

    /// A probe of another user, executable and cgroup.
    pub fn probe(&self, program: &Path, cgroup: &str, uid: Option<u32>) -> Probe {
        let probe = Probe::start(program, &self.cgroup(cgroup), uid, &self.network.agents);
        self.wait_attested(&probe);
        probe
    }

    /// A copy of the probe at a path of its own.
    pub fn copy_of_probe(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::copy(binaries::probe(), &path).expect("a copy of the probe");
        // Other users execute it.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.directory.path(), open).expect("an own directory");
        path
    }

    /// Runs a command of the operator; its JSON document.
    pub fn cli(&self, arguments: &[&str]) -> Value {
        let output = self.try_cli(arguments);
        assert!(
            output.status.success(),
            "{arguments:?}: {}\n{}",
            String::from_utf8_lossy(&output.stderr),
            self.daemon.log()
        );
        serde_json::from_slice(&output.stdout).expect("a JSON document")
    }

    /// Runs a command of the operator.
    pub fn try_cli(&self, arguments: &[&str]) -> Output {
        self.daemon.cli(arguments)
    }

    /// Runs a command of an operator who is not root.
    pub fn try_cli_as(&self, uid: u32, arguments: &[&str]) -> Output {
        let reachable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        let program = self.directory.path().join("agent-enforcer");
        if !program.exists() {
            // What is above the build's directory may be closed to others.
            fs::hard_link(binaries::daemon(), &program)
                .or_else(|_| fs::copy(binaries::daemon(), &program).map(|_| ()))
                .expect("an own file");
        }
        for path in [self.directory.path(), &self.directory.path().join("run")] {
            let mode = fs::Permissions::clone(&reachable);
            fs::set_permissions(path, mode).expect("an own directory");
        }
        Command::new(program)
            .uid(uid)
            .gid(uid)
            .arg("--runtime-dir")
            .arg(self.directory.path().join("run"))
            .args(["--output", "json"])
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .expect("the daemon's binary runs for everybody")
    }

    /// Issues a grant; returns its id.
    pub fn grant(&self, request: &GrantRequest) -> String {
        let mut arguments: Vec<&str> = request.arguments.iter().map(String::as_str).collect();
        arguments.extend(["--for", &request.lifetime]);
        let grant = self.cli(&arguments);
        grant["id"].as_str().expect("a grant has an id").to_owned()
    }

    /// Revokes a grant.
    pub fn revoke(&self, grant: &str) {
        self.cli(&["grant", "revoke", grant, "--reason", "test"]);
    }

    /// A grant as it stands.
    pub fn grant_view(&self, grant: &str) -> Value {
        let grants = self.cli(&["grant", "list"]);
        let mut grants = grants.as_array().expect("a list").iter();
        grants.find(|view| view["id"] == grant).expect("a grant of the daemon").clone()
    }

    /// What the daemon would decide for a process.
    pub fn explain(&self, pid: u32, to: &str) -> Value {
        self.cli(&["explain", "--pid", &pid.to_string(), "--to", to])
    }

    /// Calls that wait.
    pub fn pending(&self) -> Vec<Value> {
        self.cli(&["pending"]).as_array().expect("a list").clone()
    }

    /// A kernel counter by the word of its reason.
    pub fn reason_counter(&self, reason: &str) -> u64 {
        self.cli(&["status"])["reasons"][reason].as_u64().unwrap_or_default()
    }

    /// A counter by its name.
    pub fn counter(&self, name: &str) -> u64 {
        self.cli(&["status"])["counters"][name].as_u64().unwrap_or_default()
    }

    /// Every event so far.
    pub fn events(&self) -> Vec<Event> {
        events::read(&self.daemon.events_file())
    }

    /// How many calls ended in an outcome with a reason, by the events so far.
    pub fn calls(&self, outcome: &str, reason: &str) -> u64 {
        events::calls(&self.events(), outcome, reason)
    }

    /// Waits for an event; panics with all events after the deadline.
    pub fn wait_event(&self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        self.wait_event_for(what, SOON, wanted)
    }

    /// Waits for an event, as long as is said.
    pub fn wait_event_for(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Event) -> bool,
    ) -> Event {
        let found = poll_for(deadline, || self.events().into_iter().find(|event| wanted(event)));
        found.unwrap_or_else(|| {
            let events = self.events();
            let all: Vec<_> = events.iter().map(|event| event.text("/message")).collect();
            panic!("no event within {deadline:?}: {what}; there are {all:#?}")
        })
    }

    /// Waits for the event of a denied call.
    pub fn wait_denied(&self, reason: &str, pid: u32) -> Event {
        self.wait_call("denied", reason, pid)
    }

    /// Waits for the event of a process's call.
    pub fn wait_call(&self, outcome: &str, reason: &str, pid: u32) -> Event {
        self.wait_event(&format!("{outcome} {reason} of {pid}"), |event| {
            event.outcome() == outcome
                && event.own("reason") == reason
                && event.pid() == u64::from(pid)
        })
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the daemon's log\n{}", self.daemon.log());
            for event in self.events() {
                eprintln!("--- event: {}", event.text("/message"));
            }
        }
    }
}
