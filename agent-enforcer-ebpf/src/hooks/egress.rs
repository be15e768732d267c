//! cgroup `skb/egress`: every packet of an agent's socket, by where the packet itself goes.
//!
//! Questions, in order: is the socket tagged (a host's socket is not); does the packet go where
//! the tag was decided for, in the generation in force, before its expiry. If so it passes. If
//! not, the flow is judged again with the identity in the tag, which only the call hooks write.
//! Connections that others begin are judged by the address of this host that they call: first when
//! the listener answers (its SYN-ACK), whose tag each of them inherits.
//! TCP packets are dropped with an error that the stack ignores, so it retransmits; datagrams of
//! an open decision are lost without an error.

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_UDP, PeerFamily},
    id::{GrantId, RequestId, ToolId},
    packet::{End, Load, Packet},
    process::ProcessTag,
    reason::Reason,
    record::{CALL_LIVE_FLOW, Hook},
    tag::{FlowState, SocketTag, TAG_ADMITTED, TAG_HELD_LONG, TAG_TOLD},
};
use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock},
    helpers::generated::{bpf_get_socket_cookie, bpf_skb_load_bytes},
    programs::SkBuffContext,
};

use super::call;
use crate::{
    decide::{Answer, Purpose, Refusal, look_up},
    judge::{Judgement, Past, Source, judge},
    maps::{counters, ended, processes, profiles, state, tags},
    report::{self, Case},
    stall::{ASK_AGAIN_NS, Patience},
};

/// A question of this age was not answered soon, ns: its SYN comes twice a second from then on.
const SELDOM_NS: u64 = 250_000_000;
/// `TCP_LISTEN`.
const LISTEN: u32 = 10;

/// What the hook does with a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PacketOutcome {
    /// It goes out.
    Pass,
    /// It is dropped and its sender gets an error.
    Drop,
    /// It is dropped as if this host's queue had no room: datagrams without an error, segments so
    /// that TCP tries again half a second later instead of after twice the last time
    /// (net/ipv4/tcp_timer.c `tcp_retransmit_timer`, 5.1: `TCP_RESOURCE_PROBE_INTERVAL`).
    Lose,
}

struct Skb(*mut __sk_buff);

impl Skb {
    /// # Safety
    ///
    /// Any bytes are a valid `T`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "headers are short")]
    unsafe fn load<T>(&self, offset: u32) -> Option<T> {
        let mut value = core::mem::MaybeUninit::<T>::uninit();
        // SAFETY: the packet of the context and so many bytes of this program's stack, which the
        // helper fills, with zeros where it fails; by the caller.
        unsafe {
            let (into, length) = (value.as_mut_ptr().cast(), size_of::<T>() as u32);
            let result = bpf_skb_load_bytes(self.0.cast(), offset, into, length);
            (result == 0).then_some(value.assume_init())
        }
    }
}

impl Load for Skb {
    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        // SAFETY: bytes.
        unsafe { self.load(offset) }
    }

    #[inline(always)]
    fn words_be<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // SAFETY: integers.
        unsafe { self.load(offset) }
    }
}

/// A packet of which only the headers are read that every one has, where they are (packets of a
/// socket are made with their headers in one piece; of one that is not, nothing is read).
struct PlainHeaders(*mut __sk_buff);

impl Load for PlainHeaders {
    #[inline(always)]
    fn bytes<const N: usize>(&self, _offset: u32) -> Option<[u8; N]> {
        None
    }

    #[inline(always)]
    fn words_be<const N: usize>(&self, offset: u32) -> Option<[u32; N]> {
        // SAFETY: plain fields of the context (net/core/filter.c `cg_skb_is_valid_access`, 5.1).
        let (data, end) = unsafe {
            (
                core::ptr::read_volatile(&raw const (*self.0).data) as usize,
                core::ptr::read_volatile(&raw const (*self.0).data_end) as usize,
            )
        };
        let first = data + offset as usize;
        if first + N * size_of::<u32>() > end {
            return None;
        }
        // SAFETY: within the packet, as just compared; integers.
        Some(unsafe { core::ptr::read_unaligned(first as *const [u32; N]) })
    }
}

#[inline(always)]
pub(crate) fn egress(ctx: &SkBuffContext) -> PacketOutcome {
    let skb = ctx.skb.skb;
    // SAFETY: a plain field of the context.
    let sk: *mut bpf_sock =
        unsafe { core::ptr::read_volatile(&raw const (*skb).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return PacketOutcome::Pass;
    }
    // SAFETY: the socket of the context, just checked. Sockets that are none yet or no more have
    // no storage (net/core/bpf_sk_storage.c `bpf_sk_storage_get` asks `sk_fullsock`).
    let Some(tag) = (unsafe { tags::get(sk) }) else { return PacketOutcome::Pass };
    if is_settled(skb, tag) { PacketOutcome::Pass } else { look_closely(skb) }
}

/// Whether the packet is of the flow that its socket is allowed. A function of its own, as the next:
/// what runs for every packet fits into the instruction cache, and the two never share the stack.
#[inline(never)]
fn is_settled(skb: *mut __sk_buff, tag: &SocketTag) -> bool {
    let end = if was_called(tag) { End::Sender } else { End::Receiver };
    Packet::parse(&PlainHeaders(skb), interface(skb), end)
        .is_ok_and(|packet| call::is_settled(tag, &packet.destination))
}

/// Whether a socket answers those who call it: a listener that did, or what it accepted.
#[inline(always)]
fn was_called(tag: &SocketTag) -> bool {
    tag.destination.family() == PeerFamily::Listen as u8
}

#[inline(always)]
fn interface(skb: *mut __sk_buff) -> u32 {
    // SAFETY: a plain field of the context.
    unsafe { core::ptr::read_volatile(&raw const (*skb).ifindex) }
}

/// A packet that is not settled.
#[inline(never)]
fn look_closely(skb: *mut __sk_buff) -> PacketOutcome {
    // SAFETY: a plain field of the context.
    let sk: *mut bpf_sock =
        unsafe { core::ptr::read_volatile(&raw const (*skb).__bindgen_anon_2.sk) };
    if sk.is_null() {
        return PacketOutcome::Pass;
    }
    // SAFETY: as in `egress`.
    let Some(tag) = (unsafe { tags::get(sk) }) else { return PacketOutcome::Pass };
    // SAFETY: a plain field of that socket (net/core/filter.c `bpf_sock_common_is_valid_access`, 5.1).
    let listens = unsafe { core::ptr::read_volatile(&raw const (*sk).state) } == LISTEN;
    let end = if listens || was_called(tag) { End::Sender } else { End::Receiver };
    let packet = Packet::parse(&Skb(skb), interface(skb), end);
    let mut flow = Flow { skb, tag, listens };
    match packet {
        Ok(packet) => match hide(packet) {
            Some(packet) => flow.check(&packet),
            None => PacketOutcome::Drop,
        },
        Err(reason) => {
            let case = flow.case(Destination::without_peer(0), false);
            refuse(&case, &Refusal::new(reason), Told::No)
        }
    }
}

/// VERIFIER: each way through the headers leaves other constants in the packet, and every one is
/// followed through all that comes after: a million instructions on 6.1, which refuses that. What is
/// hidden is one packet for all ways. `None` cannot be: the word exists.
#[inline(always)]
fn hide(packet: Packet) -> Option<Packet> {
    let zero = state::hidden_zero()?;
    // SAFETY: plain numbers without padding on both sides, of one size.
    let mut words: [u64; 4] = unsafe { core::mem::transmute(packet) };
    for word in &mut words {
        *word = core::hint::black_box(*word ^ zero);
    }
    // SAFETY: the words of a packet.
    Some(unsafe { core::mem::transmute::<[u64; 4], Packet>(words) })
}

/// Whether somebody else tells of a denial.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Yes,
    No,
    /// This listener has had the same denial before: who calls it again and again tells no more.
    Before,
}

/// A tagged socket and the packet that it sends.
struct Flow {
    skb: *mut __sk_buff,
    tag: &'static mut SocketTag,
    /// It is a listener: no flow that could end, each call of it is a new one.
    listens: bool,
}

impl Flow {
    #[inline(always)]
    fn check(&mut self, packet: &Packet) -> PacketOutcome {
        if call::is_settled(self.tag, &packet.destination) {
            return PacketOutcome::Pass;
        }
        let same = self.tag.destination == packet.destination;
        let state = if same { FlowState::from_raw(self.tag.state) } else { None };
        let state = match state {
            Some(FlowState::Ended | FlowState::Denied) if self.listens => None,
            state => state,
        };
        match state {
            // It ended; a new grant is for new calls.
            Some(FlowState::Ended) => {
                if packet.is_bare_reset(&Skb(self.skb)) {
                    PacketOutcome::Pass
                } else {
                    PacketOutcome::Drop
                }
            }
            // A retransmission, no new call: that begins with a connect().
            Some(FlowState::Denied) if !is_udp(&packet.destination) => PacketOutcome::Drop,
            Some(
                FlowState::Fresh | FlowState::Pending | FlowState::Allowed | FlowState::Denied,
            )
            | None => {
                let outcome = self.rejudge(packet.destination, state);
                // The reset of a flow that has just ended is the first packet to find out.
                let ended = self.tag.state == FlowState::Ended as u8;
                if outcome == PacketOutcome::Drop && ended && packet.is_bare_reset(&Skb(self.skb)) {
                    return PacketOutcome::Pass;
                }
                outcome
            }
        }
    }

    #[inline(always)]
    fn rejudge(&mut self, destination: Destination, state: Option<FlowState>) -> PacketOutcome {
        let live = !self.listens && state.is_some() && self.tag.flags & TAG_ADMITTED != 0;
        let pending = state == Some(FlowState::Pending);
        let past = if live {
            Past { purpose: Purpose::LiveFlow, grant: self.tag.grant }
        } else {
            Past::NONE
        };
        let mut case = self.case(destination, live);
        if pending && !is_udp(&destination) {
            case.request = self.tag.request;
            if let Some(reason) = ended::reason(case.request) {
                let (grant, tool) = (GrantId::NONE, ToolId::NONE);
                return self.deny(&case, live, &Refusal { reason, grant, tool }, Told::Yes);
            }
        }
        let asked_ns = report::now_ns().wrapping_sub(self.tag.pending_since_ns);
        if pending && asked_ns < ASK_AGAIN_NS {
            return match look_up(&case, past.purpose) {
                Answer::Allow(permit) => {
                    call::admit(self.tag, &destination, &permit);
                    if permit.is_taken() {
                        report::allowed(&case, &permit);
                    }
                    PacketOutcome::Pass
                }
                Answer::Deny(refusal) => self.deny(&case, live, &refusal, Told::Yes),
                Answer::Unknown { .. } => self.hold_back(&destination, !live, asked_ns),
            };
        }
        let patience = if is_udp(&destination) { Patience::Wait } else { Patience::Ask };
        let profile = profiles::get(&case.tag.agent).unwrap_or(call::NOT_IN_POLICY);
        match judge(&case, profile, past, patience) {
            Judgement::Allow { permit, source } => {
                let told = source == Source::Daemon
                    || live
                    || pending
                    || call::is_told(self.tag, &destination);
                call::admit(self.tag, &destination, &permit);
                self.tag.flags &= !TAG_TOLD;
                if !told || permit.is_taken() {
                    report::allowed(&case, &permit);
                }
                PacketOutcome::Pass
            }
            // The daemon has the question; that it can't be repeated now decides nothing.
            Judgement::Deny { refusal, source: Source::Hook }
                if pending && is_passing(&refusal) =>
            {
                self.hold_back(&destination, !live, asked_ns)
            }
            Judgement::Deny { refusal, source } => {
                let told = match source {
                    Source::Daemon => Told::Yes,
                    Source::Map if pending => Told::Yes,
                    Source::Map | Source::Hook => Told::No,
                };
                self.deny(&case, live, &refusal, told)
            }
            Judgement::Open(request) => {
                if !live {
                    self.tag.grant = GrantId::NONE;
                    self.tag.flags &= !TAG_ADMITTED;
                }
                call::hold(self.tag, &destination, request);
                self.hold_back(&destination, pending && !live, asked_ns)
            }
            Judgement::Watched => {
                call::watch(self.tag, &destination);
                PacketOutcome::Pass
            }
        }
    }

    /// What holds a packet back. A SYN that is sent `again` and has become seldom is brought back sooner
    /// than after twice the time, as long as it has retransmissions left: its caller learns of the
    /// answer only with one.
    #[inline(always)]
    fn hold_back(&self, destination: &Destination, again: bool, asked_ns: u64) -> PacketOutcome {
        let seldom = again && asked_ns >= SELDOM_NS && self.tag.flags & TAG_HELD_LONG == 0;
        if seldom || is_udp(destination) { PacketOutcome::Lose } else { PacketOutcome::Drop }
    }

    #[inline(always)]
    fn deny(
        &mut self,
        case: &Case<false>,
        live: bool,
        refusal: &Refusal,
        told: Told,
    ) -> PacketOutcome {
        let held = self.tag.state == FlowState::Pending as u8;
        let told = if self.has_told(case, refusal) { Told::Before } else { told };
        call::aim(self.tag, &case.destination);
        self.tag.generation = state::generation();
        self.tag.reason = refusal.reason;
        self.tag.state = if live { FlowState::Ended } else { FlowState::Denied } as u8;
        let outcome = refuse(case, refusal, told);
        if outcome == PacketOutcome::Drop && held && !live && !is_udp(&case.destination) {
            return PacketOutcome::Lose;
        }
        outcome
    }

    /// Whether a listener's last denial was the same.
    #[inline(always)]
    fn has_told(&self, case: &Case<false>, refusal: &Refusal) -> bool {
        let tag = &self.tag;
        self.listens
            && tag.state == FlowState::Denied as u8
            && tag.reason == refusal.reason
            && tag.generation == state::generation()
            && tag.destination == case.destination
    }

    #[inline(always)]
    fn case(&self, destination: Destination, live: bool) -> Case<false> {
        let known = processes::get(self.tag.tgid).filter(|tag| tag.exec == self.tag.exec);
        let tag = known.unwrap_or(ProcessTag {
            instance: self.tag.instance,
            exec: self.tag.exec,
            start_ns: 0,
            exe_inode: 0,
            exe_device: 0,
            agent: self.tag.agent,
        });
        Case {
            tag,
            destination,
            // SAFETY: the packet of the context (4.12).
            socket_cookie: unsafe { bpf_get_socket_cookie(self.skb.cast()) },
            netns_cookie: self.tag.netns_cookie,
            request: RequestId::NONE,
            tgid: self.tag.tgid,
            hook: Hook::Egress,
            flags: if live { CALL_LIVE_FLOW } else { 0 },
            _pad: 0,
        }
    }
}

#[inline(always)]
fn refuse(case: &Case<false>, refusal: &Refusal, told: Told) -> PacketOutcome {
    if call::is_audited(case.tag.agent) {
        report::audited(case, refusal);
        return PacketOutcome::Pass;
    }
    match told {
        Told::Before => counters::count_reason(refusal.reason),
        Told::Yes if is_udp(&case.destination) => counters::count_reason(refusal.reason),
        Told::Yes => report::flow_denied(case, refusal),
        Told::No => report::denied(case, refusal),
    }
    PacketOutcome::Drop
}

/// Whether a question was refused only for the load of this moment.
#[inline(always)]
fn is_passing(refusal: &Refusal) -> bool {
    refusal.reason == Reason::RateLimited.raw() || refusal.reason == Reason::RingFull.raw()
}

#[inline(always)]
fn is_udp(destination: &Destination) -> bool {
    destination.protocol() == PROTOCOL_UDP
}
