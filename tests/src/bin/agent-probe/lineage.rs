//! What changes the process: fork, exec, users, cgroups, signals.

use std::{
    ffi::CString,
    fs,
    io::Write as _,
    mem::zeroed,
    os::fd::{AsRawFd as _, FromRawFd as _},
    process::{Command, Stdio},
    thread,
    time::Instant,
};

use agent_enforcer_tests::script::{ForkKind, Op, Reply};

use crate::serve::{Outcome, Sockets, perform, serve_lines, tell};

/// The child answers in this process's place.
pub(crate) fn fork(sockets: &Sockets, id: u64, kind: &ForkKind, op: Op) -> Option<Outcome> {
    let begin = Instant::now();
    let child = match kind {
        // SAFETY: the child only does what follows, in one thread; glibc keeps its heap usable.
        ForkKind::Plain | ForkKind::Double => unsafe { libc::fork() },
        ForkKind::Into { directory } => clone_into(directory),
    };
    if child < 0 {
        return Some(Outcome::of(-1));
    }
    if child == 0 {
        if *kind == ForkKind::Double {
            // SAFETY: no arguments; as above.
            unsafe {
                libc::setsid();
                if libc::fork() != 0 {
                    libc::_exit(0);
                }
            }
        }
        if let Some(outcome) = perform(sockets, id, op) {
            tell(id, outcome, begin);
        }
        // SAFETY: ends the child without its parent's clean-up.
        unsafe { libc::_exit(0) };
    }
    // SAFETY: a child of this process.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
    None
}

/// A child that is in another cgroup from its birth.
fn clone_into(directory: &str) -> libc::pid_t {
    // As in include/uapi/linux/sched.h; libc's is too narrow.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let cgroup = fs::File::open(directory).expect("a cgroup of the test");
    // SAFETY: all zeroes is a valid `clone_args`.
    let mut arguments: libc::clone_args = unsafe { zeroed() };
    arguments.flags = CLONE_INTO_CGROUP;
    arguments.exit_signal = libc::SIGCHLD.cast_unsigned().into();
    arguments.cgroup = u64::try_from(cgroup.as_raw_fd()).expect("a descriptor");
    let size = size_of::<libc::clone_args>();
    // SAFETY: as for `fork`: nothing is shared.
    let child = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size) };
    child.try_into().expect("a process id")
}

/// `Command` clones with shared memory and a suspended parent, as `vfork` and `posix_spawn` do.
pub(crate) fn run(argv: &[String]) -> Outcome {
    let [program, arguments @ ..] = argv else { panic!("no program to run") };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = match output {
        Ok(output) => output,
        Err(error) => {
            let errno = error.raw_os_error().unwrap_or(libc::EIO);
            return Outcome { errno, value: -1, data: error.to_string() };
        }
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let reply = text.lines().last().and_then(|line| serde_json::from_str::<Reply>(line).ok());
    match reply {
        Some(Reply { errno, value, pid, .. }) => Outcome { errno, value, data: pid.to_string() },
        None => Outcome {
            errno: libc::EPROTO,
            value: -1,
            data: String::from_utf8_lossy(&output.stderr).into(),
        },
    }
}

pub(crate) fn run_memfd(op: &Op) -> Outcome {
    let name = CString::new("probe").expect("no zero byte");
    // SAFETY: a name that ends with a zero byte.
    let fd = unsafe { libc::memfd_create(name.as_ptr(), 0) };
    if fd < 0 {
        return Outcome::of(-1);
    }
    // SAFETY: a new descriptor that nobody else has.
    let mut file = unsafe { fs::File::from_raw_fd(fd) };
    let own = fs::read("/proc/self/exe").expect("this executable");
    file.write_all(&own).expect("room in memory");
    let op = serde_json::to_string(op).expect("plain data");
    // Opened anew: an executable that is open for writing is busy.
    let reopened = fs::File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a memfd");
    drop(file);
    // SAFETY: plain numbers; the child needs the descriptor to execute it.
    unsafe { libc::fcntl(reopened.as_raw_fd(), libc::F_SETFD, 0) };
    run(&[format!("/proc/self/fd/{}", reopened.as_raw_fd()), "once".to_owned(), op])
}

/// Becomes `path serve NAME=FD..`; returns only when that fails.
pub(crate) fn exec(sockets: &Sockets, path: String, from_thread: bool) -> Outcome {
    if from_thread {
        let sockets = sockets.clone();
        return thread::spawn(move || exec(&sockets, path, false)).join().expect("no panic");
    }
    let mut argv = vec![path, "serve".to_owned()];
    argv.extend(sockets.table().iter().map(|(name, fd)| format!("{name}={fd}")));
    let argv: Vec<_> =
        argv.into_iter().map(|word| CString::new(word).expect("no zero byte")).collect();
    let mut pointers: Vec<_> = argv.iter().map(|word| word.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: strings that end with a zero byte, in an array that ends with a null pointer.
    Outcome::of(unsafe { libc::execv(pointers[0], pointers.as_ptr()) }.into())
}

pub(crate) fn set_user(uid: u32) -> Outcome {
    // SAFETY: plain numbers; the user goes last, as it ends the right to do so.
    let outcome = Outcome::of(unsafe { libc::setresgid(uid, uid, uid) }.into());
    if outcome.errno != 0 {
        return outcome;
    }
    // SAFETY: as above.
    Outcome::of(unsafe { libc::setresuid(uid, uid, uid) }.into())
}

pub(crate) fn enter_cgroup(directory: &str) -> Outcome {
    let written = fs::write(format!("{directory}/cgroup.procs"), "0");
    Outcome::with(written.err().and_then(|error| error.raw_os_error()).unwrap_or_default(), 0)
}

/// The caller is the leading thread, as requests are not answered aside.
pub(crate) fn leave_network() -> Outcome {
    // SAFETY: a plain number.
    Outcome::of(unsafe { libc::unshare(libc::CLONE_NEWNET) }.into())
}

/// The caller is the leading thread, as requests are not answered aside.
pub(crate) fn leader_exit(sockets: &Sockets, id: u64) -> Option<Outcome> {
    let sockets = sockets.clone();
    thread::spawn(move || {
        let begin = Instant::now();
        // The leader is gone when its state is Z.
        let leader = format!("/proc/self/task/{}/stat", std::process::id());
        while !fs::read_to_string(&leader).is_ok_and(|stat| stat.contains(") Z ")) {
            thread::yield_now();
        }
        tell(id, Outcome::with(0, 0), begin);
        serve_lines(&sockets);
        std::process::exit(0);
    });
    // SAFETY: ends this thread alone; what it owns is not freed.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    None
}

extern "C" fn on_alarm(_signal: libc::c_int) {}

/// How often a timer rings.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Repeat {
    Once,
    Always,
}

/// Has the process ring; 0 ends that.
pub(crate) fn alarm(after_ms: u64, restart: bool, repeat: Repeat) -> Outcome {
    // SAFETY: all zeroes is a valid action; the handler does nothing.
    unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = on_alarm as *const () as usize;
        action.sa_flags = if restart { libc::SA_RESTART } else { 0 };
        libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut());
    }
    // SAFETY: all zeroes is a valid timer.
    let mut timer: libc::itimerval = unsafe { zeroed() };
    timer.it_value.tv_sec = (after_ms / 1000).cast_signed();
    timer.it_value.tv_usec = (after_ms % 1000 * 1000).cast_signed();
    if repeat == Repeat::Always {
        timer.it_interval = timer.it_value;
    }
    // SAFETY: a timer, and no place for the one before.
    Outcome::of(
        unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const timer, std::ptr::null_mut()) }
            .into(),
    )
}
