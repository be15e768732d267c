//! Pieces of a host that the demo and the bench make for themselves, and take away again.
//!
//! In: names. Out: guards for cgroups, network namespaces, a bpffs mount and folders; dropping a
//! guard removes its piece, whatever happened before. Every name carries the pid of the run, so
//! that runs never meet, and what a killed run left behind is found and removed by the next one.

mod bpffs;
mod cgroup;
mod folder;
mod leftovers;
mod network;

use std::{
    ffi::OsString,
    fs::{self, File},
    os::{fd::AsFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub(crate) use self::{
    bpffs::Bpffs, cgroup::Cgroup, folder::Folder, leftovers::sweep, network::Namespace,
};

/// What everything of one run is called.
pub(crate) fn run_name(verb: &str) -> String {
    format!("ae-{verb}-{}", std::process::id())
}

/// A program to be run in a cgroup and a network namespace.
pub(crate) fn command_in(cgroup: &Cgroup, namespace: &Namespace, program: &str) -> Result<Command> {
    let mut command = myself()?;
    command.arg("__enter").arg("--cgroup").arg(cgroup.path());
    command.arg("--namespace").arg(namespace.path()).arg("--").arg(program);
    Ok(command)
}

/// One of this program's own verbs, to be run in a cgroup and a network namespace.
pub(crate) fn verb_in(cgroup: &Cgroup, namespace: &Namespace, verb: &str) -> Result<Command> {
    let program = myself()?;
    let mut command = command_in(cgroup, namespace, &program.get_program().to_string_lossy())?;
    command.arg(verb);
    Ok(command)
}

/// Runs `work` on a thread of its own inside a network namespace.
pub(crate) fn inside<T: Send>(
    namespace: &Namespace,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            join_namespace(namespace.path())?;
            work()
        });
        match thread.join() {
            Ok(outcome) => outcome,
            Err(_) => bail!("a thread in namespace {} failed", namespace.path().display()),
        }
    })
}

/// Options of the hidden verb `__enter`.
#[derive(Args)]
pub(crate) struct EnterOptions {
    /// Cgroup to join
    #[arg(long)]
    cgroup: PathBuf,
    /// Network namespace to join
    #[arg(long)]
    namespace: PathBuf,
    /// Program and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

/// Joins a network namespace and a cgroup and becomes the program.
pub(crate) fn enter(options: EnterOptions) -> Result<()> {
    let EnterOptions { cgroup, namespace, command } = options;
    join_namespace(&namespace)?;
    let members = cgroup.join("cgroup.procs");
    fs::write(&members, "0").with_context(|| format!("can't write {}", members.display()))?;
    let (program, arguments) = command.split_first().context("no program was named")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("can't execute {}", program.display()))
}

fn join_namespace(path: &Path) -> Result<()> {
    let file = File::open(path).with_context(|| format!("can't open {}", path.display()))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
        .with_context(|| format!("can't enter {}", path.display()))
}

fn myself() -> Result<Command> {
    Ok(Command::new(own_program()?))
}

/// The file of this program.
pub(crate) fn own_program() -> Result<PathBuf> {
    std::env::current_exe().context("can't find this program's own file")
}
