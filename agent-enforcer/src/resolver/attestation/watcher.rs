//! Tells when the files behind path globs may be others: installed, upgraded, removed.
//!
//! In: globs. Out: their [`Resolution`], then a readable descriptor when it may be out of date.
//! Each directory on the way is watched *before* it is looked at, so that no change falls between.
//! Only names that can matter count, since anyone may write in some of these directories; still,
//! resolve again no more often than you can afford: whoever may write there can cause it.
//! Mounts are noticed in [`ExecutableWatcher::drain`] only: call it every few seconds besides.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{
        CWD, Mode, OFlags,
        inotify::{self, CreateFlags, ReadFlags, WatchFlags},
        openat,
    },
    io::Errno,
};

use super::{
    executables::{GlobProblem, Interest, Limits, Resolution, resolve_watched},
    procfs::ProcError,
};

/// Interests in one directory that are told apart.
const INTEREST_LIMIT: usize = 64;
const BUFFER_BYTES: usize = 16 << 10;

/// Watching failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// No inotify instance.
    #[error("cannot watch directories: {0}; raise fs.inotify.max_user_instances")]
    Inotify(#[source] io::Error),
    /// /proc can't be read.
    #[error(transparent)]
    Proc(#[from] ProcError),
}

/// What may have changed since the globs were resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing that matters.
    None,
    /// Resolve again.
    Possible,
    /// The kernel dropped events: anything may have changed. Resolve again.
    Overflow,
}

/// See the module's header. Readable when [`ExecutableWatcher::drain`] has something to say.
#[derive(Debug)]
pub struct ExecutableWatcher {
    inotify: OwnedFd,
    mounts: OwnedFd,
    watches: HashMap<i32, Vec<Interest>>,
}

impl ExecutableWatcher {
    /// Watches nothing yet.
    pub fn new() -> Result<Self, WatchError> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
            .map_err(|source| WatchError::Inotify(source.into()))?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mounts = openat(CWD, c"/proc/self/mountinfo", flags, Mode::empty())
            .map_err(|source| ProcError::NoProc { source: source.into() })?;
        let mut watcher = Self { inotify, mounts, watches: HashMap::new() };
        // From here on.
        watcher.mounts_changed();
        Ok(watcher)
    }

    /// Resolves globs and watches every directory on the way, instead of those watched so far.
    pub fn resolve<G: AsRef<str>>(&mut self, globs: &[G]) -> Result<Resolution, WatchError> {
        let mut watches: HashMap<i32, Vec<Interest>> = HashMap::new();
        let mut problems = Vec::new();
        let mut visit = |directory: &Path, interest: Interest| {
            match inotify::add_watch(&self.inotify, directory, mask()) {
                Ok(watch) => add(watches.entry(watch).or_default(), interest),
                // Its parent is watched.
                Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(source) => problems.push(GlobProblem::Unwatched {
                    path: directory.to_owned(),
                    source: source.into(),
                }),
            }
        };
        let mut resolution = resolve_watched(globs, Limits::default(), &mut visit)?;
        resolution.problems.extend(problems);
        for watch in self.watches.keys().filter(|watch| !watches.contains_key(watch)) {
            // Fails where the directory is gone, and its watch with it.
            let _gone = inotify::remove_watch(&self.inotify, *watch);
        }
        self.watches = watches;
        Ok(resolution)
    }

    /// Reads what has happened. Never blocks.
    pub fn drain(&mut self) -> Result<Change, WatchError> {
        let mut change = if self.mounts_changed() { Change::Possible } else { Change::None };
        let mut buffer = Vec::with_capacity(BUFFER_BYTES);
        let mut events = inotify::Reader::new(&self.inotify, buffer.spare_capacity_mut());
        loop {
            let event = match events.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => return Ok(change),
                Err(Errno::INTR) => continue,
                Err(source) => return Err(WatchError::Inotify(source.into())),
            };
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                change = Change::Overflow;
                continue;
            }
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            let matters = self.watches.get(&event.wd()).is_some_and(|interests| match name {
                Some(name) => interests.iter().any(|interest| interest.covers(name)),
                None => event.events().intersects(
                    ReadFlags::DELETE_SELF
                        | ReadFlags::MOVE_SELF
                        | ReadFlags::UNMOUNT
                        | ReadFlags::IGNORED,
                ),
            });
            if event.events().contains(ReadFlags::IGNORED) {
                self.watches.remove(&event.wd());
            }
            if matters && change == Change::None {
                change = Change::Possible;
            }
        }
    }

    /// The kernel reports each change of the mounts once per open file.
    fn mounts_changed(&mut self) -> bool {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        let mut mounts = [PollFd::from_borrowed_fd(self.mounts.as_fd(), PollFlags::PRI)];
        poll(&mut mounts, Some(&now)).is_ok_and(|ready| ready > 0)
    }
}

impl AsFd for ExecutableWatcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }
}

fn mask() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        // A file becomes executable, or ceases to be.
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR
}

fn add(interests: &mut Vec<Interest>, interest: Interest) {
    if interests.contains(&interest) || interests.contains(&Interest::Any) {
        return;
    }
    if interest == Interest::Any || interests.len() >= INTEREST_LIMIT {
        interests.clear();
        interests.push(Interest::Any);
    } else {
        interests.push(interest);
    }
}

#[cfg(test)]
mod tests;
