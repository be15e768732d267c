//! What the YAML says, as Cedar text.
//!
//! In: checked tools and agents. Out: for each agent its ceiling, a forbid that leaves out its approved
//! tools, and up to four permits: what stands and what needs a grant, without and with an approver's
//! yes. Names are of letters that Cedar does not escape.

use std::fmt::Write as _;

use agent_enforcer_common::id::ToolId;

use super::{
    super::{Agent, Approval, Tool},
    RENDERED_PREFIX,
};

/// The whole text.
pub(super) fn render(tools: &[Tool], agents: &[Agent]) -> String {
    let mut text = String::new();
    for agent in agents {
        of_agent(&mut text, tools, agent);
    }
    text
}

fn of_agent(text: &mut String, tools: &[Tool], agent: &Agent) {
    let name = &*agent.name;
    let tool = |id: &ToolId| tools.get(usize::try_from(id.get().checked_sub(1)?).ok()?);
    let approved: Vec<&Tool> = agent.tools.iter().filter_map(tool).collect();
    let ceiling = match &*approved {
        [] => String::new(),
        some => format!(" unless {{ {} }}", among(some)),
    };
    statement(text, name, "ceiling", "forbid", "", &ceiling);
    let (standing, granted): (Vec<&Tool>, Vec<&Tool>) =
        approved.into_iter().partition(|tool| agent.stands(tool.id));
    for (what, tools, granted) in
        [("standing", standing, ""), ("granted", granted, "context has grant && ")]
    {
        let (asked, unasked): (Vec<&Tool>, Vec<&Tool>) =
            tools.into_iter().partition(|tool| tool.approval == Approval::Required);
        for (tools, id, annotation) in [
            (unasked, what.to_owned(), ""),
            (asked, format!("{what}/approval"), "@approval(\"required\")\n"),
        ] {
            if !tools.is_empty() {
                let when = format!(" when {{ {granted}{} }}", among(&tools));
                statement(text, name, &id, "permit", annotation, &when);
            }
        }
    }
}

fn statement(
    text: &mut String,
    agent: &str,
    id: &str,
    effect: &str,
    annotation: &str,
    clause: &str,
) {
    let separator = if text.is_empty() { "" } else { "\n" };
    // Writing to a string can't fail.
    let _written = writeln!(
        text,
        "{separator}@id(\"{RENDERED_PREFIX}{agent}/{id}\")\n{annotation}{effect} (principal in Agent::\"{agent}\", action, resource){clause};"
    );
}

fn among(tools: &[&Tool]) -> String {
    let names: Vec<_> = tools.iter().map(|tool| format!("Tool::\"{}\"", tool.name)).collect();
    match &*names {
        [one] => format!("resource in {one}"),
        _ => format!("resource in [{}]", names.join(", ")),
    }
}
