//! The demo's host: two network namespaces, cgroups, the tools' servers and the daemon.
//!
//! In: the daemon's program. Out: a place to run agents in. Fields are dropped in their order:
//! agents end first, then the daemon and its enforcement, then what they ran in.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::{
    policy::{self, World},
    programs::{self, Program},
    signatures::Signatory,
};
use crate::{
    daemon::Daemon,
    host::{self, Cgroup, Folder, Namespace},
};

/// Everything that the steps work with.
pub(super) struct Stage {
    _servers: Program,
    pub(super) daemon: Daemon,
    /// Signs manifests.
    pub(super) owner: Signatory,
    /// Signs grants.
    pub(super) broker: Signatory,
    agent: Cgroup,
    signed: Cgroup,
    other: Cgroup,
    _cgroup: Cgroup,
    agents_side: Namespace,
    _tools_side: Namespace,
    folder: Folder,
}

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// In the agent's cgroup.
    Agent,
    /// In the cgroup of the agent that needs signatures.
    Signed,
    /// In a cgroup that is no agent's.
    Host,
}

/// What a program wrote, and how it ended.
pub(super) struct Outcome {
    pub(super) exit: Option<i32>,
    pub(super) text: String,
}

impl Outcome {
    /// Its last line.
    pub(super) fn last_line(&self) -> &str {
        self.text.lines().next_back().unwrap_or("nothing")
    }
}

impl Stage {
    /// Sets everything up but starts no daemon yet.
    pub(super) fn build(program: PathBuf) -> Result<Self> {
        let name = host::run_name("demo");
        println!("making cgroups, network namespaces and two servers called {name}*");
        let folder = Folder::create(&name)?;
        let tools_side = Namespace::create(&format!("{name}-tools"))?;
        let agents_side = Namespace::create(&format!("{name}-agents"))?;
        agents_side.connect(policy::AGENT_SIDE, &tools_side, policy::TOOL_SIDE)?;
        let cgroup = Cgroup::create(&name)?;
        let agent = cgroup.child("agent")?;
        let signed = cgroup.child("signed")?;
        let other = cgroup.child("host")?;
        let owner = Signatory::create(&program, &folder, "owner")?;
        let broker = Signatory::create(&program, &folder, "broker")?;
        let yaml = policy::yaml(&World {
            agent_cgroup: agent.selector_path(),
            signed_cgroup: signed.selector_path(),
            owner: owner.public_key(),
            broker: broker.public_key(),
        });
        println!("\nthe policy:\n{yaml}");
        let options = ["--audience", policy::AUDIENCE].map(OsStr::new);
        let daemon = Daemon::prepare(program, &folder, &yaml, &options)?;
        let servers = start_servers(&other, &tools_side)?;
        Ok(Self {
            _servers: servers,
            daemon,
            owner,
            broker,
            agent,
            signed,
            other,
            _cgroup: cgroup,
            agents_side,
            _tools_side: tools_side,
            folder,
        })
    }

    /// Starts a program.
    pub(super) fn start(&self, place: Place, program: &str, words: &[&str]) -> Result<Program> {
        let mut command = host::command_in(self.cgroup(place), &self.agents_side, program)?;
        command.args(words);
        let words = words.iter().map(|word| if word.contains('\n') { "'...'" } else { word });
        let shown = std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ");
        Program::start(command, &format!("{shown}   # {}", describe(place)))
    }

    /// Starts the Rust client.
    pub(super) fn start_client(&self, place: Place, verb: &str, to: &str) -> Result<Program> {
        let mut command = host::verb_in(self.cgroup(place), &self.agents_side, "__client")?;
        command.args([verb, to]);
        Program::start(command, &format!("rust-client {verb} {to}   # {}", describe(place)))
    }

    /// Starts a Rust client that makes one call after the other.
    pub(super) fn start_obedient(&self, place: Place) -> Result<Program> {
        let mut command = host::verb_in(self.cgroup(place), &self.agents_side, "__client")?;
        command.arg("obey");
        let place = describe(place);
        Program::start(command, &format!("rust-client obey   # {place}, one call for each line"))
    }

    /// The Rust client with a byte more than it should have, to a tool, until its end.
    pub(super) fn tampered_client_get(&self, to: &str) -> Result<Outcome> {
        let client = self.folder.file("rust-client");
        fs::copy(host::own_program()?, &client).context("can't copy the client")?;
        File::options().append(true).open(&client)?.write_all(b"x")?;
        let client = client.to_string_lossy().into_owned();
        finish(self.start(Place::Signed, &client, &["__client", "get", to])?)
    }

    /// Puts a manifest beside the policy, and the policy in force.
    pub(super) fn install_manifest(&self, manifest: &Path) -> Result<()> {
        self.daemon.add_to_policy("demo-signed.json", manifest)?;
        self.control(&["policy", "reload"])
    }

    /// A file of the demo.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.file(name)
    }

    /// curl to a tool, until its end.
    pub(super) fn curl(&self, place: Place, to: &str) -> Result<Outcome> {
        finish(self.start_curl(place, to)?)
    }

    /// curl to a tool, under way.
    pub(super) fn start_curl(&self, place: Place, to: &str) -> Result<Program> {
        let url = format!("http://{to}/");
        let words = ["-sS", "--max-time", "15", "-o", "/dev/null", "-w", "%{http_code}", &url];
        self.start(place, "curl", &words)
    }

    /// The Rust client to a tool, until its end.
    pub(super) fn client_get(&self, place: Place, to: &str) -> Result<Outcome> {
        finish(self.start_client(place, "get", to)?)
    }

    /// A datagram to a tool and back, until its end.
    pub(super) fn datagram(&self, to: &str) -> Result<Outcome> {
        let (host, port) = split(to)?;
        let words = ["-c", programs::DATAGRAM, host, port];
        finish(self.start(Place::Agent, &programs::python(), &words)?)
    }

    /// The event loop, under way.
    pub(super) fn start_event_loop(&self, to: &str) -> Result<Program> {
        let (host, port) = split(to)?;
        let words = ["-c", programs::EVENT_LOOP, host, port];
        self.start(Place::Agent, &programs::python(), &words)
    }

    /// A command to the daemon, shown with its answer.
    pub(super) fn control(&self, words: &[&str]) -> Result<()> {
        println!("   $ agent-enforcer {}", words.join(" "));
        for line in self.daemon.control_text(words)?.lines() {
            println!("   | {line}");
        }
        Ok(())
    }

    /// Issues a grant for a tool on behalf of the demo's principal; returns the daemon's view.
    pub(super) fn grant(&self, tool: &str, lifetime: &str) -> Result<Value> {
        let words = [
            "grant",
            "issue",
            "--agent",
            policy::AGENT,
            "--tool",
            tool,
            "--for",
            lifetime,
            "--on-behalf-of",
            "alice@example.com",
            "--task",
            "DEMO-1",
            "--reason",
            "shown in the demo",
        ];
        println!("   $ agent-enforcer {}", words.join(" "));
        let view = self.daemon.control(&words)?;
        println!("   | {view}");
        Ok(view)
    }

    fn cgroup(&self, place: Place) -> &Cgroup {
        match place {
            Place::Agent => &self.agent,
            Place::Signed => &self.signed,
            Place::Host => &self.other,
        }
    }
}

/// Waits for a program's end.
pub(super) fn finish(program: Program) -> Result<Outcome> {
    let (exit, text) = program.finish()?;
    Ok(Outcome { exit, text })
}

fn start_servers(cgroup: &Cgroup, namespace: &Namespace) -> Result<Program> {
    let mut command = host::verb_in(cgroup, namespace, "__serve")?;
    for address in policy::TCP {
        command.args(["--tcp", address]);
    }
    for address in policy::UDP {
        command.args(["--udp", address]);
    }
    let mut servers = Program::start(command, "servers   # on the other side of the cable")?;
    servers.await_line("ready")?;
    Ok(servers)
}

fn describe(place: Place) -> &'static str {
    match place {
        Place::Agent => "the agent",
        Place::Signed => "the agent that needs signatures",
        Place::Host => "a host process",
    }
}

/// Host (without brackets) and port.
fn split(address: &str) -> Result<(&str, &str)> {
    match address.rsplit_once(':') {
        Some((host, port)) => Ok((host.trim_matches(['[', ']']), port)),
        None => bail!("{address} has no port"),
    }
}
