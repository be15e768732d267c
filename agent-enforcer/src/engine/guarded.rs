//! What agents tried against the host: from the kernel's record to its event. It is denied already.

use std::sync::Arc;

use agent_enforcer_common::record::{Guard, GuardRecord};

use super::Engine;
use crate::{decision::Attempt, events::Event};

impl Engine {
    pub(super) fn on_guarded(&mut self, record: &GuardRecord, guard: Guard) {
        let GuardRecord { header, process: facts, guard: _, target_tgid, argument } = record;
        let process = self.process_of(facts);
        let agent = self.agent_names.get(&facts.agent).cloned();
        let agent = agent.unwrap_or_else(|| Arc::from(""));
        let owner = self.policy.agent(&agent).map(|agent| Arc::clone(&agent.owner));
        self.events.push(Event::Attempt(Box::new(Attempt {
            guard,
            target_pid: *target_tgid,
            argument: *argument,
            time_ns: header.time_ns,
            agent,
            owner: owner.unwrap_or_else(|| Arc::from("")),
            instance: facts.instance,
            process,
            pid: facts.tgid,
        })));
    }
}
