//! Calls that wait for a decision, coalesced: one decision for all calls of one program image to
//! one destination. Bounded in all and per instance; a call that finds no room is denied.

use std::{
    collections::{BTreeMap, HashMap},
    os::fd::OwnedFd,
};

use agent_enforcer_common::{
    destination::Destination,
    id::{ExecId, InstanceId, RequestId, ToolId},
    reason::Reason,
    record::{CallRecord, Hook},
};

use super::parked::Parked;
use crate::resolver::approval::QuestionId;

/// What a group of calls waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Awaits {
    /// The digest of the executable.
    Identity,
    /// A grant; the reason tells what is missing.
    Grant {
        /// Why it is not allowed as things stand.
        reason: Reason,
        /// The destination's tool.
        tool: ToolId,
    },
    /// An approver's yes.
    Approval {
        /// The destination's tool.
        tool: ToolId,
        /// What is asked.
        question: QuestionId,
    },
    /// A use of a counted grant: on its way to the disk, or in the map for who takes it first.
    Use {
        /// The destination's tool.
        tool: ToolId,
    },
}

/// One waiting call.
#[derive(Debug)]
pub(super) struct WaitingCall {
    /// The question.
    pub record: CallRecord,
    /// The hook that asked.
    pub hook: Hook,
    /// The process; readable when it has ended.
    pub pidfd: Option<OwnedFd>,
    /// Its callers that are stopped: continued when this goes.
    pub parked: Vec<Parked>,
}

impl WaitingCall {
    /// A call that nobody is stopped for yet.
    pub(super) const fn new(record: CallRecord, hook: Hook) -> Self {
        Self { record, hook, pidfd: None, parked: Vec::new() }
    }

    /// Whether a record of the same group is about this call: its question repeated under its number,
    /// or of its socket, or of its thread where there is no socket yet.
    fn is_asked_by(&self, record: &CallRecord) -> bool {
        let own = &self.record;
        let same_place = own.socket_cookie == record.socket_cookie
            && (own.socket_cookie != 0 || own.process.tid == record.process.tid);
        own.request == record.request || same_place
    }
}

/// What decides together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// The program image.
    pub exec: ExecId,
    /// The destination.
    pub destination: Destination,
}

impl GroupKey {
    /// Of a call.
    pub(super) const fn of(record: &CallRecord) -> Self {
        Self { exec: record.process.exec, destination: record.destination }
    }
}

/// Calls that wait for one decision.
#[derive(Debug)]
pub(super) struct Group {
    /// What for.
    pub awaits: Awaits,
    /// Since when, ns of `CLOCK_BOOTTIME`.
    pub since_ns: u64,
    /// When they are denied, ns of `CLOCK_BOOTTIME`.
    pub deadline_ns: u64,
    /// The calls, oldest first; at least one.
    pub calls: Vec<WaitingCall>,
}

/// Limits of what may wait.
#[derive(Debug, Clone, Copy)]
pub struct PendingLimits {
    /// Calls in all.
    pub total: usize,
    /// Calls of one instance.
    pub per_instance: usize,
}

/// No room: the call is to be denied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// The calls that wait.
#[derive(Debug)]
pub(super) struct Pending {
    limits: PendingLimits,
    groups: BTreeMap<GroupKey, Group>,
    changes: u64,
    total: usize,
    by_instance: HashMap<InstanceId, usize>,
}

impl Pending {
    /// Nothing waits.
    pub(super) fn new(limits: PendingLimits) -> Self {
        let (groups, by_instance) = (BTreeMap::new(), HashMap::new());
        Self { limits, groups, changes: 0, total: 0, by_instance }
    }

    /// Whether this very call waits already: a held packet asks again from time to time.
    pub(super) fn has_call(&self, key: &GroupKey, record: &CallRecord) -> bool {
        self.calls(key).any(|call| call.is_asked_by(record))
    }

    /// The waiting call that a question is about.
    pub(super) fn call_mut(
        &mut self,
        key: &GroupKey,
        record: &CallRecord,
    ) -> Option<&mut WaitingCall> {
        self.groups.get_mut(key)?.calls.iter_mut().find(|call| call.is_asked_by(record))
    }

    /// Whether a caller is stopped for a question that waits.
    pub(super) fn has_parked(&self, request: RequestId) -> bool {
        let mut calls = self.groups.values().flat_map(|group| &group.calls);
        calls.any(|call| call.parked.iter().any(|parked| parked.request == request))
    }

    /// Continues the stopped callers of a group, which goes on waiting for one of them.
    pub(super) fn continue_group(&mut self, key: &GroupKey) {
        for call in self.groups.get_mut(key).into_iter().flat_map(|group| &mut group.calls) {
            call.parked.clear();
        }
    }

    /// Continues every stopped caller.
    pub(super) fn continue_all(&mut self) {
        for call in self.groups.values_mut().flat_map(|group| &mut group.calls) {
            call.parked.clear();
        }
    }

    /// Lets a call wait. A call that joins a group shares its deadline.
    pub(super) fn add(
        &mut self,
        key: GroupKey,
        call: WaitingCall,
        awaits: Awaits,
        deadline_ns: u64,
    ) -> Result<(), Full> {
        let instance = call.record.process.instance;
        let of_instance = self.by_instance.get(&instance).copied().unwrap_or_default();
        if self.total >= self.limits.total || of_instance >= self.limits.per_instance {
            return Err(Full);
        }
        self.by_instance.insert(instance, of_instance + 1);
        self.changes += 1;
        self.total += 1;
        let since_ns = call.record.header.time_ns;
        let group = self.groups.entry(key).or_insert_with(|| Group {
            awaits,
            since_ns,
            deadline_ns,
            calls: Vec::new(),
        });
        group.awaits = awaits;
        group.calls.push(call);
        Ok(())
    }

    /// What a group waits for.
    pub(super) fn awaits(&self, key: &GroupKey) -> Option<Awaits> {
        self.groups.get(key).map(|group| group.awaits)
    }

    /// The calls of a group, oldest first.
    pub(super) fn calls(&self, key: &GroupKey) -> impl Iterator<Item = &WaitingCall> {
        self.groups.get(key).into_iter().flat_map(|group| &group.calls)
    }

    /// The oldest call of a group.
    pub(super) fn first(&self, key: &GroupKey) -> Option<&WaitingCall> {
        self.calls(key).next()
    }

    /// A group goes on waiting, for something else.
    pub(super) fn wait_on(&mut self, key: &GroupKey, awaits: Awaits, deadline_ns: u64) {
        if let Some(group) = self.groups.get_mut(key) {
            self.changes += 1;
            group.awaits = awaits;
            group.deadline_ns = deadline_ns;
        }
    }

    /// Takes a group out.
    pub(super) fn take(&mut self, key: &GroupKey) -> Option<Group> {
        let group = self.groups.remove(key)?;
        for call in &group.calls {
            self.forget(call.record.process.instance);
        }
        Some(group)
    }

    /// Takes the oldest call of a group out.
    pub(super) fn take_one(&mut self, key: &GroupKey) -> Option<WaitingCall> {
        let group = self.groups.get_mut(key)?;
        let call = (!group.calls.is_empty()).then(|| group.calls.remove(0))?;
        if group.calls.is_empty() {
            self.groups.remove(key);
        }
        self.forget(call.record.process.instance);
        Some(call)
    }

    /// Takes the call that a record is about out of a group.
    pub(super) fn take_call(&mut self, key: &GroupKey, record: &CallRecord) -> Option<WaitingCall> {
        let group = self.groups.get_mut(key)?;
        let position = group.calls.iter().position(|call| call.is_asked_by(record))?;
        let call = group.calls.remove(position);
        if group.calls.is_empty() {
            self.groups.remove(key);
        }
        self.forget(call.record.process.instance);
        Some(call)
    }

    /// Takes calls out for which `gone` holds.
    pub(super) fn take_where(
        &mut self,
        mut gone: impl FnMut(&GroupKey, &WaitingCall) -> bool,
    ) -> Vec<(GroupKey, WaitingCall)> {
        let mut taken = Vec::new();
        self.groups.retain(|key, group| {
            let calls = std::mem::take(&mut group.calls);
            for call in calls {
                if gone(key, &call) {
                    taken.push((*key, call));
                } else {
                    group.calls.push(call);
                }
            }
            !group.calls.is_empty()
        });
        for (_, call) in &taken {
            self.forget(call.record.process.instance);
        }
        taken
    }

    fn forget(&mut self, instance: InstanceId) {
        self.changes += 1;
        self.total = self.total.saturating_sub(1);
        if let Some(of_instance) = self.by_instance.get_mut(&instance) {
            *of_instance = of_instance.saturating_sub(1);
            if *of_instance == 0 {
                self.by_instance.remove(&instance);
            }
        }
    }

    /// Groups for which `wanted` holds.
    pub(super) fn keys(&self, wanted: impl Fn(&GroupKey, &Group) -> bool) -> Vec<GroupKey> {
        self.groups.iter().filter(|(key, group)| wanted(key, group)).map(|(key, _)| *key).collect()
    }

    /// Every group.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&GroupKey, &Group)> {
        self.groups.iter()
    }

    /// A number that is another one after every change.
    pub(super) const fn changes(&self) -> u64 {
        self.changes
    }

    /// Calls that wait.
    pub(super) const fn len(&self) -> usize {
        self.total
    }

    /// Whether none waits.
    pub(super) const fn is_empty(&self) -> bool {
        self.total == 0
    }
}

#[cfg(test)]
mod tests {
    use agent_enforcer_common::{
        destination::PROTOCOL_TCP,
        id::AgentId,
        record::{ProcessFacts, RecordHeader},
    };

    use super::*;

    fn call(instance: u64, cookie: u64) -> WaitingCall {
        let record = CallRecord {
            header: RecordHeader { kind: 1, size: 0, time_ns: 5 },
            process: ProcessFacts {
                instance: InstanceId::new(instance),
                agent: AgentId::new(1),
                ..ProcessFacts::default()
            },
            destination: destination(),
            request: RequestId::new(100 + cookie),
            socket_cookie: cookie,
            generation: 1,
            hook: 1,
            ..CallRecord::default()
        };
        WaitingCall::new(record, Hook::Connect)
    }

    fn destination() -> Destination {
        Destination::v4(0xc000_0201, 443, PROTOCOL_TCP)
    }

    fn key(exec: u64) -> GroupKey {
        GroupKey { exec: ExecId::new(exec), destination: destination() }
    }

    #[test]
    fn room_is_bounded_per_instance_and_in_all() {
        let mut pending = Pending::new(PendingLimits { total: 3, per_instance: 2 });
        let mut add = |instance, cookie| {
            pending.add(key(instance), call(instance, cookie), Awaits::Identity, 9)
        };
        assert_eq!(add(1, 1), Ok(()));
        assert_eq!(add(1, 2), Ok(()));
        assert_eq!(add(1, 3), Err(Full));
        assert_eq!(add(2, 4), Ok(()));
        assert_eq!(add(3, 5), Err(Full));
        assert_eq!(pending.take(&key(1)).unwrap().calls.len(), 2);
        assert_eq!(pending.add(key(3), call(3, 6), Awaits::Identity, 9), Ok(()));
        assert_eq!(pending.len(), 2);
    }

    #[test]
    fn an_instance_that_finds_no_room_leaves_nothing_behind() {
        let mut pending = Pending::new(PendingLimits { total: 1, per_instance: 1 });
        pending.add(key(1), call(1, 1), Awaits::Identity, 9).unwrap();
        for instance in 2..100 {
            assert_eq!(pending.add(key(1), call(instance, 2), Awaits::Identity, 9), Err(Full));
        }
        assert_eq!(pending.by_instance.len(), 1);
        assert!(pending.take(&key(1)).is_some());
        assert!(pending.by_instance.is_empty());
    }

    #[test]
    fn calls_leave_one_by_one_and_the_group_with_the_last() {
        let mut pending = Pending::new(PendingLimits { total: 9, per_instance: 9 });
        for cookie in 1..=3 {
            pending.add(key(1), call(1, cookie), Awaits::Identity, 9).unwrap();
        }
        assert!(pending.has_call(&key(1), &call(1, 2).record));
        assert_eq!(pending.take_one(&key(1)).unwrap().record.socket_cookie, 1);
        let gone = pending.take_where(|_, call| call.record.socket_cookie == 2);
        assert_eq!(gone.len(), 1);
        assert!(pending.take_one(&key(1)).is_some());
        assert!(pending.is_empty() && pending.awaits(&key(1)).is_none());
    }

    #[test]
    fn the_call_of_a_socket_leaves_whatever_its_place() {
        let mut pending = Pending::new(PendingLimits { total: 9, per_instance: 9 });
        for cookie in 1..=2 {
            pending.add(key(1), call(1, cookie), Awaits::Identity, 9).unwrap();
        }
        assert!(pending.take_call(&key(1), &call(1, 3).record).is_none());
        assert!(pending.take_call(&key(2), &call(1, 2).record).is_none());
        assert_eq!(pending.take_call(&key(1), &call(1, 2).record).unwrap().record.socket_cookie, 2);
        assert_eq!(pending.len(), 1);
        assert_eq!(pending.take_call(&key(1), &call(1, 1).record).unwrap().record.socket_cookie, 1);
        assert!(pending.is_empty() && pending.by_instance.is_empty());
        assert!(pending.awaits(&key(1)).is_none());
    }

    #[test]
    fn calls_without_a_socket_are_told_apart_by_thread_and_question() {
        let mut pending = Pending::new(PendingLimits { total: 9, per_instance: 9 });
        let asked = |tid, request| {
            let mut record = call(1, 0).record;
            record.process.tid = tid;
            CallRecord { request: RequestId::new(request), ..record }
        };
        let waiting = WaitingCall::new(asked(7, 70), Hook::UnixConnect);
        pending.add(key(1), waiting, Awaits::Identity, 9).unwrap();
        assert!(pending.has_call(&key(1), &asked(7, 71)));
        assert!(pending.has_call(&key(1), &asked(8, 70)));
        assert!(!pending.has_call(&key(1), &asked(8, 71)));
    }
}
