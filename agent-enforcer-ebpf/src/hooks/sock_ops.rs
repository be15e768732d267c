//! cgroup `sock_ops`: the timers of a held connection, in cgroups that have some.
//!
//! A held SYN is retransmitted after one jiffy, so that an answer that comes a little late costs
//! a little time. There are many of them while the decision is open. With each one after that the
//! number of all is set: so that the usual ones are still to come where the flow is allowed, few
//! where it is denied, one where nobody is left to decide. So a caller learns of its denial even where
//! its socket is never reset: it is not found, the wish found no room in the ring, the daemon died.
//! (net/ipv4/tcp_timer.c `tcp_write_timeout` compares first, then calls this, then sends: what is set
//! here counts from the next time-out on, and the segment is judged after it.)

use agent_enforcer_common::{
    destination::PROTOCOL_TCP,
    tag::{FlowState, TAG_HELD_LONG},
};
use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_RTO_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_TIMEOUT_INIT, bpf_sock,
    },
    programs::SockOpsContext,
};

use super::call::set_option;
use crate::{
    maps::{ended, state, tags},
    report,
};

const TCP_SYNCNT: i32 = 7;
/// First retransmission time-out of a held SYN, jiffies.
const HELD_SYN_TIMEOUT: u32 = 1;
/// Retransmissions of a held SYN: as many as there can be (include/net/tcp.h `MAX_TCP_SYNCNT`).
const HELD_SYN_RETRIES: u32 = 127;
/// Those that may come twice a second, for some 45 seconds (`hooks/egress.rs` `hold_back`). The rest
/// double their interval up to two minutes: more than half an hour, longer than people are asked.
const SOON_RETRIES: u32 = 100;
/// Retransmissions of a SYN that is denied, from its first on: as they double from one jiffy, the
/// daemon has some seconds for the reset; what was held for longer ends half a second after the
/// retransmission that finds the denial (`hooks/egress.rs` `deny`).
const DENIED_RETRIES: u32 = 10;
/// Retransmissions of a SYN that goes out (net/ipv4/tcp.h `TCP_SYN_RETRIES`).
const SYN_RETRIES: u32 = 6;

#[inline(always)]
pub(crate) fn sock_ops(ctx: &SockOpsContext) {
    let op = ctx.op();
    if op != BPF_SOCK_OPS_TIMEOUT_INIT && op != BPF_SOCK_OPS_RTO_CB {
        return;
    }
    // SAFETY: a plain field of the context.
    let sk: *mut bpf_sock =
        unsafe { core::ptr::read_volatile(&raw const (*ctx.ops).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return;
    }
    // SAFETY: the socket of the context, just checked.
    let Some(tag) = (unsafe { tags::get(sk) }) else { return };
    let pending = tag.state == FlowState::Pending as u8;
    if op == BPF_SOCK_OPS_TIMEOUT_INIT {
        if pending {
            // Without it the caller waits longer, and nothing else changes.
            let _ = ctx.set_cb_flags((ctx.cb_flags() | BPF_SOCK_OPS_RTO_CB_FLAG).cast_signed());
            ctx.set_reply(HELD_SYN_TIMEOUT);
            set_retries(ctx, HELD_SYN_RETRIES);
        }
        return;
    }
    let alive = state::daemon_alive(report::now_ns());
    if pending && alive && ended::reason(tag.request).is_none() {
        if ctx.arg(0) >= SOON_RETRIES {
            tag.flags |= TAG_HELD_LONG;
        }
        return;
    }
    let mut retries = if alive { DENIED_RETRIES } else { 1 };
    if tag.state == FlowState::Allowed as u8 {
        retries = ctx.arg(0).saturating_add(SYN_RETRIES);
        let _ = ctx.set_cb_flags((ctx.cb_flags() & !BPF_SOCK_OPS_RTO_CB_FLAG).cast_signed());
    }
    set_retries(ctx, retries);
}

#[inline(always)]
fn set_retries(ctx: &SockOpsContext, mut retries: u32) {
    // SAFETY: the context of this hook (5.8: `TCP_SYNCNT`).
    unsafe { set_option(ctx.ops.cast(), i32::from(PROTOCOL_TCP), TCP_SYNCNT, &mut retries) };
}
