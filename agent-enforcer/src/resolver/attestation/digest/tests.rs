use std::{
    cell::Cell,
    fs,
    io::{Read as _, Seek as _, Write as _},
    path::Path,
};

use super::*;
use crate::resolver::attestation::testing::eventually;

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn hash_path(path: &Path) -> Result<Hashed, DigestError> {
    hash(&File::open(path).unwrap(), &|_| true)
}

fn file(content: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content).unwrap();
    file
}

/// Waits until a file's last change is long enough ago for its digest to be remembered.
fn settle(path: &Path) -> Hashed {
    eventually("the file is settled", || hash_path(path).unwrap().settled);
    hash_path(path).unwrap()
}

#[test]
fn hashes_from_the_beginning_and_leaves_the_position_alone() {
    let file = file(b"abc");
    let mut open = File::open(file.path()).unwrap();
    open.seek(io::SeekFrom::Start(1)).unwrap();
    assert_eq!(hash(&open, &|_| true).unwrap().digest.to_string(), ABC);
    let mut rest = String::new();
    open.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "bc");
}

#[test]
fn hashes_files_of_many_pieces() {
    let file = file(&vec![b'a'; 1_000_000]);
    let digest = hash_path(file.path()).unwrap().digest.to_string();
    assert_eq!(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

#[test]
fn content_changed_with_the_modification_time_restored_is_another_version() {
    let file = file(b"abc");
    let before = settle(file.path());
    let modified = fs::metadata(file.path()).unwrap().modified().unwrap();
    fs::write(file.path(), b"abd").unwrap();
    file.as_file().set_modified(modified).unwrap();
    let after = hash_path(file.path()).unwrap();
    assert_eq!(before.stamp.modified, after.stamp.modified);
    assert_eq!(before.stamp.size, after.stamp.size);
    assert_ne!(before.stamp, after.stamp);
    let mut cache = DigestCache::new(8);
    cache.insert(&before);
    assert_eq!(cache.lookup(&before.stamp), Some(before.digests()));
    assert_eq!(cache.lookup(&after.stamp), None);
}

#[test]
fn a_file_replaced_by_rename_is_another_version() {
    let directory = tempfile::tempdir().unwrap();
    let (path, new) = (directory.path().join("agent"), directory.path().join("new"));
    fs::write(&path, b"abc").unwrap();
    let before = hash_path(&path).unwrap();
    let open = File::open(&path).unwrap();
    fs::write(&new, b"abd").unwrap();
    fs::rename(&new, &path).unwrap();
    assert_ne!(hash_path(&path).unwrap().stamp, before.stamp);
    // Who has it open still hashes what runs.
    assert_eq!(hash(&open, &|_| true).unwrap().digest, before.digest);
}

#[test]
fn a_file_changed_just_now_is_not_remembered() {
    let file = file(b"abc");
    let hashed = hash_path(file.path()).unwrap();
    assert!(!hashed.settled);
    let mut cache = DigestCache::new(8);
    cache.insert(&hashed);
    assert!(cache.is_empty());
    assert!(settle(file.path()).settled);
}

#[test]
fn a_file_from_the_future_is_not_remembered() {
    // A clock that was put back: only a file system's own clock sets the change time.
    let future = FileStamp::of(file(b"abc").as_file().as_fd()).unwrap();
    let now = clock_gettime(ClockId::Realtime);
    assert!(is_fresh(&FileStamp { changed: (now.tv_sec + 3600, 0), ..future }, now));
    assert!(!is_fresh(&FileStamp { changed: (now.tv_sec - 3600, 0), ..future }, now));
}

#[test]
fn truncated_while_hashing_is_a_change() {
    let file = file(&vec![7; 4 * CHUNK]);
    let truncated = Cell::new(false);
    let result = hash(&File::open(file.path()).unwrap(), &|_| {
        if !truncated.replace(true) {
            file.as_file().set_len(5).unwrap();
        }
        true
    });
    assert!(matches!(result, Err(DigestError::Changed)), "{result:?}");
}

#[test]
fn a_program_upgraded_while_it_is_hashed_is_hashed() {
    let file = file(&vec![b'a'; 1_000_000]);
    let path = file.path().to_owned();
    let removed = Cell::new(false);
    let hashed = hash(&File::open(&path).unwrap(), &|_| {
        if !removed.replace(true) {
            fs::remove_file(&path).unwrap();
        }
        true
    });
    let digest = hashed.unwrap().digest.to_string();
    assert_eq!(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

#[test]
fn written_while_hashing_with_the_time_put_back_is_not_hashed_half() {
    let file = file(&vec![b'a'; 2 * CHUNK]);
    let modified = fs::metadata(file.path()).unwrap().modified().unwrap();
    let changes = Cell::new(0);
    let rewrite = |byte| {
        std::os::unix::fs::FileExt::write_all_at(file.as_file(), &[byte; 1], 0).unwrap();
        file.as_file().set_modified(modified).unwrap();
    };
    let open = File::open(file.path()).unwrap();
    // Once: the second reading is of what is there then.
    let hashed = hash(&open, &|_| {
        if changes.replace(1) == 0 {
            rewrite(b'b');
        }
        true
    });
    assert_eq!(hashed.unwrap().digest, hash_path(file.path()).unwrap().digest);
    // For ever: it never settles on anything. Change times have the grain of a clock tick.
    let hashed = hash(&open, &|_| {
        let before = FileStamp::of(file.as_file().as_fd()).unwrap().changed;
        eventually("the change time moves", || {
            rewrite(b'c');
            FileStamp::of(file.as_file().as_fd()).unwrap().changed != before
        });
        true
    });
    assert!(matches!(hashed, Err(DigestError::Changed)), "{hashed:?}");
}

#[test]
fn growing_for_ever_while_hashing_is_a_change() {
    let file = file(&vec![7; CHUNK]);
    let mut pieces = 0;
    let pieces = Cell::from_mut(&mut pieces);
    let result = hash(&File::open(file.path()).unwrap(), &|read| {
        pieces.set(pieces.get() + 1);
        file.as_file().set_len(read + CHUNK as u64).unwrap();
        true
    });
    assert!(matches!(result, Err(DigestError::Changed)), "{result:?}");
    assert!(pieces.get() <= 2);
}

#[test]
fn a_file_larger_than_the_limit_is_refused_unread() {
    let file = file(b"");
    file.as_file().set_len(SIZE_LIMIT + 1).unwrap();
    let result = hash(&File::open(file.path()).unwrap(), &|_| panic!("it was read"));
    assert!(matches!(result, Err(DigestError::TooLarge { size }) if size == SIZE_LIMIT + 1));
}

#[test]
fn only_regular_files_are_hashed() {
    for path in ["/", "/dev/zero"] {
        let result = hash_path(Path::new(path));
        assert!(matches!(result, Err(DigestError::NotRegular)), "{path}");
    }
}

#[test]
fn a_file_that_cannot_be_read_says_so() {
    let unreadable = File::options().write(true).open(file(b"abc").path()).unwrap();
    let result = hash(&unreadable, &|_| true);
    assert!(matches!(result, Err(DigestError::Unreadable(_))), "{result:?}");
}

#[test]
fn hashing_can_be_cancelled() {
    let file = file(&vec![7; 4 * CHUNK]);
    let result = hash(&File::open(file.path()).unwrap(), &|read| read < 2 * CHUNK as u64);
    assert!(matches!(result, Err(DigestError::Cancelled)), "{result:?}");
}

#[test]
fn the_cache_keeps_what_came_last() {
    let stamp = FileStamp::of(file(b"abc").as_file().as_fd()).unwrap();
    let hashed = |inode, byte| Hashed {
        stamp: FileStamp { inode, ..stamp },
        digest: Sha256Digest([byte; 32]),
        fsverity: None,
        settled: true,
    };
    let mut cache = DigestCache::new(3);
    for (inode, byte) in [(1, 1), (2, 2), (1, 9), (3, 3), (4, 4)] {
        cache.insert(&hashed(inode, byte));
    }
    assert_eq!(cache.len(), 3);
    let lookup =
        |inode| cache.lookup(&FileStamp { inode, ..stamp }).map(|digests| digests.sha256.0[0]);
    assert_eq!([lookup(1), lookup(2), lookup(3), lookup(4)], [None, Some(2), Some(3), Some(4)]);
    let mut none = DigestCache::new(0);
    none.insert(&hashed(1, 1));
    assert!(none.is_empty());
}

#[test]
fn file_systems_with_a_server_are_known_by_their_magic() {
    // tmpfs, and what this test runs on.
    assert!(!SERVED.contains(&file_system(File::open("/dev/shm").unwrap().as_fd()).unwrap()));
    assert!(!SERVED.contains(&file_system(file(b"").as_file().as_fd()).unwrap()));
}
