//! An io_uring that makes one call, without any library.

use std::{
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
};

use agent_enforcer_tests::trick::RingCall;
use libc::{c_long, c_void};

use crate::{calls::raw, serve::Outcome};

const SETUP_SQPOLL: u32 = 1 << 1;
const ENTER_GETEVENTS: u32 = 1;
const ENTER_SQ_WAKEUP: u32 = 1 << 1;
const OFFSET_SUBMISSIONS: i64 = 0x1000_0000;
const OP_SENDMSG: u8 = 9;
const OP_CONNECT: u8 = 16;
const OP_SEND: u8 = 26;

/// `struct io_uring_params`, include/uapi/linux/io_uring.h
#[repr(C)]
#[derive(Default)]
struct Parameters {
    submissions: u32,
    completions: u32,
    flags: u32,
    thread_cpu: u32,
    thread_idle_ms: u32,
    features: u32,
    workers: u32,
    reserved: [u32; 3],
    submission_ring: Offsets,
    completion_ring: Offsets,
}

/// `struct io_sqring_offsets`; `struct io_cqring_offsets` has the entries in the place of `dropped`.
#[repr(C)]
#[derive(Default)]
struct Offsets {
    head: u32,
    tail: u32,
    mask: u32,
    entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    reserved: u32,
    user: u64,
}

/// `struct io_uring_sqe`
#[repr(C)]
#[derive(Default)]
struct Submission {
    operation: u8,
    flags: u8,
    priority: u16,
    fd: i32,
    offset: u64,
    address: u64,
    length: u32,
    call_flags: u32,
    user_data: u64,
    rest: [u64; 3],
}

/// `struct io_uring_cqe`
#[repr(C)]
struct Completion {
    user_data: u64,
    result: i32,
    flags: u32,
}

pub(crate) fn perform(fd: RawFd, call: &RingCall, polling: bool) -> Outcome {
    let data = match call {
        RingCall::Send { data } | RingCall::SendTo { data, .. } => data.as_str(),
        RingCall::Connect { .. } => "",
    };
    let (mut name, length) = match call {
        RingCall::Connect { address } | RingCall::SendTo { address, .. } => raw(*address),
        RingCall::Send { .. } => raw(std::net::SocketAddr::from(([0; 4], 0))),
    };
    let mut part = libc::iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() };
    // SAFETY: all zeroes is a valid message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = length;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    let submission = match call {
        RingCall::Connect { .. } => Submission {
            operation: OP_CONNECT,
            address: &raw const name as u64,
            offset: length.into(),
            ..Submission::default()
        },
        RingCall::Send { data } => Submission {
            operation: OP_SEND,
            address: data.as_ptr() as u64,
            length: u32::try_from(data.len()).expect("little data"),
            ..Submission::default()
        },
        RingCall::SendTo { .. } => Submission {
            operation: OP_SENDMSG,
            address: &raw const message as u64,
            length: 1,
            ..Submission::default()
        },
    };
    complete(Submission { fd, ..submission }, polling)
}

/// Submits and waits for the completion.
fn complete(submission: Submission, polling: bool) -> Outcome {
    let mut parameters = Parameters {
        flags: if polling { SETUP_SQPOLL } else { 0 },
        thread_idle_ms: 1000,
        ..Parameters::default()
    };
    // SAFETY: parameters that outlive the call.
    let ring = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, &raw mut parameters) };
    let Some(ring) = descriptor(ring) else { return Outcome::of(-1) };
    let Parameters { submissions, completions, submission_ring, completion_ring, .. } = parameters;
    // One mapping for both (5.4): one array of indices, one of completions.
    let indices = submission_ring.array as usize + submissions as usize * size_of::<u32>();
    let results = completion_ring.dropped as usize + completions as usize * size_of::<Completion>();
    let rings = map(&ring, indices.max(results), 0);
    let entries = map(&ring, submissions as usize * size_of::<Submission>(), OFFSET_SUBMISSIONS);
    // SAFETY: places that the kernel named, in mappings of their size.
    unsafe {
        entries.cast::<Submission>().write(submission);
        rings.byte_add(submission_ring.array as usize).cast::<u32>().write(0);
        let tail = rings.byte_add(submission_ring.tail as usize).cast::<u32>();
        AtomicU32::from_ptr(tail).store(1, Ordering::Release);
    }
    let flags = ENTER_GETEVENTS | if polling { ENTER_SQ_WAKEUP } else { 0 };
    let (none, size): (*const c_void, usize) = (ptr::null(), 0);
    let fd = ring.as_raw_fd();
    // SAFETY: a ring; no signal mask.
    let entered = unsafe { libc::syscall(libc::SYS_io_uring_enter, fd, 1, 1, flags, none, size) };
    if entered < 0 {
        return Outcome::of(entered);
    }
    // SAFETY: as above; the kernel has written the first completion.
    let result = unsafe {
        let tail = rings.byte_add(completion_ring.tail as usize).cast::<u32>();
        assert!(AtomicU32::from_ptr(tail).load(Ordering::Acquire) == 1, "one completion");
        rings.byte_add(completion_ring.dropped as usize).cast::<Completion>().read().result
    };
    Outcome::completed(result.into())
}

fn descriptor(result: c_long) -> Option<OwnedFd> {
    let fd = RawFd::try_from(result).ok().filter(|fd| *fd >= 0)?;
    // SAFETY: a new descriptor that nobody else has.
    Some(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Stays mapped: a probe does this a few times.
fn map(ring: &OwnedFd, length: usize, offset: i64) -> *mut c_void {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping, of what the kernel offers there.
    let place = unsafe {
        libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, ring.as_raw_fd(), offset)
    };
    assert!(place != libc::MAP_FAILED, "a ring can be mapped");
    place
}
