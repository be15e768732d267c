use std::{
    fs::{self, Permissions},
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
    file::replace(&link, b"new").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), "new");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    // A directory can't be replaced: nothing is left behind.
    fs::create_dir(dir.path().join("directory")).unwrap();
    file::replace(&dir.path().join("directory"), b"new").unwrap_err();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
}

#[test]
fn a_new_file_takes_the_place_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    file::create(&file, b"first").unwrap();
    file::create(&file, b"second").unwrap_err();
    assert_eq!(file::read(&file, 3).unwrap(), b"fir");
    file::read(&dir.path().join("none"), 3).unwrap_err();
}
