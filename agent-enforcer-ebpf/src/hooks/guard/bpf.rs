//! LSM `bpf`: no agent uses bpf(2). The daemon's own calls come here as well: that they are counted
//! is the proof that programs of BPF LSM run.

use agent_enforcer_common::{config::StateWord, record::Guard};
use aya_ebpf::{cty::c_int, programs::LsmContext};

use super::{GuardOutcome, Subject};
use crate::maps::{
    processes::{self, Standing},
    state,
};

/// Greater numbers are no commands: one kind of attempt, however many an agent thinks of.
const LAST_COMMAND: u32 = 0xff;

/// `(int cmd, union bpf_attr *attr, unsigned int size, ...)`
#[inline(always)]
pub(crate) fn bpf(ctx: &LsmContext) -> GuardOutcome {
    if let Standing::Daemon = processes::of_current(processes::current_tgid()) {
        state::fetch_add(StateWord::LsmCanary, 1);
    }
    let Some(subject) = Subject::current() else { return GuardOutcome::Pass };
    let command: c_int = ctx.arg(0);
    subject.refuse(Guard::Bpf, 0, u64::from(command.cast_unsigned().min(LAST_COMMAND)))
}
