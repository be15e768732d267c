//! cgroup `sock_ops`: a held SYN is retransmitted after one jiffy, so that an answer that comes a
//! little late costs a little time.

use agent_enforcer_common::tag::FlowState;
use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_TIMEOUT_INIT, bpf_sock},
    programs::SockOpsContext,
};

use crate::maps::tags;

/// First retransmission time-out of a held SYN, jiffies.
const HELD_SYN_TIMEOUT: u32 = 1;

#[inline(always)]
pub(crate) fn sock_ops(ctx: &SockOpsContext) {
    if ctx.op() != BPF_SOCK_OPS_TIMEOUT_INIT {
        return;
    }
    // SAFETY: a plain field of the context.
    let sk: *mut bpf_sock =
        unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return;
    }
    // SAFETY: the socket of the context, just checked.
    if let Some(tag) = unsafe { tags::get(sk) }
        && tag.state == FlowState::Pending as u8
    {
        ctx.set_reply(HELD_SYN_TIMEOUT);
    }
}
