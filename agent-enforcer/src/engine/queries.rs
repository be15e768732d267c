//! What operators ask: read-only views of the state.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use agent_enforcer_common::{
    config::StateWord,
    destination::Destination,
    peer::NAMELESS_PEER,
    reason::Reason,
    record::{Counter, ProcessFacts},
};

use super::{Engine, UseStage, images::ImageStanding, pending::Awaits};
use crate::{
    control::{
        Authority, ControlError, ExplainQuestion, ExplainStep, ExplainTarget, Explanation,
        PendingView, Status,
    },
    decision::{Code, Process, instance_name},
    events::LostRecords,
    resolver::{
        grant::GrantState,
        policy::{Agent, Approval, Attestation, OnMiss, Question, Ruling, explain_rule, rule},
    },
};

const COUNTERS: [(Counter, &str); 14] = [
    (Counter::Requests, "requests"),
    (Counter::AnsweredInHook, "answered_in_hook"),
    (Counter::Held, "held"),
    (Counter::LostDenied, "lost_denied"),
    (Counter::LostAllowed, "lost_allowed"),
    (Counter::LostAudited, "lost_audited"),
    (Counter::LostProcess, "lost_process"),
    (Counter::ProcessTableFull, "process_table_full"),
    (Counter::CgroupTableFull, "cgroup_table_full"),
    (Counter::LostFlowDenied, "lost_flow_denied"),
    (Counter::Parked, "parked"),
    (Counter::ParkFailed, "park_failed"),
    (Counter::PeerUnnamed, "peer_unnamed"),
    (Counter::LostGuarded, "lost_guarded"),
];

/// Counters of records that found no room, and what these were about.
pub(super) const LOST: [(Counter, LostRecords); 6] = [
    (Counter::LostDenied, LostRecords::Denied),
    (Counter::LostAllowed, LostRecords::Allowed),
    (Counter::LostAudited, LostRecords::Audited),
    (Counter::LostProcess, LostRecords::Process),
    (Counter::LostFlowDenied, LostRecords::FlowDenied),
    (Counter::LostGuarded, LostRecords::Guarded),
];

impl Engine {
    pub(super) fn status(&self) -> Status {
        let now_ns = self.clock.now_ns();
        let mut counters: BTreeMap<String, u64> = COUNTERS
            .iter()
            .map(|(counter, name)| ((*name).to_owned(), self.counter(*counter)))
            .collect();
        counters.insert("bad_records".to_owned(), self.bad_records);
        counters.insert("policy_failures".to_owned(), self.policy_failures);
        counters.insert("inventory_unstored".to_owned(), self.unstored_records());
        counters.extend(self.events.counters().into_iter().map(|(name, n)| (name.to_owned(), n)));
        let live = |state| state == GrantState::Live;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started: self.started,
            plane: self.plane.to_string(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            generation: self.verdicts.generation().get(),
            agents: self.policy.agents().len(),
            instances: self.instances.len(),
            processes: self.processes.processes.iter().count(),
            pending: self.pending.len(),
            grants: self.grants.iter().filter(|grant| live(grant.state(now_ns))).count(),
            reasons: self.reasons(),
            problems: self.problems(&counters),
            counters,
            programs: self.programs.clone(),
            spiffe_broker: self.identities.state().map(|(address, _)| address).unwrap_or_default(),
        }
    }

    fn problems(&self, counters: &BTreeMap<String, u64>) -> Vec<String> {
        let mut problems = self.canary.problems();
        let lost: u64 = self.lost_records().iter().sum();
        if lost > 0 {
            problems
                .push(format!("{lost} records of the kernel side were lost: raise `--ring-bytes`"));
        }
        if self.verdicts.word(StateWord::Untracked).is_ok_and(|untracked| untracked > 0) {
            problems.push(
                "processes of agents found no room and are denied everything: raise `--max-processes`"
                    .to_owned(),
            );
        }
        let vouched = |agent: &&Agent| agent.attestation == Attestation::Spiffe;
        match (self.identities.state(), self.policy.agents().iter().find(vouched)) {
            (Some((address, Some(fault))), _) => problems.push(format!("{address}: {fault}")),
            (None, Some(agent)) => problems.push(format!(
                "agent {} may do nothing: the policy has it attested by SPIFFE, and there is no `--spiffe-broker`",
                agent.name
            )),
            (Some(_), _) | (None, None) => {}
        }
        for name in [
            "cgroup_table_full",
            "bad_records",
            "events_lost_disk",
            "events_lost_queue",
            "policy_failures",
        ] {
            if let Some(count) = counters.get(name).filter(|count| **count > 0) {
                problems.push(format!("counter `{name}` is {count}: see the daemon's log"));
            }
        }
        problems
    }

    fn counter(&self, counter: Counter) -> u64 {
        self.counters.counters.get(&(counter as u32), 0).map_or(0, |values| values.iter().sum())
    }

    /// What the kernel side had no room for since it was loaded.
    pub(super) fn lost_records(&self) -> [u64; LOST.len()] {
        LOST.map(|(counter, _)| self.counter(counter))
    }

    fn reasons(&self) -> BTreeMap<String, u64> {
        let count = |reason: &Reason| {
            let values = self.counters.reasons.get(&u32::from(reason.raw()), 0).ok()?;
            let count = values.iter().sum();
            (count > 0).then(|| (reason.word().to_owned(), count))
        };
        Reason::ALL.iter().filter_map(count).collect()
    }

    /// What waits, for root and those who may approve.
    pub(super) fn pending_for(&self, who: Authority) -> Result<Vec<PendingView>, ControlError> {
        let Authority { uid, pid } = who;
        let is_agents = self.processes.processes.get(pid).is_ok();
        let may = uid == 0 || self.policy.approvals().approver_of(uid).is_some();
        if is_agents || !may {
            return Err(ControlError::Invalid(format!(
                "user {uid} is neither root nor an approver; name it under `approvers` in the policy"
            )));
        }
        Ok(self.pending_view())
    }

    fn pending_view(&self) -> Vec<PendingView> {
        let mut views: Vec<_> = self
            .pending
            .iter()
            // What has its answer waits for nobody but itself.
            .filter(|(key, _)| !matches!(self.use_stages.get(key), Some(UseStage::Offered(_))))
            .filter_map(|(key, group)| {
                let first = group.calls.first()?.record;
                let (reason, tool) = match group.awaits {
                    Awaits::Identity => (Reason::IdentityUnverified, None),
                    Awaits::Grant { reason, tool } => (reason, Some(tool)),
                    Awaits::Approval { tool, .. } => (Reason::NeedsApproval, Some(tool)),
                    Awaits::Use { tool } => (Reason::GrantUsedUp, Some(tool)),
                };
                let approval = match &group.awaits {
                    Awaits::Approval { question, .. } => self.approval_view(*question),
                    Awaits::Identity | Awaits::Grant { .. } | Awaits::Use { .. } => None,
                };
                let image = self.images.get(&key.exec);
                Some(PendingView {
                    request: first.request.get(),
                    agent: self
                        .agent_names
                        .get(&first.process.agent)
                        .map(ToString::to_string)
                        .unwrap_or_default(),
                    instance: instance_name(first.process.instance),
                    pid: first.process.tgid,
                    exe: image.and_then(|image| image.process.exe.clone()).unwrap_or_default(),
                    destination: self
                        .peers
                        .name(&key.destination)
                        .map_or_else(|| key.destination.to_string(), |peer| peer.to_string()),
                    tool: tool
                        .and_then(|id| self.policy.tool(id))
                        .map(|tool| tool.name.to_string()),
                    reason: reason.word().to_owned(),
                    since: self.clock.wall(group.since_ns),
                    until: self.clock.wall(group.deadline_ns),
                    calls: group.calls.len(),
                    approval,
                })
            })
            .collect();
        views.sort_by_key(|view| view.request);
        views
    }

    /// The steps of a decision, in the order in which they are asked, without making one.
    pub(super) fn explain(
        &mut self,
        question: &ExplainQuestion,
    ) -> Result<Explanation, ControlError> {
        let ExplainQuestion { pid, to } = question;
        let destination = match to {
            ExplainTarget::Address { to, protocol } => {
                Destination::from_socket_addr(*to, *protocol).to_string()
            }
            ExplainTarget::Endpoint(endpoint) => endpoint.to_string(),
        };
        if !PathBuf::from(format!("/proc/{pid}")).exists() {
            return Err(ControlError::NotFound(format!("there is no process {pid}; see `ps`")));
        }
        let Ok(tag) = self.processes.processes.get(*pid) else {
            let found = format!("process {pid} is no agent's: nothing it does is looked at");
            let steps = vec![step("agent", found, false)];
            return Ok(explanation("not_an_agent", Reason::None, destination, steps));
        };
        let Some(name) = self.agent_names.get(&tag.agent).cloned() else {
            let found = format!("agent number {} is not in the policy", tag.agent.get());
            let steps = vec![step("agent", found, false)];
            return Ok(explanation("denied", Reason::AgentUnknown, destination, steps));
        };
        let facts = ProcessFacts { tgid: *pid, ..ProcessFacts::of(&tag) };
        let identity = self.attest(&facts);
        let mut explained = self.explain_agent(&name, &facts, identity, to, destination);
        explained.agent = Some(name.to_string());
        explained.instance = Some(instance_name(tag.instance));
        Ok(explained)
    }

    fn explain_agent(
        &self,
        name: &Arc<str>,
        facts: &ProcessFacts,
        identity: ImageStanding,
        to: &ExplainTarget,
        destination: String,
    ) -> Explanation {
        let instance = instance_name(facts.instance);
        let mut steps =
            vec![step("agent", format!("process is of agent {name}, instance {instance}"), true)];
        let exe = self.images.get(&facts.exec).map(|image| program(&image.process));
        let exe = exe.unwrap_or_default();
        match identity {
            ImageStanding::Attested => {
                let name =
                    self.images.get(&facts.exec).and_then(|one| one.process.spiffe_id.as_ref());
                let name = name.map(|id| format!(" as {id}")).unwrap_or_default();
                steps.push(step("identity", format!("{exe} is attested{name}"), true));
            }
            ImageStanding::Limited(_) => {
                steps.push(step(
                    "identity",
                    format!("{exe} is known, but not the agent's own"),
                    true,
                ));
            }
            ImageStanding::Hashing => {
                steps.push(step("identity", format!("{exe} is being hashed"), true));
            }
            ImageStanding::Asked => {
                let found = format!("the SPIFFE broker is asked who {exe} is");
                steps.push(step("identity", found, true));
            }
            ImageStanding::Refused(reason) | ImageStanding::Unreadable(reason) => {
                let found = format!("{exe} is refused: {}", reason.word());
                steps.push(step("identity", found, false));
                return explanation("denied", reason, destination, steps);
            }
        }
        let Some(agent) = self.policy.agent(name) else {
            steps.push(step("agent", format!("{name} is not in the policy"), false));
            return explanation("denied", Reason::AgentUnknown, destination, steps);
        };
        let peer = match to {
            ExplainTarget::Address { to, protocol } => {
                Destination::from_socket_addr(*to, *protocol)
            }
            ExplainTarget::Endpoint(endpoint) => {
                if self.peers.is_control_at(endpoint) {
                    let found = format!("{destination} is the enforcer's own: no tool can have it");
                    steps.push(step("tool", found, false));
                    return explanation("denied", Reason::Guarded, destination, steps);
                }
                endpoint.destination().unwrap_or(Destination::unix(NAMELESS_PEER))
            }
        };
        let tool = match to {
            ExplainTarget::Endpoint(endpoint) if endpoint.destination().is_none() => {
                self.peers.tool_of_endpoint(&self.policy, endpoint)
            }
            ExplainTarget::Endpoint(_) | ExplainTarget::Address { .. } => {
                self.policy.tool_at(&peer)
            }
        };
        let via = self.tools_named_by(facts);
        let now_ns = self.clock.now_ns();
        let question = Question { tool, ..self.question(agent, facts, &peer, &via, now_ns) };
        steps.extend(explain_rule(&question, &destination));
        let denied = |missing| ("denied", agent.on_miss.denial(missing), missing);
        let waits = match agent.on_miss {
            OnMiss::Deny => false,
            OnMiss::Stall => !agent.stall_limit.is_zero(),
        };
        let (outcome, reason, telling) = match rule(&question) {
            Ruling::Allow { reason, approval: Approval::None, .. } => ("allowed", reason, reason),
            Ruling::Allow { reason, approval: Approval::Required, tool, grant, .. } => {
                let (given, found) = self.explain_approval(facts, &peer, name, tool, grant);
                steps.push(step("approval", found, given));
                match (given, waits) {
                    (true, _) => ("allowed", reason, reason),
                    (false, true) => ("stalled", Reason::NeedsApproval, Reason::NeedsApproval),
                    (false, false) => denied(Reason::NeedsApproval),
                }
            }
            Ruling::Wait { reason, .. } if waits => ("stalled", reason, reason),
            Ruling::Wait { reason, .. } | Ruling::Deny { reason, .. } => denied(reason),
        };
        let remedy = telling.remedy().to_owned();
        Explanation { remedy, ..explanation(outcome, reason, destination, steps) }
    }
}

/// The executable, and which code it runs.
fn program(process: &Process) -> String {
    let exe = process.exe.as_ref().map(|exe| exe.display().to_string()).unwrap_or_default();
    match &process.code {
        Code::Own => exe,
        Code::Script(script) => format!("{exe} with {}", script.path.display()),
        Code::Unverified(why) => format!("{exe} with unverified code ({})", why.word()),
    }
}

fn step(question: &str, found: String, holds: bool) -> ExplainStep {
    ExplainStep { question: question.to_owned(), found, holds }
}

fn explanation(
    outcome: &str,
    reason: Reason,
    destination: String,
    steps: Vec<ExplainStep>,
) -> Explanation {
    Explanation {
        outcome: outcome.to_owned(),
        reason: reason.word().to_owned(),
        remedy: reason.remedy().to_owned(),
        agent: None,
        instance: None,
        destination,
        steps,
    }
}
