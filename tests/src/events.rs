//! The daemon's event lines, read from its events file.

use std::{fs, path::Path};

use serde_json::Value;

/// One event.
#[derive(Debug, Clone)]
pub struct Event(pub Value);

impl Event {
    /// A field by its JSON pointer, as text; empty where there is none.
    pub fn text(&self, pointer: &str) -> &str {
        self.0.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    /// A field by its JSON pointer, as a number.
    pub fn number(&self, pointer: &str) -> Option<u64> {
        self.0.pointer(pointer).and_then(Value::as_u64)
    }

    /// `metadata.event_code`: a reason's word, or what happened.
    pub fn code(&self) -> &str {
        self.text("/metadata/event_code")
    }

    /// `metadata.sequence`.
    pub fn sequence(&self) -> Option<u64> {
        self.number("/metadata/sequence")
    }

    /// Whether it is about a call.
    pub fn is_call(&self) -> bool {
        self.number("/class_uid") == Some(4001)
    }

    /// A field of a call in the enforcer's own words.
    pub fn own(&self, field: &str) -> &str {
        self.text(&format!("/unmapped/agent_enforcer/{field}"))
    }

    /// `allowed`, `denied`, `audited` or `stalled`; empty where it is about no call.
    pub fn outcome(&self) -> &str {
        self.own("outcome")
    }

    /// How many calls it is about.
    pub fn count(&self) -> u64 {
        self.number("/count").unwrap_or(1)
    }

    /// The process that called.
    pub fn pid(&self) -> u64 {
        self.number("/actor/process/pid").unwrap_or_default()
    }
}

/// Every whole line of an events file.
pub fn read(path: &Path) -> Vec<Event> {
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| Event(serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))))
        .collect()
}

/// How many calls ended in an outcome with a reason.
pub fn calls(events: &[Event], outcome: &str, reason: &str) -> u64 {
    events
        .iter()
        .filter(|event| {
            event.is_call() && event.outcome() == outcome && event.own("reason") == reason
        })
        .map(Event::count)
        .sum()
}
