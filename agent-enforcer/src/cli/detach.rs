//! `detach`: the end of enforcement on this host, on purpose.
//!
//! In: a reason and a yes. Out: no program attached, no pin left, no daemon. Where no daemon runs,
//! what a dead one left pinned is removed without it.

use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    Offline,
    console::{Console, Exit, Failure},
    text::line,
};
use crate::api::{ApiError, Client};

/// End enforcement on this host: detach every program, remove every pin, stop the daemon.
#[derive(Debug, Args)]
pub(super) struct DetachArgs {
    /// Why, for whoever reads the events later.
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Do not ask.
    #[arg(long)]
    yes: bool,
    /// Where the bpf file system is mounted; used where no daemon runs.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf")]
    bpffs: PathBuf,
}

#[derive(Serialize)]
struct DetachDocument {
    detached: bool,
    /// `daemon`, or `command` where no daemon ran.
    by: &'static str,
    /// What the command removed itself.
    removed: Vec<String>,
}

pub(super) async fn detach(
    args: DetachArgs,
    socket: &Path,
    offline: Offline,
    console: &mut Console<'_>,
) -> Result<Exit, Failure> {
    let DetachArgs { reason, yes, bpffs } = args;
    if !yes && !confirmed(console)? {
        return Err(Failure::failed(
            "nothing was detached",
            "answer `yes`, or give `--yes`, to end enforcement",
        ));
    }
    let done = match by_daemon(socket, &reason).await {
        Ok(()) => DetachDocument { detached: true, by: "daemon", removed: Vec::new() },
        Err(error) if error.means_no_daemon() => {
            let removed = (offline.detach)(&bpffs, &reason).map_err(|problem| {
                Failure::failed(
                    problem,
                    format!("run as root, and see what is pinned below {}", bpffs.display()),
                )
            })?;
            DetachDocument { detached: true, by: "command", removed }
        }
        Err(error) => return Err(error.into()),
    };
    console.show(&done, |done, _| {
        let mut text: String =
            done.removed.iter().map(|pin| line(&format!("removed {pin}"))).collect();
        text.push_str(&line(
            "enforcement has ended on this host; `systemctl start agent-enforcer` begins it again",
        ));
        text
    })
}

fn confirmed(console: &mut Console<'_>) -> Result<bool, Failure> {
    let question =
        "This ends enforcement on this host: its agents may connect to anything. Type `yes`:";
    match console.ask(question)? {
        Some(answer) => Ok(answer == "yes"),
        None => Err(Failure::usage(
            "nobody can be asked whether to end enforcement: standard input is no terminal",
            "give `--yes` if you mean it",
        )),
    }
}

async fn by_daemon(socket: &Path, reason: &str) -> Result<(), ApiError> {
    Client::connect(socket).await?.detach(reason.to_owned()).await
}
