//! `cargo xtask vm KERNEL`: a shell on another kernel, with enforcement to try.
//!
//! In: a kernel series. Out: a terminal of a machine in which the daemon runs on a small policy,
//! with an agent to play and tools to reach. Nothing of it outlives the shell.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::{POLICY, Payload, kernels, machine};
use crate::{
    build,
    setup::{self, Scope},
    workspace::Workspace,
};

const JOB: &str = concat!(include_str!("guest/enforce.sh"), include_str!("guest/shell.sh"));

/// Options of `cargo xtask vm`.
#[derive(Args)]
pub(crate) struct Options {
    /// Series of Debian's cloud kernels, such as 6.1, 6.12 or 7
    kernel: String,
}

/// Opens the shell.
pub(crate) fn run(options: &Options) -> Result<()> {
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Vm)?;
    let daemon = build::run()?;
    let kernel = kernels::newest(&workspace, &options.kernel)?;
    let payload = payload(&workspace, &daemon)?;
    let initramfs = workspace.target.join("vm/shell.initramfs");
    payload.write(&kernel, &initramfs)?;
    machine::interactive(&kernel, &initramfs)
}

fn payload(workspace: &Workspace, daemon: &Path) -> Result<Payload> {
    let mut payload = Payload::new(JOB, workspace.target.join("vm/programs"))?;
    payload.built(daemon, "bin/agent-enforcer")?;
    payload.file("policy/policy.yaml", POLICY.as_bytes());
    Ok(payload)
}
