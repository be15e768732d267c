//! Digests of executables, and a bounded memory of them.
//!
//! In: a file open for reading. Out: its SHA-256, and the version of the file that it belongs to.
//! [`DigestCache`] has one owner, takes no lock and does no I/O; [`hash`] may take long and runs on
//! the threads of [`super::worker`].
//!
//! When a digest may be remembered: the version of a file is its change time, which moves with
//! every write and which only the kernel sets. Two writes within one tick of the file system's
//! clock can't be told apart, so that a file changed just now is hashed again the next time; nor is
//! a file remembered whose times come from a server (FUSE, network file systems).

use std::{
    collections::{HashMap, VecDeque},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, BorrowedFd},
        unix::fs::FileExt as _,
    },
};

use rustix::{
    fs::{FileType, fstat, fstatfs},
    time::{ClockId, Timespec, clock_gettime},
};
use sha2::{Digest as _, Sha256};

use super::{fsverity, image::FileStamp};
use crate::decision::Sha256Digest;

/// Largest executable that is hashed, bytes: a sparse file can claim 8 EiB.
pub const SIZE_LIMIT: u64 = 4 << 30;
/// How long before now a change may have the same time as one to come, ns. Kernel ticks are at most
/// 10 ms long.
pub(super) const CLOCK_GRAIN_NS: i128 = 20_000_000;
/// How often a file is read whose change time moves meanwhile.
const ATTEMPTS: usize = 3;
/// Read at once, bytes.
const CHUNK: usize = 256 << 10;

/// File systems whose times, and content, a server can set: FUSE (virtiofs too), NFS, SMB, CIFS,
/// 9p, Ceph, AFS (include/uapi/linux/magic.h and the file systems themselves).
const SERVED: [i128; 8] =
    [0x6573_5546, 0x6969, 0x517b, 0xfe53_4d42, 0xff53_4d42, 0x0102_1997, 0x00c3_6400, 0x5346_414f];

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The file was written while it was read.
    #[error("the file changed while it was hashed; install executables by rename")]
    Changed,
    /// Larger than [`SIZE_LIMIT`].
    #[error("the file has {size} bytes, more than {SIZE_LIMIT}; use a smaller executable")]
    TooLarge {
        /// Its size, bytes.
        size: u64,
    },
    /// A directory, a device, ...
    #[error("the file is not a regular file; select a program, not a device or directory")]
    NotRegular,
    /// It can't be read.
    #[error("cannot read the file: {0}; the daemon must be able to reach the file system")]
    Unreadable(#[from] io::Error),
    /// Its file system does not answer.
    #[error(
        "the file system of the file did not answer in time; install the executable on a local one"
    )]
    TimedOut,
    /// The daemon stops.
    #[error("the daemon stops; ask again when it is back")]
    Cancelled,
}

/// What became of hashing a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// The version of the file.
    pub stamp: FileStamp,
    /// Digest of its content.
    pub digest: Sha256Digest,
    /// Its fs-verity digest, where it has one.
    pub fsverity: Option<Sha256Digest>,
    /// Whether that version always has that content (see the module's header).
    pub settled: bool,
}

/// What is remembered of a version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigests {
    /// Digest of its content.
    pub sha256: Sha256Digest,
    /// Its fs-verity digest, where it has one.
    pub fsverity: Option<Sha256Digest>,
}

impl Hashed {
    /// Without the version.
    pub const fn digests(&self) -> FileDigests {
        FileDigests { sha256: self.digest, fsverity: self.fsverity }
    }
}

/// Hashes a file from its beginning, without moving its position. `go_on` is told the number of
/// bytes read so far after each piece; `false` cancels.
pub fn hash(file: &File, go_on: &dyn Fn(u64) -> bool) -> Result<Hashed, DigestError> {
    if FileType::from_raw_mode(fstat(file).map_err(io::Error::from)?.st_mode)
        != FileType::RegularFile
    {
        return Err(DigestError::NotRegular);
    }
    let served = is_served(file_system(file.as_fd())?);
    let mut stamp = FileStamp::of(file.as_fd())?;
    for _ in 0..ATTEMPTS {
        if stamp.size > SIZE_LIMIT {
            return Err(DigestError::TooLarge { size: stamp.size });
        }
        let started = clock_gettime(ClockId::Realtime);
        let digest = read_all(file, stamp.size, go_on)?;
        let after = FileStamp::of(file.as_fd())?;
        if after == stamp {
            let settled = !served && !is_fresh(&stamp, started);
            return Ok(Hashed { stamp, digest, fsverity: fsverity::measure(file), settled });
        }
        if (after.size, after.modified) != (stamp.size, stamp.modified) {
            return Err(DigestError::Changed);
        }
        // Renamed, removed or linked, as upgrades do, or written and its time put back: read again.
        stamp = after;
    }
    Err(DigestError::Changed)
}

/// Digests of the file versions seen last. One owner, no locks.
#[derive(Debug)]
pub struct DigestCache {
    digests: HashMap<FileStamp, FileDigests>,
    /// Oldest first.
    order: VecDeque<FileStamp>,
    capacity: usize,
}

impl DigestCache {
    /// A cache of at most `capacity` digests (some 200 bytes each).
    pub fn new(capacity: usize) -> Self {
        Self { digests: HashMap::new(), order: VecDeque::new(), capacity }
    }

    /// The digests of a version.
    pub fn lookup(&self, stamp: &FileStamp) -> Option<FileDigests> {
        self.digests.get(stamp).copied()
    }

    /// Remembers a digest, unless it is not settled. The one remembered first makes room.
    pub fn insert(&mut self, hashed: &Hashed) {
        let Hashed { stamp, digest: _, fsverity: _, settled } = *hashed;
        if !settled || self.capacity == 0 {
            return;
        }
        if self.digests.insert(stamp, hashed.digests()).is_none() {
            self.order.push_back(stamp);
        }
        while self.order.len() > self.capacity {
            if let Some(oldest) = self.order.pop_front() {
                self.digests.remove(&oldest);
            }
        }
    }

    /// How many digests it holds.
    pub fn len(&self) -> usize {
        self.order.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }
}

fn read_all(
    file: &File,
    size: u64,
    go_on: &dyn Fn(u64) -> bool,
) -> Result<Sha256Digest, DigestError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let read = match file.read_at(&mut buffer, offset) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let piece = buffer.get(..read).unwrap_or_default();
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        offset += read as u64;
        // Grows as fast as it is read: never follow it to its end.
        if offset > size {
            return Err(DigestError::Changed);
        }
        if !go_on(offset) {
            return Err(DigestError::Cancelled);
        }
    }
    Ok(Sha256Digest(hasher.finalize().into()))
}

/// Whether a server can set the times and the content of a file system's files.
pub(super) fn is_served(magic: i128) -> bool {
    SERVED.contains(&magic)
}

/// The magic number of the file system that a file is on.
pub(super) fn file_system(file: BorrowedFd<'_>) -> io::Result<i128> {
    // Magic numbers have 32 bits; `f_type` is a signed word on some architectures.
    Ok(i128::from(fstatfs(file)?.f_type) & 0xffff_ffff)
}

/// Whether a change to come could have the same time as the last one.
fn is_fresh(stamp: &FileStamp, now: Timespec) -> bool {
    let nanoseconds = |seconds, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
    let (seconds, rest) = stamp.changed;
    nanoseconds(seconds, rest.into()) >= nanoseconds(now.tv_sec, now.tv_nsec) - CLOCK_GRAIN_NS
}

#[cfg(test)]
mod tests;
