//! The directory and file of the durable store: made for their owner only, refused otherwise.
//!
//! In: paths. Out: an open regular file that nobody else could have exchanged or read, or which
//! permission is wrong and how it is set right.

use std::{
    fs::{DirBuilder, File, Metadata, OpenOptions},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::Path,
};

use rustix::{fs::OFlags, process::geteuid};

use super::GrantStoreError;

/// Whoever can write the directory can exchange the file in it.
pub(super) fn open_directory(path: &Path) -> Result<(), GrantStoreError> {
    let fault = |source| GrantStoreError::Directory { path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(fault)?;
    let metadata = path.metadata().map_err(fault)?;
    let (mode, uid) = permissions(&metadata);
    if mode & 0o022 != 0 || !is_trusted(uid) {
        return Err(GrantStoreError::DirectoryExposed { path: path.to_owned(), mode, uid });
    }
    Ok(())
}

/// Opens or makes the file: for its owner only, never through a link.
pub(super) fn open_file(path: &Path) -> Result<File, GrantStoreError> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits().cast_signed())
        .open(path);
    let not_a_file = || GrantStoreError::NotAFile { path: path.to_owned() };
    let fault = |source| GrantStoreError::File { path: path.to_owned(), source };
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            let odd = path.symlink_metadata().is_ok_and(|found| !found.is_file());
            return Err(if odd { not_a_file() } else { fault(error) });
        }
    };
    let metadata = file.metadata().map_err(fault)?;
    if !metadata.is_file() {
        return Err(not_a_file());
    }
    let (mode, uid) = permissions(&metadata);
    if mode & 0o077 != 0 || !is_trusted(uid) {
        return Err(GrantStoreError::FileExposed { path: path.to_owned(), mode, uid });
    }
    Ok(file)
}

/// A new file outlives a power cut only when its directory does.
pub(super) fn sync_directory(path: &Path) -> Result<(), GrantStoreError> {
    let fault = |source| GrantStoreError::Directory { path: path.to_owned(), source };
    File::open(path).and_then(|directory| directory.sync_all()).map_err(fault)
}

fn permissions(metadata: &Metadata) -> (u32, u32) {
    (metadata.mode() & 0o7777, metadata.uid())
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}
