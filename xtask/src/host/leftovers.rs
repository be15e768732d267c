//! What a run that was killed could not take away itself.
//!
//! In: names that carry the pid of their run. Out: a host without those whose run is gone. The
//! bpffs comes first: with it the enforcement of that run ends.

use std::{fs, path::Path};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
};

use super::{cgroup, folder, network};

/// Removes what runs of `verb` left behind.
pub(crate) fn sweep(verb: &str) -> Result<()> {
    let prefix = format!("ae-{verb}-");
    for entry in fs::read_dir(folder::PARENT).context("can't look for leftovers")? {
        let entry = entry?;
        if is_left_over(&entry.file_name().to_string_lossy(), &prefix) {
            println!("removing what a killed run left: {}", entry.path().display());
            end_processes(&entry.path())?;
            let bpffs = entry.path().join("bpffs");
            if bpffs.exists() {
                // Not mounted is as good.
                let _unmounted = unmount(&bpffs, UnmountFlags::DETACH);
            }
            fs::remove_dir_all(entry.path())?;
        }
    }
    for path in cgroup::named(&prefix)? {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
        if name.is_some_and(|name| is_left_over(&name, &prefix)) {
            println!("removing what a killed run left: {}", path.display());
            for child in fs::read_dir(&path)? {
                let child = child?.path();
                if child.is_dir() {
                    cgroup::remove(&child)?;
                }
            }
            cgroup::remove(&path)?;
        }
    }
    for name in network::names()? {
        if is_left_over(&name, &prefix) {
            println!("removing what a killed run left: network namespace {name}");
            network::delete(&name)?;
        }
    }
    Ok(())
}

/// Ends the processes whose command line names a file in the folder: the daemon of that run.
fn end_processes(folder: &Path) -> Result<()> {
    let inside = format!("{}/", folder.display());
    for entry in fs::read_dir("/proc").context("can't look for processes")? {
        let entry = entry?;
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        // A process may end meanwhile; then there is nothing to do.
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let names_it = words
            .split(|byte| *byte == 0)
            .any(|word| String::from_utf8_lossy(word).starts_with(&inside));
        let Some(pid) = Pid::from_raw(pid).filter(|_| names_it) else { continue };
        println!("ending what a killed run left: process {}", pid.as_raw_pid());
        match kill_process(pid, Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => return Err(error).context("can't end it"),
        }
    }
    Ok(())
}

/// Whether the name is of a run whose process is gone: `<prefix><pid>` or `<prefix><pid>-more`.
fn is_left_over(name: &str, prefix: &str) -> bool {
    let pid = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next());
    pid.and_then(|pid| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_runs_are_left_over() {
        let own = std::process::id();
        assert!(!is_left_over(&format!("ae-demo-{own}"), "ae-demo-"));
        assert!(is_left_over("ae-demo-4194999-tools", "ae-demo-"));
        assert!(!is_left_over("ae-demo-x", "ae-demo-"));
        assert!(!is_left_over("ae-bench-4194999", "ae-demo-"));
    }
}
