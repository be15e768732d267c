//! Which unix socket does a path of the policy lead to, now?
//!
//! In: paths. Out: whether a path leads to an inode that the kernel side has seen called. Asked on the
//! intake thread, so nothing here waits for a file system that a process serves:
//!
//! - Names are looked up one by one in the kernel's cache (`RESOLVE_CACHED`, 5.12). A socket that
//!   somebody listens on keeps its own name and the directories above it there.
//! - Only on block devices, and only while the way there is *root's* (every directory belongs to root,
//!   and nobody else may write to it), an uncached name is looked up in the file system.
//! - Only while the way is root's a symlink is followed. Elsewhere it names nothing: whoever may write
//!   to a directory would choose which socket of the host the policy means.
//!
//! The generation of an inode is not compared: `FS_IOC_GETVERSION` needs the file open, and a socket
//! can't be opened. Nor is it needed here: the inode that a path leads to is in use, and of those in
//! use no two have one number. Where a number was used before, the kernel side has another peer.

use std::{
    ffi::OsString,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt as _, OsStringExt as _},
    },
    path::{Component, Path},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, Statx, open, openat, openat2, readlinkat_raw},
    io::Errno,
};

use super::{
    image::{MOUNTINFO_BYTES, device, device_of_mount, status},
    procfs::{ProcDir, ProcError, ProcRoot},
};

/// Symlinks on the way to one socket (`MAXSYMLINKS` of the kernel).
pub(super) const LINK_LIMIT: usize = 40;
/// Names on the way to one socket.
pub(super) const STEP_LIMIT: usize = 256;
/// Tries of a look-up that a change elsewhere has disturbed.
pub(super) const TRIES: usize = 3;
/// Longest target of a symlink (`PATH_MAX`).
const TARGET_BYTES: usize = 4096;
/// Bits that let others than the owner write to a directory, sticky or not.
const WRITABLE: u16 = 0o022;

pub(super) const PATH_ONLY: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A file as the kernel side records it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileId {
    /// Inode number.
    pub inode: u64,
    /// Kernel device number (`super_block.s_dev`).
    pub device: u32,
}

/// Looks paths up. See the module's header.
#[derive(Debug)]
pub struct SocketFiles {
    root: OwnedFd,
    own: ProcDir,
}

/// A directory on the way.
struct Place {
    handle: OwnedFd,
    /// It and all above it are root's.
    is_roots: bool,
    /// Its file system is on a block device.
    is_local: bool,
}

impl SocketFiles {
    /// Looks up from the daemon's root directory, in its mount namespace.
    pub fn new() -> Result<Self, ProcError> {
        let own = ProcRoot::open()?.own()?;
        let root = open(c"/", PATH_ONLY, Mode::empty())
            .map_err(|error| ProcError::Unreadable { file: "root".into(), source: error.into() })?;
        Ok(Self { root, own })
    }

    /// Whether a path leads to this very socket now. What can't be looked at is no socket.
    pub fn leads_to(&self, path: &Path, socket: FileId) -> bool {
        self.socket(path).is_some_and(|found| {
            found.stx_ino == socket.inode && self.device(&found) == Some(socket.device)
        })
    }

    /// The socket that a path leads to now.
    pub fn look_at(&self, path: &Path) -> Option<FileId> {
        let found = self.socket(path)?;
        Some(FileId { inode: found.stx_ino, device: self.device(&found)? })
    }

    /// What a path of the daemon's own leads to. May wait for the file system.
    pub fn identify(&self, path: &Path) -> io::Result<FileId> {
        let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let found = status(handle.as_fd())?;
        let device = self
            .device(&found)
            .ok_or_else(|| io::Error::other("its mount is not in the daemon's mount namespace"))?;
        Ok(FileId { inode: found.stx_ino, device })
    }

    fn socket(&self, path: &Path) -> Option<Statx> {
        self.find(path).unwrap_or_else(|error| {
            tracing::debug!(path = %path.display(), %error, "a path of the policy can't be looked at");
            None
        })
    }

    /// `None`: it leads to no socket.
    fn find(&self, path: &Path) -> io::Result<Option<Statx>> {
        let mut here = self.start()?;
        let mut ahead = steps(path);
        let (mut links, mut steps_left) = (0, STEP_LIMIT);
        while let Some(name) = ahead.pop() {
            steps_left -= 1;
            if steps_left == 0 {
                return Ok(None);
            }
            let Some(handle) = look_up(&here, &name)? else { return Ok(None) };
            let found = status(handle.as_fd())?;
            match FileType::from_raw_mode(found.stx_mode.into()) {
                FileType::Symlink => {
                    links += 1;
                    if links > LINK_LIMIT || !here.is_roots || found.stx_uid != 0 {
                        return Ok(None);
                    }
                    let target = target(handle.as_fd())?;
                    let target = Path::new(&target);
                    if target.is_absolute() {
                        here = self.start()?;
                    }
                    ahead.extend(steps(target));
                }
                FileType::Directory => here = Place::below(&here, handle, &found),
                FileType::Socket if ahead.is_empty() => return Ok(Some(found)),
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

    fn start(&self) -> io::Result<Place> {
        let handle = self.root.try_clone()?;
        let found = status(handle.as_fd())?;
        let (is_roots, is_local) = (is_roots(&found), is_local(&found));
        Ok(Place { handle, is_roots, is_local })
    }

    /// The kernel's device number, see [`super::image`].
    fn device(&self, found: &Statx) -> Option<u32> {
        if is_local(found) {
            return Some(device(found.stx_dev_major, found.stx_dev_minor));
        }
        let mut mountinfo = Vec::new();
        self.own.lines(c"mountinfo", MOUNTINFO_BYTES, &mut mountinfo).ok()?;
        device_of_mount(&mountinfo, found.stx_mnt_id)
    }
}

impl Place {
    fn below(above: &Self, handle: OwnedFd, found: &Statx) -> Self {
        Self { handle, is_roots: above.is_roots && is_roots(found), is_local: is_local(found) }
    }
}

/// The names of a path, the last one first. `..` of a symlink's target is a name as well.
pub(super) fn steps(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

/// Opens a name in a directory as a path; `None` where it is not there, or not known to be.
fn look_up(place: &Place, name: &OsString) -> io::Result<Option<OwnedFd>> {
    for _ in 0..TRIES {
        let how = ResolveFlags::CACHED | ResolveFlags::NO_MAGICLINKS;
        match openat2(&place.handle, name.as_bytes(), PATH_ONLY, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            result => return present(result),
        }
    }
    if !(place.is_roots && place.is_local) {
        return Ok(None);
    }
    present(openat(&place.handle, name.as_bytes(), PATH_ONLY, Mode::empty()))
}

fn present(result: rustix::io::Result<OwnedFd>) -> io::Result<Option<OwnedFd>> {
    match result {
        Ok(handle) => Ok(Some(handle)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) fn target(link: BorrowedFd<'_>) -> io::Result<OsString> {
    let mut buffer = Vec::with_capacity(TARGET_BYTES);
    readlinkat_raw(link, c"", rustix::buffer::spare_capacity(&mut buffer))?;
    Ok(OsString::from_vec(buffer))
}

const fn is_roots(found: &Statx) -> bool {
    found.stx_uid == 0 && found.stx_mode & WRITABLE == 0
}

/// A number with a major is a block device's, and `s_dev` everywhere.
pub(super) const fn is_local(found: &Statx) -> bool {
    found.stx_dev_major != 0
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::{
            fs::{MetadataExt as _, PermissionsExt as _, chown, symlink},
            net::UnixListener,
        },
        path::PathBuf,
    };

    use super::*;

    /// A directory that is root's all the way: `/tmp` is not.
    fn roots() -> tempfile::TempDir {
        let below = ["/run", "/var/lib", "/"];
        let dir = below.iter().find_map(|dir| tempfile::tempdir_in(dir).ok()).unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn listen(path: &Path) -> (UnixListener, FileId) {
        let listener = UnixListener::bind(path).unwrap();
        let id = SocketFiles::new().unwrap().identify(path).unwrap();
        assert_eq!(id.inode, fs::metadata(path).unwrap().ino());
        (listener, id)
    }

    #[test]
    fn a_path_leads_to_the_socket_that_is_there_now() {
        let dir = roots();
        let path = dir.path().join("server.sock");
        let files = SocketFiles::new().unwrap();
        let (first, id) = listen(&path);
        assert!(files.leads_to(&path, id));
        assert!(!files.leads_to(&path, FileId { inode: id.inode + 1, ..id }));
        assert!(!files.leads_to(&path, FileId { device: id.device ^ 1, ..id }));
        assert!(!files.leads_to(&dir.path().join("other.sock"), id));
        // The first keeps its inode under another name, so that the second has another.
        fs::rename(&path, dir.path().join("old.sock")).unwrap();
        assert!(!files.leads_to(&path, id));
        let (_second, successor) = listen(&path);
        assert!(files.leads_to(&path, successor) && !files.leads_to(&path, id));
        assert!(files.leads_to(&dir.path().join("old.sock"), id));
        drop(first);
    }

    #[test]
    fn what_is_no_socket_is_named_by_no_path() {
        let dir = roots();
        let files = SocketFiles::new().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let id = files.identify(&file).unwrap();
        assert!(!files.leads_to(&file, id));
        let id = files.identify(dir.path()).unwrap();
        assert!(!files.leads_to(dir.path(), id));
        assert!(!files.leads_to(&file.join("below"), id));
    }

    #[test]
    fn links_of_root_are_followed_where_only_root_can_make_them() {
        let dir = roots();
        let files = SocketFiles::new().unwrap();
        fs::create_dir(dir.path().join("real")).unwrap();
        let (_listener, id) = listen(&dir.path().join("real/server.sock"));
        symlink("real", dir.path().join("alias")).unwrap();
        symlink("../alias/./server.sock", dir.path().join("real/link")).unwrap();
        symlink(dir.path().join("real/link"), dir.path().join("absolute")).unwrap();
        for path in ["alias/server.sock", "real/link", "absolute", "alias/link"] {
            assert!(files.leads_to(&dir.path().join(path), id), "{path}");
        }
        let circle = dir.path().join("circle");
        symlink(&circle, &circle).unwrap();
        assert!(!files.leads_to(&circle, id));
    }

    #[test]
    fn links_that_another_user_could_have_made_name_nothing() {
        let dir = roots();
        let files = SocketFiles::new().unwrap();
        let (_listener, id) = listen(&dir.path().join("server.sock"));
        let link = |dir: PathBuf| {
            let link = dir.join("link");
            symlink("../server.sock", &link).unwrap();
            link
        };
        let below = |name: &str, mode| {
            let below = dir.path().join(name);
            fs::create_dir(&below).unwrap();
            fs::set_permissions(&below, fs::Permissions::from_mode(mode)).unwrap();
            below
        };
        assert!(files.leads_to(&link(below("roots", 0o755)), id));
        assert!(!files.leads_to(&link(below("group", 0o775)), id));
        assert!(!files.leads_to(&link(below("sticky", 0o1777)), id));
        let owned = below("owned", 0o755);
        chown(&owned, Some(65_534), None).unwrap();
        assert!(!files.leads_to(&link(owned.clone()), id));
        // The socket itself may well be there: its server has made it.
        let (_other, other) = listen(&owned.join("own.sock"));
        assert!(files.leads_to(&owned.join("own.sock"), other));
    }

    #[test]
    fn devices_are_those_that_the_kernel_records() {
        let files = SocketFiles::new().unwrap();
        for dir in ["/dev/shm", "/tmp", "/run"] {
            let Ok(dir) = tempfile::tempdir_in(dir) else { continue };
            let path = dir.path().join("socket");
            let (_listener, id) = listen(&path);
            assert!(files.leads_to(&path, id), "{}", path.display());
        }
    }
}
