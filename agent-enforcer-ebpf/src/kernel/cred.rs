//! Facts about the credentials of the current task.

use aya_ebpf::helpers::generated::bpf_get_current_task;

use super::Address;
use crate::settings::{guard_offset, offset};

/// Whether the current task could do what only root may: one of its user ids is 0, or it holds a
/// capability of the host. Root of a user namespace of its own is nobody in particular here. Where it
/// can't be told, it is.
#[inline(always)]
pub(crate) fn acts_as_root() -> bool {
    // SAFETY: the helper has no arguments and cannot fail.
    let task = Address::new(unsafe { bpf_get_current_task() });
    let Some(cred) = task.follow(offset!(task_cred)) else { return true };
    let is_root = |offset| cred.read(offset).is_none_or(|user: u32| user == 0);
    if is_root(offset!(cred_uid))
        || is_root(guard_offset!(cred_euid))
        || is_root(guard_offset!(cred_suid))
        || is_root(guard_offset!(cred_fsuid))
    {
        return true;
    }
    // 64 bits, as one word or as two (6.3).
    let capabilities: Option<u64> = cred.read(guard_offset!(cred_cap_permitted));
    let has_some = capabilities.is_none_or(|capabilities| capabilities != 0);
    let namespace = cred.follow(guard_offset!(cred_user_ns));
    let level = namespace.and_then(|namespace| namespace.read(guard_offset!(user_namespace_level)));
    has_some && level.is_none_or(|level: i32| level == 0)
}
