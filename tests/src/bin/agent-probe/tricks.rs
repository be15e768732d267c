//! Calls made in unusual ways.

use std::{
    ffi::CString,
    fs::File,
    io::{PipeWriter, Write as _},
    mem::zeroed,
    net::SocketAddr,
    os::fd::{AsRawFd as _, FromRawFd as _, RawFd},
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    thread,
};

use agent_enforcer_tests::trick::{Control, Trick, Word, Writer};
use libc::{c_int, c_void, iovec};

use crate::{
    calls::{bind_bytes, connect_bytes, raw, socket},
    ring,
    serve::{Outcome, Sockets},
    storm,
};

pub(crate) fn perform(sockets: &Sockets, trick: Trick) -> Outcome {
    let fd = |name: &str| sockets.fd(name);
    match trick {
        Trick::ConnectBytes { name, peer } => connect_bytes(fd(&name), &peer),
        Trick::TakeDescriptor { name, copy } => sockets.keep(copy, take_descriptor(fd(&name))),
        Trick::BindBytes { name, own } => bind_bytes(fd(&name), &own),
        Trick::SendMessage { name, mut peer, data, control } => {
            send_message(fd(&name), &mut peer, &data, control.as_ref())
        }
        Trick::Write { name, data, writer } => write(fd(&name), &data, writer),
        Trick::Ring { name, call, polling } => ring::perform(fd(&name), &call, polling),
        Trick::Compat { name, address } => connect_i386(fd(&name), address),
        Trick::Race { one, other, rounds } => race(one, other, rounds),
        Trick::Storm { calls, rounds, restart } => storm::perform(&calls, rounds, restart),
        Trick::Sweep { domain } => sweep(domain),
        Trick::Duplicate { name, copy } => {
            // SAFETY: plain numbers.
            sockets.keep(copy, unsafe { libc::dup(fd(&name)) })
        }
        Trick::Rename { title } => {
            let title = CString::new(title).expect("no zero byte");
            // SAFETY: a name that ends with a zero byte.
            Outcome::of(unsafe { libc::prctl(libc::PR_SET_NAME, title.as_ptr()) }.into())
        }
        Trick::Call { number, arguments } => call(number, &arguments),
        Trick::Child => child(),
        // SAFETY: plain numbers; the file table is not among the flags.
        Trick::Unshare { flags } => Outcome::of(unsafe { libc::unshare(flags) }.into()),
    }
}

fn call(number: i64, arguments: &[Word]) -> Outcome {
    // What the kernel writes goes into room of its own.
    let mut held: Vec<Vec<u8>> = Vec::new();
    let mut words = [0_i64; 6];
    for (word, argument) in words.iter_mut().zip(arguments) {
        let bytes = match argument {
            Word::Number(number) => {
                *word = *number;
                continue;
            }
            Word::Bytes(bytes) => bytes.clone(),
            Word::Pointing { bytes, at, to } => {
                let (mut bytes, to) = (bytes.clone(), to.clone());
                bytes[*at..*at + 8].copy_from_slice(&(to.as_ptr() as u64).to_ne_bytes());
                held.push(to);
                bytes
            }
        };
        *word = bytes.as_ptr() as i64;
        held.push(bytes);
    }
    let [one, two, three, four, five, six] = words;
    // SAFETY: numbers and addresses of memory that is held until the call has returned; tests only
    // make calls that leave the rest of the process alone.
    let result = unsafe { libc::syscall(number, one, two, three, four, five, six) };
    let outcome = Outcome::of(result);
    drop(held);
    outcome
}

fn child() -> Outcome {
    // SAFETY: the child makes three calls and nothing else.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: plain numbers.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            loop {
                libc::pause();
            }
        }
    }
    Outcome::of(child.into())
}

fn part(data: &str) -> iovec {
    iovec { iov_base: data.as_ptr().cast_mut().cast(), iov_len: data.len() }
}

pub(crate) fn send_message(
    fd: RawFd,
    peer: &mut [u8],
    data: &str,
    control: Option<&Control>,
) -> Outcome {
    let mut part = part(data);
    // Words, as control messages are aligned like them.
    let mut buffer = [0_u64; 16];
    // SAFETY: all zeroes is a valid message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if !peer.is_empty() {
        message.msg_name = peer.as_mut_ptr().cast();
        message.msg_namelen = u32::try_from(peer.len()).expect("names are short");
    }
    if let Some(Control { level, kind, value }) = control {
        let length = u32::try_from(value.len()).expect("control messages are short");
        message.msg_control = buffer.as_mut_ptr().cast();
        // SAFETY: one header and its value, in a buffer that has room for every one that is used.
        unsafe {
            message.msg_controllen = libc::CMSG_SPACE(length) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = *level;
            (*header).cmsg_type = *kind;
            (*header).cmsg_len = libc::CMSG_LEN(length) as usize;
            ptr::copy_nonoverlapping(value.as_ptr(), libc::CMSG_DATA(header), value.len());
        }
    }
    // SAFETY: a message whose parts outlive the call.
    Outcome::of(unsafe { libc::sendmsg(fd, &raw const message, 0) } as i64)
}

/// What is passed with one byte; negative where nothing is.
fn take_descriptor(fd: RawFd) -> RawFd {
    let mut byte = 0_u8;
    let mut part = iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    // Words, as control messages are aligned like them.
    let mut buffer = [0_u64; 16];
    // SAFETY: all zeroes is a valid message.
    let mut message: libc::msghdr = unsafe { zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = buffer.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&buffer);
    // SAFETY: room that outlives the call, and what the kernel wrote there: one descriptor.
    unsafe {
        if libc::recvmsg(fd, &raw mut message, 0) < 0 {
            return -1;
        }
        let header = libc::CMSG_FIRSTHDR(&raw const message);
        if header.is_null() { -1 } else { libc::CMSG_DATA(header).cast::<RawFd>().read_unaligned() }
    }
}

pub(crate) fn write(fd: RawFd, data: &str, writer: Writer) -> Outcome {
    let part = part(data);
    let sent = match writer {
        // SAFETY: the data is readable for its length.
        Writer::Plain => unsafe { libc::write(fd, part.iov_base, part.iov_len) },
        // SAFETY: one part, which outlives the call.
        Writer::Vector => unsafe { libc::writev(fd, &raw const part, 1) },
        Writer::Asynchronous => return write_asynchronously(fd, data),
        Writer::File => {
            // SAFETY: a name that ends with a zero byte; a new descriptor that nobody else has.
            let mut file = unsafe { File::from_raw_fd(libc::memfd_create(c"data".as_ptr(), 0)) };
            file.write_all(data.as_bytes()).expect("room in memory");
            let mut offset = 0;
            // SAFETY: two descriptors and a place in the first.
            unsafe { libc::sendfile(fd, file.as_raw_fd(), &raw mut offset, data.len()) }
        }
        Writer::Pipe => splice(fd, data.len(), |mut pipe| {
            pipe.write_all(data.as_bytes()).expect("room in the pipe");
        }),
        Writer::Pages => splice(fd, data.len(), |pipe| {
            // What is sent is this memory, not a copy of it, until it is received: never given back.
            let lasting = data.as_bytes().to_vec().leak();
            let part = iovec { iov_base: lasting.as_mut_ptr().cast(), iov_len: lasting.len() };
            // SAFETY: one part, which lives as long as the process.
            let moved = unsafe { libc::vmsplice(pipe.as_raw_fd(), &raw const part, 1, 0) };
            assert!(moved >= 0, "room in the pipe");
        }),
    };
    Outcome::of(sent as i64)
}

fn splice(fd: RawFd, length: usize, fill: impl FnOnce(PipeWriter)) -> isize {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    fill(writer);
    let none = ptr::null_mut();
    // SAFETY: two descriptors without places.
    unsafe { libc::splice(reader.as_raw_fd(), none, fd, none, length, 0) }
}

/// `struct iocb`, include/uapi/linux/aio_abi.h
#[repr(C)]
#[derive(Default)]
struct Submission {
    data: u64,
    key_and_flags: u64,
    operation: u16,
    priority: i16,
    fd: u32,
    buffer: u64,
    length: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: u32,
}

/// `struct io_event`
#[repr(C)]
#[derive(Default)]
struct Completion {
    data: u64,
    object: u64,
    result: i64,
    more: i64,
}

fn write_asynchronously(fd: RawFd, data: &str) -> Outcome {
    const PWRITE: u16 = 1;
    let submission = Submission {
        operation: PWRITE,
        fd: fd.cast_unsigned(),
        buffer: data.as_ptr() as u64,
        length: data.len() as u64,
        ..Submission::default()
    };
    let submissions = [&raw const submission];
    let mut completion = Completion::default();
    let mut context: u64 = 0;
    // SAFETY: a context to be made; one submission and one completion, which outlive the calls; the
    // context that was made.
    unsafe {
        let made = libc::syscall(libc::SYS_io_setup, 1, &raw mut context);
        assert!(made == 0, "this kernel has io_setup");
        let submitted = libc::syscall(libc::SYS_io_submit, context, 1, submissions.as_ptr());
        if submitted != 1 {
            return Outcome::of(submitted);
        }
        let no_limit = ptr::null::<c_void>();
        libc::syscall(libc::SYS_io_getevents, context, 1, 1, &raw mut completion, no_limit);
        libc::syscall(libc::SYS_io_destroy, context);
    }
    Outcome::completed(completion.result)
}

/// `connect` as a 32-bit program calls it: everything lies below 4 GiB.
fn connect_i386(fd: RawFd, address: SocketAddr) -> Outcome {
    const SOCKETCALL: i64 = 102;
    const CONNECT: u64 = 3;
    let (name, length) = raw(address);
    // SAFETY: a new page; it is big enough for an address and three words.
    let result = unsafe {
        let (protection, flags) = (
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT,
        );
        let page = libc::mmap(ptr::null_mut(), 4096, protection, flags, -1, 0);
        assert!(page != libc::MAP_FAILED, "memory below 4 GiB");
        page.cast::<libc::sockaddr_storage>().write(name);
        let words = page.byte_add(1024).cast::<[u32; 3]>();
        let low = u32::try_from(page as usize).expect("below 4 GiB");
        words.write([fd.cast_unsigned(), low, length]);
        let mut result = SOCKETCALL;
        // The compiler keeps rbx to itself.
        std::arch::asm!(
            "xchg rbx, {call}",
            "int 0x80",
            "xchg rbx, {call}",
            call = inout(reg) CONNECT => _,
            inout("rax") result,
            in("rcx") words,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        libc::munmap(page, 4096);
        result
    };
    // A 32-bit result.
    #[expect(clippy::cast_possible_truncation, reason = "the upper half says nothing")]
    Outcome::completed(i64::from(result as i32))
}

fn race(one: SocketAddr, other: SocketAddr, rounds: u32) -> Outcome {
    let [(one, length), (other, _)] = [one, other].map(raw);
    // SAFETY: IPv4 addresses, whose second word is the address.
    let word =
        |name: &libc::sockaddr_storage| unsafe { ptr::from_ref(name).cast::<u32>().add(1).read() };
    let (mut name, one, other) = (one, word(&one), word(&other));
    // SAFETY: as above; only this thread's kernel calls and the other thread use it.
    let shared = unsafe { AtomicU32::from_ptr((&raw mut name).cast::<u32>().add(1)) };
    let peer = shared.as_ptr().wrapping_sub(1).cast::<libc::sockaddr>();
    let ended = AtomicBool::new(false);
    let mut went = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                shared.store(other, Ordering::Relaxed);
                shared.store(one, Ordering::Relaxed);
            }
        });
        for _ in 0..rounds {
            let stream = socket(libc::AF_INET, libc::SOCK_STREAM, 0);
            let datagrams = socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
            let data = b"race".as_ptr().cast();
            // SAFETY: an address of that length, and four bytes; two descriptors of this function.
            unsafe {
                went += i64::from(libc::connect(stream, peer, length) == 0);
                went += i64::from(libc::sendto(datagrams, data, 4, 0, peer, length) == 4);
                libc::close(stream);
                libc::close(datagrams);
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
    Outcome::with(0, went)
}

fn sweep(domain: c_int) -> Outcome {
    // 10 is SOCK_PACKET, which is AF_PACKET whatever the domain.
    const KINDS: std::ops::Range<c_int> = 1..10;
    const PROTOCOLS: std::ops::Range<c_int> = 0..264;
    let mut made = Vec::new();
    for kind in KINDS {
        for protocol in PROTOCOLS {
            let fd = socket(domain, kind, protocol);
            if fd >= 0 {
                made.push(format!("{kind}/{protocol}"));
                // SAFETY: a descriptor of this function.
                unsafe { libc::close(fd) };
            }
        }
    }
    Outcome { data: made.join(" "), ..Outcome::with(0, made.len().try_into().expect("few")) }
}
