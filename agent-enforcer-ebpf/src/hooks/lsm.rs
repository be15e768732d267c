//! Hooks of the LSM plane that are about sockets.
//!
//! IP destinations are judged by the cgroup hooks on both planes: here an undecided call of a blocking
//! caller only waits for that judgement, stopped. What these hooks never see (unix sockets, vsock,
//! families other than INET) is judged here, by the same tables and the same daemon.
//!
//! The programs do not sleep: those that may can't use the prefix trie (kernel/bpf/verifier.c
//! `check_map_prog_compatibility`), and none waits longer than the cgroup hooks do.

pub(crate) mod connect;
pub(crate) mod create;
pub(crate) mod receive;
pub(crate) mod sendmsg;
pub(crate) mod unix;

use agent_enforcer_common::{
    config::{AgentProfile, PROFILE_AUDIT, PROFILE_DENY_ON_MISS},
    destination::Destination,
    id::{GrantId, RequestId},
    process::ProcessTag,
    reason::Reason,
    record::Hook,
    tag::{FlowState, SocketTag},
};
use aya_ebpf::{bindings::bpf_sock, helpers::generated::bpf_get_socket_cookie};

use super::call::{self, CallOutcome, NOT_IN_POLICY, PROFILE_UNKNOWN};
use crate::{
    decide::{Answer, Purpose, Refusal, look_up},
    judge::{Judgement, Past, Source, judge},
    kernel::{Address, sock::Sock},
    maps::{
        ended, parked,
        processes::{self, Standing},
        profiles, tags,
    },
    park::{self, Parked},
    report::{self, Case},
    stall::{self, ASK_AGAIN_NS, Patience},
};

/// What a hook of the LSM plane does.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum LsmOutcome {
    /// The call goes on.
    Pass,
    /// The call fails with `EACCES`.
    Deny,
    /// The call fails with `EAGAIN`: the decision is open.
    TryAgain,
    /// The caller is stopped, and makes the call once more when it is continued.
    Restart,
}

impl From<CallOutcome> for LsmOutcome {
    #[inline(always)]
    fn from(outcome: CallOutcome) -> Self {
        match outcome {
            CallOutcome::Pass => Self::Pass,
            CallOutcome::Deny | CallOutcome::Nobody => Self::Deny,
            CallOutcome::TryAgain => Self::TryAgain,
        }
    }
}

/// Whether the caller may be stopped until its call is decided.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Caller {
    Blocks,
    MustNotWait,
}

/// The calling process, where it is an agent's.
pub(crate) enum Who {
    Stranger,
    Agent(u32, ProcessTag),
    /// An agent's that found no room.
    Untracked(u32),
}

#[inline(always)]
pub(crate) fn caller() -> Who {
    let tgid = processes::current_tgid();
    match processes::standing(tgid) {
        Standing::Stranger | Standing::Daemon => Who::Stranger,
        Standing::Agent(tag) => Who::Agent(tgid, tag),
        Standing::Untracked => Who::Untracked(tgid),
    }
}

/// Denies everything of a process that found no room.
#[inline(always)]
pub(crate) fn deny_untracked(destination: Destination, tgid: u32, hook: Hook) -> LsmOutcome {
    let case = Case::of_process(destination, tgid, ProcessTag::default(), hook);
    call::deny(&case, &Refusal::new(Reason::ProcessTableFull), false).into()
}

/// Judges a call that no other hook judges.
#[inline(always)]
pub(crate) fn settle(case: &mut Case<true>, patience: Patience, caller: Caller) -> LsmOutcome {
    let thread = processes::current_thread();
    let parked = resume(case, thread);
    if let Some(reason) = parked.and_then(ended::reason) {
        parked::remove(thread);
        return told(case, reason);
    }
    let profile = profiles::get(&case.tag.agent).unwrap_or(NOT_IN_POLICY);
    let outcome = match judge(case, profile, Past::NONE, patience) {
        Judgement::Allow { permit, source } => {
            let told = source == Source::Daemon || parked.is_some();
            if !told || permit.is_taken() {
                report::allowed(case, &permit);
            }
            LsmOutcome::Pass
        }
        Judgement::Deny { refusal, source } => {
            let told = source == Source::Daemon || parked.is_some() && source == Source::Map;
            call::deny(case, &refusal, told).into()
        }
        Judgement::Open(request) => return stop(case, request, caller),
        Judgement::Watched => LsmOutcome::Pass,
    };
    if parked.is_some() {
        parked::remove(thread);
    }
    outcome
}

/// Has the daemon decide an IP destination before the hook that judges it is reached, and stops the
/// caller meanwhile.
#[inline(always)]
pub(crate) fn decide_first(
    case: &mut Case<true>,
    profile: AgentProfile,
    tag: &mut SocketTag,
    caller: Caller,
) -> LsmOutcome {
    const LEFT: u32 = PROFILE_UNKNOWN | PROFILE_AUDIT | PROFILE_DENY_ON_MISS;
    if profile.flags & LEFT != 0 {
        return LsmOutcome::Pass;
    }
    let thread = processes::current_thread();
    let parked = resume(case, thread);
    if let Some(reason) = parked.and_then(ended::reason) {
        parked::remove(thread);
        return told(case, reason);
    }
    let attested = match look_up(case, Purpose::Peek) {
        Answer::Unknown { attested } => attested,
        answer @ (Answer::Allow(_) | Answer::Deny(_)) => {
            if parked.is_some() {
                parked::remove(thread);
                match answer {
                    Answer::Deny(refusal) => return told(case, refusal.reason),
                    Answer::Allow(_) | Answer::Unknown { .. } => {
                        call::note_told(tag, case.tgid, &case.tag, &case.destination);
                    }
                }
            }
            return LsmOutcome::Pass;
        }
    };
    // An open decision is asked for once, however often somebody who must not wait tries.
    let asked = tag.state == FlowState::Pending as u8
        && tag.destination == case.destination
        && tag.exec == case.tag.exec
        && report::now_ns().wrapping_sub(tag.pending_since_ns) < ASK_AGAIN_NS;
    if caller == Caller::MustNotWait && asked {
        return LsmOutcome::TryAgain;
    }
    let request = match stall::publish(case, GrantId::NONE, attested) {
        Ok(request) => request,
        Err(reason) => return call::deny(case, &Refusal::new(reason), false).into(),
    };
    if !stall::wait(case) {
        call::claim(tag, case.tgid, &case.tag);
        call::hold(tag, &case.destination, request);
        return stop(case, request, caller);
    }
    match look_up(case, Purpose::Peek) {
        Answer::Allow(_) => call::note_told(tag, case.tgid, &case.tag, &case.destination),
        Answer::Deny(refusal) => return told(case, refusal.reason),
        Answer::Unknown { .. } => {}
    }
    LsmOutcome::Pass
}

/// A caller that was stopped for this very call asks under the same number again.
#[inline(always)]
fn resume(case: &mut Case<true>, thread: u64) -> Option<RequestId> {
    let parked = parked::get(thread)?;
    let same = parked.destination == case.destination && parked.start_ns == case.tag.start_ns;
    if !same {
        return None;
    }
    case.request = parked.request;
    Some(parked.request)
}

/// Denies for what the daemon has told already.
#[inline(always)]
fn told(case: &Case<true>, reason: u16) -> LsmOutcome {
    let refusal = Refusal { reason, ..Refusal::new(Reason::None) };
    call::deny(case, &refusal, true).into()
}

#[inline(always)]
fn stop(case: &Case<true>, request: RequestId, caller: Caller) -> LsmOutcome {
    if caller == Caller::MustNotWait || !park::is_possible() {
        return LsmOutcome::TryAgain;
    }
    match park::park(case, request) {
        Parked::Stopped => LsmOutcome::Restart,
        Parked::Failed => call::deny(case, &Refusal::new(Reason::Internal), false).into(),
    }
}

/// Notes which socket a case is about.
///
/// # Safety
///
/// `sk` is what the kernel gave the program, and not null.
#[inline(always)]
pub(crate) unsafe fn about(case: &mut Case<true>, sk: *mut bpf_sock) {
    // SAFETY: by the caller (5.12 for pointers to a `sock`).
    case.socket_cookie = unsafe { bpf_get_socket_cookie(sk.cast()) };
    case.netns_cookie = Sock::new(Address::new(sk as u64)).netns_cookie().unwrap_or_default();
}

/// The tag of a socket, made this process's where it came from elsewhere: inherited, passed, or
/// taken. Its next packet is judged as this process's, whatever was decided for whoever had it
/// before. `None` where it can't be noted.
///
/// # Safety
///
/// As [`about`].
#[inline(always)]
pub(crate) unsafe fn adopt(
    sk: *mut bpf_sock,
    tgid: u32,
    process: &ProcessTag,
) -> Option<&'static mut SocketTag> {
    // SAFETY: by the caller.
    let tag = unsafe { tags::get_or_create(sk) }?;
    if tag.instance != process.instance {
        take(tag, tgid, process);
    }
    Some(tag)
}

/// Writes that a socket is this process's, and nothing of it decided.
#[inline(always)]
pub(crate) fn take(tag: &mut SocketTag, tgid: u32, process: &ProcessTag) {
    call::claim(tag, tgid, process);
    tag.state = FlowState::Fresh as u8;
}
