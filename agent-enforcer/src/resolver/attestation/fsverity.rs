//! The fs-verity digest of a file: what the kernel itself checks every read against.
//!
//! In: an open file. Out: the digest, where the file has one of SHA-256. Costs one system call: the
//! kernel keeps it (Documentation/filesystems/fsverity.rst, `FS_IOC_MEASURE_VERITY`).

use std::{ffi::c_void, fs::File};

use rustix::{
    io,
    ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode},
};

use crate::decision::Sha256Digest;

/// `FS_VERITY_HASH_ALG_SHA256`, include/uapi/linux/fsverity.h.
const SHA256: u16 = 1;
const BYTES: u16 = 32;

/// `struct fsverity_digest`, with room for the digest.
#[repr(C)]
struct Measurement {
    algorithm: u16,
    /// Going in: the room there is.
    size: u16,
    digest: [u8; BYTES as usize],
}

// SAFETY: `FS_IOC_MEASURE_VERITY` is `_IOWR('f', 134, struct fsverity_digest)`, whose own size is
// that of its two numbers; it writes no more of the digest than `size` says.
unsafe impl Ioctl for Measurement {
    type Output = Self;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<[u16; 2]>(b'f', 134)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut(self).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, measured: *mut c_void) -> io::Result<Self> {
        // SAFETY: it is the pointer that `as_ptr` returned.
        Ok(unsafe { measured.cast::<Self>().read() })
    }
}

/// The digest. Whatever is against it, as on file systems that know of none, means that there is none.
pub(super) fn measure(file: &File) -> Option<Sha256Digest> {
    let room = Measurement { algorithm: 0, size: BYTES, digest: [0; BYTES as usize] };
    // SAFETY: see the opcode.
    let Measurement { algorithm, size, digest } = unsafe { ioctl(file, room) }.ok()?;
    ((algorithm, size) == (SHA256, BYTES)).then_some(Sha256Digest(digest))
}

#[cfg(test)]
mod tests;
