//! What a policy's answer depends on.
//!
//! In: a policy in Cedar's JSON form. Out: [`Reads`], and the agents and tools that it names. Known
//! when the policy is loaded are agent, tool, action and whether there is a grant; whatever else is
//! read makes the answer a matter of each call. What is not understood counts as that.

use serde_json::Value;

/// What a policy reads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Reads {
    /// Whether there is a grant, or anything of it.
    pub(super) grant: bool,
    /// The time.
    pub(super) time: bool,
    /// Anything that is not known before the call.
    pub(super) call: bool,
}

impl Reads {
    const ALL: Self = Self { grant: true, time: true, call: true };
    const CALL: Self = Self { grant: false, time: false, call: true };
    const GRANT: Self = Self { grant: true, time: false, call: false };

    const fn or(self, other: Self) -> Self {
        Self {
            grant: self.grant || other.grant,
            time: self.time || other.time,
            call: self.call || other.call,
        }
    }

    /// What all conditions of a policy read.
    pub(super) fn of_conditions(policy: &Value) -> Self {
        match policy.get("conditions") {
            None => Self::default(),
            Some(Value::Array(conditions)) => conditions
                .iter()
                .map(|condition| condition.get("body").map_or(Self::ALL, Self::of))
                .fold(Self::default(), Self::or),
            Some(_) => Self::ALL,
        }
    }

    fn of(expression: &Value) -> Self {
        let members = match expression {
            Value::Object(members) => members,
            Value::Array(items) => {
                return items.iter().map(Self::of).fold(Self::default(), Self::or);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
                return Self::default();
            }
        };
        let attribute =
            |operand: &Value| operand.get("attr").and_then(Value::as_str).map(str::to_owned);
        let one = (members.len() == 1).then(|| members.iter().next()).flatten();
        match one {
            Some((operator, _)) if operator == "Value" => Self::default(),
            // Its keys are names, not operators.
            Some((operator, Value::Object(fields))) if operator == "Record" => {
                fields.values().map(Self::of).fold(Self::default(), Self::or)
            }
            Some((operator, Value::String(name))) if operator == "Var" => {
                if name == "context" {
                    Self::ALL
                } else if name == "action" {
                    Self::default()
                } else {
                    Self::CALL
                }
            }
            Some((operator, operand)) if operator == "has" && is_context(operand) => {
                match attribute(operand).as_deref() {
                    Some("grant") => Self::GRANT,
                    Some(_) => Self::default(),
                    None => Self::ALL,
                }
            }
            Some((operator, operand)) if operator == "." && is_context(operand) => {
                match attribute(operand).as_deref() {
                    Some("grant") => Self { time: false, ..Self::ALL },
                    Some("time") => Self { grant: false, ..Self::ALL },
                    Some("attestation") => Self::CALL,
                    Some(_) | None => Self::ALL,
                }
            }
            Some((operator, operand)) if operator == "in" && is_known_relation(operand) => {
                Self::default()
            }
            Some(_) | None => members.values().map(Self::of).fold(Self::default(), Self::or),
        }
    }
}

/// Whether an operator's left side is the context itself.
fn is_context(operand: &Value) -> bool {
    operand.pointer("/left/Var").and_then(Value::as_str) == Some("context")
}

/// `principal in` agents, `resource in` tools.
fn is_known_relation(operand: &Value) -> bool {
    let wanted = match operand.pointer("/left/Var").and_then(Value::as_str) {
        Some("principal") => "Agent",
        Some("resource") => "Tool",
        Some(_) | None => return false,
    };
    let is_wanted = |value: &Value| {
        value.pointer("/Value/__entity/type").and_then(Value::as_str) == Some(wanted)
    };
    match operand.get("right") {
        Some(right) => match right.get("Set") {
            Some(Value::Array(items)) => items.iter().all(is_wanted),
            Some(_) => false,
            None => is_wanted(right) || is_set_value(right, wanted),
        },
        None => false,
    }
}

/// A set of literals may be one value.
fn is_set_value(right: &Value, wanted: &str) -> bool {
    let Some(Value::Array(items)) = right.get("Value") else { return false };
    items.iter().all(|item| item.pointer("/__entity/type").and_then(Value::as_str) == Some(wanted))
}

/// Every entity that a policy names: type and id.
pub(super) fn entities(policy: &Value, found: &mut Vec<(String, String)>) {
    match policy {
        Value::Object(members) => {
            if let (Some(Value::String(kind)), Some(Value::String(id)), 2) =
                (members.get("type"), members.get("id"), members.len())
            {
                found.push((kind.clone(), id.clone()));
            }
            members.values().for_each(|member| entities(member, found));
        }
        Value::Array(items) => items.iter().for_each(|item| entities(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
