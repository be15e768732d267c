//! Opens the events file so that it is the file that was meant.
//!
//! In: a path. Out: a file opened for appending, new ones with mode 0600. Refused are symbolic
//! links, anything that is neither a regular file nor a character device, and files that others
//! can write: whoever could edit the evidence could also have forged it.

use std::{
    fs::File,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};

use crate::events::EventsError;

/// The file, and its device and inode unless it is a character device.
pub(super) fn open(path: &Path) -> Result<(File, Option<(u64, u64)>), EventsError> {
    // NONBLOCK: a pipe must be refused, not waited for. Read access: for the last line.
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::NOFOLLOW
        | OFlags::NONBLOCK
        | OFlags::NOCTTY
        | OFlags::CLOEXEC;
    let open_error = |source| EventsError::Open { path: path.to_owned(), source };
    let file = match rustix::fs::open(path, flags, Mode::from_raw_mode(0o600)) {
        Ok(fd) => File::from(fd),
        Err(Errno::LOOP) => return Err(EventsError::SymbolicLink { path: path.to_owned() }),
        Err(Errno::ISDIR | Errno::NXIO) => {
            return Err(EventsError::NotAFile { path: path.to_owned() });
        }
        Err(errno) => return Err(open_error(errno.into())),
    };
    let metadata = file.metadata().map_err(open_error)?;
    if metadata.file_type().is_char_device() {
        return Ok((file, None));
    }
    if !metadata.is_file() {
        return Err(EventsError::NotAFile { path: path.to_owned() });
    }
    let mode = metadata.mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(EventsError::OthersCanWrite { path: path.to_owned(), mode });
    }
    Ok((file, Some((metadata.dev(), metadata.ino()))))
}
