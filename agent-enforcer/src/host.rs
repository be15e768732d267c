//! Facts about the host that the daemon runs on.
//!
//! In: /proc and /sys. Out: where the cgroup v2 hierarchy is, and whether the host has all that
//! enforcement needs ([`checks`]). Changes nothing on the host.

mod checks;
mod plane;
mod sock_diag;

use std::{
    ffi::OsString,
    fs, io,
    os::{fd::AsRawFd as _, unix::ffi::OsStringExt},
    path::{Path, PathBuf},
};

pub use checks::{Check, CheckLevel, CheckTargets, checks};
pub use plane::{LSM_LIST, Plane, PlaneError, PlaneWish, lsm_list};

/// `CGROUP2_SUPER_MAGIC`, include/uapi/linux/magic.h
const CGROUP2_MAGIC: u64 = 0x6367_7270;
/// Mount points of this process, one per line.
const MOUNTINFO: &str = "/proc/self/mountinfo";

/// Why a fact about the host could not be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The mount table can't be read.
    #[error("could not read {MOUNTINFO}: {0}; mount /proc")]
    Mountinfo(#[source] io::Error),
    /// There is no cgroup v2 hierarchy.
    #[error(
        "the root of no cgroup v2 hierarchy is mounted; `mount -t cgroup2 none DIR`, or start the \
         kernel with `systemd.unified_cgroup_hierarchy=1`"
    )]
    NoCgroup2,
    /// A named directory is no root of a cgroup v2 hierarchy.
    #[error("{} is not a cgroup v2 directory; name the mount point with `--cgroup-root`", .0.display())]
    NotCgroup2(PathBuf),
}

/// The host's name, as `uname -n` shows it.
pub fn name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Where the root of the cgroup v2 hierarchy is mounted: hybrid layouts have it below
/// /sys/fs/cgroup/unified, or anywhere else.
pub fn cgroup2_mount() -> Result<PathBuf, HostError> {
    let table = fs::read(MOUNTINFO).map_err(HostError::Mountinfo)?;
    mounts_of(&table, "cgroup2")
        .into_iter()
        // A mount can be hidden by a later one at the same place.
        .find(|mount| is_cgroup2(mount))
        .ok_or(HostError::NoCgroup2)
}

/// The cookie of this process's network namespace, as the kernel side records it.
pub fn netns_cookie() -> io::Result<u64> {
    let socket = rustix::net::socket(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: room of the length that is told, for an integer that may have any value.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// The mount point that was named, checked, or the one found by [`cgroup2_mount`].
pub fn cgroup2_root(named: Option<&Path>) -> Result<PathBuf, HostError> {
    match named {
        None => cgroup2_mount(),
        Some(path) if is_cgroup2(path) => Ok(path.to_owned()),
        Some(path) => Err(HostError::NotCgroup2(path.to_owned())),
    }
}

fn is_cgroup2(path: &Path) -> bool {
    file_system(path) == Some(CGROUP2_MAGIC)
}

/// Every cgroup but the root has this file.
pub fn is_hierarchy_root(path: &Path) -> bool {
    path.join("cgroup.procs").exists() && !path.join("cgroup.type").exists()
}

/// Magic number of the file system that `path` is on.
fn file_system(path: &Path) -> Option<u64> {
    u64::try_from(rustix::fs::statfs(path).ok()?.f_type).ok()
}

/// Mount points of a file system type that show its root, in the order of the table (proc(5)):
/// `36 35 98:0 /root /mount/point rw,noatime master:1 - type source options`.
fn mounts_of(table: &[u8], wanted: &str) -> Vec<PathBuf> {
    let mount_point = |line: &[u8]| {
        let mut fields = line.split(|byte| *byte == b' ');
        let root = fields.nth(3)?;
        let point = fields.next()?;
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        (root == b"/" && kind == wanted.as_bytes()).then(|| unescape(point))
    };
    table.split(|byte| *byte == b'\n').filter_map(mount_point).collect()
}

/// Space, tab, newline and backslash stand as three octal digits in the mount table.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let (Some(byte), Some(after)) = (octal, after.get(3..)) {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &[u8] = b"\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
38 31 0:31 / /sys/fs/cgroup/unified rw,relatime shared:4 master:2 - cgroup2 cgroup2 rw
";

    #[test]
    fn finds_hierarchy_in_hybrid_layout() {
        assert_eq!(mounts_of(HYBRID, "cgroup2"), [Path::new("/sys/fs/cgroup/unified")]);
    }

    #[test]
    fn leaves_out_mounts_of_a_part_of_the_hierarchy() {
        let table = b"40 31 0:31 /agents /mnt/part rw - cgroup2 cgroup2 rw\n\
                      41 31 0:31 /../.. /mnt/above rw - cgroup2 cgroup2 rw\n";
        assert!(mounts_of(table, "cgroup2").is_empty());
    }

    #[test]
    fn reads_escaped_mount_points_and_skips_torn_lines() {
        let table = b"38 31 0:31 / /mnt/a\\040b\\134c rw - cgroup2 cgroup2 rw\n38 31 0:31 /\n\n38 31 0:3 / /x rw -";
        assert_eq!(mounts_of(table, "cgroup2"), [Path::new("/mnt/a b\\c")]);
        assert_eq!(unescape(b"\\04"), Path::new("\\04"));
        assert_eq!(unescape(b"\\999"), Path::new("\\999"));
    }

    #[test]
    fn finds_the_hierarchy_of_this_host() {
        let mount = cgroup2_mount().expect("this test needs a host with cgroup v2 mounted");
        assert_eq!(cgroup2_root(Some(&mount)).unwrap(), mount);
    }

    #[test]
    fn refuses_cgroup_root_that_is_none() {
        for path in ["/", "/nonexistent"] {
            assert!(matches!(cgroup2_root(Some(Path::new(path))), Err(HostError::NotCgroup2(_))));
        }
    }
}
