//! Self-protection, on the LSM plane: what no agent may do to the kernel, to the daemon, and to
//! processes that are not its own.
//!
//! Two questions: is the current thread group an agent's, and is what it does among what is denied
//! to all of them? No grant and no mode changes the answer: audit is about the network. The caller
//! can forge neither: its tag follows it, and what it aims at is the kernel's own record.

pub(crate) mod bpf;
pub(crate) mod daemon;
pub(crate) mod files;
pub(crate) mod ptrace;

use agent_enforcer_common::{process::ProcessTag, record::Guard};

use crate::{
    maps::processes::{self, Standing},
    report,
};

/// What a hook of self-protection does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum GuardOutcome {
    /// The call goes on.
    Pass,
    /// The call fails with `EACCES`.
    Deny,
}

/// The agent's process that makes the call.
pub(crate) struct Subject {
    tgid: u32,
    /// Without an instance where the process found no room in the process table.
    tag: ProcessTag,
}

impl Subject {
    /// None for everybody else on the host.
    #[inline(always)]
    pub(crate) fn current() -> Option<Self> {
        let tgid = processes::current_tgid();
        match processes::standing(tgid) {
            Standing::Stranger | Standing::Daemon => None,
            Standing::Agent(tag) => Some(Self { tgid, tag }),
            Standing::Untracked => Some(Self { tgid, tag: ProcessTag::default() }),
        }
    }

    /// Whether a thread group is of its own instance.
    #[inline(always)]
    pub(crate) fn owns(&self, tgid: u32) -> bool {
        tgid == self.tgid
            || processes::get(tgid).is_some_and(|tag| tag.instance == self.tag.instance)
    }

    /// Denies, and tells.
    #[inline(always)]
    pub(crate) fn refuse(&self, guard: Guard, target_tgid: u32, argument: u64) -> GuardOutcome {
        report::guarded(self.tgid, &self.tag, guard, target_tgid, argument);
        GuardOutcome::Deny
    }
}

/// Whether a thread group is the daemon. A number that was left by one that died may be an agent's
/// by now.
#[inline(always)]
fn is_daemon(tgid: u32) -> bool {
    processes::has_daemons_number(tgid) && processes::get(tgid).is_none()
}
