//! The control socket as a file: its directory, its lock, what is left of a dead daemon.
//!
//! In: a path. Out: a listening socket that only root can reach. Never removes what is no socket,
//! and never a socket that somebody answers on.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{FlockOperation, OFlags, flock},
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with},
};

use super::{
    connection::Audience,
    error::{ApiError, DirectoryFault},
};

/// Bytes of a path that fit `sockaddr_un.sun_path`, with the final zero left out.
pub(super) const PATH_LIMIT: usize = 107;
/// Connections that the kernel queues before they are accepted.
const BACKLOG: i32 = 64;
/// Who may write to a directory: group and others.
const FOREIGN_WRITE: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// A bound control socket; removed when dropped.
#[derive(Debug)]
pub(super) struct ControlSocket {
    path: PathBuf,
    /// Device and inode of the socket file, so that only our own is removed.
    identity: (u64, u64),
    /// Held for as long as the socket is: two daemons never replace each other's.
    _lock: File,
}

impl ControlSocket {
    /// Takes the path: checks the directory, removes what a dead daemon left, binds.
    pub(super) fn bind(path: &Path, audience: Audience) -> Result<(Self, UnixListener), ApiError> {
        check_length(path)?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        prepare_directory(directory)?;
        let lock = take_lock(path)?;
        remove_stale(path)?;
        let listener = bind_with_mode(path, mode_for(audience))?;
        let found = fs::symlink_metadata(path).map_err(|source| system("look at", path, source))?;
        let identity = (found.dev(), found.ino());
        Ok((Self { path: path.to_owned(), identity, _lock: lock }, listener))
    }

    /// The socket file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.identity);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the control socket");
        }
    }
}

/// Refuses a path that would be cut off.
pub(super) fn check_length(path: &Path) -> Result<(), ApiError> {
    if path.as_os_str().len() > PATH_LIMIT {
        return Err(ApiError::PathTooLong { path: path.to_owned() });
    }
    Ok(())
}

fn prepare_directory(directory: &Path) -> Result<(), ApiError> {
    if let Err(source) = DirBuilder::new().recursive(true).mode(0o700).create(directory)
        // What exists as something else is named more clearly below.
        && source.kind() != io::ErrorKind::AlreadyExists
        && source.kind() != io::ErrorKind::NotADirectory
    {
        return Err(system("create the directory", directory, source));
    }
    check_entry(directory, FOREIGN_WRITE)?;
    // Whoever can rename a directory above can put another one in its place; the sticky bit (/tmp)
    // keeps them from doing so.
    let absolute = directory
        .canonicalize()
        .map_err(|source| system("resolve the directory", directory, source))?;
    for above in absolute.ancestors().skip(1) {
        check_above(above)?;
    }
    Ok(())
}

fn check_entry(directory: &Path, forbidden: u32) -> Result<(), ApiError> {
    let unsafe_directory =
        |fault| Err(ApiError::UnsafeDirectory { path: directory.to_owned(), fault });
    let found = fs::symlink_metadata(directory)
        .map_err(|source| system("look at the directory", directory, source))?;
    if found.file_type().is_symlink() {
        return unsafe_directory(DirectoryFault::SymbolicLink);
    }
    if !found.is_dir() {
        return unsafe_directory(DirectoryFault::NotADirectory);
    }
    let own = rustix::process::geteuid().as_raw();
    if found.uid() != own && found.uid() != 0 {
        return unsafe_directory(DirectoryFault::Owner(found.uid()));
    }
    let mode = found.mode() & 0o7777;
    if mode & forbidden != 0 {
        return unsafe_directory(DirectoryFault::Writable(mode));
    }
    Ok(())
}

fn check_above(directory: &Path) -> Result<(), ApiError> {
    let sticky = fs::symlink_metadata(directory).is_ok_and(|found| found.mode() & STICKY != 0);
    check_entry(directory, if sticky { 0 } else { FOREIGN_WRITE })
}

fn take_lock(socket: &Path) -> Result<File, ApiError> {
    let path = socket.with_extension("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)
        .map_err(|source| system("open the lock", &path, source))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(ApiError::AlreadyRunning { path: socket.to_owned() })
        }
        Err(errno) => Err(system("lock", &path, errno.into())),
    }
}

/// The lock says that no daemon of this kind is alive; the connect test says it for any other.
fn remove_stale(path: &Path) -> Result<(), ApiError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(system("look at", path, source)),
    };
    if !found.file_type().is_socket() {
        return Err(ApiError::PathTaken { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "replacing the control socket of a daemon that is gone");
            fs::remove_file(path).map_err(|source| system("remove the stale socket", path, source))
        }
        // Any other error than "refused" (a full queue, say) means that somebody has it.
        Ok(_) | Err(_) => Err(ApiError::AlreadyRunning { path: path.to_owned() }),
    }
}

/// Who may connect at all. Who is answered is asked of the kernel at each connection.
const fn mode_for(audience: Audience) -> u32 {
    match audience {
        Audience::Root => 0o600,
        Audience::Approvers => 0o666,
    }
}

/// Binds and sets the mode before anybody can connect; the process's umask is left alone.
fn bind_with_mode(path: &Path, mode: u32) -> Result<UnixListener, ApiError> {
    let failed = |source: rustix::io::Errno| system("bind", path, source.into());
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).map_err(failed)?;
    bind(&socket, &address).map_err(failed)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|source| system("set the mode of", path, source))?;
    listen(&socket, BACKLOG).map_err(failed)?;
    Ok(UnixListener::from(socket))
}

fn system(action: &'static str, path: &Path, source: io::Error) -> ApiError {
    ApiError::System { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    fn bind(path: &Path) -> Result<(ControlSocket, UnixListener), ApiError> {
        ControlSocket::bind(path, Audience::Root)
    }

    fn directory() -> tempfile::TempDir {
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    fn fault(result: Result<(ControlSocket, UnixListener), ApiError>) -> DirectoryFault {
        let error = result.unwrap_err();
        let ApiError::UnsafeDirectory { fault, .. } = error else { panic!("{error}") };
        fault
    }

    #[test]
    fn makes_directory_and_socket_private() {
        let root = directory();
        let path = root.path().join("run/control.sock");
        let (socket, _listener) = bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(socket);
        assert!(!path.exists(), "the socket is removed with its owner");
    }

    #[test]
    fn approvers_can_reach_theirs() {
        let root = directory();
        let path = root.path().join("approvals.sock");
        let (_socket, _listener) = ControlSocket::bind(&path, Audience::Approvers).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o666);
    }

    #[test]
    fn refuses_directory_that_others_can_change() {
        let root = directory();
        let open = root.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, Permissions::from_mode(0o770)).unwrap();
        assert_eq!(fault(bind(&open.join("control.sock"))), DirectoryFault::Writable(0o770));
        // One level further down it is as unsafe.
        assert_eq!(fault(bind(&open.join("below/control.sock"))), DirectoryFault::Writable(0o770));
    }

    #[test]
    fn refuses_directory_of_another_user() {
        assert!(rustix::process::geteuid().is_root(), "run this test as root: it gives files away");
        let root = directory();
        let foreign = root.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        chown(&foreign, Some(65534), Some(65534)).unwrap();
        assert_eq!(fault(bind(&foreign.join("control.sock"))), DirectoryFault::Owner(65534));
    }

    #[test]
    fn refuses_symbolic_link_and_file_as_directory() {
        let root = directory();
        let link = root.path().join("link");
        symlink(root.path(), &link).unwrap();
        assert_eq!(fault(bind(&link.join("control.sock"))), DirectoryFault::SymbolicLink);
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert_eq!(fault(bind(&file.join("control.sock"))), DirectoryFault::NotADirectory);
    }

    #[test]
    fn refuses_path_that_does_not_fit() {
        let path = Path::new("/run").join("x".repeat(100)).join("control.sock");
        assert!(matches!(bind(&path), Err(ApiError::PathTooLong { .. })));
    }

    #[test]
    fn refuses_path_taken_by_a_file_and_keeps_the_file() {
        let root = directory();
        let path = root.path().join("control.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(bind(&path), Err(ApiError::PathTaken { .. })));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn replaces_socket_of_a_dead_daemon() {
        let root = directory();
        let path = root.path().join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a dropped listener leaves its file");
        let (_socket, _listener) = bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn refuses_while_another_daemon_has_lock_or_socket() {
        let root = directory();
        let path = root.path().join("control.sock");
        let (socket, listener) = bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ApiError::AlreadyRunning { .. })));
        // Even with its socket file gone, the lock tells.
        fs::remove_file(&path).unwrap();
        assert!(matches!(bind(&path), Err(ApiError::AlreadyRunning { .. })));
        drop((socket, listener));
        // A daemon that knows no lock is found by connecting.
        let _other = UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&path), Err(ApiError::AlreadyRunning { .. })));
    }

    #[test]
    fn leaves_a_socket_that_replaced_its_own() {
        let root = directory();
        let path = root.path().join("control.sock");
        let (socket, _listener) = bind(&path).unwrap();
        // Both exist at once, so that the file system can't reuse the inode number.
        let other = root.path().join("other.sock");
        let _other = UnixListener::bind(&other).unwrap();
        fs::rename(&other, &path).unwrap();
        drop(socket);
        assert!(path.exists());
    }
}
