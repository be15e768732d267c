//! From principals, approvers and approvals as written to those that decide.
//!
//! In: decoded files and the checked tools. Out: on whose behalf agents may act, who may approve and
//! how long a call waits for that, and every problem found.

use std::{collections::HashMap, sync::Arc, time::Duration};

use agent_enforcer_common::id::ToolId;
use serde_saphyr::Spanned;

use super::{
    Approval, Approvals, Approver, Attendance, Principal,
    agent_check::{bounded, optional, text, tool_ids},
    directory::Source,
    document::{ApprovalsEntry, ApproverEntry, PrincipalEntry},
    error::{PolicyError, Problem},
    network::decimal,
    place::{Place, quote},
    tool_check::{CheckedTools, Report},
    webhook_check,
};
use crate::signing::{KeyId, KeySet};

/// Longest name of a principal or approver, bytes: as in grants.
const NAME_LIMIT: usize = 512;
/// How long a call waits for its approval where nothing is said.
const DEFAULT_WAIT: Duration = Duration::from_mins(5);
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_hours(1);

/// What the files say about people.
#[derive(Debug, Default)]
pub(super) struct CheckedAccess {
    /// `None`: anybody.
    pub(super) principals: Option<Vec<Principal>>,
    pub(super) approvals: Approvals,
}

/// Checks the people of all files.
pub(super) fn check(
    sources: &[Source],
    tools: &CheckedTools,
    keys: &KeySet,
    errors: &mut Vec<PolicyError>,
) -> CheckedAccess {
    let mut checked = CheckedAccess::default();
    let mut principals: HashMap<String, Place> = HashMap::new();
    let mut approvers = ApproverPlaces::default();
    let mut section: Option<Place> = None;
    for source in sources {
        let mut report = Report { file: &source.file, errors };
        for entry in source.document.principals.iter().flatten() {
            let principal = principal(entry, tools, &mut principals, &mut report);
            checked.principals.get_or_insert_default().push(principal);
        }
        if source.document.principals.is_some() {
            checked.principals.get_or_insert_default();
        }
        for entry in &source.document.approvers {
            let found = approver(entry, keys, &mut approvers, &mut report);
            checked.approvals.approvers.extend(found);
        }
        if let Some(entry) = &source.document.approvals {
            settings(entry, &mut section, &mut checked.approvals, &mut report);
        }
    }
    webhook_check::refuse_unanswerable(sources, &checked.approvals, errors);
    checked
}

fn principal(
    entry: &PrincipalEntry,
    known: &CheckedTools,
    names: &mut HashMap<String, Place>,
    report: &mut Report<'_>,
) -> Principal {
    let PrincipalEntry { name, tools } = entry;
    claim(name, "principal", names, report);
    let tools = tool_ids(tools, known, |_: (ToolId, &str)| Ok(()), report);
    Principal { name: text("name", name, NAME_LIMIT, report), tools }
}

#[derive(Default)]
struct ApproverPlaces {
    names: HashMap<String, Place>,
    users: HashMap<u32, (String, Place)>,
    keys: HashMap<KeyId, (String, Place)>,
}

fn approver(
    entry: &ApproverEntry,
    keys: &KeySet,
    places: &mut ApproverPlaces,
    report: &mut Report<'_>,
) -> Option<Approver> {
    let ApproverEntry { name, uid, key } = entry;
    claim(name, "approver", &mut places.names, report);
    if uid.is_none() && key.is_none() {
        report.add(name.referenced, Problem::SilentApprover(quote(&name.value)));
        return None;
    }
    let name_text = text("name", name, NAME_LIMIT, report);
    let user = uid.as_ref().and_then(|uid| approver_user(name, uid, places, report));
    let kid = key.as_ref().and_then(|key| approver_key(name, key, keys, places, report));
    (user.is_some() || kid.is_some()).then_some(Approver { name: name_text, uid: user, key: kid })
}

fn approver_user(
    name: &Spanned<String>,
    written: &Spanned<String>,
    places: &mut ApproverPlaces,
    report: &mut Report<'_>,
) -> Option<u32> {
    let Some(uid) = decimal::<u32>(&written.value).filter(|uid| *uid != u32::MAX) else {
        report.add(written.referenced, Problem::BadUser(quote(&written.value)));
        return None;
    };
    let place = report.place(written.referenced);
    if let Some((other, first)) = places.users.get(&uid) {
        let (other, first) = (quote(other), first.clone());
        report.add(written.referenced, Problem::ApproverClash { uid, other, first });
        return None;
    }
    places.users.insert(uid, (name.value.clone(), place));
    Some(uid)
}

fn approver_key(
    name: &Spanned<String>,
    written: &Spanned<String>,
    keys: &KeySet,
    places: &mut ApproverPlaces,
    report: &mut Report<'_>,
) -> Option<KeyId> {
    let Some(key) = keys.get(&written.value) else {
        report.add(written.referenced, Problem::UnknownKeyId(quote(&written.value)));
        return None;
    };
    let place = report.place(written.referenced);
    if let Some((other, first)) = places.keys.get(key.kid()) {
        let (kid, other, first) = (quote(&written.value), quote(other), first.clone());
        report.add(written.referenced, Problem::ApproverKeyClash { kid, other, first });
        return None;
    }
    places.keys.insert(key.kid().clone(), (name.value.clone(), place));
    Some(key.kid().clone())
}

/// Refuses a name that was given before.
fn claim(
    name: &Spanned<String>,
    what: &'static str,
    names: &mut HashMap<String, Place>,
    report: &mut Report<'_>,
) {
    let place = report.place(name.referenced);
    match names.get(&name.value) {
        Some(first) => {
            let (name_text, first) = (quote(&name.value), first.clone());
            let problem = Problem::DuplicateName { what, name: name_text, first };
            report.add(name.referenced, problem);
        }
        None => {
            names.insert(name.value.clone(), place);
        }
    }
}

fn settings(
    entry: &ApprovalsEntry,
    section: &mut Option<Place>,
    approvals: &mut Approvals,
    report: &mut Report<'_>,
) {
    let ApprovalsEntry { wait, mode, webhook } = entry;
    let url = webhook.as_ref().map(|webhook| &webhook.url);
    let first = wait.as_ref().or(mode.as_ref()).or(url);
    let Some(at) = first.map(|first| first.referenced) else { return };
    if let Some(first) = section {
        let problem = Problem::SectionTwice { section: "approvals", first: first.clone() };
        return report.add(at, problem);
    }
    *section = Some(report.place(at));
    let parse = |text: &str| bounded("wait", text, (SHORTEST_WAIT, "1s"), (LONGEST_WAIT, "1h"));
    approvals.wait = optional(wait.as_ref(), DEFAULT_WAIT, parse, report);
    approvals.attendance = optional(mode.as_ref(), Attendance::Attended, parse_attendance, report);
    let webhook = webhook.as_ref().and_then(|entry| webhook_check::webhook(entry, report));
    approvals.webhook = webhook.map(Arc::new);
}

fn parse_attendance(text: &str) -> Result<Attendance, Problem> {
    [Attendance::Attended, Attendance::Unattended]
        .into_iter()
        .find(|choice| choice.word() == text)
        .ok_or_else(|| Problem::BadWord {
            key: "mode",
            value: quote(text),
            choices: "`attended` or `unattended`",
        })
}

/// Refuses tools that need an approval which nobody could give.
pub(super) fn refuse_unapprovable(
    tools: &CheckedTools,
    approvals: &Approvals,
    errors: &mut Vec<PolicyError>,
) {
    let answers = |approver: &Approver| approver.uid.is_some() || approvals.webhook.is_some();
    if approvals.approvers.iter().any(answers) || approvals.attendance == Attendance::Unattended {
        return;
    }
    for tool in tools.tools.iter().filter(|tool| tool.approval == Approval::Required) {
        if let Some((_, place)) = tools.names.get(&*tool.name) {
            let problem = Problem::NoApprovers(quote(&tool.name));
            errors.push(PolicyError::new(place.clone(), problem));
        }
    }
}

impl Default for Approvals {
    fn default() -> Self {
        let (wait, attendance) = (DEFAULT_WAIT, Attendance::Attended);
        Self { approvers: Vec::new(), wait, attendance, webhook: None }
    }
}

impl Approvals {
    /// The approver of a user id.
    pub fn approver_of(&self, uid: u32) -> Option<&Approver> {
        self.approvers.iter().find(|approver| approver.uid == Some(uid))
    }

    /// The approver of a key.
    pub fn approver_with(&self, key: &KeyId) -> Option<&Approver> {
        self.approvers.iter().find(|approver| approver.key.as_ref() == Some(key))
    }

    /// The approver of a name.
    pub fn approver_named(&self, name: &str) -> Option<&Arc<str>> {
        self.approvers.iter().map(|approver| &approver.name).find(|known| &***known == name)
    }
}
