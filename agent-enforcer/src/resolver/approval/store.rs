//! Answers in the durable store: what was answered is there after `kill -9`.
//!
//! Instances end with the host, and with them what was answered to their questions: answers of an
//! earlier boot are dropped when the store is read.

use std::time::{Duration, SystemTime};

use agent_enforcer_common::{
    destination::{Destination, PeerFamily},
    id::InstanceId,
};
use redb::{ReadableTable as _, TableDefinition};
use serde::{Deserialize, Serialize};

use super::{Answer, AnswerTable, InputsDigest, QuestionId, Scope, Verdict};
use crate::{
    decision::Sha256Digest,
    resolver::grant::{BootId, GrantStore, GrantStoreError, Moment},
};

/// Question and scope -> `AnswerRecord` as JSON.
const ANSWERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("answers");

/// A stored answer. Fields are only ever added, with a default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AnswerRecord {
    question: String,
    digest: [u8; 32],
    instance: u64,
    approved: bool,
    destination: Option<DestinationRecord>,
    approver: String,
    given_unix_ns: u64,
    expires_unix_ns: u64,
    boot: String,
    expires_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DestinationRecord {
    family: u8,
    address: [u8; 16],
    scope: u32,
    port: u16,
    protocol: u8,
}

impl GrantStore {
    /// Stores an answer: durable when this returns.
    pub fn record_answer(&self, answer: &Answer, now: &Moment) -> Result<(), GrantStoreError> {
        let record = AnswerRecord::new(answer, &now.boot);
        self.write(|transaction| {
            let mut answers = transaction.open_table(ANSWERS)?;
            answers.insert(record.key().as_str(), serde_json::to_vec(&record)?.as_slice())?;
            Ok(())
        })
    }

    /// Every answer that still holds; drops the others.
    pub fn load_answers(&self, now: &Moment) -> Result<AnswerTable, GrantStoreError> {
        self.write(|transaction| {
            let mut loaded = AnswerTable::default();
            let mut answers = transaction.open_table(ANSWERS)?;
            let mut over = Vec::new();
            for entry in answers.iter()? {
                let (key, bytes) = entry?;
                let record: AnswerRecord = serde_json::from_slice(bytes.value())?;
                let holds = record.boot == now.boot.as_str() && now.boot_ns < record.expires_ns;
                match record.into_answer() {
                    Some(answer) if holds => loaded.insert(answer),
                    Some(_) | None => over.push(key.value().to_owned()),
                }
            }
            for key in over {
                answers.remove(key.as_str())?;
            }
            Ok(loaded)
        })
    }
}

impl AnswerRecord {
    fn new(answer: &Answer, boot: &BootId) -> Self {
        let Answer {
            question,
            digest: InputsDigest(digest),
            instance,
            verdict,
            scope,
            approver,
            given,
            expires,
            expires_ns,
        } = answer;
        let unix_ns = |time: &SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
        };
        Self {
            question: question.to_string(),
            digest: digest.0,
            instance: instance.get(),
            approved: match verdict {
                Verdict::Approved => true,
                Verdict::Denied => false,
            },
            destination: match scope {
                Scope::Tool => None,
                Scope::Destination(destination) => Some(DestinationRecord::new(destination)),
            },
            approver: approver.to_string(),
            given_unix_ns: unix_ns(given),
            expires_unix_ns: unix_ns(expires),
            boot: boot.as_str().to_owned(),
            expires_ns: *expires_ns,
        }
    }

    /// One answer for each question and scope.
    fn key(&self) -> String {
        let scope = if self.destination.is_some() { "destination" } else { "tool" };
        format!("{}/{scope}", self.question)
    }

    /// `None` where it is of another version.
    fn into_answer(self) -> Option<Answer> {
        let wall = |unix_ns| SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns);
        Some(Answer {
            question: QuestionId::parse(&self.question)?,
            digest: InputsDigest(Sha256Digest(self.digest)),
            instance: InstanceId::new(self.instance),
            verdict: if self.approved { Verdict::Approved } else { Verdict::Denied },
            scope: match self.destination {
                None => Scope::Tool,
                Some(record) => Scope::Destination(record.into_destination()?),
            },
            approver: self.approver.into(),
            given: wall(self.given_unix_ns),
            expires: wall(self.expires_unix_ns),
            expires_ns: self.expires_ns,
        })
    }
}

impl DestinationRecord {
    fn new(destination: &Destination) -> Self {
        Self {
            family: destination.family(),
            address: destination.octets(),
            scope: destination.scope(),
            port: destination.port(),
            protocol: destination.protocol(),
        }
    }

    fn into_destination(self) -> Option<Destination> {
        let bits = u128::from_be_bytes(self.address);
        #[expect(clippy::cast_possible_truncation, reason = "each half is what is kept")]
        let [high, low] = [(bits >> 64) as u64, bits as u64];
        let ip = Destination::v6([high, low], self.scope, self.port, self.protocol);
        let number = u32::try_from(low).ok();
        Some(match PeerFamily::from_raw(self.family)? {
            PeerFamily::Ip => ip,
            PeerFamily::Listen => ip.listening(),
            PeerFamily::Unix => Destination::unix(low),
            PeerFamily::Vsock => Destination::vsock(u32::try_from(high).ok()?, number?),
            PeerFamily::Netlink => Destination::netlink(number?),
            PeerFamily::Socket => Destination::socket(number?),
        })
    }
}

#[cfg(test)]
mod tests {
    use agent_enforcer_common::destination::PROTOCOL_TCP;

    use super::*;

    fn moment(boot_ns: u64, boot: &str) -> Moment {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        Moment { wall, boot_ns, boot: BootId::new(boot) }
    }

    fn answer(scope: Scope, verdict: Verdict, approver: &str) -> Answer {
        let digest = InputsDigest(Sha256Digest([7; 32]));
        Answer {
            question: digest.question(&Destination::v4(1, 2, PROTOCOL_TCP)),
            digest,
            instance: InstanceId::new(9),
            verdict,
            scope,
            approver: approver.into(),
            given: SystemTime::UNIX_EPOCH + Duration::from_secs(5),
            expires: SystemTime::UNIX_EPOCH + Duration::from_secs(6),
            expires_ns: 100,
        }
    }

    #[test]
    fn destinations_of_every_family_come_back() {
        let ip = Destination::v6([0xfe80 << 48, 1], 3, 443, PROTOCOL_TCP);
        for destination in [
            Destination::v4(0xc000_0201, 443, PROTOCOL_TCP),
            ip,
            ip.listening(),
            Destination::unix(u64::MAX),
            Destination::vsock(2, 1024),
            Destination::netlink(9),
            Destination::socket(17),
        ] {
            let back = DestinationRecord::new(&destination).into_destination();
            assert_eq!(back, Some(destination), "{destination}");
        }
    }

    #[test]
    fn answers_outlive_the_daemon_and_end_with_the_boot() {
        let directory = tempfile::tempdir().unwrap();
        let now = moment(10, "first");
        let peer = Destination::v4(0xc000_0201, 443, PROTOCOL_TCP);
        let kept = [
            answer(Scope::Destination(peer), Verdict::Approved, "ada"),
            answer(Scope::Tool, Verdict::Denied, "bob"),
        ];
        {
            let store = GrantStore::open(directory.path()).unwrap();
            store.record_answer(&answer(Scope::Tool, Verdict::Approved, "eve"), &now).unwrap();
            for answer in &kept {
                store.record_answer(answer, &now).unwrap();
            }
        }
        let store = GrantStore::open(directory.path()).unwrap();
        let loaded = store.load_answers(&moment(99, "first")).unwrap();
        let digest = InputsDigest(Sha256Digest([7; 32]));
        assert_eq!(loaded.len(), 2, "the later answer to the same replaced the earlier one");
        assert_eq!(loaded.find(&digest, &peer, 99), Some(&kept[1]));
        assert!(store.load_answers(&moment(100, "first")).unwrap().is_empty());
        store.record_answer(&kept[0], &now).unwrap();
        assert!(store.load_answers(&moment(20, "second")).unwrap().is_empty());
        assert!(store.load_answers(&now).unwrap().is_empty(), "it was dropped for good");
    }
}
