//! The stall: ask the daemon, and wait in the hook for the answer as long as that is cheap.
//!
//! What comes after the wait (holding back packets, `EAGAIN`) is the hook's business. Nothing
//! here allows anything: an answer is looked up again in the verdict maps like any other, so it
//! belongs to the destination and never to the pending call.

use core::ffi::c_void;

use agent_enforcer_common::{
    config::StateWord,
    id::{GrantId, InstanceId, RequestId},
    peer::FoundSocket,
    reason::Reason,
    record::Counter,
    verdict::VerdictKey,
};
use aya_ebpf::helpers::generated::bpf_loop;

use crate::{
    decide::{Answer, Permit, Purpose, Refusal, look_up},
    kernel::sock::UnixName,
    maps::{counters, found, instances, state, verdicts},
    report::{self, Case},
    settings,
};

/// A question that was not answered for so long is asked again, ns.
pub(crate) const ASK_AGAIN_NS: u64 = 1_000_000_000;

/// How many times longer a call waits that fails where no answer comes.
const LONG_WAIT: u32 = 64;
/// `BPF_MAX_LOOPS` (include/linux/bpf.h).
const MOST_TURNS: u32 = 1 << 23;

/// Whether the hook may spin for the answer: not for a packet that may be sent from a timer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    Wait,
    Ask,
    /// A call that can be neither held nor stopped: until the daemon says that somebody has to decide.
    UntilOpen,
}

/// What came of asking.
pub(crate) enum Asked {
    /// The daemon lets the call go ahead.
    Allowed(Permit),
    /// The daemon denies it.
    Denied(Refusal),
    /// It could not be asked: the call is denied.
    Refused(Reason),
    /// The decision is open; the question's number.
    Open(RequestId),
}

/// Asks.
#[inline(always)]
pub(crate) fn ask<const CURRENT: bool>(
    case: &Case<CURRENT>,
    purpose: Purpose,
    patience: Patience,
    grant: GrantId,
    attested: bool,
) -> Asked {
    let request = match publish(case, grant, attested) {
        Ok(request) => request,
        Err(reason) => return Asked::Refused(reason),
    };
    let answered = match patience {
        Patience::Ask => false,
        Patience::Wait => wait(case),
        Patience::UntilOpen => wait_until_open(case, request),
    };
    if !answered {
        return Asked::Open(request);
    }
    match look_up(case, purpose) {
        // Another call took an answer that admits one.
        Answer::Unknown { .. } => Asked::Open(request),
        Answer::Allow(permit) => {
            counters::count(Counter::AnsweredInHook);
            Asked::Allowed(permit)
        }
        Answer::Deny(refusal) => {
            counters::count(Counter::AnsweredInHook);
            Asked::Denied(refusal)
        }
    }
}

/// Asks, and waits for nothing. The question's number, or why it could not be asked.
#[inline(always)]
pub(crate) fn publish<const CURRENT: bool>(
    case: &Case<CURRENT>,
    grant: GrantId,
    attested: bool,
) -> Result<RequestId, Reason> {
    let now_ns = report::now_ns();
    if !state::daemon_alive(now_ns) {
        return Err(Reason::DaemonDown);
    }
    if !instances::may_ask(case.tag.instance, now_ns) {
        return Err(Reason::RateLimited);
    }
    let request = report::ask(case, grant, attested);
    if request.is_none() { Err(Reason::RingFull) } else { Ok(request) }
}

struct Watch {
    key: VerdictKey,
    answered: bool,
}

/// Polls for the answer; false when it did not come within the budget, or when too many calls
/// already wait (each keeps a CPU busy that the daemon may need).
#[inline(always)]
pub(crate) fn wait<const CURRENT: bool>(case: &Case<CURRENT>) -> bool {
    let mut watch = Watch::of(case);
    let turns = settings::limits().wait_turns;
    poll(watch_one, (&raw mut watch).cast(), Turns { alone: turns, beside_others: 0 });
    watch.answered
}

impl Watch {
    #[inline(always)]
    const fn of<const CURRENT: bool>(case: &Case<CURRENT>) -> Self {
        let key = VerdictKey { exec: case.tag.exec, destination: case.destination };
        Self { key, answered: false }
    }
}

/// How often one looks, at most.
struct Turns {
    alone: u32,
    /// When too many wait already.
    beside_others: u32,
}

impl Turns {
    /// Of a call that fails where no answer comes: long enough for a daemon that has to wait for a
    /// processor.
    #[inline(always)]
    fn long() -> Self {
        let turns = settings::limits().wait_turns;
        Self { alone: turns.saturating_mul(LONG_WAIT).min(MOST_TURNS), beside_others: turns }
    }
}

/// Calls `look` until it returns 1, within the budget.
#[inline(always)]
fn poll(look: extern "C" fn(u64, *mut c_void) -> u64, context: *mut c_void, turns: Turns) {
    let Turns { alone, beside_others } = turns;
    if alone == 0 {
        return;
    }
    let waiting = state::fetch_add(StateWord::Waiters, 1);
    let is_alone = waiting < u64::from(settings::limits().waiters);
    let turns = if is_alone { alone } else { beside_others };
    if turns != 0 {
        // SAFETY: the callback has the signature that the helper demands (5.17), and the caller's
        // context outlives it.
        unsafe {
            bpf_loop(turns, look as *mut c_void, context, 0);
        }
    }
    state::subtract(StateWord::Waiters, 1);
}

struct OpenWatch {
    watch: Watch,
    request: u64,
    open: bool,
}

/// As [`wait`], but for longer, unless the daemon says that the decision is open.
#[inline(always)]
fn wait_until_open<const CURRENT: bool>(case: &Case<CURRENT>, request: RequestId) -> bool {
    let mut watch = OpenWatch { watch: Watch::of(case), request: request.get(), open: false };
    poll(watch_until_open, (&raw mut watch).cast(), Turns::long());
    found::remove(watch.request);
    watch.watch.answered
}

/// As [`watch_one`].
extern "C" fn watch_until_open(_turn: u64, context: *mut c_void) -> u64 {
    // SAFETY: the context is the caller's `OpenWatch`.
    let watch = unsafe { &mut *context.cast::<OpenWatch>() };
    let mut permit = Permit::NONE;
    watch.watch.answered =
        verdicts::exact(&watch.watch.key, state::generation(), &mut permit).is_some();
    watch.open = found::get(watch.request).is_some();
    u64::from(watch.watch.answered || watch.open)
}

/// One look. Returns 1 to stop.
extern "C" fn watch_one(_turn: u64, context: *mut c_void) -> u64 {
    // SAFETY: the context is the caller's `Watch`.
    let watch = unsafe { &mut *context.cast::<Watch>() };
    let mut permit = Permit::NONE;
    watch.answered = verdicts::exact(&watch.key, state::generation(), &mut permit).is_some();
    u64::from(watch.answered)
}

/// What the daemon says of a path.
pub(crate) enum Path {
    Found(FoundSocket),
    /// It has not said it yet.
    Open,
    /// It could not be asked: the call is denied.
    Refused(Reason),
}

struct PathWatch {
    token: u64,
    found: FoundSocket,
}

/// Asks where a path leads that the current thread has called, and waits for the answer.
#[inline(always)]
pub(crate) fn ask_path(instance: InstanceId, name: UnixName) -> Path {
    let now_ns = report::now_ns();
    if !state::daemon_alive(now_ns) {
        return Path::Refused(Reason::DaemonDown);
    }
    if !instances::may_ask(instance, now_ns) {
        return Path::Refused(Reason::RateLimited);
    }
    let found = FoundSocket { token: 0, inode: 0, device: 0, state: 0 };
    let mut watch = PathWatch { token: state::next_id(), found };
    if !report::path(watch.token, name) {
        return Path::Refused(Reason::RingFull);
    }
    poll(watch_path, (&raw mut watch).cast(), Turns::long());
    found::remove(watch.token);
    if watch.found.state == 0 { Path::Open } else { Path::Found(watch.found) }
}

/// As [`watch_one`].
extern "C" fn watch_path(_turn: u64, context: *mut c_void) -> u64 {
    // SAFETY: the context is the caller's `PathWatch`.
    let watch = unsafe { &mut *context.cast::<PathWatch>() };
    let Some(found) = found::get(watch.token) else { return 0 };
    watch.found = found;
    1
}
