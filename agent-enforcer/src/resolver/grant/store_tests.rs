//! The durable store: what it keeps, what it refuses, and what a broken file does.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use agent_enforcer_common::id::GrantId;
use tempfile::TempDir;

use super::{
    BootId, GrantStore, GrantStoreError, Moment,
    testing::{moment, new_grant, wall},
};

fn open(dir: &TempDir) -> GrantStore {
    GrantStore::open(dir.path()).unwrap()
}

fn refusal(dir: &Path) -> String {
    let error = GrantStore::open(dir).unwrap_err();
    error.to_string().replace(&format!("{}/", dir.display()), "")
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn grants_revocations_and_uses_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let now = moment(100);
    let mut counted = new_grant(&now);
    counted.max_uses = Some(2);
    let store = open(&dir);
    let plain = store.issue(new_grant(&now)).unwrap();
    let counted = store.issue(counted).unwrap();
    assert_eq!((plain.id, counted.id), (GrantId::new(1), GrantId::new(2)));
    let revoked = store.revoke(plain.id, "leaked", &moment(101)).unwrap();
    assert_eq!(store.record_use(counted.id, &moment(102)).unwrap()[0].uses, 1);
    drop(store);

    let store = open(&dir);
    let table = store.load(&moment(103)).unwrap();
    assert_eq!(table.get(plain.id), Some(&revoked));
    assert_eq!(table.get(counted.id).map(|grant| grant.uses), Some(1));
    assert_eq!(store.issue(new_grant(&now)).unwrap().id, GrantId::new(3));
}

#[test]
fn no_more_uses_are_recorded_than_a_grant_has() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let mut new = new_grant(&moment(100));
    new.max_uses = Some(1);
    let counted = store.issue(new).unwrap().id;
    let plain = store.issue(new_grant(&moment(100))).unwrap().id;
    let refusal = |id, now: &Moment| store.record_use(id, now).unwrap_err().to_string();
    let over = moment(100 + 31 * 60);
    assert!(refusal(counted, &over).contains("the grant is expired"));
    store.record_use(counted, &moment(100)).unwrap();
    assert!(refusal(counted, &moment(100)).contains("the grant is used_up"));
    assert!(refusal(plain, &moment(100)).contains("has no use count"));
    let unknown = refusal(GrantId::new(9), &moment(100));
    assert_eq!(unknown, "there is no grant g-9; see `agent-enforcer grant list`");
}

#[test]
fn the_first_revocation_stays() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let id = store.issue(new_grant(&moment(100))).unwrap().id;
    let first = store.revoke(id, "first", &moment(101)).unwrap();
    assert_eq!(store.revoke(id, "second", &moment(102)).unwrap(), first);
    let unknown = store.revoke(GrantId::new(9), "none", &moment(102)).unwrap_err();
    assert!(matches!(unknown, GrantStoreError::UnknownGrant(_)));
}

#[test]
fn agents_keep_their_ids_and_epochs_grow() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let ids = store.agent_ids(["b", "a"]).unwrap();
    let (a, b) = (ids["a"], ids["b"]);
    assert!(a != b && !a.is_none() && !b.is_none());
    let epoch = store.next_epoch().unwrap();
    drop(store);
    let store = open(&dir);
    assert_eq!(store.agent_id("a").unwrap(), a);
    let c = store.agent_id("c").unwrap();
    assert!(c > a && c > b);
    assert!(store.next_epoch().unwrap() > epoch);
}

#[test]
fn deadlines_are_carried_over_a_restart_of_the_host_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let id = store.issue(new_grant(&moment(100))).unwrap().id;
    store.note_time(&moment(400)).unwrap();
    let rebooted = |seconds: u64, wall_seconds| Moment {
        wall: wall(wall_seconds),
        boot_ns: seconds * 1_000_000_000,
        boot: BootId::new("second"),
    };
    let expiry = |now: &Moment| {
        store.load(now).unwrap().get(id).map(|grant| grant.expires_ns / 1_000_000_000)
    };
    // 1500 s were left at the mark; the wall clock was set back and would have it longer.
    assert_eq!(expiry(&rebooted(10, 0)), Some(1510));
    // In the same boot the wall clock moves nothing any more.
    assert_eq!(expiry(&rebooted(20, 1500)), Some(1510));
    assert_eq!(expiry(&rebooted(30, 0)), Some(1510));
}

#[test]
fn a_grant_is_dropped_a_day_after_its_expiry_and_its_number_never_given_again() {
    const EXPIRY: u64 = 100 + 30 * 60;
    const DAY: u64 = 24 * 60 * 60;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    let first = store.issue(new_grant(&moment(100))).unwrap().id;
    let revoked = store.issue(new_grant(&moment(100))).unwrap().id;
    store.revoke(revoked, "done", &moment(101)).unwrap();
    let later = store.issue(new_grant(&moment(101))).unwrap().id;
    assert_eq!(store.drop_outdated(&moment(EXPIRY + DAY - 1)).unwrap(), 0);
    assert_eq!(store.drop_outdated(&moment(EXPIRY + DAY)).unwrap(), 2);
    drop(store);
    let store = open(&dir);
    let now = moment(EXPIRY + DAY);
    let table = store.load(&now).unwrap();
    assert_eq!(table.iter().map(|grant| grant.id).collect::<Vec<_>>(), [later]);
    let gone = store.revoke(first, "late", &now).unwrap_err();
    assert!(matches!(gone, GrantStoreError::UnknownGrant(_)));
    assert!(store.issue(new_grant(&now)).unwrap().id > later);
}

#[test]
fn a_restart_of_the_host_does_not_keep_a_grant_for_ever() {
    const EXPIRY: u64 = 100 + 30 * 60;
    const DAY: u64 = 24 * 60 * 60;
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    store.issue(new_grant(&moment(100))).unwrap();
    let rebooted = |wall_seconds| Moment {
        wall: wall(wall_seconds),
        boot_ns: 10,
        boot: BootId::new("second"),
    };
    assert_eq!(store.drop_outdated(&rebooted(EXPIRY + DAY)).unwrap(), 0, "not carried over yet");
    store.load(&rebooted(EXPIRY + 1)).unwrap();
    assert_eq!(store.drop_outdated(&rebooted(EXPIRY + DAY - 1)).unwrap(), 0);
    assert_eq!(store.drop_outdated(&rebooted(EXPIRY + DAY)).unwrap(), 1);
}

#[test]
fn files_are_for_the_owner_only() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("deep/state");
    GrantStore::open(&state).unwrap();
    assert_eq!((mode(&state), mode(&state.join("grants.redb"))), (0o700, 0o600));
}

#[test]
fn refuses_directories_and_files_that_others_can_reach() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let file = dir.path().join("grants.redb");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(refusal(dir.path()).starts_with("grants.redb is open to others (mode 644, uid "));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
    assert!(refusal(dir.path()).contains("can be written by others (mode 770, uid "));
}

#[test]
fn refuses_what_is_no_directory_or_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("grants.redb");
    fs::create_dir(&file).unwrap();
    assert!(refusal(dir.path()).starts_with("grants.redb is not a regular file; move it away"));
    fs::remove_dir(&file).unwrap();
    symlink("elsewhere", &file).unwrap();
    assert!(refusal(dir.path()).starts_with("grants.redb is not a regular file; move it away"));
    assert!(!dir.path().join("elsewhere").exists());
    fs::remove_file(&file).unwrap();
    fs::write(&file, "").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    GrantStore::open(dir.path()).unwrap();
    let below = file.join("state");
    let error = GrantStore::open(&below).unwrap_err();
    assert!(matches!(error, GrantStoreError::Directory { .. }), "{error}");
}

#[test]
fn a_second_daemon_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let _first = open(&dir);
    assert_eq!(
        refusal(dir.path()),
        "grants.redb is in use by another daemon; stop it, or give another `--state-dir`"
    );
}

/// Opens a damaged copy; it must be an error or give back every grant, and never panic.
fn damaged(original: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Option<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = original.to_vec();
    change(&mut bytes);
    let file = dir.path().join("grants.redb");
    fs::write(&file, bytes).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let loaded = GrantStore::open(dir.path()).and_then(|store| store.load(&moment(100)));
    match loaded {
        Ok(table) => {
            assert_eq!(table.len(), 50);
            None
        }
        Err(error) => Some(error.to_string()),
    }
}

#[test]
fn a_damaged_file_is_an_error_with_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(&dir);
    for _ in 0..50 {
        store.issue(new_grant(&moment(100))).unwrap();
    }
    drop(store);
    let original = fs::read(dir.path().join("grants.redb")).unwrap();
    assert_eq!(damaged(&original, |_| ()), None);

    let mut found = vec![
        damaged(&original, |bytes| *bytes = b"not a store at all".repeat(1000)).unwrap(),
        damaged(&original, |bytes| bytes.truncate(5)).unwrap(),
        damaged(&original, |bytes| bytes.truncate(bytes.len() / 2)).unwrap(),
        damaged(&original, |bytes| bytes[9..].fill(0)).unwrap(),
    ];
    for at in (0..original.len()).step_by(original.len() / 200) {
        let end = (at + 64).min(original.len());
        found.extend(damaged(&original, |bytes| bytes[at..end].fill(0xa5)));
    }
    for error in &found {
        assert!(error.contains("grants.redb is damaged or not a grant store"), "{error}");
        assert!(error.contains("restore it from a backup, or move it away"), "{error}");
    }
    assert!(found.len() > 10, "the damage must hit something");
}

#[test]
fn a_file_of_a_later_version_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(&dir));
    let file = dir.path().join("grants.redb");
    let database = redb::Database::open(&file).unwrap();
    let transaction = database.begin_write().unwrap();
    let numbers = redb::TableDefinition::<&str, u64>::new("numbers");
    transaction.open_table(numbers).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    assert_eq!(
        refusal(dir.path()),
        "grants.redb has format 2, this daemon reads 1; install the later version again"
    );
}
