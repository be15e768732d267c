//! Everything but calls, each in the OCSF class that says it best (docs/events.md has the table).
//!
//! In: a [`DaemonEvent`]. Out: head, body and extension of its event.

use std::{sync::Arc, time::SystemTime};

use agent_enforcer_common::reason::Reason;
use serde::Serialize;

use super::{
    Head, Kind, Severity, Status, call,
    objects::{self, ProcessEntity, ProcessObject, Product, USER_SERVICE, USER_UNKNOWN, User},
};
use crate::{
    decision::{Process, grant_name, instance_name},
    events::{
        DaemonEvent, EventClass, GrantFacts, InstanceFacts,
        clock::{self, Moment},
        json::path_text,
    },
};

/// What differs by class.
#[derive(Serialize)]
#[serde(untagged)]
pub(super) enum DaemonBody<'a> {
    /// Application Error.
    Error {},
    /// Application Lifecycle.
    Application { app: Product<'a> },
    /// Entity Management.
    Entity { entity: Entity },
    /// User Access Management.
    Access { actor: GrantActor<'a>, user: User<'a>, privileges: &'a [String] },
    /// Process Activity.
    Process { actor: ProcessActor<'a>, process: Box<ProcessObject<'a>> },
    /// Detection Finding about the host.
    Alarm { is_alert: bool, finding_info: Finding<'a>, remediation: Remediation<'a> },
    /// Detection Finding about a process.
    Refusal {
        is_alert: bool,
        action_id: u8,
        action: &'static str,
        disposition_id: u8,
        disposition: &'static str,
        finding_info: Finding<'a>,
        evidences: [Box<Evidence<'a>>; 1],
        remediation: Remediation<'a>,
    },
}

#[derive(Serialize)]
pub(super) struct Entity {
    name: String,
    #[serde(rename = "type")]
    kind: &'static str,
    type_id: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
}

#[derive(Serialize)]
pub(super) struct GrantActor<'a> {
    app_name: &'static str,
    user: User<'a>,
}

#[derive(Serialize)]
pub(super) struct ProcessActor<'a> {
    app_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    process: Option<ProcessEntity<'a>>,
}

#[derive(Serialize)]
pub(super) struct Finding<'a> {
    uid: &'a str,
    title: &'a str,
    types: [&'static str; 1],
}

#[derive(Serialize)]
pub(super) struct Evidence<'a> {
    name: &'static str,
    process: ProcessObject<'a>,
}

#[derive(Serialize)]
pub(super) struct Remediation<'a> {
    desc: &'a str,
}

/// `unmapped.agent_enforcer`: what the event has, and nothing else.
#[derive(Default, Serialize)]
pub(super) struct DaemonExtension<'a> {
    event: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    agent: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grant: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    task: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tools: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    plane: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    directory: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    agents: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy_tools: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    percent_encoded: Vec<String>,
}

type Parts<'a> = (Head, DaemonBody<'a>, DaemonExtension<'a>);

const APPLICATION_START: Kind = Kind {
    class_uid: 6002,
    class_name: "Application Lifecycle",
    activity_id: 3,
    activity_name: "Start",
};
const APPLICATION_STOP: Kind = Kind { activity_id: 4, activity_name: "Stop", ..APPLICATION_START };
const APPLICATION_DISABLE: Kind =
    Kind { activity_id: 7, activity_name: "Disable", ..APPLICATION_START };
const ENTITY_ACTIVATE: Kind = Kind {
    class_uid: 3004,
    class_name: "Entity Management",
    activity_id: 10,
    activity_name: "Activate",
};
const ACCESS_ASSIGN: Kind = Kind {
    class_uid: 3005,
    class_name: "User Access Management",
    activity_id: 1,
    activity_name: "Assign Privileges",
};
const ACCESS_REVOKE: Kind =
    Kind { activity_id: 2, activity_name: "Revoke Privileges", ..ACCESS_ASSIGN };
const PROCESS_LAUNCH: Kind = Kind {
    class_uid: 1007,
    class_name: "Process Activity",
    activity_id: 1,
    activity_name: "Launch",
};
const PROCESS_TERMINATE: Kind =
    Kind { activity_id: 2, activity_name: "Terminate", ..PROCESS_LAUNCH };
const FINDING_CREATE: Kind = Kind {
    class_uid: 2004,
    class_name: "Detection Finding",
    activity_id: 1,
    activity_name: "Create",
};
const APPLICATION_ERROR: Kind = Kind {
    class_uid: 6008,
    class_name: "Application Error",
    activity_id: 1,
    activity_name: "General Error",
};
/// `managed_entity.type_id`.
const ENTITY_POLICY: u8 = 5;

pub(super) fn parts<'a>(
    event: &'a DaemonEvent,
    time_ns: u64,
    moment: &Moment,
    uid: &'a str,
) -> Parts<'a> {
    let word = event.word();
    let head = |kind, severity, status, message| Head {
        kind,
        severity,
        status,
        word,
        detail: None,
        message,
        class: EventClass::Daemon,
        agent: None,
        count: 1,
        time_ms: moment.epoch_ms(time_ns),
        span: None,
        profiles: &["host"],
    };
    let extension = DaemonExtension { event: word, ..DaemonExtension::default() };
    match event {
        DaemonEvent::Started { version, generation, plane } => (
            head(
                APPLICATION_START,
                Severity::Informational,
                Status::Success,
                format!("enforcing with {plane}, generation {}", generation.get()),
            ),
            DaemonBody::Application { app: Product { version, ..objects::PRODUCT } },
            DaemonExtension { generation: Some(generation.get()), plane: Some(plane), ..extension },
        ),
        DaemonEvent::Stopped => (
            head(
                APPLICATION_STOP,
                Severity::Low,
                Status::Success,
                "daemon stopped; enforcement stays, calls without a verdict are denied".to_owned(),
            ),
            DaemonBody::Application { app: objects::PRODUCT },
            extension,
        ),
        DaemonEvent::Detached { reason } => (
            head(
                APPLICATION_DISABLE,
                Severity::High,
                Status::Success,
                format!("enforcement is gone: {reason}"),
            ),
            DaemonBody::Application { app: objects::PRODUCT },
            DaemonExtension { reason: Some(reason), ..extension },
        ),
        DaemonEvent::PolicyLoaded { generation, directory, agents, tools } => {
            let (name, encoded) = path_text(directory);
            let version = generation.get().to_string();
            (
                head(
                    ENTITY_ACTIVATE,
                    Severity::Informational,
                    Status::Success,
                    format!(
                        "policy in force as generation {version}: {agents} agents, {tools} tools"
                    ),
                ),
                DaemonBody::Entity {
                    entity: Entity {
                        name: name.clone().into_owned(),
                        kind: "Policy",
                        type_id: ENTITY_POLICY,
                        uid: Some(version.clone()),
                        version: Some(version),
                    },
                },
                DaemonExtension {
                    generation: Some(generation.get()),
                    directory: Some(name.into_owned()),
                    agents: Some(*agents),
                    policy_tools: Some(*tools),
                    percent_encoded: encoded
                        .then(|| "entity.name".to_owned())
                        .into_iter()
                        .collect(),
                    ..extension
                },
            )
        }
        DaemonEvent::PolicyRejected { error } => (
            head(
                ENTITY_ACTIVATE,
                Severity::Medium,
                Status::Failure,
                format!("policy refused, the one before stays in force: {error}"),
            ),
            DaemonBody::Entity {
                entity: Entity {
                    name: "policy".to_owned(),
                    kind: "Policy",
                    type_id: ENTITY_POLICY,
                    uid: None,
                    version: None,
                },
            },
            DaemonExtension {
                reason: Some(error),
                remedy: Some("`agent-enforcer policy check`, then load it again"),
                ..extension
            },
        ),
        DaemonEvent::GrantIssued(facts) => {
            let message = format!("granted to {}", facts.agent);
            let head = head(ACCESS_ASSIGN, Severity::Informational, Status::Success, message);
            grant(head, facts, extension)
        }
        DaemonEvent::GrantRevoked(facts) => {
            let message = format!("revoked from {}", facts.agent);
            let head = head(ACCESS_REVOKE, Severity::Low, Status::Success, message);
            grant(head, facts, extension)
        }
        DaemonEvent::GrantExpired(facts) => {
            let message = format!("expired for {}", facts.agent);
            let head = head(ACCESS_REVOKE, Severity::Informational, Status::Success, message);
            grant(head, facts, extension)
        }
        DaemonEvent::GrantUsedUp(facts) => {
            let message = format!("used up by {}", facts.agent);
            let head = head(ACCESS_REVOKE, Severity::Informational, Status::Success, message);
            grant(head, facts, extension)
        }
        DaemonEvent::InstanceStarted(facts) => {
            let message = format!("instance of {} started", facts.agent);
            let head = head(PROCESS_LAUNCH, Severity::Informational, Status::Success, message);
            instance(head, facts, moment, extension)
        }
        DaemonEvent::InstanceEnded(facts) => {
            let message = format!("instance of {} ended", facts.agent);
            let head = head(PROCESS_TERMINATE, Severity::Informational, Status::Success, message);
            instance(head, facts, moment, extension)
        }
        DaemonEvent::IdentityRefused { agent, instance, process, reason } => {
            let message = format!("identity of a process of {agent} refused: {}", reason.word());
            let severity = call::severity_of_refusal(*reason);
            let mut head = head(FINDING_CREATE, severity, Status::New, message);
            head.agent = Some(Arc::clone(agent));
            head.profiles = &["host", "security_control"];
            let extension = DaemonExtension {
                agent: Some(agent),
                instance: Some(instance_name(*instance)),
                ..extension
            };
            refusal(head, process, *reason, moment, uid, extension)
        }
        DaemonEvent::RecordsLost { kind, count } => {
            let kind = kind.word();
            let remedy = "lower the load; see `agent-enforcer status` for lost records";
            let message = format!("{count} kernel records ({kind}) found no room in the ring");
            let mut head = head(APPLICATION_ERROR, Severity::High, Status::Failure, message);
            head.count = *count;
            head.detail = Some(remedy.to_owned());
            let extension = DaemonExtension {
                lost: Some(kind),
                lost_count: Some(*count),
                remedy: Some(remedy),
                ..extension
            };
            (head, DaemonBody::Error {}, extension)
        }
        DaemonEvent::EventsLost { what, count, why } => {
            let message = format!("{count} events ({}) lost: {}", what.word(), why.word());
            let mut head = head(APPLICATION_ERROR, Severity::High, Status::Failure, message);
            head.count = *count;
            head.detail = Some(why.remedy().to_owned());
            let extension = DaemonExtension {
                lost: Some(what.word()),
                lost_count: Some(*count),
                reason: Some(why.word()),
                remedy: Some(why.remedy()),
                ..extension
            };
            (head, DaemonBody::Error {}, extension)
        }
        DaemonEvent::TableFull { table } => {
            let remedy =
                "raise the table's size, then restart the daemon; see `agent-enforcer status`";
            let message =
                format!("kernel table {table} is full; what finds no room in it is denied");
            let mut head = head(APPLICATION_ERROR, Severity::High, Status::Failure, message);
            head.detail = Some(remedy.to_owned());
            let extension =
                DaemonExtension { table: Some(table), remedy: Some(remedy), ..extension };
            (head, DaemonBody::Error {}, extension)
        }
        DaemonEvent::Alarm { what, remedy } => {
            let mut head = head(FINDING_CREATE, Severity::Critical, Status::New, what.clone());
            head.detail = Some(remedy.clone());
            (
                head,
                DaemonBody::Alarm {
                    is_alert: true,
                    finding_info: Finding { uid, title: what, types: ["enforcement"] },
                    remediation: Remediation { desc: remedy },
                },
                DaemonExtension { reason: Some(what), remedy: Some(remedy), ..extension },
            )
        }
    }
}

fn grant<'a>(mut head: Head, facts: &'a GrantFacts, extension: DaemonExtension<'a>) -> Parts<'a> {
    let GrantFacts { grant, agent, instance, tools, principal, task, reason, not_before, expires } =
        facts;
    let grant = grant_name(*grant);
    head.message = format!("{grant} {}: {} for {principal}", head.message, tools.join(", "));
    head.agent = Some(Arc::clone(agent));
    head.detail = Some(reason.clone());
    let ms = |time: &SystemTime| Some(clock::epoch_ms(*time));
    (
        head,
        DaemonBody::Access {
            actor: GrantActor {
                app_name: "agent-enforcer",
                user: User::named(principal, USER_UNKNOWN),
            },
            user: User::named(agent, USER_SERVICE),
            privileges: tools,
        },
        DaemonExtension {
            agent: Some(agent),
            instance: instance.map(instance_name),
            principal: Some(principal),
            grant: Some(grant),
            task: Some(task),
            tools: Some(tools),
            not_before: ms(not_before),
            expires: ms(expires),
            reason: Some(reason),
            ..extension
        },
    )
}

fn instance<'a>(
    mut head: Head,
    facts: &'a InstanceFacts,
    moment: &Moment,
    extension: DaemonExtension<'a>,
) -> Parts<'a> {
    let InstanceFacts { agent, owner, instance, process } = facts;
    let instance = instance_name(*instance);
    head.message = format!("{} ({instance}, pid {})", head.message, process.pid);
    head.agent = Some(Arc::clone(agent));
    let (object, percent_encoded) = objects::process(process, moment);
    let actor = ProcessActor { app_name: agent, process: objects::parent(process) };
    (
        head,
        DaemonBody::Process { actor, process: Box::new(object) },
        DaemonExtension {
            agent: Some(agent),
            owner: Some(owner),
            instance: Some(instance),
            ..about(process, percent_encoded, extension)
        },
    )
}

fn refusal<'a>(
    mut head: Head,
    process: &'a Process,
    reason: Reason,
    moment: &Moment,
    uid: &'a str,
    extension: DaemonExtension<'a>,
) -> Parts<'a> {
    head.message = format!("{} (pid {})", head.message, process.pid);
    head.detail = Some(reason.remedy().to_owned());
    let (object, percent_encoded) = objects::process(process, moment);
    let body = DaemonBody::Refusal {
        is_alert: true,
        action_id: 2,
        action: "Denied",
        disposition_id: 2,
        disposition: "Blocked",
        finding_info: Finding { uid, title: "process identity refused", types: ["identity"] },
        evidences: [Box::new(Evidence { name: "process", process: object })],
        remediation: Remediation { desc: reason.remedy() },
    };
    let extension = DaemonExtension {
        reason: Some(reason.word()),
        remedy: Some(reason.remedy()),
        ..about(process, percent_encoded, extension)
    };
    (head, body, extension)
}

fn about<'a>(
    process: &'a Process,
    percent_encoded: Vec<String>,
    extension: DaemonExtension<'a>,
) -> DaemonExtension<'a> {
    DaemonExtension {
        exec: Some(process.exec.get()),
        unit: process.unit.as_deref(),
        cgroup: Some(&process.cgroup),
        percent_encoded,
        ..extension
    }
}
