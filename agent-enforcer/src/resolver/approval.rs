//! Approvals: what people said to calls that need their yes.
//!
//! In: everything that a question to an approver is about ([`Inputs`]), and the answers. Out: whether a
//! call has its yes, and until when. An answer is bound to what was shown: the digest over the inputs
//! is part of the question's name, and an answer holds only where the same inputs come again. Anything
//! that changed (the program, the grant, the tool, the agent) means asking anew. Pure but for
//! [`store`].

pub mod signed;
mod store;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{destination::Destination, id::InstanceId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::decision::Sha256Digest;

/// Longest life of an answer.
pub const LONGEST_ANSWER: Duration = Duration::from_hours(24);

/// What a question is about, but for its destination. The order of the fields is part of the digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Inputs {
    /// The agent, by name.
    pub agent: String,
    /// The agent as the policy has it.
    pub agent_policy: String,
    /// The instance, `i-1a2b`.
    pub instance: String,
    /// The executable, as its process sees it.
    pub exe: String,
    /// Digest of the executable, hex.
    pub sha256: String,
    /// Digest of its script, hex; where nobody can vouch for its code, why, and the program image.
    pub script: String,
    /// Digest of the agent's manifest, hex, where it must have one.
    pub manifest: Option<String>,
    /// User id.
    pub uid: u32,
    /// The tool, by name.
    pub tool: String,
    /// The tool as the policy has it.
    pub tool_policy: String,
    /// The grant, `g-42`; `None` for a standing tool.
    pub grant: Option<String>,
    /// On whose behalf.
    pub principal: Option<String>,
    /// For which task.
    pub task: Option<String>,
}

/// Digest over the inputs of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputsDigest(pub Sha256Digest);

/// Names a question: what it is about and where the call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QuestionId(u64);

impl Inputs {
    /// Their digest. What can't be serialised has the digest of nothing: texts always can.
    pub fn digest(&self) -> InputsDigest {
        let text = serde_json::to_vec(self).unwrap_or_default();
        InputsDigest(Sha256Digest(Sha256::digest(text).into()))
    }
}

impl InputsDigest {
    /// The question about a destination.
    pub fn question(&self, destination: &Destination) -> QuestionId {
        let mut hasher = Sha256::new();
        hasher.update(self.0.0);
        hasher.update(destination.octets());
        hasher.update(destination.kind().to_be_bytes());
        hasher.update(destination.scope().to_be_bytes());
        hasher.update(destination.port().to_be_bytes());
        let number = hasher.finalize().first_chunk().map(|first| u64::from_be_bytes(*first));
        QuestionId(number.unwrap_or_default())
    }
}

impl fmt::Display for QuestionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a-{:016x}", self.0)
    }
}

impl QuestionId {
    /// The inverse of its text.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix("a-")?;
        let plain = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let is_one = hex.len() == 16 && hex.bytes().all(plain);
        is_one.then(|| u64::from_str_radix(hex, 16).ok().map(Self)).flatten()
    }
}

/// What an approver said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Yes.
    Approved,
    /// No.
    Denied,
}

/// How far an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// For calls to the question's destination.
    Destination(Destination),
    /// For calls to any destination of the tool.
    Tool,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The question that was answered.
    pub question: QuestionId,
    /// What it was about.
    pub digest: InputsDigest,
    /// The instance that asked.
    pub instance: InstanceId,
    /// What was said.
    pub verdict: Verdict,
    /// How far it goes.
    pub scope: Scope,
    /// Who said it.
    pub approver: Arc<str>,
    /// When, for people.
    pub given: SystemTime,
    /// Until when, for people.
    pub expires: SystemTime,
    /// Until when, ns of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
}

/// All answers that hold. A later one about the same replaces an earlier one.
#[derive(Clone, Debug, Default)]
pub struct AnswerTable {
    by_digest: HashMap<InputsDigest, Vec<Answer>>,
}

impl AnswerTable {
    /// Enters an answer.
    pub fn insert(&mut self, answer: Answer) {
        let answers = self.by_digest.entry(answer.digest).or_default();
        answers.retain(|known| known.scope != answer.scope);
        answers.push(answer);
    }

    /// The answer to a question at a moment of `CLOCK_BOOTTIME`, ns. A no goes before a yes; of several
    /// of a kind, the one that lasts longest.
    pub fn find(
        &self,
        digest: &InputsDigest,
        destination: &Destination,
        now_ns: u64,
    ) -> Option<&Answer> {
        let applies = |answer: &&Answer| {
            now_ns < answer.expires_ns
                && match answer.scope {
                    Scope::Tool => true,
                    Scope::Destination(only) => only == *destination,
                }
        };
        let answers = self.by_digest.get(digest)?.iter().filter(applies);
        answers.max_by_key(|answer| (answer.verdict == Verdict::Denied, answer.expires_ns))
    }

    /// Drops what is over; true where something was.
    pub fn drop_expired(&mut self, now_ns: u64) -> bool {
        let before = self.len();
        for answers in self.by_digest.values_mut() {
            answers.retain(|answer| now_ns < answer.expires_ns);
        }
        self.by_digest.retain(|_, answers| !answers.is_empty());
        self.len() < before
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_digest.values().map(Vec::len).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use agent_enforcer_common::destination::PROTOCOL_TCP;

    use super::*;

    fn inputs() -> Inputs {
        Inputs {
            agent: "bot".to_owned(),
            agent_policy: "{}".into(),
            instance: "i-1".to_owned(),
            exe: "/usr/bin/curl".to_owned(),
            sha256: "00".repeat(32),
            script: "11".repeat(32),
            manifest: Some("22".repeat(32)),
            uid: 7,
            tool: "deploy".into(),
            tool_policy: "{}".into(),
            grant: Some("g-1".to_owned()),
            principal: Some("ada@example.com".to_owned()),
            task: Some("T-1".to_owned()),
        }
    }

    fn to(last: u32) -> Destination {
        Destination::v4(0xc000_0200 + last, 443, PROTOCOL_TCP)
    }

    fn answer(verdict: Verdict, scope: Scope, expires_ns: u64) -> Answer {
        let digest = inputs().digest();
        Answer {
            question: digest.question(&to(1)),
            digest,
            instance: InstanceId::new(1),
            verdict,
            scope,
            approver: "ada".into(),
            given: SystemTime::UNIX_EPOCH,
            expires: SystemTime::UNIX_EPOCH,
            expires_ns,
        }
    }

    #[test]
    fn any_input_that_changes_is_another_question() {
        let known = inputs().digest();
        let changes: [fn(&mut Inputs); 13] = [
            |i| i.agent = "cat".into(),
            |i| i.agent_policy = "{a}".into(),
            |i| i.instance.push('0'),
            |i| i.exe.push('0'),
            |i| i.sha256.push('0'),
            |i| i.script.push('0'),
            |i| i.manifest = None,
            |i| i.uid += 1,
            |i| i.tool = "web".into(),
            |i| i.tool_policy = "{a}".into(),
            |i| i.grant = None,
            |i| i.principal = None,
            |i| i.task = None,
        ];
        let mut seen = std::collections::HashSet::from([known]);
        for change in changes {
            let mut other = inputs();
            change(&mut other);
            assert!(seen.insert(other.digest()), "{other:?}");
        }
        // Moving text from one field to the next is a change, too.
        let (mut a, mut b) = (inputs(), inputs());
        (a.principal, a.task) = (Some("x".to_owned()), Some("yz".to_owned()));
        (b.principal, b.task) = (Some("xy".to_owned()), Some("z".to_owned()));
        assert_ne!(a.digest(), b.digest());
    }

    #[test]
    fn question_is_named_by_inputs_and_destination() {
        let digest = inputs().digest();
        let id = digest.question(&to(1));
        assert_eq!(id, digest.question(&to(1)));
        for other in [to(2), to(1).listening(), Destination::v4(0xc000_0201, 443, 17)] {
            assert_ne!(id, digest.question(&other), "{other}");
        }
        assert_eq!(QuestionId::parse(&id.to_string()), Some(id));
        for bad in
            ["", "a-", "a-1", "g-0000000000000001", "a-000000000000000G", "a-+00000000000001"]
        {
            assert_eq!(QuestionId::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn answer_holds_for_its_scope_until_its_end() {
        let mut table = AnswerTable::default();
        let digest = inputs().digest();
        table.insert(answer(Verdict::Approved, Scope::Destination(to(1)), 100));
        let found = |table: &AnswerTable, last, now| {
            table.find(&digest, &to(last), now).map(|answer| answer.verdict)
        };
        assert_eq!(found(&table, 1, 99), Some(Verdict::Approved));
        assert_eq!(found(&table, 1, 100), None);
        assert_eq!(found(&table, 2, 0), None);
        table.insert(answer(Verdict::Approved, Scope::Tool, 50));
        assert_eq!(found(&table, 2, 49), Some(Verdict::Approved));
        table.insert(answer(Verdict::Denied, Scope::Destination(to(2)), 60));
        assert_eq!(found(&table, 2, 0), Some(Verdict::Denied), "a no goes before a yes");
        table.insert(answer(Verdict::Denied, Scope::Destination(to(1)), 70));
        assert_eq!(found(&table, 1, 0), Some(Verdict::Denied), "the later one replaced it");
        let mut other = inputs();
        other.sha256.push('0');
        assert_eq!(table.find(&other.digest(), &to(1), 0), None);
        assert!(table.drop_expired(60) && table.len() == 1);
        assert!(!table.drop_expired(60) && table.drop_expired(70) && table.is_empty());
    }
}
