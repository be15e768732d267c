//! On which processors the intake thread runs: never on that of a caller which waits for it.
//!
//! In: the processor of each question. Out: this thread's affinity. A caller waits in its hook
//! without being preempted; an intake that was woken on the same processor answers only when the wait
//! is over. The scheduler leaves it there: it may not even look for an idle processor
//! (kernel/sched/fair.c `select_idle_cpu`, `SIS_UTIL`, 5.19). Moving answers no call sooner that has
//! been late once, but all that come after it.

use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

/// The processors of the calling thread.
pub(super) struct Seat {
    /// Those that it began with; `None` where it has no choice.
    all: Option<CpuSet>,
}

impl Seat {
    pub(super) fn of_this_thread() -> Self {
        let all = sched_getaffinity(None)
            .inspect_err(|error| tracing::info!(%error, "the intake runs where it is put"));
        Self { all: all.ok().filter(|all| all.count() > 1) }
    }

    /// Moves away from the processor of a question, where this thread is on it.
    pub(super) fn leave_to(&mut self, caller: u32) {
        let Some(all) = &self.all else { return };
        let here = sched_getcpu();
        if u32::try_from(here) != Ok(caller) {
            return;
        }
        let Some(others) = without(all, here) else { return };
        if let Err(error) = sched_setaffinity(None, &others) {
            tracing::info!(%error, "the intake stays where it is put");
            self.all = None;
        }
    }
}

/// The others; `None` where there are none.
fn without(all: &CpuSet, cpu: usize) -> Option<CpuSet> {
    let mut others = *all;
    // Beyond the set there is no bit.
    if cpu < CpuSet::MAX_CPU {
        others.unset(cpu);
    }
    (others.count() > 0).then_some(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu);
        }
        set
    }

    #[test]
    fn question_from_this_threads_processor_moves_it_and_others_do_not() {
        let mut seat = Seat::of_this_thread();
        let Some(all) = seat.all else {
            // With one processor nothing moves.
            return seat.leave_to(u32::try_from(sched_getcpu()).unwrap());
        };
        let here = sched_getcpu();
        sched_setaffinity(None, &set(&[here])).unwrap();
        let caller = u32::try_from(here).unwrap();
        seat.leave_to(caller + 1);
        assert_eq!(sched_getaffinity(None).unwrap(), set(&[here]));
        seat.leave_to(caller);
        assert_eq!(Some(sched_getaffinity(None).unwrap()), without(&all, here));
        assert_ne!(sched_getcpu(), here);
    }

    #[test]
    fn last_processor_is_not_given_away() {
        assert_eq!(without(&set(&[3]), 3), None);
        assert_eq!(without(&set(&[3, 5]), 3), Some(set(&[5])));
        assert_eq!(without(&set(&[3]), 5000), Some(set(&[3])));
    }
}
