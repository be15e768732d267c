//! The mark of each agent's socket, in the socket's own storage: it dies with the socket, and an
//! accepted connection begins with a copy of its listener's.

use agent_enforcer_common::tag::SocketTag;
use aya_ebpf::{
    bindings::{
        BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE, bpf_map_type, bpf_sock,
    },
    cty::c_void,
    helpers::generated::bpf_sk_storage_get,
    macros::btf_map,
};

/// A BTF map definition as libbpf and aya read it: the kernel demands BTF for socket storage
/// (net/core/bpf_sk_storage.c, 5.2), and aya's own definition has no `BPF_F_CLONE`.
#[repr(C)]
struct SocketStorage {
    r#type: *const [i32; bpf_map_type::BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const SocketTag,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are never dereferenced; they only carry types into the object's BTF.
unsafe impl Sync for SocketStorage {}

#[btf_map]
static AE_TAGS: SocketStorage = SocketStorage {
    r#type: core::ptr::null(),
    key: core::ptr::null(),
    value: core::ptr::null(),
    max_entries: core::ptr::null(),
    map_flags: core::ptr::null(),
};

#[inline(always)]
fn map() -> *mut c_void {
    core::ptr::from_ref(&AE_TAGS).cast_mut().cast()
}

/// The tag of a socket, if it has one.
///
/// # Safety
///
/// `sk` is what the kernel gave the program: the socket of its context, or the context itself.
#[inline(always)]
pub(crate) unsafe fn get(sk: *mut bpf_sock) -> Option<&'static mut SocketTag> {
    // SAFETY: by the caller; the storage lives as long as the socket, which the hook holds.
    unsafe {
        bpf_sk_storage_get(map(), sk.cast(), core::ptr::null_mut(), 0).cast::<SocketTag>().as_mut()
    }
}

/// The tag of a socket, made where there is none; `None` when memory is short.
///
/// # Safety
///
/// As [`get`].
#[inline(always)]
pub(crate) unsafe fn get_or_create(sk: *mut bpf_sock) -> Option<&'static mut SocketTag> {
    // SAFETY: as in `get`; a new tag is zeroed by the kernel, which is a valid `SocketTag`.
    unsafe {
        bpf_sk_storage_get(
            map(),
            sk.cast(),
            core::ptr::null_mut(),
            u64::from(BPF_SK_STORAGE_GET_F_CREATE),
        )
        .cast::<SocketTag>()
        .as_mut()
    }
}
