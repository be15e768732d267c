//! What a program is started with: its arguments, and where its paths begin.
//!
//! Read in the hooks of exec, before the program's first instruction.

use agent_enforcer_common::record::{ARGUMENT_BYTES, ExecView};
use aya_ebpf::helpers::generated::bpf_probe_read_user;

use super::{Address, file::Directory, task::Task};
use crate::settings::offset;

/// Where the arguments of a new program are in its memory.
#[derive(Clone, Copy)]
pub(crate) struct Arguments {
    start: u64,
    end: u64,
    count: u32,
}

impl Arguments {
    /// Once the program is loaded: between `mm->arg_start` and `arg_end`.
    #[inline(always)]
    pub(crate) fn of_loaded(task: Task, binprm: Address) -> Option<Self> {
        let memory = task.memory()?;
        let start = memory.read(offset!(mm_arg_start))?;
        let end = memory.read(offset!(mm_arg_end))?;
        Some(Self { start, end, count: count(binprm)? })
    }

    /// While the program is loaded, in its new memory: from `bprm->p` on, followed by the
    /// environment and, at `bprm->exec`, by its name (fs/exec.c `do_execveat_common`). The pages are
    /// there: the kernel has just written them.
    #[inline(always)]
    pub(crate) fn of_loading(binprm: Address) -> Option<Self> {
        let start = binprm.read(offset!(binprm_p))?;
        let end = binprm.read(offset!(binprm_exec))?;
        Some(Self { start, end, count: count(binprm)? })
    }
}

#[inline(always)]
fn count(binprm: Address) -> Option<u32> {
    binprm.read(offset!(binprm_argc))
}

/// Writes every field but what is behind the text.
#[inline(always)]
pub(crate) fn write(view: &mut ExecView, task: Task, arguments: Option<Arguments>) {
    let unknown = (Directory::UNKNOWN, Directory::UNKNOWN);
    let (directory, root) = task.directories().unwrap_or(unknown);
    (view.directory_inode, view.directory_device) = (directory.inode, directory.device);
    (view.root_inode, view.root_device) = (root.inode, root.device);
    let (mounts, level) = task.mounts().unwrap_or((0, 0));
    (view.mounts, view.mounts_level) = (mounts, level);
    let Some(Arguments { start, end, count }) = arguments else {
        (view.arguments, view.text_length) = (0, 0);
        return;
    };
    view.arguments = count;
    view.text_length = copy(&mut view.text, start, end.saturating_sub(start));
}

/// How much was copied: all or nothing.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "no more than there is room for")]
fn copy(text: &mut [u8; ARGUMENT_BYTES], from: u64, bytes: u64) -> u32 {
    const ROOM: u64 = ARGUMENT_BYTES as u64;
    // VERIFIER: the bound must be that of the register which the helper gets.
    let bytes = core::hint::black_box(if bytes < ROOM { bytes } else { ROOM });
    if bytes > ROOM {
        return 0;
    }
    // SAFETY: no more than there is room for; the helper checks the address (5.5).
    let failed =
        unsafe { bpf_probe_read_user(text.as_mut_ptr().cast(), bytes as u32, from as *const _) };
    if failed == 0 { bytes as u32 } else { 0 }
}
