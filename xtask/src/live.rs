//! What `demo` and `bench` begin with: a daemon, root, and a machine without leftovers.
//!
//! In: their common options. Out: the daemon to start, in a process that is root. Where it is not,
//! the same command has run as root, and nothing is left to do.

use std::{ffi::OsString, path::PathBuf};

use anyhow::Result;
use clap::{Args, ValueEnum as _};

use crate::{
    Output, build, command, host, interrupt,
    setup::{self, Scope},
    workspace::Workspace,
};

/// Options of every verb that starts a daemon.
#[derive(Args)]
// Part of other verbs' options, which are a group of this name already.
#[group(skip)]
pub(crate) struct Options {
    /// For whom the result is printed
    #[arg(long, value_enum, default_value = "text")]
    output: Output,
    /// Start this daemon instead of building one
    #[arg(long)]
    daemon: Option<PathBuf>,
}

/// What a verb works with.
pub(crate) struct Run {
    /// The daemon's file.
    pub daemon: PathBuf,
    /// For whom the result is printed.
    pub output: Output,
}

/// Prepares; `more` are the verb's own options as they were given.
pub(crate) fn begin(
    verb: &str,
    options: Options,
    more: impl IntoIterator<Item = OsString>,
) -> Result<Option<Run>> {
    let Options { output, daemon } = options;
    let daemon = match daemon {
        Some(daemon) => daemon,
        None => built()?,
    };
    if !command::is_root() {
        // The build belongs to the user; only what follows needs root.
        let mut arguments: Vec<OsString> = vec![verb.into(), "--daemon".into(), daemon.into()];
        if let Some(value) = output.to_possible_value() {
            arguments.extend(["--output".into(), value.get_name().into()]);
        }
        arguments.extend(more);
        command::again_as_root(arguments)?;
        return Ok(None);
    }
    host::sweep(verb)?;
    interrupt::watch()?;
    Ok(Some(Run { daemon, output }))
}

fn built() -> Result<PathBuf> {
    let workspace = Workspace::find()?;
    setup::ensure(&workspace, Scope::Test)?;
    build::run()
}
