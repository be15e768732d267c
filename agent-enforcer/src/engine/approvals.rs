//! Calls that need a person's yes: the open questions, and what is answered to them.
//!
//! One question stands for all calls of one program image to one destination that are about the same
//! ([`Inputs`]). How many may be open, and how many an instance may ask in a while, is bounded: who
//! asks for too much is denied. Whoever answers is known by the kernel's word, is named in the policy,
//! and is nobody who runs the agent.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{
    destination::Destination,
    id::{GrantId, InstanceId, ToolId},
    reason::Reason,
    record::{CallRecord, ProcessFacts},
};

use super::{Engine, images::Image, nanoseconds, pending::Awaits};
use crate::{
    control::{AnswerSpec, AnswerView, ApprovalView, Authority, ControlError, rfc3339},
    decision::{ApprovalRef, Code, Process, grant_name, instance_name},
    events::{ApprovalFacts, DaemonEvent},
    resolver::{
        approval::{Answer, Inputs, InputsDigest, LONGEST_ANSWER, QuestionId, Scope, Verdict},
        grant::Moment,
        policy::{Agent, AgentManifest, Attendance, Tool},
    },
};

/// Questions of one instance that may be open.
const OPEN_LIMIT: usize = 16;
/// Questions of all instances that may be open.
const OPEN_IN_ALL: usize = 256;
/// Questions that an instance may begin in [`WINDOW`].
const RATE_LIMIT: usize = 30;
const WINDOW: Duration = Duration::from_mins(1);

/// An open question.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) inputs: Inputs,
    pub(super) digest: InputsDigest,
    pub(super) destination: Destination,
    pub(super) instance: InstanceId,
    process: Arc<Process>,
}

/// The open questions.
#[derive(Debug, Default)]
pub(super) struct Questions {
    open: BTreeMap<QuestionId, Question>,
    /// When each instance began its last questions, ns of `CLOCK_BOOTTIME`.
    begun: HashMap<InstanceId, VecDeque<u64>>,
}

/// Whether somebody may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asking {
    /// The call can wait.
    Yes,
    /// It can't.
    No,
}

/// What is known about the yes that a call needs.
pub(super) enum Standing {
    /// It has it, until then.
    Given { expires_ns: u64 },
    /// It has a no.
    Refused,
    /// Somebody is asked.
    Asked(QuestionId),
    /// Nobody can be asked.
    Unasked(Reason),
}

impl Questions {
    pub(super) fn get(&self, id: QuestionId) -> Option<&Question> {
        self.open.get(&id)
    }

    /// Opens a question, or finds it open; false where there are too many.
    fn open(&mut self, id: QuestionId, now_ns: u64, make: impl FnOnce() -> Question) -> bool {
        if self.open.contains_key(&id) {
            return true;
        }
        let question = make();
        let instance = question.instance;
        let of_instance = self.open.values().filter(|open| open.instance == instance).count();
        let begun = self.begun.entry(instance).or_default();
        let from_ns = now_ns.saturating_sub(nanoseconds(WINDOW));
        begun.retain(|at_ns| *at_ns >= from_ns);
        if of_instance >= OPEN_LIMIT || self.open.len() >= OPEN_IN_ALL || begun.len() >= RATE_LIMIT
        {
            return false;
        }
        begun.push_back(now_ns);
        self.open.insert(id, question);
        true
    }

    /// Forgets an instance.
    pub(super) fn forget(&mut self, instance: InstanceId) {
        self.begun.remove(&instance);
    }
}

impl Engine {
    /// Whether a call that all else allows has its yes; asks for it where it has none. `grant`: the one
    /// that allows it.
    pub(super) fn approval(
        &mut self,
        record: &CallRecord,
        agent: &str,
        tool: ToolId,
        grant: Option<GrantId>,
        asking: Asking,
        now_ns: u64,
    ) -> Standing {
        let inputs = self.approval_inputs(&record.process, agent, tool, grant);
        let Some((inputs, process)) = inputs else { return Standing::Unasked(Reason::Internal) };
        let (digest, destination) = (inputs.digest(), record.destination);
        if let Some(answer) = self.answers.find(&digest, &destination, now_ns) {
            return match answer.verdict {
                Verdict::Approved => Standing::Given { expires_ns: answer.expires_ns },
                Verdict::Denied => Standing::Refused,
            };
        }
        if asking == Asking::No {
            return Standing::Unasked(Reason::NeedsApproval);
        }
        match self.policy.approvals().attendance {
            Attendance::Unattended => return Standing::Unasked(Reason::ApprovalUnattended),
            Attendance::Attended => {}
        }
        let id = digest.question(&destination);
        let is_new = self.questions.get(id).is_none();
        let instance = record.process.instance;
        let opened = self.questions.open(id, now_ns, || Question {
            inputs,
            digest,
            destination,
            instance,
            process,
        });
        if !opened {
            return Standing::Unasked(Reason::ApprovalLimit);
        }
        if is_new && let Some(question) = self.questions.get(id) {
            let facts = self.approval_facts(id, question);
            self.tell(DaemonEvent::ApprovalAsked(Box::new(facts)));
        }
        Standing::Asked(id)
    }

    /// Everything that a question is about, and the process that asks.
    fn approval_inputs(
        &self,
        facts: &ProcessFacts,
        agent: &str,
        tool: ToolId,
        grant: Option<GrantId>,
    ) -> Option<(Inputs, Arc<Process>)> {
        let process = Arc::clone(&self.images.get(&facts.exec)?.process);
        let agent: &Agent = self.policy.agent(agent)?;
        let tool: &Tool = self.policy.tool(tool)?;
        let grant = match grant {
            Some(id) => Some(self.grants.get(id)?),
            None => None,
        };
        let inputs = Inputs {
            agent: agent.name.to_string(),
            agent_policy: self.policy.agent_text(agent),
            instance: instance_name(facts.instance),
            exe: process.exe.as_ref().map(|exe| exe.display().to_string()).unwrap_or_default(),
            sha256: process.sha256.map(|digest| digest.to_string()).unwrap_or_default(),
            script: script_input(&process),
            manifest: agent
                .manifest
                .as_ref()
                .and_then(AgentManifest::digest)
                .map(|digest| digest.to_string()),
            uid: process.uid,
            tool: tool.name.to_string(),
            tool_policy: self.policy.tool_text(tool),
            grant: grant.map(|grant| grant_name(grant.id)),
            principal: grant.map(|grant| grant.principal.to_string()),
            task: grant.map(|grant| grant.task.to_string()),
        };
        Some((inputs, process))
    }

    /// Whether a call would have its yes, and what there is to say about that.
    pub(super) fn explain_approval(
        &self,
        facts: &ProcessFacts,
        destination: &Destination,
        agent: &str,
        tool: ToolId,
        grant: Option<GrantId>,
    ) -> (bool, String) {
        let inputs = self.approval_inputs(facts, agent, tool, grant);
        let Some((inputs, _)) = inputs else { return (false, "nothing is known".to_owned()) };
        let (digest, tool) = (inputs.digest(), inputs.tool);
        let Some(answer) = self.answers.find(&digest, destination, self.clock.now_ns()) else {
            return (false, format!("tool `{tool}` needs an approver's yes, and there is none"));
        };
        let Answer { question, verdict, approver, expires, .. } = answer;
        let until = rfc3339(*expires);
        match verdict {
            Verdict::Approved => (true, format!("{approver} approved {question} until {until}")),
            Verdict::Denied => (false, format!("{approver} denied {question} until {until}")),
        }
    }

    /// The yes under which a call went ahead, for its event.
    pub(super) fn approval_of(
        &self,
        record: &CallRecord,
        agent: &str,
        tool: ToolId,
        grant: GrantId,
        now_ns: u64,
    ) -> Option<Arc<ApprovalRef>> {
        let grant = (!grant.is_none()).then_some(grant);
        let (inputs, _) = self.approval_inputs(&record.process, agent, tool, grant)?;
        let digest = inputs.digest();
        let answer = self.answers.find(&digest, &record.destination, now_ns)?;
        Some(Arc::new(ApprovalRef {
            question: answer.question.to_string(),
            approver: answer.approver.to_string(),
        }))
    }

    /// What is asked of approvers, as far as a call waits for it.
    pub(super) fn approval_view(&self, id: QuestionId) -> Option<ApprovalView> {
        let Question { inputs, digest, .. } = self.questions.get(id)?;
        Some(ApprovalView {
            id: id.to_string(),
            digest: digest.0.to_string(),
            sha256: inputs.sha256.clone(),
            script: inputs.script.clone(),
            manifest: inputs.manifest.clone(),
            uid: inputs.uid,
            grant: inputs.grant.clone(),
            principal: inputs.principal.clone(),
            task: inputs.task.clone(),
        })
    }

    /// Checks an answer; what it comes to is to be stored, then comes back through
    /// [`Self::on_answer`].
    pub(super) fn check_answer(
        &self,
        spec: &AnswerSpec,
        authority: Authority,
        now: &Moment,
    ) -> Result<Answer, ControlError> {
        let AnswerSpec { id, digest, verdict, whole_tool, lifetime } = spec;
        let invalid = |text: String| ControlError::Invalid(text);
        let question_id = QuestionId::parse(id).ok_or_else(|| {
            invalid(format!("`{id}` is no question; see `agent-enforcer pending`"))
        })?;
        let asked = self.questions.get(question_id).filter(|_| self.is_waited_for(question_id));
        let question = asked.ok_or_else(|| {
            ControlError::NotFound(format!(
                "no call waits for {id} (any more); see `agent-enforcer pending`"
            ))
        })?;
        if digest.as_ref().is_some_and(|shown| *shown != question.digest.0.to_string()) {
            return Err(invalid(format!(
                "what {id} is about has changed since it was shown; look at `agent-enforcer pending` again"
            )));
        }
        let approver = self.approver(authority, question)?;
        if *lifetime < Duration::from_secs(1) || *lifetime > LONGEST_ANSWER {
            return Err(invalid("an answer holds from 1s to 24h; give `--for`".to_owned()));
        }
        Ok(Answer {
            question: question_id,
            digest: question.digest,
            instance: question.instance,
            verdict: *verdict,
            scope: if *whole_tool { Scope::Tool } else { Scope::Destination(question.destination) },
            approver,
            given: now.wall,
            expires: now.wall.checked_add(*lifetime).unwrap_or(now.wall),
            expires_ns: now.boot_ns.saturating_add(nanoseconds(*lifetime)),
        })
    }

    /// Who answers, if they may.
    fn approver(
        &self,
        authority: Authority,
        question: &Question,
    ) -> Result<Arc<str>, ControlError> {
        let Authority { uid, pid } = authority;
        let refused = |text: String| Err(ControlError::Invalid(text));
        let Some(approver) = self.policy.approvals().approver_of(uid) else {
            return refused(format!(
                "user {uid} is no approver; name it under `approvers` in the policy"
            ));
        };
        if self.processes.processes.get(pid).is_ok() {
            return refused("an agent's process approves nothing".to_owned());
        }
        // Root starts agents that run under other ids afterwards, and may do worse than to approve.
        let runs = |image: &Image| {
            image.process.uid == uid
                && image.facts.instance == question.instance
                && (uid != 0 || self.is_current(&image.facts))
        };
        if question.process.uid == uid || self.images.values().any(runs) {
            return refused(format!(
                "user {uid} runs agent {}: somebody else must approve",
                question.inputs.agent
            ));
        }
        Ok(Arc::clone(&approver.name))
    }

    /// An answer is on the disk: it holds from now on.
    pub(super) fn on_answer(&mut self, answer: Answer) -> AnswerView {
        let id = answer.question;
        let facts = self.questions.get(id).map(|question| ApprovalFacts {
            approver: Some(answer.approver.to_string()),
            until: Some(answer.expires),
            whole_tool: answer.scope == Scope::Tool,
            ..self.approval_facts(id, question)
        });
        let reply = AnswerView {
            id: id.to_string(),
            verdict: match answer.verdict {
                Verdict::Approved => "approved",
                Verdict::Denied => "denied",
            }
            .to_owned(),
            approver: answer.approver.to_string(),
            until: answer.expires,
            whole_tool: answer.scope == Scope::Tool,
        };
        if let Some(facts) = facts {
            self.tell(match answer.verdict {
                Verdict::Approved => DaemonEvent::ApprovalGiven(Box::new(facts)),
                Verdict::Denied => DaemonEvent::ApprovalRefused(Box::new(facts)),
            });
        }
        self.questions.open.remove(&id);
        self.answers.insert(answer);
        self.decide_waiting(|_, group| matches!(group.awaits, Awaits::Approval { .. }));
        reply
    }

    /// Forgets questions that no call waits for any more, and answers that are over.
    pub(super) fn tend_questions(&mut self, now_ns: u64) {
        self.answers.drop_expired(now_ns);
        if self.questions.open.is_empty() {
            return;
        }
        let waited_for: Vec<QuestionId> = self
            .pending
            .iter()
            .filter_map(|(_, group)| match group.awaits {
                Awaits::Approval { question, .. } => Some(question),
                Awaits::Identity | Awaits::Grant { .. } | Awaits::Use { .. } => None,
            })
            .collect();
        self.questions.open.retain(|id, _| waited_for.contains(id));
    }

    fn is_waited_for(&self, id: QuestionId) -> bool {
        self.pending.iter().any(|(_, group)| match group.awaits {
            Awaits::Approval { question, .. } => question == id,
            Awaits::Identity | Awaits::Grant { .. } | Awaits::Use { .. } => false,
        })
    }

    fn approval_facts(&self, id: QuestionId, question: &Question) -> ApprovalFacts {
        let Question { inputs, digest, destination, instance, process } = question;
        let owner = self.policy.agent(&inputs.agent).map(|agent| Arc::clone(&agent.owner));
        ApprovalFacts {
            question: id.to_string(),
            digest: digest.0.to_string(),
            agent: inputs.agent.as_str().into(),
            owner: owner.unwrap_or_else(|| Arc::from("")),
            instance: *instance,
            process: Arc::clone(process),
            tool: inputs.tool.as_str().into(),
            destination: self
                .peers
                .name(destination)
                .map_or_else(|| destination.to_string(), |peer| peer.to_string()),
            grant: inputs.grant.clone(),
            principal: inputs.principal.clone(),
            task: inputs.task.clone(),
            approver: None,
            until: None::<SystemTime>,
            whole_tool: false,
        }
    }
}

/// What an approver's answer is bound to of an image's code: a script by its content, and code that
/// nobody can vouch for by its image, as the next may run anything.
fn script_input(process: &Process) -> String {
    match &process.code {
        Code::Own => String::new(),
        Code::Script(script) => script.sha256.to_string(),
        Code::Unverified(why) => format!("{} {}", why.word(), process.exec.get()),
    }
}
