//! Grants in the form that they are stored in, and how they outlive a restart of the host.
//!
//! In: grants and moments. Out: JSON records, and grants of an earlier boot with their deadlines
//! carried over. `CLOCK_BOOTTIME` begins anew with each boot, so the time that is left is told by
//! the wall clock, but never more than was left when the store last noted the time.

use std::time::{Duration, SystemTime};

use agent_enforcer_common::id::{GrantId, InstanceId};
use serde::{Deserialize, Serialize};

use super::{
    BootId, Grant, GrantSubject, Moment, Revocation, TokenOrigin,
    clock::nanoseconds,
    token::{Actions, Location, Scope, ScopedLocation},
};
use crate::{decision::Sha256Digest, signing::KeyId};

/// A stored grant. Fields are only ever added, with a default.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantRecord {
    agent: String,
    instance: Option<u64>,
    tools: Vec<String>,
    principal: String,
    task: String,
    reason: String,
    issued_unix_ns: u64,
    not_before_unix_ns: u64,
    expires_unix_ns: u64,
    boot: String,
    not_before_ns: u64,
    expires_ns: u64,
    max_uses: Option<u32>,
    uses: u32,
    revoked: Option<RevocationRecord>,
    /// What `tools` can't say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    parts: Vec<PartRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    origin: Option<OriginRecord>,
}

/// A tool or a part of one, for some actions.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PartRecord {
    tool: String,
    location: Option<Location>,
    connect: bool,
    listen: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OriginRecord {
    issuer: String,
    kid: KeyId,
    jti: String,
    txn: Option<String>,
    manifest: Option<Sha256Digest>,
    former_actors: Vec<String>,
    parent: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RevocationRecord {
    at_unix_ns: u64,
    reason: String,
}

/// The last moment that the store noted.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkRecord {
    boot: String,
    boot_ns: u64,
}

impl MarkRecord {
    pub(super) fn new(now: &Moment) -> Self {
        Self { boot: now.boot.as_str().to_owned(), boot_ns: now.boot_ns }
    }
}

impl GrantRecord {
    /// The record of a grant whose deadlines count from `boot`.
    pub(super) fn new(grant: &Grant, boot: &BootId) -> Self {
        let Grant {
            id: _,
            subject: GrantSubject { agent, instance },
            scope,
            principal,
            task,
            reason,
            issued,
            not_before,
            expires,
            not_before_ns,
            expires_ns,
            max_uses,
            uses,
            revoked,
            origin,
        } = grant;
        let (tools, parts) = scope_records(scope);
        Self {
            agent: agent.to_string(),
            instance: instance.map(InstanceId::get),
            tools,
            principal: principal.to_string(),
            task: task.to_string(),
            reason: reason.to_string(),
            issued_unix_ns: unix_ns(*issued),
            not_before_unix_ns: unix_ns(*not_before),
            expires_unix_ns: unix_ns(*expires),
            boot: boot.as_str().to_owned(),
            not_before_ns: *not_before_ns,
            expires_ns: *expires_ns,
            max_uses: *max_uses,
            uses: *uses,
            revoked: revoked.as_ref().map(|Revocation { at, reason }| RevocationRecord {
                at_unix_ns: unix_ns(*at),
                reason: reason.to_string(),
            }),
            parts,
            origin: origin.as_deref().map(OriginRecord::new),
        }
    }

    /// The boot that its deadlines count from.
    pub(super) fn boot(&self) -> BootId {
        BootId::new(&self.boot)
    }

    /// The grant.
    pub(super) fn into_grant(self, id: GrantId) -> Grant {
        let Self {
            agent,
            instance,
            tools,
            principal,
            task,
            reason,
            issued_unix_ns,
            not_before_unix_ns,
            expires_unix_ns,
            boot: _,
            not_before_ns,
            expires_ns,
            max_uses,
            uses,
            revoked,
            parts,
            origin,
        } = self;
        Grant {
            id,
            subject: GrantSubject { agent: agent.into(), instance: instance.map(InstanceId::new) },
            scope: scope(tools, parts),
            principal: principal.into(),
            task: task.into(),
            reason: reason.into(),
            issued: wall(issued_unix_ns),
            not_before: wall(not_before_unix_ns),
            expires: wall(expires_unix_ns),
            not_before_ns,
            expires_ns,
            max_uses,
            uses,
            revoked: revoked.map(|RevocationRecord { at_unix_ns, reason }| Revocation {
                at: wall(at_unix_ns),
                reason: reason.into(),
            }),
            origin: origin.map(|origin| Box::new(origin.into_origin())),
        }
    }

    /// Makes the deadlines count from the boot of `now`. True where they did not before.
    pub(super) fn carry_over(&mut self, mark: Option<&MarkRecord>, now: &Moment) -> bool {
        if self.boot == now.boot.as_str() {
            return false;
        }
        let now_unix_ns = unix_ns(now.wall);
        // What a wall clock that was set back could add is cut off here.
        let left_at_mark = match mark {
            Some(mark) if mark.boot == self.boot => self.expires_ns.saturating_sub(mark.boot_ns),
            Some(_) | None => self.expires_ns.saturating_sub(self.not_before_ns),
        };
        let left = self.expires_unix_ns.saturating_sub(now_unix_ns).min(left_at_mark);
        let ahead = self.not_before_unix_ns.saturating_sub(now_unix_ns);
        now.boot.as_str().clone_into(&mut self.boot);
        self.expires_ns = now.boot_ns.saturating_add(left);
        self.not_before_ns = now.boot_ns.saturating_add(ahead);
        true
    }
}

impl OriginRecord {
    fn new(origin: &TokenOrigin) -> Self {
        let TokenOrigin { issuer, kid, jti, txn, manifest, former_actors, parent } = origin;
        Self {
            issuer: issuer.to_string(),
            kid: kid.clone(),
            jti: jti.to_string(),
            txn: txn.as_ref().map(ToString::to_string),
            manifest: *manifest,
            former_actors: former_actors.iter().map(ToString::to_string).collect(),
            parent: parent.map(GrantId::get),
        }
    }

    fn into_origin(self) -> TokenOrigin {
        let Self { issuer, kid, jti, txn, manifest, former_actors, parent } = self;
        TokenOrigin {
            issuer: issuer.into(),
            kid,
            jti: jti.into(),
            txn: txn.map(Into::into),
            manifest,
            former_actors: former_actors.into_iter().map(Into::into).collect(),
            parent: parent.map(GrantId::new),
        }
    }
}

/// Whole tools for every action by their names, the rest in parts.
fn scope_records(scope: &Scope) -> (Vec<String>, Vec<PartRecord>) {
    let (mut tools, mut parts) = (Vec::new(), Vec::new());
    for (tool, actions) in &scope.tools {
        let Actions { connect, listen } = *actions;
        if *actions == Actions::ALL {
            tools.push(tool.to_string());
        } else {
            parts.push(PartRecord { tool: tool.to_string(), location: None, connect, listen });
        }
    }
    for ScopedLocation { location, tool, actions: Actions { connect, listen } } in &scope.locations
    {
        parts.push(PartRecord {
            tool: tool.to_string(),
            location: Some(*location),
            connect: *connect,
            listen: *listen,
        });
    }
    (tools, parts)
}

fn scope(tools: Vec<String>, parts: Vec<PartRecord>) -> Scope {
    let mut scope = Scope::of_tools(tools.into_iter().map(Into::into));
    for PartRecord { tool, location, connect, listen } in parts {
        let (tool, actions) = (tool.into(), Actions { connect, listen });
        match location {
            Some(location) => scope.locations.push(ScopedLocation { location, tool, actions }),
            None => {
                scope.tools.insert(tool, actions);
            }
        }
    }
    scope
}

/// Times before 1970 are not told apart.
fn unix_ns(time: SystemTime) -> u64 {
    nanoseconds(time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default())
}

fn wall(unix_ns: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(unix_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::grant::testing::{grant, moment, wall};

    const SECOND: u64 = 1_000_000_000;

    /// A grant from second 100 to second 400 of the boot `first`.
    fn record() -> GrantRecord {
        let mut grant = grant(1, "bot", &["mail"], 100 * SECOND, 400 * SECOND);
        (grant.not_before, grant.expires) = (wall(100), wall(400));
        GrantRecord::new(&grant, &moment(0).boot)
    }

    /// `wall_seconds` by the wall clock, ten seconds into the boot `second`.
    fn rebooted(wall_seconds: u64) -> Moment {
        Moment { wall: wall(wall_seconds), boot_ns: 10 * SECOND, boot: BootId::new("second") }
    }

    /// Seconds of life after a restart of the host.
    fn left(marked: u64, wall_seconds: u64) -> u64 {
        let (mut record, now) = (record(), rebooted(wall_seconds));
        assert!(record.carry_over(Some(&MarkRecord::new(&moment(marked))), &now));
        (record.expires_ns - now.boot_ns) / SECOND
    }

    #[test]
    fn same_boot_moves_nothing() {
        let mut record = record();
        assert!(!record.carry_over(None, &moment(390)));
        assert_eq!((record.not_before_ns, record.expires_ns), (100 * SECOND, 400 * SECOND));
    }

    #[test]
    fn a_restart_of_the_host_leaves_what_the_wall_clock_leaves() {
        assert_eq!(left(200, 250), 150);
        assert_eq!(left(200, 400), 0);
        assert_eq!(left(200, 9000), 0);
    }

    #[test]
    fn a_wall_clock_set_back_does_not_extend_a_grant() {
        assert_eq!(left(200, 150), 200);
        assert_eq!(left(200, 0), 200);
        assert_eq!(left(500, 0), 0);
    }

    #[test]
    fn without_a_mark_no_more_is_left_than_the_whole_life() {
        let mut record = record();
        let now = rebooted(0);
        record.carry_over(None, &now);
        assert_eq!(record.expires_ns - now.boot_ns, 300 * SECOND);
    }

    #[test]
    fn a_grant_that_begins_later_still_does() {
        let (mut record, now) = (record(), rebooted(40));
        record.carry_over(Some(&MarkRecord::new(&moment(30))), &now);
        assert_eq!(record.not_before_ns - now.boot_ns, 60 * SECOND);
        assert_eq!(record.expires_ns - now.boot_ns, 360 * SECOND);
    }

    #[test]
    fn a_record_gives_back_its_grant() {
        let mut grant = grant(7, "bot", &["mail", "web"], 1, 2);
        grant.subject.instance = Some(InstanceId::new(9));
        (grant.max_uses, grant.uses) = (Some(3), 2);
        grant.revoked = Some(Revocation { at: wall(5), reason: "done".into() });
        let text = serde_json::to_vec(&GrantRecord::new(&grant, &moment(0).boot)).unwrap();
        let record: GrantRecord = serde_json::from_slice(&text).unwrap();
        assert_eq!(record.boot(), moment(0).boot);
        assert_eq!(record.into_grant(grant.id), grant);
    }
}
