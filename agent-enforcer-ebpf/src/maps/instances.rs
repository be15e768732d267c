//! Instances: how many processes live, and how often they ask.

use agent_enforcer_common::{
    id::{AgentId, InstanceId},
    process::InstanceState,
};
use aya_ebpf::{macros::map, maps::HashMap};

use crate::{atomic::AtomicWord, settings};

const WINDOW_NS: u64 = 1_000_000_000;

#[map]
static AE_INSTANCES: HashMap<InstanceId, InstanceState> = HashMap::with_max_entries(16_384, 0);

/// Begins an instance with one process.
#[inline(always)]
pub(crate) fn begin(instance: InstanceId, agent: AgentId) -> Result<(), i32> {
    let state =
        InstanceState { processes: 1, window_start_ns: 0, window_requests: 0, agent, _pad: 0 };
    AE_INSTANCES.insert(instance, state, 0)
}

#[inline(always)]
fn processes(instance: InstanceId) -> Option<AtomicWord> {
    let state = AE_INSTANCES.get_ptr_mut(instance)?;
    // SAFETY: the element is only freed by `end`, after an RCU grace period.
    Some(unsafe { AtomicWord::new(&raw mut (*state).processes) })
}

#[inline(always)]
pub(crate) fn process_added(instance: InstanceId) {
    if let Some(processes) = processes(instance) {
        processes.fetch_add(1);
    }
}

/// True when it was the last one.
#[inline(always)]
pub(crate) fn process_gone(instance: InstanceId) -> bool {
    let last = processes(instance).is_some_and(|processes| processes.fetch_add(u64::MAX) == 1);
    if last {
        let _ = AE_INSTANCES.remove(instance);
    }
    last
}

/// Counts a question; false when the instance asked too often this second, or is not known.
#[inline(always)]
pub(crate) fn may_ask(instance: InstanceId, now_ns: u64) -> bool {
    let Some(state) = AE_INSTANCES.get_ptr_mut(instance) else { return false };
    // SAFETY: as in `processes`. Two CPUs may reset the window at once: then a few questions are
    // not counted, which moves a limit and no decision.
    let (start_ns, requests) = unsafe {
        (
            AtomicWord::new(&raw mut (*state).window_start_ns),
            AtomicWord::new(&raw mut (*state).window_requests),
        )
    };
    if now_ns.wrapping_sub(start_ns.load()) > WINDOW_NS {
        start_ns.store(now_ns);
        requests.store(0);
    }
    requests.fetch_add(1) < settings::limits().requests_per_second
}
