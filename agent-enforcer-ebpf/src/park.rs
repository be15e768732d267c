//! Parking: the caller is stopped, and makes its call anew once the daemon continues it.
//!
//! In: a call whose decision is open. Out: a stopped process, and a record that tells the daemon of
//! it. The order matters: the record is reserved, the signal sent, the record published; a daemon
//! that answers at once continues a caller that is stopped already, or about to be. The system call
//! is restarted by the kernel (kernel/signal.c, arch/x86/kernel/signal.c `-ERESTARTNOINTR`), reads
//! its arguments again, and finds the answer; whoever else continues it finds it undecided still.

use agent_enforcer_common::{id::RequestId, park::ParkedCall, record::Counter};
use aya_ebpf::helpers::generated::bpf_send_signal_thread;

use crate::{
    kernel::task::current_syscall,
    maps::{counters, parked, processes, ring},
    report::{self, Case},
};

/// `SIGSTOP`, the same on all architectures but MIPS.
const SIGSTOP: u32 = 19;

/// What came of stopping.
pub(crate) enum Parked {
    /// The process stops on its way out of the system call, which has to be restarted.
    Stopped,
    /// It can't be stopped, or nobody would know.
    Failed,
}

/// Whether the current system call is one that may be restarted: the error that asks for it must
/// never be seen by a program, as it would be through `io_uring`.
#[inline(always)]
pub(crate) fn is_possible() -> bool {
    /// x86-64: `write`, `writev`, `sendfile`, `socket`, `connect`, `sendto`, `sendmsg`, `sendmmsg`.
    const RESTARTABLE: [u64; 8] = [1, 20, 40, 41, 42, 44, 46, 307];
    let Some(number) = current_syscall() else { return false };
    let mut restartable = false;
    for one in RESTARTABLE {
        restartable |= number == one;
    }
    restartable
}

/// Stops the current process until its question is answered.
///
/// The signal is for this thread, so that no other takes it and lets this one return to its program
/// with the error (`bpf_send_signal_thread`, 5.5); it stops all of them.
#[inline(always)]
pub(crate) fn park(case: &Case<true>, request: RequestId) -> Parked {
    let Some(entry) = report::parked(case, request) else { return fail() };
    let call = ParkedCall {
        destination: case.destination,
        request,
        since_ns: report::now_ns(),
        start_ns: case.tag.start_ns,
    };
    if !parked::insert(processes::current_thread(), &call) {
        ring::discard(entry);
        return fail();
    }
    // SAFETY: no pointers.
    if unsafe { bpf_send_signal_thread(SIGSTOP) } != 0 {
        ring::discard(entry);
        parked::remove(processes::current_thread());
        return fail();
    }
    ring::submit(entry);
    counters::count(Counter::Parked);
    Parked::Stopped
}

#[inline(always)]
fn fail() -> Parked {
    counters::count(Counter::ParkFailed);
    Parked::Failed
}
