//! LSM `file_receive`: a socket that is passed to an agent's process is that process's from then on.
//! (`socket_sendmsg` sees it as well, but `splice` and `sendfile` do not call it before 6.5.)

use agent_enforcer_common::{destination::Destination, reason::Reason, record::Hook};
use aya_ebpf::{bindings::file, helpers::generated::bpf_sock_from_file, programs::LsmContext};

use super::{LsmOutcome, Who, adopt, caller};
use crate::{
    decide::Refusal,
    hooks::call,
    kernel::{
        Address,
        sock::{AF_INET, AF_INET6, Sock, sk_of},
    },
    report::Case,
};

/// `(struct file *file)`
#[inline(always)]
pub(crate) fn receive(ctx: &LsmContext) -> LsmOutcome {
    let Who::Agent(tgid, process) = caller() else { return LsmOutcome::Pass };
    // SAFETY: the hook's argument (5.11); null where it is no socket.
    let socket = unsafe { bpf_sock_from_file(ctx.arg::<*mut file>(0)) };
    if socket.is_null() {
        return LsmOutcome::Pass;
    }
    // SAFETY: a socket, not null.
    let Some(sk) = (unsafe { sk_of(socket.cast()) }) else { return LsmOutcome::Pass };
    let family = Sock::new(Address::new(sk as u64)).family();
    match family {
        Some(AF_INET | AF_INET6) => {}
        Some(_) => return LsmOutcome::Pass,
        None => return LsmOutcome::Deny,
    }
    // SAFETY: as above.
    if unsafe { adopt(sk, tgid, &process) }.is_some() {
        return LsmOutcome::Pass;
    }
    let destination = Destination::socket(u32::from(family.unwrap_or(AF_INET)));
    let case = Case::of_process(destination, tgid, process, Hook::LsmSendmsg);
    call::deny(&case, &Refusal::new(Reason::TagFailed), false).into()
}
