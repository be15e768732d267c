//! Events in the words of OCSF 1.8.0.
//!
//! In: folded calls and daemon events. Out: a [`Record`], one JSON line with what the sinks need
//! to know about it. Field names are OCSF's wherever it has one; what it has no place for is
//! under `unmapped.agent_enforcer`. Nothing is decided, shortened or left out here.

mod call;
mod daemon;
mod objects;

use std::{sync::Arc, time::SystemTime};

use serde::Serialize;

use super::{
    DaemonEvent, EventClass,
    clock::{self, Moment},
    fold::{Folded, FoldedAttempt},
    json,
};

/// The version of the schema.
const OCSF_VERSION: &str = "1.8.0";
/// `metadata.log_name`, and the application name in syslog.
pub(super) const LOG_NAME: &str = "agent-enforcer";

/// An event, ready for the sinks.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// JSON, without the newline.
    pub(super) line: Arc<str>,
    pub(super) severity: Severity,
    /// A reason's or a daemon event's word.
    pub(super) word: &'static str,
    /// `denied`, `allowed`, ... or `daemon`.
    pub(super) class: EventClass,
    /// Events that the line stands for.
    pub(super) count: u64,
    /// Milliseconds since the epoch.
    pub(super) time_ms: u64,
    pub(super) agent: Option<Arc<str>>,
    /// `None`: it is not in the events file.
    pub(super) sequence: Option<u64>,
}

/// `severity_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Informational = 1,
    Low = 2,
    Medium = 3,
    High = 4,
    Critical = 5,
}

impl Severity {
    const fn caption(self) -> &'static str {
        match self {
            Self::Informational => "Informational",
            Self::Low => "Low",
            Self::Medium => "Medium",
            Self::High => "High",
            Self::Critical => "Critical",
        }
    }
}

/// `status_id` of everything but findings.
#[derive(Clone, Copy, Debug)]
enum Status {
    Success,
    Failure,
    /// Neither yet; the word is the caption.
    Other(&'static str),
    /// Findings have a list of their own: 1 is `New`.
    New,
    /// Of a finding.
    Resolved,
}

impl Status {
    const fn id_and_caption(self) -> (u8, &'static str) {
        match self {
            Self::Success => (1, "Success"),
            Self::Failure => (2, "Failure"),
            Self::New => (1, "New"),
            Self::Resolved => (4, "Resolved"),
            Self::Other(caption) => (99, caption),
        }
    }
}

/// A class and an activity in it.
#[derive(Clone, Copy, Debug)]
struct Kind {
    class_uid: u32,
    class_name: &'static str,
    activity_id: u32,
    activity_name: &'static str,
}

/// The head of an event, before numbers are given out.
struct Head {
    kind: Kind,
    severity: Severity,
    status: Status,
    word: &'static str,
    detail: Option<String>,
    message: String,
    class: EventClass,
    agent: Option<Arc<str>>,
    count: u64,
    time_ms: u64,
    /// Start and end, where the event covers a span; milliseconds since the epoch.
    span: Option<(u64, u64)>,
    profiles: &'static [&'static str],
}

#[derive(Serialize)]
struct Envelope<'a, B, E> {
    time: u64,
    class_uid: u32,
    class_name: &'a str,
    category_uid: u32,
    activity_id: u32,
    activity_name: &'a str,
    type_uid: u32,
    severity_id: u8,
    severity: &'a str,
    // Early in the line, so that even a torn line shows its sequence.
    metadata: Metadata<'a>,
    message: &'a str,
    status_id: u8,
    status: &'a str,
    status_code: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status_detail: Option<&'a str>,
    count: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    device: objects::Device<'a>,
    #[serde(flatten)]
    body: B,
    unmapped: Unmapped<E>,
}

#[derive(Serialize)]
struct Metadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    uid: String,
    version: &'static str,
    product: objects::Product<'static>,
    log_name: &'static str,
    event_code: &'a str,
    logged_time: u64,
    profiles: &'static [&'static str],
}

#[derive(Serialize)]
struct Unmapped<E> {
    agent_enforcer: E,
}

/// Makes records.
pub(super) struct Schema {
    host: Arc<str>,
    /// Part of every event's uid: another one at each start of the daemon.
    run: String,
    events: u64,
}

impl Schema {
    pub(super) fn new(host: String) -> Self {
        Self { host: host.into(), run: run_name(), events: 0 }
    }

    /// A call, or many that were folded.
    pub(super) fn call(
        &mut self,
        folded: &Folded,
        moment: &Moment,
        sequence: Option<u64>,
    ) -> Result<Record, serde_json::Error> {
        let host = Arc::clone(&self.host);
        let (head, body, extension) = call::parts(folded, moment, &host);
        self.record(head, body, extension, moment, sequence)
    }

    /// An attempt, or many that were folded.
    pub(super) fn attempt(
        &mut self,
        folded: &FoldedAttempt,
        moment: &Moment,
        sequence: Option<u64>,
    ) -> Result<Record, serde_json::Error> {
        let uid = self.uid();
        let (head, body, extension) = daemon::attempt(folded, moment, &uid);
        self.record(head, body, extension, moment, sequence)
    }

    /// A daemon event that covers the time from `first_ns` to `last_ns`.
    pub(super) fn daemon(
        &mut self,
        event: &DaemonEvent,
        (first_ns, last_ns): (u64, u64),
        moment: &Moment,
        sequence: Option<u64>,
    ) -> Result<Record, serde_json::Error> {
        let uid = self.uid();
        let (mut head, body, extension) = daemon::parts(event, last_ns, moment, &uid);
        if first_ns < last_ns {
            head.span = Some((moment.epoch_ms(first_ns), moment.epoch_ms(last_ns)));
        }
        self.record(head, body, extension, moment, sequence)
    }

    fn uid(&self) -> String {
        format!("{}-{}", self.run, self.events)
    }

    fn record<B: Serialize, E: Serialize>(
        &mut self,
        head: Head,
        body: B,
        extension: E,
        moment: &Moment,
        sequence: Option<u64>,
    ) -> Result<Record, serde_json::Error> {
        let Head {
            kind,
            severity,
            status,
            word,
            detail,
            message,
            class,
            agent,
            count,
            time_ms,
            span,
            profiles,
        } = head;
        let (status_id, status) = status.id_and_caption();
        let line = json::line(&Envelope {
            time: time_ms,
            class_uid: kind.class_uid,
            class_name: kind.class_name,
            category_uid: kind.class_uid / 1000,
            activity_id: kind.activity_id,
            activity_name: kind.activity_name,
            type_uid: kind.class_uid * 100 + kind.activity_id,
            severity_id: severity as u8,
            severity: severity.caption(),
            metadata: Metadata {
                sequence,
                uid: self.uid(),
                version: OCSF_VERSION,
                product: objects::PRODUCT,
                log_name: LOG_NAME,
                event_code: word,
                logged_time: moment.now_ms(),
                profiles,
            },
            message: &message,
            status_id,
            status,
            status_code: word,
            status_detail: detail.as_deref(),
            count,
            start_time: span.map(|(start, _)| start),
            end_time: span.map(|(_, end)| end),
            duration: span.map(|(start, end)| end.saturating_sub(start)),
            device: objects::device(&self.host),
            body,
            unmapped: Unmapped { agent_enforcer: extension },
        })?;
        self.events += 1;
        Ok(Record { line: line.into(), severity, word, class, count, time_ms, agent, sequence })
    }
}

/// A name that no other run of the daemon has.
fn run_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/uuid").map_or_else(
        |_| format!("{:x}-{}", clock::epoch_ms(SystemTime::now()), std::process::id()),
        |uuid| uuid.trim().to_owned(),
    )
}

#[cfg(test)]
mod tests;
