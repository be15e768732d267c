//! Everything that a fresh Debian 12 with rustup's Rust lacks.
//!
//! In: the machine. Out: the same machine with the pieces below in place; each step says what it
//! does and why, and what is there already is left alone. Runs as root or through sudo. Never
//! starts a service, never changes the machine's package sources.

mod crosscheck;
mod library_sources;
mod packages;
mod private_apt;

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

pub(crate) use self::private_apt::PrivateApt;
use crate::{command, workspace::Workspace};

const BPF_LINKER_VERSION: &str = "0.10.4";
const CARGO_DENY_VERSION: &str = "0.20.2";

/// Options of `cargo xtask setup`.
#[derive(Args)]
pub(crate) struct Options {
    /// Only tell what is there and what is missing; fails when something is
    #[arg(long)]
    check: bool,
    /// Also what `cargo xtask lint` needs (`lint` asks for it by itself)
    #[arg(long)]
    lint: bool,
}

/// What a piece is needed for. `Test` includes `Build`; the others include these two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scope {
    /// `cargo xtask build`.
    Build,
    /// What `cargo xtask test`, `demo` and `bench` have in common.
    Test,
    /// `cargo xtask test` alone.
    Crosscheck,
    /// `cargo xtask lint`.
    Lint,
    /// `cargo xtask test vm`, `bypass --vm`, `vm` and `verifier`.
    Vm,
}

impl Scope {
    fn includes(self, other: Self) -> bool {
        other == self || other <= self.min(Self::Test)
    }
}

/// Whether a piece is there.
enum State {
    /// It is; where or in which version.
    Present(String),
    /// It is not, or not as it has to be.
    Missing,
}

/// One piece.
struct Piece {
    name: &'static str,
    why: &'static str,
    scope: Scope,
    state: fn() -> Result<State>,
    install: fn(&Workspace) -> Result<()>,
}

const PIECES: &[Piece] = &[
    Piece {
        name: "C toolchain",
        why: "links build scripts and the tools below, and builds the cryptography of aws-lc",
        scope: Scope::Build,
        state: || Ok(program_state("cc")),
        install: |_| packages::install(&["build-essential"]),
    },
    Piece {
        name: "library sources",
        why: "the kernel programs are built with `-Z build-std=core`",
        scope: Scope::Build,
        state: library_sources::state,
        install: library_sources::install,
    },
    Piece {
        name: "bpf-linker",
        why: "links the kernel programs with the compiler's own LLVM",
        scope: Scope::Build,
        state: || tool_state("bpf-linker", BPF_LINKER_VERSION),
        install: |workspace| cargo_install(workspace, "bpf-linker", BPF_LINKER_VERSION),
    },
    Piece {
        name: "iproute2",
        why: "demo, bench and tests make network namespaces",
        scope: Scope::Test,
        state: || Ok(program_state("ip")),
        install: |_| packages::install(&["iproute2"]),
    },
    Piece {
        name: "nsenter",
        why: "demo, bench and tests start programs in network namespaces",
        scope: Scope::Test,
        state: || Ok(program_state("nsenter")),
        install: |_| packages::install(&["util-linux"]),
    },
    Piece {
        name: "curl",
        why: "one of the agents of demo and tests",
        scope: Scope::Test,
        state: || Ok(program_state("curl")),
        install: |_| packages::install(&["curl"]),
    },
    Piece {
        name: "python3",
        why: "one of the agents of demo and tests",
        scope: Scope::Test,
        state: || Ok(program_state("python3")),
        install: |_| packages::install(&["python3"]),
    },
    Piece {
        name: "git",
        why: "one of the agents of tests",
        scope: Scope::Test,
        state: || Ok(program_state("git")),
        install: |_| packages::install(&["git"]),
    },
    Piece {
        name: "strace",
        why: "tests trace an agent's child with it",
        scope: Scope::Test,
        state: || Ok(program_state("strace")),
        install: |_| packages::install(&["strace"]),
    },
    Piece {
        name: "rsyslog",
        why: "tests deliver events to a real rsyslogd that they start themselves",
        scope: Scope::Test,
        state: || Ok(program_state("rsyslogd")),
        install: |_| packages::install_without_service(&["rsyslog"], "rsyslog.service"),
    },
    Piece {
        name: "crosscheck",
        why: "tests compare signatures and canonical JSON with other people's implementations",
        scope: Scope::Crosscheck,
        state: crosscheck::state,
        install: crosscheck::install,
    },
    Piece {
        name: "rustfmt",
        why: "checks the format",
        scope: Scope::Lint,
        state: || Ok(program_state_of(Command::new("cargo").args(["fmt", "--version"]))),
        install: |workspace| rustup_component(workspace, "rustfmt"),
    },
    Piece {
        name: "clippy",
        why: "checks the code",
        scope: Scope::Lint,
        state: || Ok(program_state_of(Command::new("cargo").args(["clippy", "--version"]))),
        install: |workspace| rustup_component(workspace, "clippy"),
    },
    Piece {
        name: "cargo-deny",
        why: "checks licences, bans and sources of dependencies",
        scope: Scope::Lint,
        state: || Ok(program_state_of(Command::new("cargo").args(["deny", "--version"]))),
        install: |workspace| cargo_install(workspace, "cargo-deny", CARGO_DENY_VERSION),
    },
    Piece {
        name: "QEMU",
        why: "boots other kernels in software emulation",
        scope: Scope::Vm,
        state: || Ok(program_state("qemu-system-x86_64")),
        install: |_| packages::install(&["qemu-system-x86"]),
    },
    Piece {
        name: "busybox",
        why: "the shell of those machines",
        scope: Scope::Vm,
        state: || Ok(program_state("busybox")),
        install: |_| packages::install(&["busybox-static"]),
    },
    Piece {
        name: "depmod",
        why: "tells which module of a kernel needs which",
        scope: Scope::Vm,
        state: || Ok(program_state("depmod")),
        install: |_| packages::install(&["kmod"]),
    },
];

fn pieces(scope: Scope) -> impl Iterator<Item = &'static Piece> {
    PIECES.iter().filter(move |piece| scope.includes(piece.scope))
}

/// Sets the machine up, or only looks.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    let more = options.lint.then_some(Scope::Lint);
    let mut scopes = [Some(Scope::Crosscheck), more].into_iter().flatten();
    if !options.check {
        return scopes.try_for_each(|scope| ensure(&workspace, scope));
    }
    let mut missing = Vec::new();
    let of_any = |piece: &&Piece| scopes.clone().any(|scope| scope.includes(piece.scope));
    for piece in PIECES.iter().filter(of_any) {
        match (piece.state)()? {
            State::Present(what) => println!("{}: already there ({what})", piece.name),
            State::Missing => {
                println!("{}: missing; {}", piece.name, piece.why);
                missing.push(piece.name);
            }
        }
    }
    if !missing.is_empty() {
        bail!("missing: {}; run `cargo xtask setup`", missing.join(", "));
    }
    Ok(())
}

/// Installs what is missing for `scope`.
pub(crate) fn ensure(workspace: &Workspace, scope: Scope) -> Result<()> {
    for piece in pieces(scope) {
        if let State::Present(what) = (piece.state)()? {
            println!("{}: already there ({what})", piece.name);
            continue;
        }
        println!("{}: installing; {}", piece.name, piece.why);
        (piece.install)(workspace)
            .with_context(|| format!("{} could not be installed", piece.name))?;
        match (piece.state)()? {
            State::Present(what) => println!("{}: installed ({what})", piece.name),
            State::Missing => bail!(
                "{} was installed but is not found; is cargo's bin folder in PATH?",
                piece.name
            ),
        }
    }
    Ok(())
}

/// Names of the pieces that are missing for `scope`.
pub(crate) fn missing(_: &Workspace, scope: Scope) -> Result<Vec<&'static str>> {
    let mut names = Vec::new();
    for piece in pieces(scope) {
        if let State::Missing = (piece.state)()? {
            names.push(piece.name);
        }
    }
    Ok(names)
}

fn program_state(program: &str) -> State {
    command::find(program).map_or(State::Missing, |path| State::Present(path.display().to_string()))
}

fn program_state_of(version: &mut Command) -> State {
    command::capture(version).map_or(State::Missing, State::Present)
}

/// A tool of exactly one version.
fn tool_state(program: &str, version: &str) -> Result<State> {
    if command::find(program).is_none() {
        return Ok(State::Missing);
    }
    let said = command::capture(Command::new(program).arg("--version"))?;
    let fits = said.split_whitespace().any(|word| word == version);
    Ok(if fits { State::Present(said) } else { State::Missing })
}

fn cargo_install(workspace: &Workspace, package: &str, version: &str) -> Result<()> {
    let mut install = workspace.cargo("install");
    install.args([package, "--version", version, "--locked", "--force"]);
    // Tools go where they belong, whatever target directory this checkout is built in.
    install.env_remove("CARGO_TARGET_DIR");
    command::run_quietly(&format!("building {package}"), &mut install).with_context(|| {
        format!(
            "if the registry can't be reached, run `{}` where it can be and put the program \
             into PATH",
            command::describe(&install)
        )
    })
}

fn rustup_component(workspace: &Workspace, component: &str) -> Result<()> {
    let mut add = Command::new("rustup");
    add.args(["component", "add", component]).current_dir(&workspace.root);
    command::run_quietly(&format!("adding {component}"), &mut add).with_context(|| {
        format!(
            "if rustup's server can't be reached, install the toolchain of rust-toolchain.toml \
             with its component {component} by other means"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_test_lint_and_vm_need_alone_the_others_do_not() {
        let all = [Scope::Build, Scope::Test, Scope::Crosscheck, Scope::Lint, Scope::Vm];
        let included = |scope: Scope| all.map(|other| scope.includes(other));
        assert_eq!(included(Scope::Build), [true, false, false, false, false]);
        assert_eq!(included(Scope::Test), [true, true, false, false, false]);
        assert_eq!(included(Scope::Crosscheck), [true, true, true, false, false]);
        assert_eq!(included(Scope::Lint), [true, true, false, true, false]);
        assert_eq!(included(Scope::Vm), [true, true, false, false, true]);
    }
}
