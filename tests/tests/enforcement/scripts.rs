//! Scripts: which code an interpreter runs, of agents whose manifest lists interpreter and script.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use agent_enforcer_tests::{
    Event, Op, Probe, Reply, Signatory, TestHost, Ticket, binaries,
    wait::{SOON, wait_until},
};

const ID: &str = "spiffe://example.org/agent/strict";

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
keys: [@OWNER@]
signers: [{ key: owner, agents: [strict] }]
tools:
  - { name: model, cidrs: [192.0.2.10], ports: ["1-65535"] }
  - { name: code, cidrs: [192.0.2.30], ports: ["1-65535"], via: ["@BASH@"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Runs scripts
    agent_id: spiffe://example.org/agent/strict
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, code]
    standing: [model, code]
    stall_limit: 0s
"#;

/// Connects to `$1`, port `$2`, and says what came of it as a probe does.
const DIALS: &str = r#"
if true 2>/dev/null 3<>"/dev/tcp/$1/$2"; then errno=0; else errno=13; fi
echo "{\"id\":0,\"errno\":$errno,\"value\":0,\"data\":\"\",\"micros\":0,\"pid\":$$}"
"#;

/// Says that it runs, and waits for the file `$3`, first.
const WAITS: &str = r#"
: > "${3%/*}/started"
while [ ! -e "$3" ]; do :; done
"#;

/// A listed interpreter, two listed scripts, and a probe that is listed, which starts them.
struct Stage {
    // Ends before its host does.
    agent: Probe,
    host: TestHost,
    bash: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let mut host = TestHost::builder().stopped().build();
        let bash = ["/usr/bin/bash", "/bin/bash"].map(PathBuf::from);
        let bash = bash.into_iter().find(|path| path.exists()).expect("bash");
        let owner = Signatory::new(host.directory(), "owner", "EdDSA");
        let policy = POLICY.replace("@OWNER@", &owner.jwk);
        host.write_policy(&policy.replace("@BASH@", bash.to_str().unwrap()));
        let script = |name: &str, text: &str| {
            let path = host.directory().join(name);
            fs::write(&path, format!("#!{} -eu{text}", bash.display())).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            path
        };
        let listed = script("listed.sh", DIALS);
        let waits = script("waits.sh", &format!("{WAITS}{DIALS}"));
        script("other.sh", &format!("{DIALS}# not listed\n"));
        for (name, text) in [("good", ""), ("evil", "# not listed\n")] {
            fs::create_dir(host.directory().join(name)).unwrap();
            script(&format!("{name}/waits.sh"), &format!("{WAITS}{DIALS}{text}"));
        }
        let software = [
            format!("probe={}", binaries::probe().display()),
            format!("bash={}:interpreter:shell", bash.display()),
            format!("listed={}:script", listed.display()),
            format!("waits={}:script", waits.display()),
        ];
        let mut new = vec!["--name", "strict", "--agent-id", ID, "--tool", "model,code"];
        new.extend(["--valid-for", "1h"]);
        new.extend(software.iter().flat_map(|software| ["--software", software.as_str()]));
        let manifest = owner.manifest(&new);
        fs::write(host.daemon.policy_directory().join("strict.json"), manifest).unwrap();
        host.daemon.start();
        let mut agent = host.agent("strict");
        assert!(agent.connect("own", host.at(10)).is_ok());
        Self { agent, host, bash }
    }

    fn path(&self, name: &str) -> String {
        self.host.directory().join(name).display().to_string()
    }

    fn bash(&self) -> &str {
        self.bash.to_str().unwrap()
    }

    /// Runs a program with the arguments that scripts want, and tells what came of it.
    fn dial(&mut self, to: u8, argv: &[&str]) -> (Reply, u64) {
        let ticket = self.begin(to, argv);
        let reply = self.agent.finish(ticket);
        let pid = reply.data.parse().expect("the number of a process");
        (reply, pid)
    }

    fn begin(&mut self, to: u8, argv: &[&str]) -> Ticket {
        let (address, go) = (self.host.at(to), self.path("go"));
        let mut argv: Vec<String> = argv.iter().map(|word| (*word).to_owned()).collect();
        argv.extend([address.ip().to_string(), address.port().to_string(), go]);
        self.agent.begin(Op::Run { argv })
    }

    fn allows(&mut self, argv: &[&str]) -> Event {
        let (reply, pid) = self.dial(10, argv);
        let told = self.told(pid);
        assert!(reply.is_ok(), "{argv:?}: {told:?}");
        told
    }

    /// It is denied, and its event says why.
    fn denies(&mut self, argv: &[&str], reason: &str, unverified: &str) {
        let (reply, pid) = self.dial(10, argv);
        let told = self.told(pid);
        assert!(!reply.is_ok(), "{argv:?}: {told:?}");
        assert_denied(&told, reason, unverified);
    }

    fn told(&self, pid: u64) -> Event {
        let is_it =
            |event: &Event| event.pid() == pid && matches!(event.outcome(), "allowed" | "denied");
        self.host.wait_event("the call", is_it)
    }

    /// Starts a program while the daemon can't look, changes something, and lets both go on: the
    /// event of the program's call.
    fn meanwhile(&mut self, argv: &[&str], change: impl FnOnce(&Path)) -> Event {
        self.host.daemon.signal(rustix::process::Signal::STOP);
        let started = self.host.directory().join("started");
        assert!(!started.exists());
        let ticket = self.begin(10, argv);
        wait_until("the script runs", SOON, || started.exists());
        change(self.host.directory());
        self.host.daemon.signal(rustix::process::Signal::CONT);
        wait_until("the daemon is back", SOON, || {
            self.agent.connect("up", self.host.at(10)).is_ok()
        });
        fs::write(self.path("go"), "").unwrap();
        let reply = self.agent.finish(ticket);
        assert!(!reply.is_ok(), "{reply:?}");
        self.told(reply.data.parse().unwrap())
    }
}

fn assert_denied(told: &Event, reason: &str, unverified: &str) {
    let found = (told.outcome(), told.own("reason"), told.own("unverified"));
    assert_eq!(found, ("denied", reason, unverified), "{told:?}");
}

#[test]
fn listed_script_of_a_listed_interpreter_is_the_agents_own_software() {
    let mut stage = Stage::new();
    let (bash, listed) = (stage.bash().to_owned(), stage.path("listed.sh"));
    let told = stage.allows(&[&bash, &listed]);
    assert_eq!(told.own("script"), listed);
    let sums = Command::new("sha256sum").arg(&listed).output().unwrap();
    assert_eq!(Some(told.own("script_sha256").as_bytes()), sums.stdout.get(..64));
    // By its own first line, with options, by a relative path, and by a link.
    stage.allows(&[&listed]);
    stage.allows(&[&bash, "-euo", "pipefail", "--", &listed]);
    let directory = stage.path("");
    let relative = "cd \"$0\" && exec \"$1\" ./good/../listed.sh \"$2\" \"$3\"";
    stage.allows(&["sh", "-c", relative, &directory, &bash]);
    symlink(&listed, stage.path("link.sh")).unwrap();
    let link = stage.path("link.sh");
    wait_until("the link has aged", SOON, || stage.dial(10, &[&bash, &link]).0.is_ok());
}

#[test]
fn code_that_nobody_can_vouch_for_is_not_the_agents_software() {
    let mut stage = Stage::new();
    let (bash, listed) = (stage.bash().to_owned(), stage.path("listed.sh"));
    let other = stage.path("other.sh");
    stage.denies(&[&bash, "-c", DIALS, "x"], "script_unverified", "inline_code");
    let stdin = format!("exec {bash} -s \"$@\" < {listed}");
    stage.denies(&["sh", "-c", &stdin, "x"], "script_unverified", "stdin_code");
    stage.denies(&[&bash, "-l", &listed], "script_unverified", "startup_files");
    stage.denies(&[&bash, "--debug", &listed], "script_unverified", "unknown_option");
    let descriptor = format!("exec {bash} /dev/fd/9 \"$@\" 9< {listed}");
    stage.denies(&["sh", "-c", &descriptor, "x"], "script_unverified", "descriptor");
    let long = format!("{}/{}", "/".repeat(600), &listed);
    stage.denies(&[&bash, &long], "script_unverified", "arguments_unknown");
    stage.denies(&[&bash, &other], "software_not_approved", "");
    stage.denies(&[&other], "software_not_approved", "");
    // The same content elsewhere is the same script.
    let copy = stage.path("copy.sh");
    fs::copy(&listed, &copy).unwrap();
    wait_until("the copy has aged", SOON, || stage.dial(10, &[&bash, &copy]).0.is_ok());
    // An image of its own: what is denied to the child is not denied to its parent.
    stage.allows(&[&bash, &listed]);
}

#[test]
fn unverified_code_keeps_the_tools_that_name_its_interpreter() {
    let mut stage = Stage::new();
    let bash = stage.bash().to_owned();
    assert!(stage.dial(30, &[&bash, "-c", DIALS, "x"]).0.is_ok());
    stage.denies(&[&bash, "-c", DIALS, "x"], "script_unverified", "inline_code");
}

#[test]
fn script_that_changes_while_it_runs_is_not_verified() {
    let mut stage = Stage::new();
    let (bash, waits) = (stage.bash().to_owned(), stage.path("waits.sh"));
    fs::write(stage.path("go"), "").unwrap();
    // The directory has just changed, and so may the one that it is in.
    wait_until("it has aged", SOON, || stage.dial(10, &[&bash, &waits]).0.is_ok());
    for file in ["go", "started"] {
        fs::remove_file(stage.path(file)).unwrap();
    }
    let told = stage.meanwhile(&[&bash, &waits], |_| {
        // The same content again.
        let text = fs::read(&waits).unwrap();
        fs::write(&waits, text).unwrap();
    });
    assert_denied(&told, "script_unverified", "changed_after_exec");
}

#[test]
fn directory_that_takes_the_place_of_another_is_noticed() {
    let mut stage = Stage::new();
    let (bash, evil) = (stage.bash().to_owned(), stage.path("evil/waits.sh"));
    let told = stage.meanwhile(&[&bash, &evil], |directory| {
        fs::rename(directory.join("evil"), directory.join("gone")).unwrap();
        fs::rename(directory.join("good"), directory.join("evil")).unwrap();
    });
    assert_denied(&told, "script_unverified", "changed_after_exec");
}

#[test]
fn executable_in_memory_and_deleted_one_are_not_verified() {
    let mut stage = Stage::new();
    let op = Op::Dial { address: stage.host.at(10) };
    let reply = stage.agent.run(Op::RunMemfd { op: Box::new(op.clone()) });
    assert!(reply.is_denied(), "{reply:?}");
    assert_denied(&stage.told(reply.data.parse().unwrap()), "software_not_approved", "memfd");
    let copy = stage.host.copy_of_probe("copy").display().to_string();
    let op = serde_json::to_string(&op).unwrap();
    let runs = |how: &str| {
        let argv = ["sh", "-c", how, &copy, &op].map(ToOwned::to_owned);
        Op::Run { argv: argv.to_vec() }
    };
    let reply = stage.agent.run(runs("exec \"$0\" once \"$1\""));
    assert!(reply.is_ok(), "listed by its content: {reply:?}");
    let deleted = "exec 9<\"$0\"; rm \"$0\"; exec /proc/self/fd/9 once \"$1\"";
    let reply = stage.agent.run(runs(deleted));
    assert!(reply.is_denied(), "{reply:?}");
    let told = stage.told(reply.data.parse().unwrap());
    assert_denied(&told, "software_not_approved", "deleted_executable");
}
