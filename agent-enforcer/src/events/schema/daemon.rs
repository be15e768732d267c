//! Everything but calls, each in the OCSF class that says it best (docs/events.md has the table).
//!
//! In: a [`DaemonEvent`]. Out: head, body and extension of its event.

mod attempt;
mod body;

use std::{path::Path, sync::Arc, time::SystemTime};

use agent_enforcer_common::{
    id::{Generation, InstanceId},
    reason::Reason,
};

use super::{
    Head, Kind, Severity, Status, call,
    objects::{self, Product, USER_SERVICE, USER_UNKNOWN, User},
};
use crate::{
    decision::{Process, grant_name, instance_name},
    events::{
        ApprovalFacts, DaemonEvent, EventClass, GhostFacts, GrantFacts, InstanceFacts,
        ManifestFacts, Silence, TokenRefused, WebhookFacts,
        clock::{self, Moment},
        json::path_text,
    },
    resolver::spiffe::SpiffeId,
};
pub(super) use attempt::attempt;
use body::{
    DaemonBody, DaemonExtension, Entity, Evidence, Finding, GrantActor, ProcessActor, Remediation,
};

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
/// Neither of the activities that OCSF names.
const ACCESS_REQUEST: Kind =
    Kind { activity_id: 99, activity_name: "Request Privileges", ..ACCESS_ASSIGN };
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
const FINDING_CLOSE: Kind = Kind { activity_id: 3, activity_name: "Close", ..FINDING_CREATE };
const APPLICATION_ERROR: Kind = Kind {
    class_uid: 6008,
    class_name: "Application Error",
    activity_id: 1,
    activity_name: "General Error",
};
/// `managed_entity.type_id`.
const ENTITY_POLICY: u8 = 5;
const ENTITY_OTHER: u8 = 99;

pub(super) fn parts<'a>(
    event: &'a DaemonEvent,
    time_ns: u64,
    moment: &'a Moment,
    uid: &'a str,
) -> Parts<'a> {
    let draft = Draft { word: event.word(), time_ns, moment, uid };
    match event {
        DaemonEvent::Started { version, generation, plane } => {
            draft.started(version, *generation, plane)
        }
        DaemonEvent::Stopped => {
            let message = "daemon stopped; enforcement stays, calls without a verdict are denied";
            draft.ended(APPLICATION_STOP, Severity::Low, message.to_owned(), None)
        }
        DaemonEvent::Detached { reason } => {
            let message = format!("enforcement is gone: {reason}");
            draft.ended(APPLICATION_DISABLE, Severity::High, message, Some(reason))
        }
        DaemonEvent::PolicyLoaded { generation, directory, agents, tools } => {
            draft.policy_loaded(*generation, directory, *agents, *tools)
        }
        DaemonEvent::PolicyRejected { error } => draft.policy_rejected(error),
        DaemonEvent::GrantIssued(facts) => {
            draft.grant(ACCESS_ASSIGN, Severity::Informational, "granted to", facts)
        }
        DaemonEvent::GrantRefused(refused) => draft.token_refused(refused),
        DaemonEvent::ManifestAccepted(facts) => draft.manifest(facts, None),
        DaemonEvent::ManifestRefused(facts, reason) => draft.manifest(facts, Some(*reason)),
        DaemonEvent::GrantRevoked(facts) => {
            draft.grant(ACCESS_REVOKE, Severity::Low, "revoked from", facts)
        }
        DaemonEvent::GrantExpired(facts) => {
            draft.grant(ACCESS_REVOKE, Severity::Informational, "expired for", facts)
        }
        DaemonEvent::GrantUsedUp(facts) => {
            draft.grant(ACCESS_REVOKE, Severity::Informational, "used up by", facts)
        }
        DaemonEvent::GhostFound(facts) => draft.ghost_found(facts),
        DaemonEvent::GhostGone(facts) => draft.ghost_gone(facts),
        DaemonEvent::ApprovalAsked(facts) => {
            draft.approval(ACCESS_REQUEST, Status::Other("Asked"), "asked for", facts)
        }
        DaemonEvent::ApprovalGiven(facts) => {
            draft.approval(ACCESS_ASSIGN, Status::Success, "given to", facts)
        }
        DaemonEvent::ApprovalRefused(facts) => {
            draft.approval(ACCESS_REQUEST, Status::Failure, "refused to", facts)
        }
        DaemonEvent::WebhookFailed(facts) => draft.webhook_failed(facts),
        DaemonEvent::InstanceStarted(facts) => draft.instance(PROCESS_LAUNCH, "started", facts),
        DaemonEvent::InstanceEnded(facts) => draft.instance(PROCESS_TERMINATE, "ended", facts),
        DaemonEvent::IdentityRefused { agent, instance, process, reason } => {
            draft.refusal(agent, *instance, process, *reason)
        }
        DaemonEvent::RecordsLost { kind, count } => {
            let kind = kind.word();
            let message = format!("{count} kernel records ({kind}) found no room in the ring");
            let extension = DaemonExtension {
                lost: Some(kind),
                lost_count: Some(*count),
                remedy: Some("lower the load; see `agent-enforcer status` for lost records"),
                ..draft.extension()
            };
            draft.fault(*count, message, extension)
        }
        DaemonEvent::EventsLost { what, count, why } => {
            let message = format!("{count} events ({}) lost: {}", what.word(), why.word());
            let extension = DaemonExtension {
                lost: Some(what.word()),
                lost_count: Some(*count),
                reason: Some(why.word()),
                remedy: Some(why.remedy()),
                ..draft.extension()
            };
            draft.fault(*count, message, extension)
        }
        DaemonEvent::TableFull { table } => {
            let message =
                format!("kernel table {table} is full; what finds no room in it is denied");
            let extension = DaemonExtension {
                table: Some(table),
                remedy: Some("enlarge it as docs/operations.md says, and restart who was denied"),
                ..draft.extension()
            };
            draft.fault(1, message, extension)
        }
        DaemonEvent::PlaneSilent(silence) => draft.silence(
            FINDING_CREATE,
            Severity::Critical,
            Status::New,
            "the programs of this plane do not run any more; what is left denies",
            silence,
        ),
        DaemonEvent::PlaneBack(silence) => draft.silence(
            FINDING_CLOSE,
            Severity::Medium,
            Status::Resolved,
            "the programs of this plane run again",
            silence,
        ),
        DaemonEvent::Alarm { what, remedy } => draft.alarm(what, remedy),
    }
}

/// What every kind of event begins with.
#[derive(Clone, Copy)]
struct Draft<'a> {
    word: &'static str,
    time_ns: u64,
    moment: &'a Moment,
    uid: &'a str,
}

impl<'a> Draft<'a> {
    fn head(self, kind: Kind, severity: Severity, status: Status, message: String) -> Head {
        Head {
            kind,
            severity,
            status,
            word: self.word,
            detail: None,
            message,
            class: EventClass::Daemon,
            agent: None,
            count: 1,
            time_ms: self.moment.epoch_ms(self.time_ns),
            span: None,
            profiles: &["host"],
        }
    }

    fn extension(self) -> DaemonExtension<'a> {
        DaemonExtension { event: self.word, ..DaemonExtension::default() }
    }

    fn started(self, version: &'a str, generation: Generation, plane: &'a str) -> Parts<'a> {
        let generation = generation.get();
        let message = format!("enforcing with {plane}, generation {generation}");
        (
            self.head(APPLICATION_START, Severity::Informational, Status::Success, message),
            DaemonBody::Application { app: Product { version, ..objects::PRODUCT } },
            DaemonExtension {
                generation: Some(generation),
                plane: Some(plane),
                ..self.extension()
            },
        )
    }

    fn ended(
        self,
        kind: Kind,
        severity: Severity,
        message: String,
        reason: Option<&'a str>,
    ) -> Parts<'a> {
        (
            self.head(kind, severity, Status::Success, message),
            DaemonBody::Application { app: objects::PRODUCT },
            DaemonExtension { reason, ..self.extension() },
        )
    }

    fn policy_loaded(
        self,
        generation: Generation,
        directory: &'a Path,
        agents: usize,
        tools: usize,
    ) -> Parts<'a> {
        let (name, is_encoded) = path_text(directory);
        let version = generation.get().to_string();
        let message =
            format!("policy in force as generation {version}: {agents} agents, {tools} tools");
        (
            self.head(ENTITY_ACTIVATE, Severity::Informational, Status::Success, message),
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
                agents: Some(agents),
                policy_tools: Some(tools),
                percent_encoded: is_encoded.then(|| "entity.name".to_owned()).into_iter().collect(),
                ..self.extension()
            },
        )
    }

    fn policy_rejected(self, error: &'a str) -> Parts<'a> {
        let message = format!("policy refused, the one before stays in force: {error}");
        (
            self.head(ENTITY_ACTIVATE, Severity::Medium, Status::Failure, message),
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
                ..self.extension()
            },
        )
    }

    fn grant(self, kind: Kind, severity: Severity, verb: &str, facts: &'a GrantFacts) -> Parts<'a> {
        let GrantFacts {
            grant,
            agent,
            instance,
            tools,
            locations,
            principal,
            task,
            token,
            reason,
            not_before,
            expires,
        } = facts;
        let grant = grant_name(*grant);
        let what = [tools.as_slice(), locations].concat().join(", ");
        let message = format!("{grant} {verb} {agent}: {what} for {principal}");
        let token = token.as_ref();
        let mut head = self.head(kind, severity, Status::Success, message);
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
                locations: locations.iter().map(String::as_str).collect(),
                issuer: token.map(|token| token.issuer.as_str()),
                jti: token.map(|token| token.jti.as_str()),
                txn: token.and_then(|token| token.txn.as_deref()),
                parent: token.and_then(|token| token.parent).map(grant_name),
                not_before: ms(not_before),
                expires: ms(expires),
                reason: Some(reason),
                ..self.extension()
            },
        )
    }

    fn token_refused(self, refused: &'a TokenRefused) -> Parts<'a> {
        let TokenRefused { word, error, remedy } = refused;
        let message = format!("a signed grant was refused: {error}");
        let mut head = self.head(FINDING_CREATE, Severity::Medium, Status::New, message);
        head.detail = Some((*remedy).to_owned());
        let title = "signed grant refused";
        (
            head,
            DaemonBody::Alarm {
                is_alert: true,
                finding_info: Finding { uid: self.uid.into(), title, types: ["grant"] },
                remediation: Remediation { desc: remedy },
            },
            DaemonExtension { reason: Some(word), remedy: Some(remedy), ..self.extension() },
        )
    }

    fn webhook_failed(self, facts: &'a WebhookFacts) -> Parts<'a> {
        let WebhookFacts { question, url, error } = facts;
        let message = format!("{question} has no answer from {url}: {error}");
        let extension = DaemonExtension {
            approval: Some(question),
            destination: Some(url),
            reason: Some(error),
            remedy: Some("answer it with `agent-enforcer approve`, and see the webhook"),
            ..self.extension()
        };
        self.fault(1, message, extension)
    }

    fn manifest(self, facts: &'a ManifestFacts, refused: Option<Reason>) -> Parts<'a> {
        let ManifestFacts { agent, owner, agent_id, version, digest, signers } = facts;
        let which = version.map_or_else(String::new, |version| format!(" version {version}"));
        let (severity, status, message) = match refused {
            None => {
                let signers = signers.join(", ");
                let message = format!("manifest{which} of {agent} counts, signed by {signers}");
                (Severity::Informational, Status::Success, message)
            }
            Some(reason) => {
                let message = format!("manifest{which} of {agent} refused: {}", reason.word());
                (Severity::High, Status::Failure, message)
            }
        };
        let mut head = self.head(ENTITY_ACTIVATE, severity, status, message);
        head.agent = Some(Arc::clone(agent));
        head.detail = refused.map(|reason| reason.remedy().to_owned());
        (
            head,
            DaemonBody::Entity {
                entity: Entity {
                    name: agent_id.clone(),
                    kind: "Agent manifest",
                    type_id: ENTITY_OTHER,
                    uid: digest.clone(),
                    version: version.map(|version| version.to_string()),
                },
            },
            DaemonExtension {
                agent: Some(agent),
                owner: Some(owner),
                agent_id: Some(agent_id),
                manifest_version: *version,
                manifest_digest: digest.as_deref(),
                signers: Some(signers),
                reason: refused.map(Reason::word),
                remedy: refused.map(Reason::remedy),
                ..self.extension()
            },
        )
    }

    fn ghost_found(self, facts: &'a GhostFacts) -> Parts<'a> {
        self.ghost(FINDING_CREATE, Severity::Medium, Status::New, "became a ghost", facts)
    }

    fn ghost_gone(self, facts: &'a GhostFacts) -> Parts<'a> {
        let (severity, status) = (Severity::Informational, Status::Resolved);
        self.ghost(FINDING_CLOSE, severity, status, "is no ghost any more", facts)
    }

    /// Begin and end of a ghost are of one finding for each cause.
    fn ghost(
        self,
        kind: Kind,
        severity: Severity,
        status: Status,
        verb: &str,
        facts: &'a GhostFacts,
    ) -> Parts<'a> {
        let GhostFacts { agent, owner, word, since, remedy } = facts;
        let mut head = self.head(kind, severity, status, format!("agent {agent} {verb}: {word}"));
        head.agent = Some(Arc::clone(agent));
        head.detail = Some((*remedy).to_owned());
        let finding = format!("ghost-{agent}-{word}-{}", clock::epoch_ms(*since));
        let title = "ghost agent";
        (
            head,
            DaemonBody::Alarm {
                is_alert: true,
                finding_info: Finding { uid: finding.into(), title, types: ["inventory"] },
                remediation: Remediation { desc: remedy },
            },
            DaemonExtension {
                agent: Some(agent),
                owner: Some(owner),
                reason: Some(word),
                remedy: Some(remedy),
                ..self.extension()
            },
        )
    }

    fn approval(
        self,
        kind: Kind,
        status: Status,
        verb: &str,
        facts: &'a ApprovalFacts,
    ) -> Parts<'a> {
        let ApprovalFacts {
            question,
            digest,
            agent,
            owner,
            instance,
            process,
            tool,
            destination,
            grant,
            principal,
            task,
            approver,
            until,
            whole_tool,
        } = facts;
        let by = approver.as_ref().map_or_else(String::new, |approver| format!(" by {approver}"));
        let message = format!("approval {question} {verb} {agent}{by}: {destination} ({tool})");
        let mut head = self.head(kind, Severity::Low, status, message);
        head.agent = Some(Arc::clone(agent));
        head.detail = principal.as_ref().map(|principal| format!("on behalf of {principal}"));
        (
            head,
            DaemonBody::Approval {
                actor: GrantActor {
                    app_name: "agent-enforcer",
                    user: User::named(approver.as_deref().unwrap_or_default(), USER_UNKNOWN),
                },
                user: User::named(agent, USER_SERVICE),
                privileges: [tool],
            },
            DaemonExtension {
                agent: Some(agent),
                owner: Some(owner),
                instance: Some(instance_name(*instance)),
                principal: principal.as_deref(),
                grant: grant.clone(),
                task: task.as_deref(),
                tool: Some(tool),
                destination: Some(destination),
                approval: Some(question),
                approval_digest: Some(digest),
                approver: approver.as_deref(),
                whole_tool: approver.as_ref().map(|_| *whole_tool),
                expires: until.map(clock::epoch_ms),
                ..self.extension_about(process, Vec::new())
            },
        )
    }

    fn instance(self, kind: Kind, verb: &str, facts: &'a InstanceFacts) -> Parts<'a> {
        let InstanceFacts { agent, owner, instance, process } = facts;
        let instance = instance_name(*instance);
        let message = format!("instance of {agent} {verb} ({instance}, pid {})", process.pid);
        let mut head = self.head(kind, Severity::Informational, Status::Success, message);
        head.agent = Some(Arc::clone(agent));
        let (object, percent_encoded) = objects::process(process, self.moment);
        let actor = ProcessActor { app_name: agent, process: objects::parent(process) };
        (
            head,
            DaemonBody::Process { actor, process: Box::new(object) },
            DaemonExtension {
                agent: Some(agent),
                owner: Some(owner),
                instance: Some(instance),
                ..self.extension_about(process, percent_encoded)
            },
        )
    }

    fn refusal(
        self,
        agent: &'a Arc<str>,
        instance: InstanceId,
        process: &'a Process,
        reason: Reason,
    ) -> Parts<'a> {
        let message = format!(
            "identity of a process of {agent} refused (pid {}): {}",
            process.pid,
            reason.word()
        );
        let severity = call::severity_of_refusal(reason);
        let mut head = self.head(FINDING_CREATE, severity, Status::New, message);
        head.agent = Some(Arc::clone(agent));
        head.detail = Some(reason.remedy().to_owned());
        head.profiles = &["host", "security_control"];
        let (object, percent_encoded) = objects::process(process, self.moment);
        let title = "process identity refused";
        (
            head,
            DaemonBody::Refusal {
                is_alert: true,
                action_id: 2,
                action: "Denied",
                disposition_id: 2,
                disposition: "Blocked",
                finding_info: Finding { uid: self.uid.into(), title, types: ["identity"] },
                evidences: [Box::new(Evidence { name: "process", process: object })],
                remediation: Remediation { desc: reason.remedy() },
            },
            DaemonExtension {
                agent: Some(agent),
                instance: Some(instance_name(instance)),
                reason: Some(reason.word()),
                remedy: Some(reason.remedy()),
                ..self.extension_about(process, percent_encoded)
            },
        )
    }

    fn fault(self, count: u64, message: String, extension: DaemonExtension<'a>) -> Parts<'a> {
        let mut head = self.head(APPLICATION_ERROR, Severity::High, Status::Failure, message);
        head.count = count;
        head.detail = extension.remedy.map(ToOwned::to_owned);
        (head, DaemonBody::Error {}, extension)
    }

    fn alarm(self, what: &'a str, remedy: &'a str) -> Parts<'a> {
        let mut head = self.head(FINDING_CREATE, Severity::Critical, Status::New, what.to_owned());
        head.detail = Some(remedy.to_owned());
        (
            head,
            DaemonBody::Alarm {
                is_alert: true,
                finding_info: Finding { uid: self.uid.into(), title: what, types: ["enforcement"] },
                remediation: Remediation { desc: remedy },
            },
            DaemonExtension { reason: Some(what), remedy: Some(remedy), ..self.extension() },
        )
    }

    /// Begin and end of a silence are of one finding.
    fn silence(
        self,
        kind: Kind,
        severity: Severity,
        status: Status,
        what: &'static str,
        silence: &'a Silence,
    ) -> Parts<'a> {
        let Silence { plane, since_ns, remedy } = *silence;
        let message = format!("{plane} plane: {what}");
        let mut head = self.head(kind, severity, status, message);
        head.detail = Some(remedy.to_owned());
        let finding = format!("plane-{plane}-{}", self.moment.epoch_ms(since_ns));
        (
            head,
            DaemonBody::Alarm {
                is_alert: true,
                finding_info: Finding {
                    uid: finding.into(),
                    title: "plane of enforcement is silent",
                    types: ["enforcement"],
                },
                remediation: Remediation { desc: remedy },
            },
            DaemonExtension { plane: Some(plane), remedy: Some(remedy), ..self.extension() },
        )
    }

    fn extension_about(
        self,
        process: &'a Process,
        percent_encoded: Vec<String>,
    ) -> DaemonExtension<'a> {
        DaemonExtension {
            exec: Some(process.exec.get()),
            unit: process.unit.as_deref(),
            cgroup: Some(&process.cgroup),
            software: Some(objects::software(process)),
            spiffe_id: process.spiffe_id.as_ref().map(SpiffeId::as_str),
            percent_encoded,
            ..self.extension()
        }
    }
}
