//! What was asked about a call and found, operand by operand, for people: who says no, and why.

use super::{Findings, ImageOperand, Permit, Question};
use crate::{
    control::ExplainStep,
    decision::grant_name,
    resolver::{
        grant::{Grant, GrantMatch, GrantState},
        policy::{Agent, PolicyName, Tool},
    },
    signing::KeyId,
};

impl Findings<'_> {
    pub(super) fn steps(&self, question: &Question<'_>, destination: &str) -> Vec<ExplainStep> {
        let Question { agent, .. } = *question;
        let mut steps = vec![manifest_step(agent)];
        let tool = match self {
            Self::NoManifest(_) => return steps,
            Self::NoTool => {
                let found = format!("{destination} belongs to no tool of the policy");
                steps.push(step("tool", found, false));
                return steps;
            }
            Self::NotApproved(tool)
            | Self::NotInManifest(tool)
            | Self::NotItsSoftware(tool, _)
            | Self::NotVia(tool)
            | Self::Forbidden(tool, _)
            | Self::Failed(tool, _)
            | Self::Standing(tool)
            | Self::Permitted(tool, _)
            | Self::Grants(tool, _) => tool,
        };
        let approves = !matches!(self, Self::NotApproved(_));
        let verb = if approves { "has" } else { "does not have" };
        steps.extend([
            step("tool", format!("{destination} belongs to tool `{}`", tool.name), true),
            step(
                "approved",
                format!("agent `{}` {verb} tool `{}` approved", agent.name, tool.name),
                approves,
            ),
        ]);
        if matches!(self, Self::NotInManifest(_)) {
            let found = format!("the manifest does not name tool `{}`", tool.name);
            steps.push(step("manifest", found, false));
        } else if approves {
            steps.extend(software_step(agent, tool, question.image));
        }
        match self {
            Self::NoManifest(_)
            | Self::NoTool
            | Self::NotApproved(_)
            | Self::NotInManifest(_)
            | Self::NotItsSoftware(..)
            | Self::NotVia(_) => {}
            Self::Forbidden(_, policies) => {
                steps.push(step("policy", format!("{} forbid it", listed(policies)), false));
            }
            Self::Failed(_, policies) => {
                let found = format!("{} can't be evaluated", listed(policies));
                steps.push(step("policy", found, false));
            }
            Self::Standing(tool) => {
                let found = format!("tool `{}` is standing: it needs no grant", tool.name);
                steps.push(step("grant", found, true));
            }
            Self::Permitted(tool, Permit { policies, grant, .. }) => {
                steps.push(step("policy", format!("{} permit it", listed(policies)), true));
                let found = grant.map(|grant| GrantMatch::Best(grant, GrantState::Live));
                steps
                    .extend(found.into_iter().flat_map(|found| grant_steps(question, tool, found)));
            }
            Self::Grants(tool, found) => steps.extend(grant_steps(question, tool, *found)),
        }
        steps
    }
}

/// Policies by their ids.
fn listed(policies: &[PolicyName]) -> String {
    let names: Vec<_> = policies.iter().map(|name| format!("`{name}`")).collect();
    format!("policies {}", names.join(", "))
}

/// What the agent's manifest is, and whether it counts.
fn manifest_step(agent: &Agent) -> ExplainStep {
    let Some(manifest) = &agent.manifest else {
        let found = format!("the policy demands no manifest of agent `{}`", agent.name);
        return step("manifest", found, true);
    };
    let what = match manifest.document() {
        Some(document) => format!(
            "manifest of {}, version {}, until {}",
            manifest.agent_id(),
            document.version,
            document.valid_until
        ),
        None => format!("manifest of {}", manifest.agent_id()),
    };
    let signers = manifest.signers().iter().map(KeyId::as_str).collect::<Vec<_>>().join(", ");
    match manifest.standing() {
        Ok(()) => step("manifest", format!("{what}, signed by {signers}, counts"), true),
        Err(reason) => step("manifest", format!("{what}: {}", reason.word()), false),
    }
}

/// Whether this executable may use the tool; nothing where any of the agent's software may.
fn software_step(agent: &Agent, tool: &Tool, image: ImageOperand<'_>) -> Option<ExplainStep> {
    let named = image.via.contains(&tool.id);
    let via = || tool.via.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if !tool.via.is_empty() {
        let verb = if named { "is" } else { "is not" };
        let found = format!("the executable {verb} one of those of `{}`: {}", tool.name, via());
        return Some(step("software", found, named));
    }
    let Some(reason) = image.outside else {
        agent.manifest.as_ref()?;
        return Some(step("software", "the manifest lists the executable".to_owned(), true));
    };
    let found = format!("the executable is none of the agent's own: {}", reason.word());
    Some(step("software", found, false))
}

/// The grant by itself, what it was made of, and whom it is for.
fn grant_steps(question: &Question<'_>, tool: &Tool, found: GrantMatch<'_>) -> Vec<ExplainStep> {
    let Question { policy, grants, now_ns, .. } = *question;
    let GrantMatch::Best(grant, state) = found else {
        return vec![step("grant", format!("there is no grant for tool `{}`", tool.name), false)];
    };
    let name = grant_name(grant.id);
    let principal = &grant.principal;
    // These two say no below, in a step of their own.
    let elsewhere = matches!(state, GrantState::ParentEnded | GrantState::BeyondPrincipal);
    let own = if elsewhere { GrantState::Live } else { state };
    let found = format!(
        "grant {name} for `{}` on behalf of {principal} is {}{}",
        tool.name,
        own.word(),
        detail(grant, own, now_ns)
    );
    let mut steps = vec![step("grant", found, own == GrantState::Live)];
    if let Some(parent) = grant.origin.as_ref().and_then(|origin| origin.parent) {
        let lives = grants
            .get(parent)
            .map_or(GrantState::ParentEnded, |parent| grants.state(parent, now_ns));
        let found = format!("{name} was made of {}, which is {}", grant_name(parent), lives.word());
        steps.push(step("delegation", found, state != GrantState::ParentEnded));
    }
    if let Some(tools) = policy.ceiling_of(principal) {
        let within = tools.contains(&tool.id);
        let verb = if within { "may" } else { "may not" };
        let found = format!("tool `{}` {verb} be used on behalf of {principal}", tool.name);
        steps.push(step("principal", found, within));
    }
    steps
}

/// What a person wants to know of a grant in this state.
fn detail(grant: &Grant, state: GrantState, now_ns: u64) -> String {
    let seconds = |until_ns: u64| {
        let whole = until_ns.saturating_sub(now_ns).div_ceil(1_000_000_000);
        humantime::format_duration(std::time::Duration::from_secs(whole)).to_string()
    };
    match state {
        GrantState::Live => format!(" for another {}", seconds(grant.expires_ns)),
        GrantState::NotYetValid => format!(": it begins in {}", seconds(grant.not_before_ns)),
        GrantState::UsedUp => format!(": all {} uses are spent", grant.uses),
        GrantState::Expired | GrantState::ParentEnded | GrantState::BeyondPrincipal => {
            String::new()
        }
        GrantState::ManifestChanged => {
            ": it was issued for another manifest than the agent has".to_owned()
        }
        GrantState::IssuerNotTrusted => {
            let issuer = grant.origin.as_ref().map_or("", |origin| &origin.issuer);
            format!(": the policy does not trust {issuer} with it")
        }
        GrantState::Unsigned => ": the agent may have signed grants only".to_owned(),
        GrantState::Revoked => {
            grant.revoked.as_ref().map(|why| format!(": {}", why.reason)).unwrap_or_default()
        }
    }
}

fn step(question: &str, found: String, holds: bool) -> ExplainStep {
    ExplainStep { question: question.to_owned(), found, holds }
}
