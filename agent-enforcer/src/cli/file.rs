//! Files of manifests, keys and tokens: read up to a limit, written whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
};

use super::console::Failure;
use crate::signing::random;

/// Reads at most `limit` bytes.
pub(super) fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Failure> {
    let fault = |error: io::Error| {
        let error = format!("{} can't be read: {error}", path.display());
        Failure::failed(error, "name a file that this user may read")
    };
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes)).map_err(fault)?;
    Ok(bytes)
}

/// Writes a file that is not there yet.
pub(super) fn create(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
        .map_err(|error| unwritable(path, &error))
}

/// Puts a file in the place of another in one step: a reader sees the old one or the new one.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    // A link stays a link: what it leads to is replaced.
    let path = fs::canonicalize(path).unwrap_or_else(|_not_there| path.to_owned());
    let fault = |error: &io::Error| unwritable(&path, error);
    let beside = beside(&path)?;
    let mode = fs::metadata(&path).ok().map(|metadata| metadata.permissions());
    let written =
        OpenOptions::new().write(true).create_new(true).open(&beside).and_then(|mut file| {
            if let Some(mode) = mode {
                file.set_permissions(mode)?;
            }
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)
        });
    written.map_err(|error| {
        // What is left of it is of no use; whether it can be removed changes nothing.
        let _ = fs::remove_file(&beside);
        fault(&error)
    })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = parent.unwrap_or_else(|| Path::new("."));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(|error| fault(&error))
}

/// A name that nobody else has, in the same directory.
fn beside(path: &Path) -> Result<PathBuf, Failure> {
    let number = random::<8>().map_err(|error| {
        Failure::failed(error.to_string(), "see that the system has started completely")
    })?;
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(path.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(number))))
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    let error = format!("{} can't be written: {error}", path.display());
    Failure::failed(error, "name a new file in a directory that this user may write")
}

#[cfg(test)]
mod tests {
    use std::{
        fs::Permissions,
        os::unix::fs::{PermissionsExt as _, symlink},
    };

    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode_and_its_links() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        symlink(&file, &link).unwrap();
        replace(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        // A directory can't be replaced: nothing is left behind.
        fs::create_dir(dir.path().join("directory")).unwrap();
        replace(&dir.path().join("directory"), b"new").unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn a_new_file_takes_the_place_of_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        create(&file, b"first").unwrap();
        create(&file, b"second").unwrap_err();
        assert_eq!(read(&file, 3).unwrap(), b"fir");
        read(&dir.path().join("none"), 3).unwrap_err();
    }
}
