//! Facts about cgroups.

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;

use super::Address;
use crate::settings::offset;

/// A `cgroup`.
#[derive(Clone, Copy)]
pub(crate) struct Cgroup(Address);

impl Cgroup {
    #[inline(always)]
    pub(crate) const fn new(address: Address) -> Self {
        Self(address)
    }

    #[inline(always)]
    pub(crate) const fn address(self) -> u64 {
        self.0.get()
    }

    /// The id, unique in its hierarchy and never reused.
    #[inline(always)]
    pub(crate) fn id(self) -> Option<u64> {
        self.0.follow(offset!(cgroup_kn))?.read(offset!(kernfs_node_id))
    }

    /// Whether it is of the v2 hierarchy: ids of the v1 ones are numbers of their own
    /// (kernel/cgroup/cgroup.c: `cgrp_dfl_root` has hierarchy id 0).
    #[inline(always)]
    pub(crate) fn is_v2(self) -> Option<bool> {
        let hierarchy: i32 =
            self.0.follow(offset!(cgroup_root))?.read(offset!(cgroup_root_hierarchy_id))?;
        Some(hierarchy == 0)
    }

    /// The parent; none at the root.
    #[inline(always)]
    pub(crate) fn parent(self) -> Option<Self> {
        let css = self.0.follow(offset!(cgroup_self) + offset!(css_parent))?;
        css.follow(offset!(css_cgroup)).map(Self)
    }
}

/// Copies a string; its length, without the terminator.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "names and paths are short")]
pub(crate) fn copy_string(from: Address, into: &mut [u8]) -> Option<u32> {
    // SAFETY: the helper checks the address and reports a fault as an error.
    let copied = unsafe { bpf_probe_read_kernel_str_bytes(from.get() as *const u8, into) }.ok()?;
    Some(copied.len() as u32)
}
