//! Callers that the kernel side has stopped: whose they are, and who is continued when.
//!
//! A stopped caller belongs to its waiting call, and goes on when that call leaves the pending ones:
//! its answer is in the maps by then. It makes its call once more, and asks again where there is no
//! answer, so continuing one too often does no harm; forgetting one would stop it for good.

use agent_enforcer_common::{
    id::RequestId,
    park::ParkedCall,
    record::{CallRecord, ProcessFacts},
};

use super::{Engine, pending::GroupKey};
use crate::{
    host::Plane,
    resolver::attestation::stopped::{Stopped, StoppedError, is_stopped},
};

/// A caller that was stopped for so long, and waits for nothing, was forgotten: its record was lost,
/// or it is of a daemon that died. ns.
const FORGOTTEN_NS: u64 = 1_000_000_000;

/// A stopped caller and what it asks.
#[derive(Debug)]
pub(super) struct Parked {
    pub(super) request: RequestId,
    _process: Stopped,
}

impl Engine {
    /// A caller was stopped; its question came before.
    pub(super) fn on_parked(&mut self, record: &CallRecord) {
        let ProcessFacts { tgid, start_ns, .. } = record.process;
        let process = match Stopped::of(tgid, start_ns) {
            Ok(process) => process,
            Err(StoppedError::Proc(error)) => {
                tracing::debug!(pid = tgid, %error, "a stopped caller is gone");
                return;
            }
            Err(error @ StoppedError::Pidfd(_)) => {
                // Looked after by `continue_forgotten`.
                tracing::error!(pid = tgid, %error, "a stopped caller can't be kept");
                return;
            }
        };
        let key = GroupKey::of(record);
        // Without a waiting call there is an answer, or nobody to give one: it goes on at once.
        if !self.has_offer(&key)
            && let Some(call) = self.pending.call_mut(&key, record)
        {
            call.parked.push(Parked { request: record.request, _process: process });
        }
    }

    /// Continues who was stopped and waits for nothing here. At the start that is everybody.
    pub(super) fn continue_forgotten(&mut self, now_ns: u64) {
        if self.plane == Plane::Cgroup {
            return;
        }
        let entries: Vec<(u64, ParkedCall)> =
            self.processes.parked.iter().filter_map(Result::ok).collect();
        for (thread, call) in entries {
            if call.since_ns + FORGOTTEN_NS > now_ns || self.pending.has_parked(call.request) {
                continue;
            }
            let tgid = high_half(thread);
            // Whoever runs has seen its answer, or is gone; who was stopped by somebody else and
            // waits for nothing here can't be told apart from one that was forgotten.
            if is_stopped(tgid, low_half(thread)).is_ok_and(|stopped| stopped)
                && let Ok(forgotten) = Stopped::of(tgid, call.start_ns)
            {
                tracing::warn!(pid = tgid, "a stopped caller that waits for nothing is continued");
                drop(forgotten);
            }
            if let Err(error) = self.processes.parked.remove(&thread) {
                tracing::debug!(pid = tgid, %error, "it went by itself");
            }
        }
    }
}

const fn high_half(word: u64) -> u32 {
    low_half(word >> 32)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
const fn low_half(word: u64) -> u32 {
    word as u32
}
