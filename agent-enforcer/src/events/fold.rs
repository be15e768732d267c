//! Identical calls become one event with an exact count, and so do identical attempts.
//!
//! In: calls and attempts, in the order of the queue. Out: the first of its kind at once, the rest of
//! its window (1 s by default) as one [`Folded`] or [`FoldedAttempt`] at the window's end. The counts
//! add up, always. Windows are bounded: when there are too many, the oldest ends early.

mod windows;

use std::{collections::BTreeMap, sync::Arc};

use agent_enforcer_common::{
    destination::Destination,
    id::{ExecId, Generation, GrantId, InstanceId},
    reason::Reason,
};

use super::LostRecords;
use crate::decision::{ApprovalRef, Attempt, CallDecision, Outcome};
use windows::{Sum, Windows};

/// Windows open at the same moment.
const WINDOWS: usize = 10_000;
/// Process ids that a folded event names.
const PIDS: usize = 16;

/// A call that stands for `count` of them.
#[derive(Debug)]
pub(super) struct Folded {
    /// The first of them.
    pub(super) call: Box<CallDecision>,
    pub(super) count: u64,
    /// When the first and the last were seen, ns of `CLOCK_BOOTTIME`.
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
    /// The longest wait among them, ns.
    pub(super) stalled_ns: u64,
    /// Processes among them (forked children share an image), at most [`PIDS`].
    pub(super) pids: Vec<u32>,
    /// There were more processes than `pids` names.
    pub(super) more_pids: bool,
}

/// An attempt that stands for `count` of them.
#[derive(Debug)]
pub(super) struct FoldedAttempt {
    /// The first of them.
    pub(super) attempt: Box<Attempt>,
    pub(super) count: u64,
    /// When the first and the last were seen, ns of `CLOCK_BOOTTIME`.
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// Lost kernel records of one kind, added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LostSum {
    pub(super) kind: LostRecords,
    pub(super) count: u64,
    pub(super) first_ns: u64,
    pub(super) last_ns: u64,
}

/// What comes out.
#[derive(Debug)]
pub(super) enum Emission {
    Call(Folded),
    Attempt(FoldedAttempt),
    RecordsLost(LostSum),
}

/// What must be equal in calls that are folded.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    instance: InstanceId,
    exec: ExecId,
    destination: Destination,
    outcome: Outcome,
    reason: Reason,
    audited_reason: Option<Reason>,
    miss_reason: Option<Reason>,
    policies: Vec<Arc<str>>,
    tool: Option<Arc<str>>,
    grant: Option<GrantId>,
    approval: Option<Arc<ApprovalRef>>,
    hook: u8,
    netns_cookie: u64,
    generation: Generation,
}

impl Key {
    fn of(call: &CallDecision) -> Self {
        // All fields are named, so that a new one must be placed on one side.
        let CallDecision {
            outcome,
            reason,
            audited_reason,
            miss_reason,
            policies,
            count: _,
            time_ns: _,
            last_ns: _,
            stalled_ns: _,
            agent: _,
            owner: _,
            instance,
            process,
            last_pid: _,
            destination,
            // It goes with the destination.
            peer: _,
            tool,
            grant,
            approval,
            hook,
            socket_cookie: _,
            netns_cookie,
            generation,
        } = call;
        Self {
            instance: *instance,
            exec: process.exec,
            destination: *destination,
            outcome: *outcome,
            reason: *reason,
            audited_reason: *audited_reason,
            miss_reason: *miss_reason,
            policies: policies.clone(),
            tool: tool.clone(),
            grant: grant.as_ref().map(|grant| grant.id),
            approval: approval.clone(),
            hook: *hook as u8,
            netns_cookie: *netns_cookie,
            generation: *generation,
        }
    }
}

/// What must be equal in attempts that are folded.
#[derive(Debug, PartialEq, Eq, Hash)]
struct AttemptKey {
    instance: InstanceId,
    exec: ExecId,
    guard: u32,
    target_pid: u32,
    argument: u64,
}

impl AttemptKey {
    fn of(attempt: &Attempt) -> Self {
        let Attempt {
            guard,
            target_pid,
            argument,
            time_ns: _,
            agent: _,
            owner: _,
            instance,
            process,
            pid: _,
        } = attempt;
        Self {
            instance: *instance,
            exec: process.exec,
            guard: *guard as u32,
            target_pid: *target_pid,
            argument: *argument,
        }
    }
}

/// The open windows.
pub(super) struct Folder {
    window_ns: u64,
    calls: Windows<Key, Folded>,
    attempts: Windows<AttemptKey, FoldedAttempt>,
    /// Kind -> end of the window, and what came after the first.
    lost: BTreeMap<LostRecords, (u64, Option<LostSum>)>,
}

impl Folder {
    pub(super) fn new(window_ns: u64) -> Self {
        Self::with_limit(window_ns, WINDOWS)
    }

    fn with_limit(window_ns: u64, limit: usize) -> Self {
        Self {
            window_ns,
            calls: Windows::new(window_ns, limit),
            attempts: Windows::new(window_ns, limit),
            lost: BTreeMap::new(),
        }
    }

    /// Takes a call; `now_ns` never goes back.
    pub(super) fn call(&mut self, call: Box<CallDecision>, now_ns: u64, out: &mut Vec<Emission>) {
        self.end_due(now_ns, out);
        let key = Key::of(&call);
        self.calls.take(key, call, now_ns, |folded| out.push(Emission::Call(folded)));
    }

    /// Takes an attempt.
    pub(super) fn attempt(&mut self, attempt: Box<Attempt>, now_ns: u64, out: &mut Vec<Emission>) {
        self.end_due(now_ns, out);
        let key = AttemptKey::of(&attempt);
        self.attempts.take(key, attempt, now_ns, |folded| out.push(Emission::Attempt(folded)));
    }

    /// Takes a count of lost kernel records.
    pub(super) fn records_lost(
        &mut self,
        kind: LostRecords,
        count: u64,
        now_ns: u64,
        out: &mut Vec<Emission>,
    ) {
        self.end_due(now_ns, out);
        let sum = LostSum { kind, count, first_ns: now_ns, last_ns: now_ns };
        match self.lost.get_mut(&kind) {
            Some((_, Some(later))) => {
                later.count = later.count.saturating_add(count);
                later.last_ns = now_ns;
            }
            Some((_, later)) => *later = Some(sum),
            None => {
                self.lost.insert(kind, (now_ns.saturating_add(self.window_ns), None));
                out.push(Emission::RecordsLost(sum));
            }
        }
    }

    /// Ends the windows whose time has come.
    pub(super) fn end_due(&mut self, now_ns: u64, out: &mut Vec<Emission>) {
        self.calls.end_due(now_ns, |folded| out.push(Emission::Call(folded)));
        self.attempts.end_due(now_ns, |folded| out.push(Emission::Attempt(folded)));
        self.lost.retain(|_, (end, later)| {
            let due = *end <= now_ns;
            if due {
                out.extend(later.take().map(Emission::RecordsLost));
            }
            !due
        });
    }

    /// Ends every window.
    pub(super) fn end_all(&mut self, out: &mut Vec<Emission>) {
        self.end_due(u64::MAX, out);
    }

    /// When the next window ends, ns of `CLOCK_BOOTTIME`.
    pub(super) fn next_end_ns(&self) -> Option<u64> {
        let lost = self.lost.values().map(|&(end, _)| end);
        let others = [self.calls.next_end_ns(), self.attempts.next_end_ns()];
        lost.chain(others.into_iter().flatten()).min()
    }
}

impl Sum for Folded {
    type One = Box<CallDecision>;

    fn first(call: Box<CallDecision>) -> Self {
        Self {
            count: call.count,
            first_ns: call.time_ns,
            last_ns: call.last_ns,
            stalled_ns: call.stalled_ns,
            pids: vec![call.last_pid],
            more_pids: false,
            call,
        }
    }

    fn add(&mut self, call: &Box<CallDecision>) {
        self.count = self.count.saturating_add(call.count);
        self.first_ns = self.first_ns.min(call.time_ns);
        self.last_ns = self.last_ns.max(call.last_ns);
        self.stalled_ns = self.stalled_ns.max(call.stalled_ns);
        if !self.pids.contains(&call.last_pid) {
            if self.pids.len() < PIDS {
                self.pids.push(call.last_pid);
            } else {
                self.more_pids = true;
            }
        }
    }
}

impl Sum for FoldedAttempt {
    type One = Box<Attempt>;

    fn first(attempt: Box<Attempt>) -> Self {
        Self { count: 1, first_ns: attempt.time_ns, last_ns: attempt.time_ns, attempt }
    }

    fn add(&mut self, attempt: &Box<Attempt>) {
        self.count = self.count.saturating_add(1);
        self.first_ns = self.first_ns.min(attempt.time_ns);
        self.last_ns = self.last_ns.max(attempt.time_ns);
    }
}

#[cfg(test)]
mod tests {
    use agent_enforcer_common::record::Guard;
    use proptest::prelude::*;

    use super::*;
    use crate::events::testing::{attempt, call, call_of_pid};

    const SECOND: u64 = 1_000_000_000;

    fn counts(out: &[Emission]) -> Vec<u64> {
        out.iter()
            .map(|emission| match emission {
                Emission::Call(folded) => folded.count,
                Emission::Attempt(folded) => folded.count,
                Emission::RecordsLost(sum) => sum.count,
            })
            .collect()
    }

    fn folded_calls(out: &[Emission]) -> Vec<&Folded> {
        out.iter()
            .filter_map(|emission| match emission {
                Emission::Call(folded) => Some(folded),
                Emission::Attempt(_) | Emission::RecordsLost(_) => None,
            })
            .collect()
    }

    #[test]
    fn first_call_is_told_at_once_and_the_rest_at_the_end_of_the_window() {
        let mut folder = Folder::new(SECOND);
        let mut out = Vec::new();
        for step in 0..100 {
            let next = CallDecision {
                time_ns: 1000 + step,
                last_ns: 1000 + step,
                stalled_ns: step,
                ..call()
            };
            folder.call(Box::new(next), step, &mut out);
        }
        assert_eq!(counts(&out), [1]);
        assert_eq!(folder.next_end_ns(), Some(SECOND));
        folder.end_due(SECOND - 1, &mut out);
        assert_eq!(counts(&out), [1]);
        folder.end_due(SECOND, &mut out);
        assert_eq!(counts(&out), [1, 99]);
        let rest = folded_calls(&out)[1];
        assert_eq!((rest.first_ns, rest.last_ns, rest.stalled_ns), (1001, 1099, 99));
        assert_eq!(folder.next_end_ns(), None);
    }

    #[test]
    fn calls_that_the_kernel_counted_add_up_with_the_others() {
        let mut folder = Folder::new(SECOND);
        let mut out = Vec::new();
        let counted = |count, time_ns, last_ns| {
            Box::new(CallDecision { count, time_ns, last_ns, socket_cookie: 0, ..call() })
        };
        folder.call(counted(1, 5, 5), 0, &mut out);
        folder.call(counted(700, 6, 90), 0, &mut out);
        folder.call(counted(1, 95, 95), 0, &mut out);
        folder.call(counted(40, 91, 99), 0, &mut out);
        folder.end_all(&mut out);
        assert_eq!(counts(&out), [1, 741]);
        let rest = folded_calls(&out)[1];
        assert_eq!((rest.first_ns, rest.last_ns), (6, 99));
        // Of a window of its own, it is told as it is.
        let mut folder = Folder::new(SECOND);
        folder.call(counted(700, 6, 90), 0, &mut out);
        assert_eq!(counts(&out), [1, 741, 700]);
    }

    #[test]
    fn calls_that_differ_in_anything_that_matters_are_not_folded() {
        let changes: [fn(&mut CallDecision); 10] = [
            |call| call.instance = InstanceId::new(77),
            |call| call.outcome = Outcome::Allowed,
            |call| call.reason = Reason::NoTool,
            |call| call.audited_reason = Some(Reason::NoTool),
            |call| call.miss_reason = Some(Reason::NoTool),
            |call| call.tool = Some("other".into()),
            |call| call.grant = None,
            |call| call.hook = agent_enforcer_common::record::Hook::Egress,
            |call| call.generation = Generation::new(99),
            |call| call.destination = Destination::v4(0xc000_0209, 1, 6),
        ];
        let mut folder = Folder::new(SECOND);
        let mut out = Vec::new();
        folder.call(Box::new(call()), 0, &mut out);
        for change in changes {
            let mut other = call();
            change(&mut other);
            folder.call(Box::new(other), 0, &mut out);
        }
        assert_eq!(counts(&out), [1; 11]);
    }

    #[test]
    fn processes_that_share_an_image_are_named_up_to_a_limit() {
        let mut folder = Folder::new(SECOND);
        let mut out = Vec::new();
        for pid in 1..=20 {
            folder.call(Box::new(call_of_pid(pid)), 0, &mut out);
        }
        folder.end_all(&mut out);
        let rest = folded_calls(&out)[1];
        assert_eq!(rest.count, 19);
        assert_eq!(rest.pids, (2..=17).collect::<Vec<_>>());
        assert!(rest.more_pids);
    }

    #[test]
    fn the_oldest_window_ends_when_there_are_too_many() {
        let mut folder = Folder::with_limit(SECOND, 2);
        let mut out = Vec::new();
        let to = |port| {
            let mut call = call();
            call.destination = Destination::v4(0xc000_0201, port, 6);
            Box::new(call)
        };
        for port in [1, 1, 1, 2, 3] {
            folder.call(to(port), 0, &mut out);
        }
        assert_eq!(counts(&out), [1, 1, 2, 1]);
        assert_eq!(folder.calls.len(), 2);
    }

    #[test]
    fn attempts_are_folded_where_they_agree_in_all_that_matters() {
        let mut folder = Folder::new(SECOND);
        let mut out = Vec::new();
        for time_ns in 0..100 {
            folder.attempt(Box::new(Attempt { time_ns, pid: 7, ..attempt() }), time_ns, &mut out);
        }
        let others = [
            Attempt { instance: InstanceId::new(77), ..attempt() },
            Attempt { guard: Guard::Bpf, ..attempt() },
            Attempt { target_pid: 1, ..attempt() },
            Attempt { argument: 99, ..attempt() },
        ];
        for other in others {
            folder.attempt(Box::new(other), 100, &mut out);
        }
        assert_eq!(counts(&out), [1; 5]);
        folder.end_all(&mut out);
        assert_eq!(counts(&out), [1, 1, 1, 1, 1, 99]);
        let Some(Emission::Attempt(rest)) = out.last() else { panic!("no attempt") };
        assert_eq!((rest.first_ns, rest.last_ns), (1, 99));
    }

    #[test]
    fn lost_records_add_up_by_kind() {
        let mut folder = Folder::new(SECOND);
        let mut out = Vec::new();
        folder.records_lost(LostRecords::Denied, 5, 1, &mut out);
        folder.records_lost(LostRecords::Denied, 7, 2, &mut out);
        folder.records_lost(LostRecords::Denied, 8, 3, &mut out);
        folder.records_lost(LostRecords::Process, 1, 3, &mut out);
        assert_eq!(counts(&out), [5, 1]);
        folder.end_due(SECOND + 1, &mut out);
        assert_eq!(counts(&out), [5, 1, 15]);
        folder.end_all(&mut out);
        folder.records_lost(LostRecords::Denied, 2, 4 * SECOND, &mut out);
        assert_eq!(counts(&out), [5, 1, 15, 2]);
    }

    proptest! {
        #[test]
        fn counts_add_up_to_the_calls_whatever_comes(
            steps in proptest::collection::vec((0_u16..12, 0_u64..SECOND / 2, 0_u8..2), 0..400),
            limit in 1_usize..8,
        ) {
            let mut folder = Folder::with_limit(SECOND, limit);
            let mut out = Vec::new();
            let mut now = 0;
            for &(port, pause, allowed) in &steps {
                now += pause;
                let mut call = call();
                call.time_ns = now;
                call.last_ns = now;
                call.destination = Destination::v4(0xc000_0201, port, 6);
                call.outcome = if allowed == 1 { Outcome::Allowed } else { Outcome::Denied };
                folder.call(Box::new(call), now, &mut out);
                prop_assert!(folder.calls.len() <= limit);
            }
            folder.end_all(&mut out);
            prop_assert_eq!(counts(&out).iter().sum::<u64>(), steps.len() as u64);
            for told in folded_calls(&out) {
                let of_it = steps.iter().filter(|&&(port, _, allowed)| {
                    port == told.call.destination.port()
                        && (allowed == 1) == (told.call.outcome == Outcome::Allowed)
                });
                prop_assert!(told.count <= of_it.count() as u64);
                prop_assert!(told.last_ns - told.first_ns < SECOND);
            }
        }
    }
}
