//! What an agent tried against the host, as a Detection Finding.
//!
//! In: an attempt, or many that were folded. Out: head, body and extension of its event.

use std::sync::Arc;

use agent_enforcer_common::{reason::Reason, record::Guard};

use super::{
    DaemonBody, DaemonExtension, Draft, Evidence, FINDING_CREATE, Finding, Parts, Remediation,
    Severity, Status, objects,
};
use crate::{
    decision::{Attempt, instance_name},
    events::{EventClass, clock::Moment, fold::FoldedAttempt},
};

const REASON: Reason = Reason::Guarded;

pub(in crate::events::schema) fn attempt<'a>(
    folded: &'a FoldedAttempt,
    moment: &'a Moment,
    uid: &'a str,
) -> Parts<'a> {
    let FoldedAttempt { attempt, count, first_ns, last_ns } = folded;
    let Attempt { guard, target_pid, argument, time_ns: _, agent, owner, instance, process, pid } =
        &**attempt;
    let draft = Draft { word: REASON.word(), time_ns: *last_ns, moment, uid };
    let tried = tried(*guard, *target_pid, *argument);
    let message = format!("{agent} {} [{pid}] was denied {tried}", instance_name(*instance));
    let mut head = draft.head(FINDING_CREATE, Severity::High, Status::New, message);
    head.class = EventClass::Guarded;
    head.agent = Some(Arc::clone(agent));
    head.count = *count;
    head.detail = Some(REASON.remedy().to_owned());
    head.profiles = &["host", "security_control"];
    if first_ns < last_ns {
        head.span = Some((moment.epoch_ms(*first_ns), moment.epoch_ms(*last_ns)));
    }
    let (object, percent_encoded) = objects::process(process, moment);
    let title = "agent acted against the host";
    (
        head,
        DaemonBody::Refusal {
            is_alert: true,
            action_id: 2,
            action: "Denied",
            disposition_id: 2,
            disposition: "Blocked",
            finding_info: Finding { uid: uid.into(), title, types: ["self_protection"] },
            evidences: [Box::new(Evidence { name: "process", process: object })],
            remediation: Remediation { desc: REASON.remedy() },
        },
        DaemonExtension {
            agent: Some(agent),
            owner: Some(owner),
            instance: Some(instance_name(*instance)),
            reason: Some(REASON.word()),
            remedy: Some(REASON.remedy()),
            guard: Some(guard.word()),
            target_pid: (*target_pid != 0).then_some(*target_pid),
            argument: Some(*argument),
            ..draft.extension_about(process, percent_encoded)
        },
    )
}

/// For people.
fn tried(guard: Guard, target_pid: u32, argument: u64) -> String {
    match guard {
        Guard::Bpf => format!("bpf(2), command {argument}"),
        Guard::Ptrace => format!("to trace or read process {target_pid}, mode {argument:#x}"),
        Guard::Signal => format!("to send the daemon signal {argument}"),
        Guard::Limits => "to limit or slow down the daemon".to_owned(),
        Guard::File => format!("a protected file, on a file system {argument:#x}"),
        Guard::Device => {
            format!("to open device {}:{}, which sends", argument >> 20, argument & 0xf_ffff)
        }
    }
}
