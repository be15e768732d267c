//! Decisions in the form that the kernel programs look up.

use crate::{
    destination::Destination,
    id::{AgentId, ExecId, Generation, GrantId, InstanceId, ToolId},
};

/// What a verdict does with a call. Append-only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// The call goes ahead.
    Allow = 1,
    /// The call fails with `EACCES`.
    Deny = 2,
}

impl Action {
    /// The action of a number from a map.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Allow),
            2 => Some(Self::Deny),
            _ => None,
        }
    }
}

/// [`Verdict::flags`]: the verdict admits one call and is taken away by it.
pub const VERDICT_ONCE: u8 = 1;
/// [`Verdict::flags`]: the verdict lets an admitted flow go on, and admits no new call.
pub const VERDICT_FLOW_ONLY: u8 = 2;
/// [`Verdict::flags`]: the agent's profile names a mark for its sockets.
pub const VERDICT_MARKS: u8 = 4;

/// Key of the exact-match verdict cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct VerdictKey {
    /// Who asks.
    pub exec: ExecId,
    /// For what.
    pub destination: Destination,
}

/// Value of the exact-match verdict cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Verdict {
    /// The question that it answers, once more: the kernel reuses elements while they are read.
    pub key: VerdictKey,
    /// Valid in this generation only.
    pub generation: Generation,
    /// Valid before this moment, ns of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// The grant that allows it, or none.
    pub grant: GrantId,
    /// The tool that the destination belongs to, or none.
    pub tool: ToolId,
    /// [`crate::reason::Reason`].
    pub reason: u16,
    /// [`Action`].
    pub action: u8,
    /// `VERDICT_*`.
    pub flags: u8,
    /// Slot of the [`crate::tally::Tally`] that counts its calls; 0: each is recorded.
    pub tally: u32,
    /// Zero.
    pub _pad: u32,
}

/// Ranges of one allowed prefix; a prefix that needs more is marked [`PortTable::truncated`].
pub const PORT_RULES: usize = 16;

/// One allowed range of ports below an allowed prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PortRule {
    /// Valid before this moment, ns of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// The grant that allows it, or none (standing).
    pub grant: GrantId,
    /// The tool.
    pub tool: ToolId,
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// Value of the prefix table: everything allowed at addresses whose longest prefix this is
/// (shorter prefixes are folded in by the daemon, as only the longest one is found).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortTable {
    /// Rules in use.
    pub length: u32,
    /// Not 0: there are more rules than fit, so a miss here must be asked.
    pub truncated: u32,
    /// The rules.
    pub rules: [PortRule; PORT_RULES],
}

/// Bits of a prefix key before its address.
pub const PREFIX_FIXED_BITS: u32 = 24 * 8;

/// Key data of the prefix table (behind the trie's own `u32` prefix length).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct PrefixKey {
    /// The generation that the prefix was loaded for.
    pub generation: Generation,
    /// Whose it is: see [`agent_scope`] and [`instance_scope`].
    pub scope: u64,
    /// [`Destination::kind`]; for an IP address `IPPROTO_*`.
    pub protocol: u64,
    /// Canonical address ([`Destination::address_be`]).
    pub address_be: [u64; 2],
}

/// The scope of prefixes that every instance of an agent may use.
#[inline(always)]
pub const fn agent_scope(agent: AgentId) -> u64 {
    1 << 63 | agent.get() as u64
}

/// The scope of prefixes that one instance may use.
#[inline(always)]
pub const fn instance_scope(instance: InstanceId) -> u64 {
    instance.get()
}

const _: () = {
    assert!(size_of::<VerdictKey>() == 32);
    assert!(size_of::<Verdict>() == 72);
    assert!(size_of::<PortRule>() == 24);
    assert!(size_of::<PortTable>() == 8 + 24 * PORT_RULES);
    assert!(size_of::<PrefixKey>() == 40);
    assert!(core::mem::offset_of!(PrefixKey, address_be) * 8 == PREFIX_FIXED_BITS as usize);
};
crate::plain_data!(VerdictKey, Verdict, PortRule, PortTable, PrefixKey);
