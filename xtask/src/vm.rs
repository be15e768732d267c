//! Virtual machines with other kernels than this machine's, in software emulation.
//!
//! In: a kernel series and a job: a shell script with the programs it runs. Out: the job's lines,
//! and what was wrong with the machine itself. Everything a machine has is in its first file
//! system: no disk, no network, nothing of the host.

mod archive;
mod console;
mod initramfs;
mod kernels;
mod machine;
mod modules;
mod shell;

use std::{
    fs, iter,
    num::NonZeroUsize,
    panic::resume_unwind,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use self::machine::Machine;
pub(crate) use self::{
    initramfs::Payload,
    kernels::{Kernel, SERIES, newest},
    shell::{Options, run},
};
use crate::{command, interrupt, workspace::Workspace};

/// A policy to try things with; its agent is whatever runs in the cgroup `/agents`.
pub(crate) const POLICY: &str = include_str!("vm/guest/policy.yaml");

/// Nothing takes longer between two lines, however slow the emulation is.
const SILENCE: Duration = Duration::from_mins(5);
/// A whole job.
const JOB: Duration = Duration::from_mins(45);
/// The job's last line begins with it; see guest/init.sh.
const END: &str = "job ended with status ";

/// Does `work` for each kernel, for as many at a time as this machine has processors: a machine has
/// two, but they often wait for each other. Returns what came of it in the order of the kernels.
pub(crate) fn side_by_side<T: Send>(
    kernels: &[Kernel],
    work: impl Fn(&Kernel) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let take = || {
        let place = next.fetch_add(1, Ordering::Relaxed);
        kernels.get(place).map(|kernel| (place, work(kernel)))
    };
    let machines = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(kernels.len());
    let mut outcomes: Vec<_> = thread::scope(|scope| {
        let spawn = |_| scope.spawn(|| iter::from_fn(take).collect::<Vec<_>>());
        let threads: Vec<_> = (0..machines).map(spawn).collect();
        let joined = threads.into_iter().map(|it| it.join().unwrap_or_else(|it| resume_unwind(it)));
        joined.flatten().collect()
    });
    outcomes.sort_by_key(|(place, _)| *place);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Runs a job to its end and hands on each line. Returns what was wrong with the machine: it hung,
/// ended early, or its kernel complained.
pub(crate) fn run_job(
    workspace: &Workspace,
    kernel: &Kernel,
    payload: &Payload,
    mut hear: impl FnMut(&str),
) -> Result<Vec<String>> {
    let folder = workspace.target.join("vm/runs").join(&kernel.version);
    fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    let (initramfs, console) = (folder.join("initramfs"), folder.join("console.log"));
    payload.write(kernel, &initramfs)?;
    let machine = Machine::boot(kernel, &initramfs, &console)?;
    let mut troubles = Vec::new();
    if let Some(trouble) = follow(&machine, &mut hear)? {
        let last = command::last_lines(&machine.console(), 30);
        troubles.push(format!("{trouble}; the kernel's last words:\n{last}"));
    }
    let complaints = console::complaints(&machine.console());
    troubles.extend(complaints.iter().map(|line| format!("{line} (see {})", console.display())));
    Ok(troubles)
}

/// Hears until the job has ended and the machine is off.
fn follow(machine: &Machine, hear: &mut impl FnMut(&str)) -> Result<Option<String>> {
    let begin = Instant::now();
    let mut status = None;
    while begin.elapsed() < JOB {
        let Ok(line) = machine.next(SILENCE) else {
            interrupt::check()?;
            return Ok(Some(format!("the machine was silent for {SILENCE:?}")));
        };
        match (line, &status) {
            (Some(line), _) => match line.strip_prefix(END) {
                Some(ended) => status = Some(ended.to_owned()),
                None => hear(&line),
            },
            (None, None) => return Ok(Some("the machine ended before its job".to_owned())),
            (None, Some(status)) if status == "0" => return Ok(None),
            (None, Some(status)) => return Ok(Some(format!("the job ended with status {status}"))),
        }
    }
    Ok(Some(format!("the job did not end within {JOB:?}")))
}
