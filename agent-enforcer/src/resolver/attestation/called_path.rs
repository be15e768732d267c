//! Where does a path lead that a thread has just called, as a unix socket's?
//!
//! In: the thread, and the path as it wrote it. Out: the inode of a socket, or that nobody is there.
//! The path is followed as the kernel follows it for that thread: from its root or its working
//! directory, over its mounts, through symlinks. Asked on the intake thread, and all of it is the
//! caller's to choose, so nothing here waits for a file system that a process serves:
//!
//! - Names are looked up in the kernel's cache (`RESOLVE_CACHED`, 5.12), where those of a socket that
//!   somebody listens on are. Only what is kept on a block device or in memory is looked up further.
//! - Symlinks are read there only. Those that are others for whoever reads them (`/proc/self`), and
//!   the links to open files below `/proc`, are not followed.
//!
//! What can't be followed is an error, and never nobody: the kernel might well reach somebody.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

use rustix::{
    fs::{FileType, Mode, OFlags, ResolveFlags, Statx, openat, openat2},
    io::Errno,
};

use super::{
    image::{MOUNTINFO_BYTES, device, device_of_mount, status},
    procfs::{ProcDir, ProcError, ProcRoot},
    socket_files::{FileId, LINK_LIMIT, PATH_ONLY, STEP_LIMIT, TRIES, is_local, steps, target},
};

/// File systems that are kept in memory, or on block devices without having their numbers.
const KEPT: [&[u8]; 3] = [b"tmpfs", b"ramfs", b"btrfs"];

/// The thread that calls, by its ids in the initial pid namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadId {
    /// Thread group.
    pub tgid: u32,
    /// Thread.
    pub tid: u32,
}

/// Why a path could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The thread's root, working directory or mounts.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// A name on the way.
    #[error("a name on the way can't be looked up: {0}")]
    Name(#[from] io::Error),
    /// A name that only a file system knows which could hold the daemon up.
    #[error("a name on the way is not in the kernel's cache")]
    NotCached,
    /// A symlink in such a file system, or one that is another for everybody.
    #[error("a symlink on the way is in a file system that is not followed")]
    Link,
    /// More than is followed.
    #[error("too many names or symlinks on the way")]
    TooLong,
    /// The file system has no number.
    #[error("the socket's mount is not in the caller's mount namespace")]
    NoDevice,
}

/// Follows paths. See the module's header.
#[derive(Debug)]
pub struct CalledPaths(ProcRoot);

impl CalledPaths {
    /// Looks at threads through /proc.
    pub fn new() -> Result<Self, ProcError> {
        ProcRoot::open().map(Self)
    }

    /// The socket that a path leads to when this thread calls it now; `None` where it leads to
    /// nothing, or to what is no socket.
    pub fn look_at(&self, thread: ThreadId, path: &[u8]) -> Result<Option<FileId>, FollowError> {
        let thread = self.0.process(thread.tgid)?.thread(thread.tid)?;
        let root = Place::at(thread.follow(c"root", OFlags::PATH)?)?;
        let path = Path::new(OsStr::from_bytes(path));
        let here = if path.is_absolute() {
            root.again()?
        } else {
            Place::at(thread.follow(c"cwd", OFlags::PATH)?)?
        };
        Walk { root, mounts: Mounts { thread, text: None } }.find(here, path)
    }
}

/// A directory on the way.
struct Place {
    handle: OwnedFd,
    found: Statx,
}

impl Place {
    fn at(handle: OwnedFd) -> io::Result<Self> {
        let found = status(handle.as_fd())?;
        Ok(Self { handle, found })
    }

    fn again(&self) -> io::Result<Self> {
        Ok(Self { handle: self.handle.try_clone()?, found: self.found })
    }

    fn is(&self, other: &Self) -> bool {
        let id = |place: &Self| (place.found.stx_mnt_id, place.found.stx_ino);
        id(self) == id(other)
    }
}

/// The mounts that the thread sees, read when they are needed.
struct Mounts {
    thread: ProcDir,
    text: Option<Vec<u8>>,
}

impl Mounts {
    fn text(&mut self) -> Result<&[u8], ProcError> {
        if self.text.is_none() {
            let mut text = Vec::new();
            self.thread.lines(c"mountinfo", MOUNTINFO_BYTES, &mut text)?;
            self.text = Some(text);
        }
        Ok(self.text.as_deref().unwrap_or_default())
    }

    /// Whether looking into a file system can't wait for a process.
    fn are_kept(&mut self, found: &Statx) -> Result<bool, ProcError> {
        if is_local(found) {
            return Ok(true);
        }
        let kind = file_system_of(self.text()?, found.stx_mnt_id);
        Ok(kind.is_some_and(|kind| KEPT.contains(&kind)))
    }

    /// The kernel's device number, see [`super::image`].
    fn device(&mut self, found: &Statx) -> Result<u32, FollowError> {
        if is_local(found) {
            return Ok(device(found.stx_dev_major, found.stx_dev_minor));
        }
        device_of_mount(self.text()?, found.stx_mnt_id).ok_or(FollowError::NoDevice)
    }
}

struct Walk {
    root: Place,
    mounts: Mounts,
}

impl Walk {
    fn find(&mut self, mut here: Place, path: &Path) -> Result<Option<FileId>, FollowError> {
        let mut ahead = steps(path);
        let (mut links, mut steps_left) = (0, STEP_LIMIT);
        while let Some(name) = ahead.pop() {
            steps_left -= 1;
            if steps_left == 0 {
                return Err(FollowError::TooLong);
            }
            if name == ".." && here.is(&self.root) {
                continue;
            }
            let Some(handle) = self.look_up(&here, &name)? else { return Ok(None) };
            let next = Place::at(handle)?;
            match FileType::from_raw_mode(next.found.stx_mode.into()) {
                FileType::Symlink => {
                    links += 1;
                    if links > LINK_LIMIT {
                        return Err(FollowError::TooLong);
                    }
                    if !self.mounts.are_kept(&next.found)? {
                        return Err(FollowError::Link);
                    }
                    let target = target(next.handle.as_fd())?;
                    let target = Path::new(&target);
                    if target.is_absolute() {
                        here = self.root.again()?;
                    }
                    ahead.extend(steps(target));
                }
                FileType::Directory => here = next,
                FileType::Socket if ahead.is_empty() => {
                    let device = self.mounts.device(&next.found)?;
                    return Ok(Some(FileId { inode: next.found.stx_ino, device }));
                }
                FileType::Socket
                | FileType::RegularFile
                | FileType::Fifo
                | FileType::CharacterDevice
                | FileType::BlockDevice
                | FileType::Unknown => return Ok(None),
            }
        }
        Ok(None)
    }

    /// Opens a name in a directory as a path; `None` where it is not there.
    fn look_up(&mut self, place: &Place, name: &OsString) -> Result<Option<OwnedFd>, FollowError> {
        let name = name.as_bytes();
        let look = |how| openat2(&place.handle, name, PATH_ONLY, Mode::empty(), how);
        for _ in 0..TRIES {
            match look(ResolveFlags::CACHED | ResolveFlags::NO_MAGICLINKS) {
                Err(Errno::AGAIN) => {}
                result => return present(result),
            }
        }
        if !self.mounts.are_kept(&place.found)? {
            return Err(FollowError::NotCached);
        }
        present(openat(&place.handle, name, PATH_ONLY, Mode::empty()))
    }
}

fn present(result: rustix::io::Result<OwnedFd>) -> Result<Option<OwnedFd>, FollowError> {
    match result {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

/// What kind of file system a mount is of: `36 35 98:0 / /mnt rw shared:1 - ext4 /dev/root rw`.
fn file_system_of(mountinfo: &[u8], mount_id: u64) -> Option<&[u8]> {
    mountinfo.split(|&byte| byte == b'\n').find_map(|line| {
        let mut fields = line.split(|&byte| byte == b' ');
        if str::from_utf8(fields.next()?).ok()?.parse() != Ok(mount_id) {
            return None;
        }
        fields.by_ref().find(|field| *field == b"-")?;
        fields.next()
    })
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{fs::symlink, net::UnixListener},
        path::PathBuf,
    };

    use super::*;
    use crate::resolver::attestation::socket_files::SocketFiles;

    fn own() -> ThreadId {
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        ThreadId { tgid: std::process::id(), tid }
    }

    fn found(path: &Path) -> Result<Option<FileId>, FollowError> {
        CalledPaths::new().unwrap().look_at(own(), path.as_os_str().as_bytes())
    }

    fn listen(path: &Path) -> (UnixListener, FileId) {
        let listener = UnixListener::bind(path).unwrap();
        (listener, SocketFiles::new().unwrap().identify(path).unwrap())
    }

    #[test]
    fn follows_every_way_that_the_kernel_follows() {
        for below in ["/dev/shm", "/tmp"] {
            let dir = tempfile::tempdir_in(below).unwrap();
            let at = |name: &str| dir.path().join(name);
            let (_listener, id) = listen(&at("server"));
            fs::create_dir(at("below")).unwrap();
            symlink("../server", at("below/link")).unwrap();
            symlink(at("below"), at("absolute")).unwrap();
            fs::hard_link(at("server"), at("hard")).unwrap();
            let up = "../".repeat(30);
            let round = PathBuf::from(format!("{up}{}", at("server").display()));
            for path in [
                at("server"),
                at("below/link"),
                at("absolute/link"),
                at("hard"),
                at("./below/../server"),
                round,
            ] {
                assert_eq!(found(&path).unwrap(), Some(id), "{}", path.display());
            }
        }
    }

    #[test]
    fn tells_nobody_from_what_it_can_not_follow() {
        let dir = tempfile::tempdir_in("/tmp").unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "").unwrap();
        for path in [at("missing"), at("file"), at("file/below"), at("."), at("missing/below")] {
            assert_eq!(found(&path).unwrap(), None, "{}", path.display());
        }
        symlink("circle", at("circle")).unwrap();
        assert!(matches!(found(&at("circle")), Err(FollowError::TooLong)));
        let (_listener, _) = listen(&at("server"));
        for path in ["/proc/self/cwd/server", "/proc/self/root/tmp"] {
            assert!(matches!(found(Path::new(path)), Err(FollowError::Link)), "{path}");
        }
        let magic = format!("/proc/{}/root{}", std::process::id(), at("server").display());
        assert!(found(Path::new(&magic)).is_err(), "{magic}");
    }

    #[test]
    fn tells_the_file_system_of_a_mount() {
        let text = b"22 27 0:21 / /proc rw shared:5 - proc proc rw\n\
                     23 27 0:22 / /a\\040-\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(file_system_of(text, 22), Some(b"proc".as_slice()));
        assert_eq!(file_system_of(text, 23), Some(b"tmpfs".as_slice()));
        assert_eq!(file_system_of(text, 24), None);
        assert_eq!(file_system_of(b"22 27", 22), None);
    }
}
