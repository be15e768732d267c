//! /proc under attack: directories pinned to one process, and the few files that are read there.
//!
//! In: a pid. Out: its parsed `stat`, raw text of other files, its threads. A descriptor of
//! /proc/PID belongs to one process for ever: after that process every look-up through it fails,
//! whoever has the number by then. Nothing here is trusted before [`ProcDir::stat`] has been
//! compared with a recorded start time.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    buffer::spare_capacity,
    fs::{Mode, OFlags, RawDir, fstatfs, openat, readlinkat_raw},
    io::Errno,
    path::DecInt,
};

/// `PROC_SUPER_MAGIC`, include/uapi/linux/magic.h.
const PROC_MAGIC: i64 = 0x9fa0;
/// `PF_EXITING`, include/linux/sched.h.
const EXITING: u32 = 0x4;
/// `PF_KTHREAD`, include/linux/sched.h.
const KERNEL_THREAD: u32 = 0x0020_0000;
/// Longest path that /proc shows: one page.
const PATH_BYTES: usize = 4096;

/// How exactly /proc tells when a process started, ns: one tick of `USER_HZ`, which is 100 on every
/// architecture that the kernel programs are built for.
pub const START_TICK_NS: u64 = 1_000_000_000 / 100;

/// Whether two start times, ns of `CLOCK_BOOTTIME`, are the same as far as /proc can tell.
///
/// The kernel side records nanoseconds; /proc truncates to [`START_TICK_NS`].
pub const fn same_start(left_ns: u64, right_ns: u64) -> bool {
    left_ns / START_TICK_NS == right_ns / START_TICK_NS
}

/// Why something in /proc could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ProcError {
    /// The process exited; with a start time given, also: the pid is another process's by now.
    #[error("the process is gone")]
    Gone,
    /// The file can't be read.
    #[error(
        "cannot read `{file}` of the process in /proc: {source}; run the daemon as root, \
             with CAP_SYS_PTRACE, in the initial pid namespace"
    )]
    Unreadable {
        /// Name below /proc/PID.
        file: String,
        /// Why.
        source: io::Error,
    },
    /// The file isn't as proc(5) says.
    #[error(
        "`{file}` of the process in /proc has an unknown format; report it with the kernel's version"
    )]
    Malformed {
        /// Name below /proc/PID.
        file: &'static str,
    },
    /// /proc itself is not there.
    #[error("/proc is not usable: {source}; mount procfs there")]
    NoProc {
        /// Why.
        source: io::Error,
    },
}

/// What `stat` says of a process or a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stat<'a> {
    /// Its name as it chose it.
    pub(crate) comm: &'a [u8],
    /// Thread group id of its parent; 0 is none.
    pub(crate) ppid: u32,
    /// One letter, see proc(5).
    state: &'a str,
    /// `PF_*`.
    flags: u32,
    /// Start, in ticks of [`START_TICK_NS`].
    start_ticks: u64,
}

impl<'a> Stat<'a> {
    /// Parses proc(5) `stat`. The name is whatever the process likes, brackets included; only
    /// numbers follow it, so the last bracket ends it.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let open = text.iter().position(|&byte| byte == b'(')?;
        let close = text.iter().rposition(|&byte| byte == b')')?;
        let comm = text.get(open + 1..close)?;
        let rest = str::from_utf8(text.get(close + 1..)?).ok()?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?;
        let ppid = fields.next()?.parse().ok()?;
        let flags = fields.nth(4)?.parse().ok()?;
        let start_ticks = fields.nth(12)?.parse().ok()?;
        Some(Self { comm, ppid, state, flags, start_ticks })
    }

    /// Start, ns of `CLOCK_BOOTTIME`, truncated to [`START_TICK_NS`].
    pub(crate) const fn start_ns(&self) -> u64 {
        self.start_ticks.saturating_mul(START_TICK_NS)
    }

    /// Whether a signal has stopped the thread.
    pub(crate) fn is_stopped(&self) -> bool {
        self.state == "T"
    }

    /// Whether the exit of the thread has begun. The kernel's exit hook runs after this is set.
    pub(crate) const fn is_exiting(&self) -> bool {
        self.flags & EXITING != 0
    }

    /// Whether it is a thread of the kernel, which executes no program.
    pub(crate) const fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }
}

/// /proc.
#[derive(Debug)]
pub(crate) struct ProcRoot(OwnedFd);

impl ProcRoot {
    /// Opens /proc, and makes sure that it is procfs.
    pub(crate) fn open() -> Result<Self, ProcError> {
        let open = || {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = rustix::fs::open(c"/proc", flags, Mode::empty())?;
            // `f_type` is signed on some architectures and unsigned on others.
            if i128::from(fstatfs(&root)?.f_type) != i128::from(PROC_MAGIC) {
                return Err(io::Error::other("it is not a procfs"));
            }
            Ok(root)
        };
        open().map(Self).map_err(|source| ProcError::NoProc { source })
    }

    /// Pins the process that has this pid now.
    pub(crate) fn process(&self, pid: u32) -> Result<ProcDir, ProcError> {
        open_dir(self.0.as_fd(), pid).map_err(|source| unreadable(&pid.to_string(), source))
    }

    /// Pins this process.
    pub(crate) fn own(&self) -> Result<ProcDir, ProcError> {
        self.process(std::process::id())
    }

    /// Appends every pid there is now to `pids`, in ascending order.
    pub(crate) fn pids(&self, pids: &mut Vec<u32>) -> Result<(), ProcError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // A descriptor of its own, so that no one else moves the position.
        let list = openat(&self.0, c".", flags, Mode::empty())
            .and_then(|directory| numbers(directory.as_fd(), pids));
        list.map_err(|source| ProcError::NoProc { source: source.into() })
    }

    /// The path of an open file of this process, as the kernel names it for us.
    pub(crate) fn path_of(&self, file: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
        use std::os::fd::AsRawFd as _;
        read_link(self.0.as_fd(), format!("self/fd/{}", file.as_raw_fd()).as_str())
    }

    /// Opens again, for reading, a file that is open as a path only. May block for as long as the
    /// file system likes.
    pub(crate) fn reopen(&self, file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        use std::os::fd::AsRawFd as _;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let link = format!("self/fd/{}", file.as_raw_fd());
        Ok(openat(&self.0, link.as_str(), flags, Mode::empty())?)
    }
}

/// One process (or thread), whatever happens to its number.
#[derive(Debug)]
pub(crate) struct ProcDir(OwnedFd);

impl ProcDir {
    /// Reads `stat` into `buffer`.
    pub(crate) fn stat<'b>(&self, buffer: &'b mut Vec<u8>) -> Result<Stat<'b>, ProcError> {
        self.text(c"stat", buffer)?;
        Stat::parse(buffer).ok_or(ProcError::Malformed { file: "stat" })
    }

    /// Reads a file that the kernel shows in one piece (`stat`, `status`, `cgroup`).
    pub(crate) fn text(&self, file: &CStr, buffer: &mut Vec<u8>) -> Result<(), ProcError> {
        buffer.clear();
        let read = self.open_file(file).and_then(|file| {
            loop {
                buffer.reserve(PATH_BYTES);
                let room = buffer.capacity() - buffer.len();
                // Shown in one piece: a short read is the end.
                if retry(|| rustix::io::read(&file, spare_capacity(buffer)))? < room {
                    return Ok(());
                }
            }
        });
        read.map_err(|source| unreadable(&file.to_string_lossy(), source))
    }

    /// Reads a file that the kernel shows line by line, at most `limit` bytes of it.
    pub(crate) fn lines(
        &self,
        file: &CStr,
        limit: usize,
        buffer: &mut Vec<u8>,
    ) -> Result<(), ProcError> {
        buffer.clear();
        let read = self.open_file(file).and_then(|file| {
            while buffer.len() < limit {
                buffer.reserve(8 * PATH_BYTES);
                if retry(|| rustix::io::read(&file, spare_capacity(buffer)))? == 0 {
                    break;
                }
            }
            Ok(())
        });
        read.map_err(|source| unreadable(&file.to_string_lossy(), source))
    }

    /// Follows a magic link (`exe`, `ns/net`). With `O_PATH` the file system is not asked.
    pub(crate) fn follow(&self, link: &CStr, flags: OFlags) -> Result<OwnedFd, ProcError> {
        openat(&self.0, link, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(|source| unreadable(&link.to_string_lossy(), source))
    }

    /// Text of a link.
    pub(crate) fn link(&self, link: &str) -> io::Result<Vec<u8>> {
        read_link(self.0.as_fd(), link)
    }

    /// The numbers in one of its directories (`task`, `fd`), in ascending order.
    pub(crate) fn numbers(&self, directory: &CStr) -> Result<Vec<u32>, ProcError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut list = Vec::new();
        openat(&self.0, directory, flags, Mode::empty())
            .and_then(|directory| numbers(directory.as_fd(), &mut list))
            .map_err(|source| unreadable(&directory.to_string_lossy(), source))?;
        Ok(list)
    }

    /// Pins one of its threads.
    pub(crate) fn thread(&self, tid: u32) -> Result<Self, ProcError> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let name = format!("task/{tid}");
        openat(&self.0, name.as_str(), flags, Mode::empty())
            .map(Self)
            .map_err(|source| unreadable(&name, source))
    }

    fn open_file(&self, file: &CStr) -> rustix::io::Result<OwnedFd> {
        openat(&self.0, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }
}

fn open_dir(root: BorrowedFd<'_>, pid: u32) -> rustix::io::Result<ProcDir> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(root, DecInt::new(pid), flags, Mode::empty()).map(ProcDir)
}

fn unreadable(file: &str, source: Errno) -> ProcError {
    match source {
        Errno::NOENT | Errno::SRCH => ProcError::Gone,
        _ => ProcError::Unreadable { file: file.to_owned(), source: source.into() },
    }
}

fn read_link(directory: BorrowedFd<'_>, link: &str) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(PATH_BYTES);
    readlinkat_raw(directory, link, spare_capacity(&mut text))?;
    Ok(text)
}

fn numbers(directory: BorrowedFd<'_>, list: &mut Vec<u32>) -> rustix::io::Result<()> {
    let mut buffer = Vec::with_capacity(8 * PATH_BYTES);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_str().ok();
        list.extend(name.and_then(|name| name.parse::<u32>().ok()));
    }
    Ok(())
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_stat_whatever_the_process_calls_itself() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2 3";
        for comm in ["cat", "a) R 1 (", ") ) ) (", "", "\n", "x) S 9 9 9 9 9 4"] {
            let text = format!("12 ({comm}) {rest}\n");
            let stat = Stat::parse(text.as_bytes()).expect(comm);
            assert_eq!(stat.comm, comm.as_bytes());
            assert_eq!(stat.ppid, 7);
            assert_eq!(stat.start_ns(), 42_420_000_000);
            assert!(!stat.is_exiting() && !stat.is_kernel_thread());
        }
    }

    #[test]
    fn refuses_a_stat_that_is_cut_short() {
        let whole = "12 (cat) S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242";
        for end in 0..whole.len() - "4242".len() {
            assert_eq!(Stat::parse(&whole.as_bytes()[..end]), None, "{end}");
        }
        assert!(Stat::parse(whole.as_bytes()).is_some());
    }

    #[test]
    fn start_times_are_compared_as_exactly_as_proc_tells_them() {
        assert!(same_start(42_420_000_000, 42_429_999_999));
        assert!(!same_start(42_419_999_999, 42_420_000_000));
    }

    #[test]
    fn a_directory_stays_with_its_process() {
        let root = ProcRoot::open().unwrap();
        let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        let pinned = root.process(child.id()).unwrap();
        let mut buffer = Vec::new();
        pinned.stat(&mut buffer).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(pinned.stat(&mut buffer), Err(ProcError::Gone)));
        assert!(matches!(root.process(child.id()), Err(ProcError::Gone)));
    }
}
