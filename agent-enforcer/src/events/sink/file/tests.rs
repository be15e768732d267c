use std::{
    ffi::CString,
    fs::OpenOptions,
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _, symlink},
    path::Path,
};

use tempfile::TempDir;

use super::*;
use crate::events::testing::{SmallDisk, TestClock};

fn open_limited(path: &Path, limit: usize) -> (FileSink, Opened) {
    FileSink::open(path.to_owned(), limit, Arc::new(Counters::default())).unwrap()
}

fn open(path: &Path) -> FileSink {
    open_limited(path, 1 << 20).0
}

fn event(sequence: u64) -> String {
    format!("{{\"metadata\":{{\"sequence\":{sequence},\"x\":\"{}\"}}}}", "y".repeat(100))
}

fn put(sink: &mut FileSink) {
    let line = event(sink.next_sequence().unwrap());
    sink.append(&line);
}

fn sequences(path: &Path) -> Vec<u64> {
    let content = fs::read_to_string(path).unwrap();
    assert!(content.is_empty() || content.ends_with('\n'), "ends in a torn line");
    content
        .lines()
        .map(|line| {
            let event: serde_json::Value = serde_json::from_str(line).unwrap();
            event["metadata"]["sequence"].as_u64().unwrap()
        })
        .collect()
}

#[test]
fn new_file_is_for_its_owner_only() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut sink = open(&path);
    put(&mut sink);
    sink.flush(0);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(sequences(&path), [1]);
    assert_eq!(sink.counters.written.load(Relaxed), 1);
}

#[test]
fn sequence_goes_on_over_restarts() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    for _ in 0..3 {
        let (mut sink, opened) = open_limited(&path, 1 << 20);
        assert_eq!(opened, Opened { torn_lines: 0 });
        put(&mut sink);
        put(&mut sink);
        sink.flush(0);
    }
    assert_eq!(sequences(&path), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn line_torn_by_a_crash_is_ended_and_told() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let torn = "{\"metadata\":{\"sequence\":2,\"x\":\"y";
    fs::write(&path, format!("{}\n{torn}", event(1))).unwrap();
    let (mut sink, opened) = open_limited(&path, 1 << 20);
    assert_eq!(opened, Opened { torn_lines: 1 });
    put(&mut sink);
    sink.flush(0);
    let expected = format!("{}\n{torn}\n{}\n", event(1), event(3));
    assert_eq!(fs::read_to_string(&path).unwrap(), expected);
}

#[test]
fn whole_line_without_a_newline_is_no_loss() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    fs::write(&path, event(1)).unwrap();
    let (mut sink, opened) = open_limited(&path, 1 << 20);
    assert_eq!(opened, Opened { torn_lines: 0 });
    put(&mut sink);
    sink.flush(0);
    assert_eq!(sequences(&path), [1, 2]);
}

#[test]
fn refuses_what_is_not_a_safe_file() {
    let dir = TempDir::new().unwrap();
    let name = |name: &str| dir.path().join(name);
    let error = |path: &Path| {
        FileSink::open(path.to_owned(), 1, Arc::new(Counters::default())).err().unwrap()
    };
    symlink(name("elsewhere"), name("link")).unwrap();
    assert!(matches!(error(&name("link")), EventsError::SymbolicLink { .. }));
    assert!(!name("elsewhere").exists());
    assert!(matches!(error(dir.path()), EventsError::NotAFile { .. }));
    let _socket = std::os::unix::net::UnixListener::bind(name("socket")).unwrap();
    assert!(matches!(error(&name("socket")), EventsError::NotAFile { .. }));
    rustix::fs::mknodat(
        rustix::fs::CWD,
        CString::new(name("pipe").to_str().unwrap()).unwrap(),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    assert!(matches!(error(&name("pipe")), EventsError::NotAFile { .. }));
    assert!(matches!(error(&name("no/such/dir")), EventsError::Open { .. }));
    fs::write(name("shared"), "").unwrap();
    fs::set_permissions(name("shared"), fs::Permissions::from_mode(0o664)).unwrap();
    let message = error(&name("shared")).to_string();
    assert!(
        message.ends_with("can be written by others (mode 0664); `chmod go-w` it"),
        "{message}"
    );
    File::create(name("big")).unwrap().set_len((64 << 20) + 1).unwrap();
    assert!(matches!(error(&name("big")), EventsError::ReadEnd { .. }));
}

#[test]
fn renamed_file_gets_no_more_lines() {
    let dir = TempDir::new().unwrap();
    let (path, old) = (dir.path().join("events.jsonl"), dir.path().join("events.jsonl.1"));
    let mut sink = open(&path);
    put(&mut sink);
    sink.flush(0);
    fs::rename(&path, &old).unwrap();
    put(&mut sink);
    sink.flush(0);
    assert_eq!(sequences(&old), [1]);
    assert_eq!(sequences(&path), [2]);
}

#[test]
fn removed_file_is_made_again() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut sink = open(&path);
    fs::remove_file(&path).unwrap();
    put(&mut sink);
    sink.flush(0);
    assert_eq!(sequences(&path), [1]);
}

#[test]
fn reopening_makes_the_new_file_at_once() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut sink = open(&path);
    fs::rename(&path, dir.path().join("old")).unwrap();
    sink.reopen().unwrap();
    assert!(path.exists());
}

#[test]
fn unsafe_replacement_is_not_written_to() {
    let dir = TempDir::new().unwrap();
    let (path, old) = (dir.path().join("events.jsonl"), dir.path().join("old"));
    let mut sink = open(&path);
    fs::rename(&path, &old).unwrap();
    symlink(dir.path().join("elsewhere"), &path).unwrap();
    assert!(matches!(sink.reopen(), Err(EventsError::SymbolicLink { .. })));
    // A renamed file still keeps lines.
    put(&mut sink);
    sink.flush(0);
    assert_eq!(sequences(&old), [1]);
    // A removed one would not: the lines wait.
    fs::remove_file(&old).unwrap();
    put(&mut sink);
    sink.flush(0);
    assert!(sink.buffered() > 0);
    assert_eq!(sink.counters.disk_errors.load(Relaxed), 1);
    fs::remove_file(&path).unwrap();
    sink.flush(sink.retry_at_ns().unwrap());
    assert_eq!(sequences(&path), [2]);
}

#[test]
fn refused_writes_wait_in_a_bounded_backlog_and_are_tried_again_ever_more_slowly() {
    let (mut sink, _) = open_limited(Path::new("/dev/full"), 1000);
    let mut now = 0;
    for _ in 0..20 {
        if sink.next_sequence().is_some() {
            put(&mut sink);
        }
        sink.flush(now);
    }
    // It was tried once; the pause is not over.
    assert_eq!(sink.counters.disk_errors.load(Relaxed), 1);
    assert_eq!(sink.next_sequence(), None);
    assert!((1000..1200).contains(&sink.buffered()), "{}", sink.buffered());
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let at = sink.retry_at_ns().unwrap();
        pauses.push((at - now) / 1_000_000);
        now = at;
        sink.flush(now);
    }
    assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
    assert_eq!(sink.counters.written.load(Relaxed), 0);
}

#[test]
fn shutdown_tells_what_could_not_be_written() {
    let (mut sink, _) = open_limited(Path::new("/dev/full"), 1000);
    put(&mut sink);
    put(&mut sink);
    let error = sink.finish(&TestClock::new(0, 0), Instant::now()).unwrap_err();
    assert!(matches!(error, EventsError::Unwritten { lines: 2, .. }), "{error}");
}

#[test]
fn truncated_file_goes_on_with_whole_lines() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut sink = open(&path);
    put(&mut sink);
    // As a full disk leaves it: half of a line is in the file.
    let half = sink.buffer.len() / 2;
    sink.file.write_all(&sink.buffer[..half]).unwrap();
    sink.wrote(half);
    sink.torn_size = Some(sink.size().unwrap());
    OpenOptions::new().write(true).mode(0o600).truncate(true).open(&path).unwrap();
    sink.flush(0);
    assert_eq!(sequences(&path), [1]);
}

#[test]
fn line_torn_by_a_full_disk_is_completed() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let mut sink = open(&path);
    put(&mut sink);
    put(&mut sink);
    let part = sink.buffer.len() - 10;
    sink.file.write_all(&sink.buffer[..part]).unwrap();
    sink.wrote(part);
    sink.torn_size = Some(sink.size().unwrap());
    assert_eq!(sink.counters.written.load(Relaxed), 1);
    sink.flush(0);
    assert_eq!(sequences(&path), [1, 2]);
}

#[test]
fn line_torn_before_rotation_is_whole_in_the_new_file() {
    let dir = TempDir::new().unwrap();
    let (path, old) = (dir.path().join("events.jsonl"), dir.path().join("old"));
    let mut sink = open(&path);
    put(&mut sink);
    sink.file.write_all(&sink.buffer[..20]).unwrap();
    sink.wrote(20);
    sink.torn_size = Some(20);
    fs::rename(&path, &old).unwrap();
    sink.flush(0);
    assert_eq!(sequences(&path), [1]);
    assert_eq!(fs::read_to_string(&old).unwrap(), format!("{}\n", &event(1)[..20]));
}

#[test]
#[ignore = "needs root: mounts a tmpfs; run with `--ignored`"]
fn full_disk_delays_lines_and_tears_none() {
    let disk = SmallDisk::mount();
    let path = disk.path().join("events.jsonl");
    let ballast = disk.path().join("ballast");
    let mut sink = open(&path);
    let mut now = 0;
    fs::write(&ballast, vec![0; 200 << 10]).unwrap();
    // More than the rest of the disk holds, so that a line is torn in the middle.
    for _ in 0..1500 {
        put(&mut sink);
        sink.flush(now);
    }
    assert!(sink.retry_at_ns().is_some());
    let size = sink.size().unwrap();
    assert!(
        sink.offset != 0 || size.is_multiple_of(4096),
        "the disk must have been filled to the brim"
    );
    fs::remove_file(&ballast).unwrap();
    now = sink.retry_at_ns().unwrap();
    sink.flush(now);
    assert_eq!(sink.retry_at_ns(), None);
    assert_eq!(sequences(&path), (1..=1500).collect::<Vec<_>>());
    assert_eq!(sink.counters.written.load(Relaxed), 1500);
}

#[test]
#[ignore = "needs root: mounts a tmpfs; run with `--ignored`"]
fn file_emptied_by_an_operator_makes_room() {
    let disk = SmallDisk::mount();
    let path = disk.path().join("events.jsonl");
    let mut sink = open(&path);
    while sink.retry_at_ns().is_none() {
        put(&mut sink);
        sink.flush(0);
    }
    let waiting = newlines(&sink.buffer);
    let last = sink.sequence;
    OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    sink.flush(sink.retry_at_ns().unwrap());
    assert_eq!(sequences(&path), (last - waiting + 1..=last).collect::<Vec<_>>());
}
