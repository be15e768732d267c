//! Adoption: no process slips between the scan at start-up and the kernel's hooks.
//!
//! In: a [`Judge`] that recognises and marks agents' processes. Out: every process that was marked.
//! It relies on the kernel side being attached before it begins: a child forked from a *marked*
//! process is marked by the fork hook, and whoever executes or changes its cgroup is judged by those
//! hooks. What is left are processes that were there before.
//!
//! One pass reads all of /proc, then judges parents before children, each with its parent's mark.
//! Children forked by a process before it was marked, and not seen yet, are found by the next pass;
//! /proc lists whoever lives through a whole pass. So: passes until one marks nobody. A child whose
//! parent exited before any pass saw the two is judged by what it is itself.

use std::collections::{HashMap, HashSet};

use super::{
    procfs::ProcError,
    scan::{ScanError, ScannedProcess, Scanner},
};

/// Passes before giving up: each leaves only what unmarked processes forked during it.
const PASS_LIMIT: usize = 64;

/// What a [`Judge`] found a process to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement<M> {
    /// No agent's.
    NoAgent,
    /// An agent's; it is marked now.
    Marked(M),
    /// An agent's; the kernel side had marked it, and with it every child since.
    MarkedByKernel(M),
}

/// Recognises and marks agents' processes.
pub trait Judge {
    /// What a process is marked with, and passes on to its children.
    type Mark: Clone;

    /// Marks a process if it is an agent's. `parent`: the mark of its parent, which it inherits.
    fn judge(
        &mut self,
        process: &ScannedProcess,
        parent: Option<&Self::Mark>,
    ) -> Judgement<Self::Mark>;

    /// Takes back the mark of a process whose exit had begun.
    fn forget(&mut self, process: &ScannedProcess, mark: &Self::Mark);

    /// A process that lives can't be read. To be denied or reported, never to be ignored.
    fn unreadable(&mut self, error: &ScanError);
}

/// Who was marked.
#[derive(Debug)]
pub struct Adoption<M> {
    /// The processes that were found alive, with their marks.
    pub marked: Vec<(ScannedProcess, M)>,
    /// Passes over /proc, the last one (which marked nobody) included.
    pub passes: usize,
}

/// Adoption did not come to an end.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// /proc is not usable.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// Unmarked processes fork faster than they are marked.
    #[error(
        "new agents' processes kept appearing for {PASS_LIMIT} passes over /proc; \
             stop what forks so fast, then restart the daemon"
    )]
    NeverSettled,
}

/// Judges every running process (see the module's header).
pub fn adopt<J: Judge>(
    scanner: &mut Scanner,
    judge: &mut J,
) -> Result<Adoption<J::Mark>, AdoptError> {
    // A pid is one process only together with its start.
    let mut marks: HashMap<(u32, u64), (ScannedProcess, J::Mark)> = HashMap::new();
    let mut reported = HashSet::new();
    for pass in 1..=PASS_LIMIT {
        let mut processes = Vec::new();
        for result in scanner.scan()? {
            match result {
                Ok(process) => processes.push(process),
                Err(error) => {
                    if reported.insert(error.pid) {
                        judge.unreadable(&error);
                    }
                }
            }
        }
        let mut marked_any = false;
        let starts: HashMap<u32, u64> =
            processes.iter().map(|process| (process.pid, process.start_ns)).collect();
        for process in parents_first(processes) {
            let key = (process.pid, process.start_ns);
            if marks.contains_key(&key) {
                continue;
            }
            let parent = starts.get(&process.parent).map(|&start| (process.parent, start));
            let inherited = parent.and_then(|parent| marks.get(&parent)).map(|(_, mark)| mark);
            match judge.judge(&process, inherited) {
                Judgement::NoAgent => {}
                Judgement::MarkedByKernel(mark) => {
                    marks.insert(key, (process, mark));
                }
                Judgement::Marked(mark) => {
                    if scanner.still_alive(process.pid, process.start_ns)? {
                        marks.insert(key, (process, mark));
                        marked_any = true;
                    } else {
                        judge.forget(&process, &mark);
                    }
                }
            }
        }
        if !marked_any {
            return Ok(Adoption { marked: marks.into_values().collect(), passes: pass });
        }
    }
    Err(AdoptError::NeverSettled)
}

/// Orders processes so that each comes after its parent, where that is among them.
fn parents_first(processes: Vec<ScannedProcess>) -> Vec<ScannedProcess> {
    let pids: HashSet<u32> = processes.iter().map(|process| process.pid).collect();
    let mut children: HashMap<u32, Vec<ScannedProcess>> = HashMap::new();
    let mut ordered = Vec::with_capacity(processes.len());
    for process in processes {
        // A process is never its own parent; one whose parent is not listed begins a tree.
        if process.parent != process.pid && pids.contains(&process.parent) {
            children.entry(process.parent).or_default().push(process);
        } else {
            ordered.push(process);
        }
    }
    let mut next = 0;
    while let Some(process) = ordered.get(next) {
        ordered.extend(children.remove(&process.pid).unwrap_or_default());
        next += 1;
    }
    // Numbers reused during the pass can close a circle: judge those too, in any order.
    ordered.extend(children.into_values().flatten());
    ordered
}

#[cfg(test)]
mod tests;
