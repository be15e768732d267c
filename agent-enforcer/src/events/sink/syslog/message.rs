//! A record as an RFC 5424 message.
//!
//! In: a record. Out: header, one element of structured data, and the JSON line as the message,
//! on one line. Without a byte order mark: receivers that parse the JSON stumble over it, and
//! RFC 5424 asks for none where the message is not prose (MSG-ANY).

use std::time::{Duration, SystemTime};

use syslog_fmt::v5424::{Config, Formatter, Msg, Timestamp};

use super::{
    super::super::{
        EventClass,
        schema::{LOG_NAME, Record, Severity},
    },
    SyslogFacility,
};
use crate::hostile_text::json_escaped;

/// 32473 is the number that IANA keeps for whoever has none of their own.
const ELEMENT: &str = "agentEnforcer@32473";
/// RFC 5424, section 6: HOSTNAME is at most this long.
const HOST_BYTES: usize = 255;

pub(super) struct MessageFormat {
    formatter: Formatter,
}

impl MessageFormat {
    pub(super) fn new(facility: SyslogFacility, host: &str) -> Self {
        let host: String = host.chars().filter(char::is_ascii_graphic).take(HOST_BYTES).collect();
        let formatter = Config {
            facility: facility.facility(),
            hostname: (!host.is_empty()).then_some(&host),
            app_name: Some(LOG_NAME),
            proc_id: Some(&std::process::id().to_string()),
        }
        .into_formatter();
        Self { formatter }
    }

    pub(super) fn message(&self, record: &Record) -> Vec<u8> {
        let Record { line, severity, word, class, count: _, time_ms, agent, sequence } = record;
        let time = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(*time_ms))
            .map(|time| humantime::format_rfc3339_millis(time).to_string());
        let timestamp = time.map_or(Timestamp::None, Timestamp::PreformattedString);
        let agent = agent.as_deref().map(json_escaped);
        let sequence = sequence.map(|sequence| sequence.to_string());
        let parameters = [
            ("agent", agent.as_deref()),
            ("outcome", outcome(*class)),
            ("reason", Some(*word)),
            ("sequence", sequence.as_deref()),
        ];
        let parameters = parameters.iter().filter_map(|&(name, value)| Some((name, value?)));
        let mut message = Vec::with_capacity(line.len() + 256);
        let written = self.formatter.write_with_data(
            &mut message,
            syslog_severity(*severity),
            timestamp,
            Msg::NonUnicodeBytes(line.as_bytes()),
            Some(word),
            [(ELEMENT, parameters.collect::<Vec<_>>())],
        );
        debug_assert!(written.is_ok(), "writing to a vector does not fail");
        message
    }
}

const fn outcome(class: EventClass) -> Option<&'static str> {
    match class {
        EventClass::Daemon | EventClass::Unknown => None,
        EventClass::Guarded => Some(EventClass::Denied.word()),
        EventClass::Allowed | EventClass::Denied | EventClass::Audited | EventClass::Stalled => {
            Some(class.word())
        }
    }
}

const fn syslog_severity(severity: Severity) -> syslog_fmt::Severity {
    match severity {
        Severity::Informational => syslog_fmt::Severity::Info,
        Severity::Low => syslog_fmt::Severity::Notice,
        Severity::Medium => syslog_fmt::Severity::Warning,
        Severity::High => syslog_fmt::Severity::Err,
        Severity::Critical => syslog_fmt::Severity::Crit,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            line: "{\"a\":1}".into(),
            severity: Severity::Low,
            word: "no_grant",
            class: EventClass::Denied,
            count: 1,
            time_ms: 1_700_000_000_123,
            agent: Some("bot".into()),
            sequence: Some(7),
        }
    }

    fn text(host: &str, record: &Record) -> String {
        let format = MessageFormat::new("local0".parse().unwrap(), host);
        String::from_utf8(format.message(record)).unwrap()
    }

    #[test]
    fn message_is_rfc_5424_with_the_line_as_its_text() {
        let expected = format!(
            "<133>1 2023-11-14T22:13:20.123Z web-1 agent-enforcer {} no_grant \
             [agentEnforcer@32473 agent=\"bot\" outcome=\"denied\" reason=\"no_grant\" \
             sequence=\"7\"] {{\"a\":1}}",
            std::process::id()
        );
        assert_eq!(text("web-1", &record()), expected);
    }

    #[test]
    fn daemon_event_has_no_outcome_and_an_unnumbered_one_no_sequence() {
        let event = Record {
            class: EventClass::Daemon,
            word: "started",
            agent: None,
            sequence: None,
            ..record()
        };
        assert!(
            text("web-1", &event).contains(" started [agentEnforcer@32473 reason=\"started\"] {")
        );
    }

    #[test]
    fn hostile_names_cannot_break_the_header() {
        let event = Record { agent: Some("a\n\"]\\ <1>".into()), ..record() };
        let text = text("web 1\n<0>", &event);
        assert!(text.contains(" web1<0> agent-enforcer "), "{text}");
        assert!(text.contains("agent=\"a\\\\u000a\\\"\\]\\\\ <1>\""), "{text}");
        assert!(!text.contains('\n'));
    }

    #[test]
    fn host_without_a_usable_name_is_nil() {
        assert!(text("\u{fc}", &record()).contains("Z - agent-enforcer "));
    }
}
