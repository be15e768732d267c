//! What the policy says of each agent. Written by the daemon only.

use agent_enforcer_common::{config::AgentProfile, id::AgentId};
use aya_ebpf::{macros::map, maps::HashMap};

#[map]
static AE_PROFILES: HashMap<AgentId, AgentProfile> = HashMap::with_max_entries(4096, 0);

#[inline(always)]
pub(crate) fn get(agent: &AgentId) -> Option<AgentProfile> {
    // SAFETY: the value is copied out at once.
    unsafe { AE_PROFILES.get(agent) }.copied()
}
