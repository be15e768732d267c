//! From what an operator asked for to a grant that may be issued.
//!
//! In: a [`GrantSpec`], the policy, the live instances, the moment. Out: a [`NewGrant`], or why
//! not. A grant never widens the approved set: a tool outside of it is refused here, and again by
//! each decision, as the policy may change.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{id::InstanceId, reason::Reason};

use super::{GrantSubject, Moment, TokenOrigin, clock::nanoseconds, token::Scope};
use crate::{
    control::GrantSpec,
    decision::parse_instance,
    hostile_text::is_hostile,
    resolver::policy::{LocalGrants, Policy},
};

/// Longest life of a grant.
pub const LONGEST_LIFE: Duration = Duration::from_hours(24);
/// How far ahead a grant may begin.
const FARTHEST_BEGINNING: Duration = Duration::from_hours(30 * 24);
/// Most tools of one grant.
const TOOL_LIMIT: usize = 256;
/// Longest principal, task and reason, bytes.
const TEXT_LIMIT: usize = 512;

/// A checked grant that has no id yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewGrant {
    pub(super) subject: GrantSubject,
    pub(super) scope: Scope,
    pub(super) principal: Arc<str>,
    pub(super) task: Arc<str>,
    pub(super) reason: Arc<str>,
    pub(super) not_before: SystemTime,
    pub(super) expires: SystemTime,
    pub(super) not_before_ns: u64,
    pub(super) expires_ns: u64,
    pub(super) max_uses: Option<u32>,
    pub(super) checked: Moment,
    pub(super) origin: Option<TokenOrigin>,
}

/// Why a grant can't be issued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantSpecError {
    /// Neither or both of agent and instance.
    #[error("the grant must be for an agent or for an instance; give exactly one")]
    Subject,
    /// Not an instance.
    #[error("{0:?} is not an instance; write it as `agent-enforcer agents` shows it, like i-1a2b")]
    BadInstance(String),
    /// No such instance.
    #[error("instance {0} does not run; see `agent-enforcer agents`, or grant to the agent")]
    UnknownInstance(String),
    /// No such agent.
    #[error("agent {0:?} is not in the policy; see `agent-enforcer agents`")]
    UnknownAgent(String),
    /// No tool.
    #[error("the grant names no tool; name at least one")]
    NoTools,
    /// Too many tools.
    #[error("the grant names more than {TOOL_LIMIT} tools; issue several grants")]
    TooManyTools,
    /// A tool named twice.
    #[error("tool {0:?} is named twice; name it once")]
    DuplicateTool(String),
    /// No such tool.
    #[error("tool {0:?} is not in the policy; see `agent-enforcer policy show`")]
    UnknownTool(String),
    /// Outside of the approved set.
    #[error(
        "tool {tool:?} is not approved for agent {agent:?}; add it to the agent's `tools` in the policy first"
    )]
    NotApproved {
        /// The tool.
        tool: String,
        /// The agent.
        agent: String,
    },
    /// Outside of the manifest.
    #[error("agent {agent:?} may not use tool {tool:?}: {}; {}", reason.word(), reason.remedy())]
    Manifest {
        /// The tool.
        tool: String,
        /// The agent.
        agent: String,
        /// Why.
        reason: Reason,
    },
    /// The agent may have signed grants only.
    #[error(
        "agent {0:?} may have signed grants only; give a token to `agent-enforcer grant present`, or set `grants: {{local: allow}}` for the agent"
    )]
    OnlySigned(String),
    /// No principal.
    #[error("the principal is empty; name on whose behalf the agent acts")]
    NoPrincipal,
    /// A text that is too long.
    #[error("the {0} has more than {TEXT_LIMIT} bytes; shorten it")]
    TextTooLong(&'static str),
    /// A text that could steer a terminal or deceive whoever reads it.
    #[error(
        "the {0} has control, direction or invisible characters; write it as plain text on one line"
    )]
    HostileCharacters(&'static str),
    /// A grant that never lives.
    #[error("the grant has no lifetime; give how long it is to last, like 30m")]
    NoLifetime,
    /// A grant that lives too long.
    #[error(
        "the grant would last longer than 24h; give a shorter lifetime, and issue it anew then"
    )]
    LifetimeTooLong,
    /// A grant that begins too far ahead.
    #[error("the grant would begin more than 30 days ahead; issue it later")]
    BeginsTooLate,
    /// A grant that has ended before it is issued.
    #[error("the grant would have ended already; give a later not-before or a longer lifetime")]
    EndsInThePast,
    /// A grant without uses.
    #[error("the grant would admit no call; give at least one use, or no limit")]
    NoUses,
}

/// Checks what an operator asked for. `agent_of` names the agent of a live instance.
pub fn check_spec(
    spec: &GrantSpec,
    policy: &Policy,
    agent_of: impl Fn(InstanceId) -> Option<Arc<str>>,
    now: &Moment,
) -> Result<NewGrant, GrantSpecError> {
    let GrantSpec {
        agent,
        instance,
        tools,
        principal,
        task,
        reason,
        not_before,
        lifetime,
        max_uses,
    } = spec;
    let subject = check_subject(agent.as_deref(), instance.as_deref(), agent_of)?;
    let tools = check_tools(&subject, tools, policy)?;
    if principal.trim().is_empty() {
        return Err(GrantSpecError::NoPrincipal);
    }
    let not_before = not_before.unwrap_or(now.wall);
    let expires = check_period(not_before, *lifetime, now)?;
    if *max_uses == Some(0) {
        return Err(GrantSpecError::NoUses);
    }
    Ok(NewGrant {
        subject,
        scope: Scope::of_tools(tools),
        principal: check_text("principal", principal)?,
        task: check_text("task", task)?,
        reason: check_text("reason", reason)?,
        not_before,
        expires,
        not_before_ns: now.boot_ns_at(not_before),
        expires_ns: now.boot_ns_at(expires),
        max_uses: *max_uses,
        checked: now.clone(),
        origin: None,
    })
}

fn check_subject(
    agent: Option<&str>,
    instance: Option<&str>,
    agent_of: impl Fn(InstanceId) -> Option<Arc<str>>,
) -> Result<GrantSubject, GrantSpecError> {
    match (agent, instance) {
        (Some(agent), None) => Ok(GrantSubject { agent: agent.into(), instance: None }),
        (None, Some(text)) => {
            let instance =
                parse_instance(text).ok_or_else(|| GrantSpecError::BadInstance(text.to_owned()))?;
            let agent = agent_of(instance)
                .ok_or_else(|| GrantSpecError::UnknownInstance(text.to_owned()))?;
            Ok(GrantSubject { agent, instance: Some(instance) })
        }
        (None, None) | (Some(_), Some(_)) => Err(GrantSpecError::Subject),
    }
}

fn check_tools(
    subject: &GrantSubject,
    names: &[String],
    policy: &Policy,
) -> Result<Vec<Arc<str>>, GrantSpecError> {
    let agent = policy
        .agent(&subject.agent)
        .ok_or_else(|| GrantSpecError::UnknownAgent(subject.agent.to_string()))?;
    match agent.local_grants {
        LocalGrants::Allow => {}
        LocalGrants::Deny => return Err(GrantSpecError::OnlySigned(agent.name.to_string())),
    }
    if names.is_empty() {
        return Err(GrantSpecError::NoTools);
    }
    if names.len() > TOOL_LIMIT {
        return Err(GrantSpecError::TooManyTools);
    }
    let mut tools: Vec<Arc<str>> = Vec::with_capacity(names.len());
    for name in names {
        let tool =
            policy.tool_named(name).ok_or_else(|| GrantSpecError::UnknownTool(name.clone()))?;
        let (tool_name, agent_name) = (name.clone(), agent.name.to_string());
        if !agent.approves(tool.id) {
            return Err(GrantSpecError::NotApproved { tool: tool_name, agent: agent_name });
        }
        if let Err(reason) = agent.check_manifest(tool.id) {
            return Err(GrantSpecError::Manifest { tool: tool_name, agent: agent_name, reason });
        }
        if tools.contains(&tool.name) {
            return Err(GrantSpecError::DuplicateTool(name.clone()));
        }
        tools.push(Arc::clone(&tool.name));
    }
    Ok(tools)
}

/// When the grant ends.
fn check_period(
    not_before: SystemTime,
    lifetime: Duration,
    now: &Moment,
) -> Result<SystemTime, GrantSpecError> {
    if nanoseconds(lifetime) == 0 {
        return Err(GrantSpecError::NoLifetime);
    }
    if lifetime > LONGEST_LIFE {
        return Err(GrantSpecError::LifetimeTooLong);
    }
    if not_before.duration_since(now.wall).is_ok_and(|ahead| ahead > FARTHEST_BEGINNING) {
        return Err(GrantSpecError::BeginsTooLate);
    }
    let expires = not_before.checked_add(lifetime).ok_or(GrantSpecError::LifetimeTooLong)?;
    if expires <= now.wall { Err(GrantSpecError::EndsInThePast) } else { Ok(expires) }
}

/// Checks why a grant is taken back: one line of plain text, which may be empty.
pub fn check_reason(reason: &str) -> Result<Arc<str>, GrantSpecError> {
    check_text("reason", reason)
}

fn check_text(what: &'static str, text: &str) -> Result<Arc<str>, GrantSpecError> {
    if text.len() > TEXT_LIMIT {
        return Err(GrantSpecError::TextTooLong(what));
    }
    if text.contains(is_hostile) {
        return Err(GrantSpecError::HostileCharacters(what));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::{
        grant::testing::{moment, spec},
        policy::Policy,
    };

    fn policy() -> Policy {
        let dir = tempfile::tempdir().unwrap();
        let yaml = "apiVersion: agent-enforcer/v1
tools:
  - {name: mail, cidrs: [192.0.2.1], ports: [25]}
  - {name: web, cidrs: [192.0.2.2], ports: [443]}
agents:
  - {name: bot, owner: o, purpose: p, selectors: [[\"unix:uid:7\"]], tools: [mail]}
";
        std::fs::write(dir.path().join("p.yaml"), yaml).unwrap();
        Policy::load(dir.path()).unwrap()
    }

    fn refusal(change: impl Fn(&mut GrantSpec)) -> GrantSpecError {
        let mut spec = spec("bot", &["mail"]);
        change(&mut spec);
        let bot = InstanceId::new(5);
        let agent_of = |instance| (instance == bot).then(|| Arc::from("bot"));
        check_spec(&spec, &policy(), agent_of, &moment(100)).unwrap_err()
    }

    #[test]
    fn refuses_a_grant_that_is_for_nobody_known() {
        assert_eq!(refusal(|s| s.agent = None), GrantSpecError::Subject);
        assert_eq!(refusal(|s| s.instance = Some("i-5".into())), GrantSpecError::Subject);
        assert_eq!(
            refusal(|s| s.agent = Some("cat".into())),
            GrantSpecError::UnknownAgent("cat".into())
        );
        let instance = |text: &'static str| {
            refusal(move |s| (s.agent, s.instance) = (None, Some(text.into())))
        };
        assert_eq!(instance("5"), GrantSpecError::BadInstance("5".into()));
        assert_eq!(instance("i-6"), GrantSpecError::UnknownInstance("i-6".into()));
    }

    #[test]
    fn refuses_tools_outside_of_the_approved_set() {
        let tools = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            refusal(move |s| s.tools = names.clone())
        };
        assert_eq!(tools(&[]), GrantSpecError::NoTools);
        assert_eq!(tools(&["ftp"]), GrantSpecError::UnknownTool("ftp".into()));
        assert_eq!(
            tools(&["mail", "web"]),
            GrantSpecError::NotApproved { tool: "web".into(), agent: "bot".into() }
        );
        assert_eq!(tools(&["mail", "mail"]), GrantSpecError::DuplicateTool("mail".into()));
        assert_eq!(tools(&["mail"; 257]), GrantSpecError::TooManyTools);
    }

    #[test]
    fn refuses_texts_that_name_nobody_or_write_to_terminals() {
        assert_eq!(refusal(|s| s.principal = " ".into()), GrantSpecError::NoPrincipal);
        assert_eq!(
            refusal(|s| s.principal = "a\u{1b}[2J".into()),
            GrantSpecError::HostileCharacters("principal")
        );
        assert_eq!(
            refusal(|s| s.task = "a\u{202e}b".into()),
            GrantSpecError::HostileCharacters("task")
        );
        assert_eq!(
            refusal(|s| s.reason = "a\nb".into()),
            GrantSpecError::HostileCharacters("reason")
        );
        assert_eq!(refusal(|s| s.task = "x".repeat(513)), GrantSpecError::TextTooLong("task"));
    }

    #[test]
    fn refuses_periods_that_are_empty_too_long_or_over() {
        let hour = Duration::from_hours(1);
        let now = moment(100).wall;
        assert_eq!(refusal(|s| s.lifetime = Duration::ZERO), GrantSpecError::NoLifetime);
        assert_eq!(refusal(|s| s.lifetime = 25 * hour), GrantSpecError::LifetimeTooLong);
        assert_eq!(
            refusal(|s| s.not_before = Some(now + Duration::from_hours(31 * 24))),
            GrantSpecError::BeginsTooLate
        );
        assert_eq!(
            refusal(|s| s.not_before = Some(now - 24 * hour)),
            GrantSpecError::EndsInThePast
        );
        assert_eq!(refusal(|s| s.max_uses = Some(0)), GrantSpecError::NoUses);
    }

    #[test]
    fn carries_wall_times_over_to_the_clock_of_decisions() {
        let now = moment(1000);
        let mut spec = spec("bot", &["mail"]);
        spec.not_before = Some(now.wall + Duration::from_secs(10));
        spec.lifetime = Duration::from_mins(1);
        let grant = check_spec(&spec, &policy(), |_| None, &now).unwrap();
        assert_eq!(grant.not_before_ns, 1_010_000_000_000);
        assert_eq!(grant.expires_ns, 1_070_000_000_000);
        assert_eq!(grant.expires, now.wall + Duration::from_secs(70));
    }
}
