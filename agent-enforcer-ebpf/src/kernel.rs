//! Reads fields of kernel structs, at the offsets of the running kernel.
//!
//! Every read may fail; a failed read is `None` and never a made-up value.

pub(crate) mod cgroup;
pub(crate) mod cred;
pub(crate) mod dentry;
pub(crate) mod exec;
pub(crate) mod file;
pub(crate) mod sock;
pub(crate) mod task;
pub(crate) mod unix_table;

use aya_ebpf::helpers::bpf_probe_read_kernel;

/// An address in kernel memory. Only ever read through the kernel's fault-proof copy.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Address(u64);

impl Address {
    #[inline(always)]
    pub(crate) const fn new(address: u64) -> Self {
        Self(address)
    }

    /// The address behind a pointer of the context.
    ///
    /// VERIFIER: such a pointer can't be calculated with; a copy of the stack slot that holds it
    /// is a plain number.
    #[inline(always)]
    pub(crate) fn of<T>(pointer: *mut T) -> Option<Self> {
        let slot = pointer;
        // SAFETY: the slot is on this program's stack, and as long as the number read.
        unsafe { bpf_probe_read_kernel((&raw const slot).cast::<u64>()) }.ok().map(Self)
    }

    #[inline(always)]
    pub(crate) const fn get(self) -> u64 {
        self.0
    }

    /// The struct whose field this is the address of.
    #[inline(always)]
    pub(crate) const fn before(self, offset: usize) -> Self {
        Self(self.0.wrapping_sub(offset as u64))
    }

    /// The struct that is a field of this one.
    #[inline(always)]
    pub(crate) const fn at(self, offset: usize) -> Self {
        Self(self.0.wrapping_add(offset as u64))
    }

    /// Reads a field.
    #[inline(always)]
    pub(crate) fn read<T: Copy>(self, offset: usize) -> Option<T> {
        // SAFETY: the helper checks the address and reports a fault as an error.
        unsafe { bpf_probe_read_kernel((self.0 + offset as u64) as *const T) }.ok()
    }

    /// Reads a pointer field; a null pointer is `None`.
    #[inline(always)]
    pub(crate) fn follow(self, offset: usize) -> Option<Self> {
        let pointer: u64 = self.read(offset)?;
        (pointer != 0).then_some(Self(pointer))
    }
}
