use std::{fs, os::unix::net::UnixDatagram, path::Path};

use agent_enforcer_common::destination::Destination;
use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::{
    control::EventFeed,
    decision::CallDecision,
    events::{Event, LostRecords, SystemClock, testing::call},
};

const LIMIT: Duration = Duration::from_secs(20);

fn run(config: EventsConfig) -> (EventQueue, EventStage) {
    start(config, Arc::new(SystemClock)).unwrap()
}

fn call_to(port: u16) -> Event {
    let destination = Destination::v4(0xc000_0201, port, 6);
    Event::Call(Box::new(CallDecision { destination, ..call() }))
}

fn lines(path: &Path) -> Vec<Value> {
    let content = fs::read_to_string(path).unwrap();
    content.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn sequences(events: &[Value]) -> Vec<u64> {
    events.iter().map(|event| event["metadata"]["sequence"].as_u64().unwrap()).collect()
}

fn words(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["metadata"]["event_code"].as_str().unwrap()).collect()
}

/// Calls that the events tell of.
fn calls(events: &[Value]) -> u64 {
    let is_call = |event: &&Value| event["class_uid"] == 4001;
    events.iter().filter(is_call).map(|event| event["count"].as_u64().unwrap()).sum()
}

/// Events that were lost, as the events tell it.
fn lost(events: &[Value], why: &str) -> u64 {
    let extension = |event: &Value| event["unmapped"]["agent_enforcer"].clone();
    let is_loss = |event: &Value| event["event"] == "events_lost" && event["reason"] == why;
    let count = |event: Value| event["lost_count"].as_u64().unwrap();
    events.iter().map(extension).filter(is_loss).map(count).sum()
}

fn counter(queue: &EventQueue, name: &str) -> u64 {
    queue.counters().into_iter().find(|&(known, _)| known == name).unwrap().1
}

/// The next line, as an event that is waited for.
fn next(feed: &mut EventFeed) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let line = runtime.block_on(async { tokio::time::timeout(LIMIT, feed.live.recv()).await });
    serde_json::from_str(&line.expect("an event before the deadline").unwrap()).unwrap()
}

#[test]
fn everything_pushed_before_shutdown_is_in_the_file_in_order() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let (queue, stage) = run(EventsConfig::new(&path));
    assert!(stage.is_running());
    queue.push(call_to(1));
    queue.push(Event::from(DaemonEvent::Detached { reason: "test".to_owned() }));
    queue.push(call_to(2));
    queue.push(Event::from(DaemonEvent::Stopped));
    stage.shutdown(LIMIT).unwrap();
    let events = lines(&path);
    assert_eq!(words(&events), ["grant_expired", "detached", "grant_expired", "stopped"]);
    assert_eq!(sequences(&events), [1, 2, 3, 4]);
    assert_eq!(counter(&queue, "events_written"), 4);
    assert_eq!(counter(&queue, "events_queued"), 0);
}

#[test]
fn flood_from_many_threads_is_folded_and_every_call_is_accounted_for() {
    const THREADS: u16 = 4;
    const EACH: u64 = 20_000;
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    // A queue too short for the flood, so that some are lost.
    let config = EventsConfig { queue: 500, ..EventsConfig::new(&path) };
    let (queue, stage) = run(config);
    thread::scope(|scope| {
        for port in 1..=THREADS {
            let queue = queue.clone();
            scope.spawn(move || (0..EACH).for_each(|_| queue.push(call_to(port))));
        }
    });
    stage.shutdown(LIMIT).unwrap();
    let events = lines(&path);
    let pushed = u64::from(THREADS) * EACH;
    assert_eq!(calls(&events) + lost(&events, "queue_full"), pushed);
    assert_eq!(lost(&events, "queue_full"), counter(&queue, "events_lost_queue"));
    assert_eq!(counter(&queue, "events_received") + counter(&queue, "events_lost_queue"), pushed);
    assert!(events.len() < 1000, "{} lines", events.len());
    assert_eq!(sequences(&events), (1..=events.len() as u64).collect::<Vec<_>>());
}

#[test]
fn loss_in_the_queue_is_told_without_another_event() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let config = EventsConfig { queue: 0, ..EventsConfig::new(&path) };
    let (queue, stage) = run(config);
    let mut feed = queue.subscribe();
    queue.push(call_to(1));
    let told = next(&mut feed);
    assert_eq!(told["metadata"]["event_code"], "events_lost");
    assert_eq!(told["unmapped"]["agent_enforcer"]["lost"], "denied");
    stage.shutdown(LIMIT).unwrap();
    assert_eq!(lost(&lines(&path), "queue_full"), 1);
}

#[test]
fn followers_see_the_lines_of_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let (queue, stage) = run(EventsConfig::new(&path));
    let mut feed = queue.subscribe();
    queue.push(call_to(1));
    queue.push(call_to(1));
    queue.push(call_to(1));
    let (first, folded) = (next(&mut feed), next(&mut feed));
    assert_eq!((&first["count"], &folded["count"]), (&1.into(), &2.into()));
    stage.shutdown(LIMIT).unwrap();
    assert_eq!(lines(&path), [first, folded]);
    let content = fs::read_to_string(&path).unwrap();
    assert_eq!(queue.subscribe().recent, content.lines().collect::<Vec<_>>());
    assert_eq!(counter(&queue, "events_folded"), 1);
}

#[test]
fn lost_kernel_records_add_up_in_one_event() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let (queue, stage) = run(EventsConfig::new(&path));
    for count in [1, 10, 100] {
        let kind = LostRecords::Denied;
        queue.push(Event::from(DaemonEvent::RecordsLost { kind, count }));
    }
    stage.shutdown(LIMIT).unwrap();
    let events = lines(&path);
    let counts: Vec<_> = events.iter().map(|event| event["count"].as_u64().unwrap()).collect();
    assert_eq!(counts, [1, 110]);
}

#[test]
fn line_torn_by_a_crash_is_told_and_the_sequence_goes_on() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let (queue, stage) = run(EventsConfig::new(&path));
    queue.push(call_to(1));
    stage.shutdown(LIMIT).unwrap();
    let mut content = fs::read(&path).unwrap();
    content.extend_from_slice(b"{\"time\":1,\"cla");
    fs::write(&path, &content).unwrap();
    let (_, stage) = run(EventsConfig::new(&path));
    stage.shutdown(LIMIT).unwrap();
    let content = fs::read_to_string(&path).unwrap();
    let told: Value = serde_json::from_str(content.lines().last().unwrap()).unwrap();
    assert_eq!(content.lines().count(), 3);
    assert_eq!(told["metadata"]["sequence"], 2);
    assert_eq!(lost(&[told], "torn_line"), 1);
}

#[test]
fn reopening_goes_over_to_a_new_file() {
    let dir = TempDir::new().unwrap();
    let (path, old) = (dir.path().join("events.jsonl"), dir.path().join("events.jsonl.1"));
    let (queue, stage) = run(EventsConfig::new(&path));
    let mut feed = queue.subscribe();
    queue.push(call_to(1));
    next(&mut feed);
    // The line is published before it is written.
    crate::events::testing::eventually("the line is written", || {
        counter(&queue, "events_written") == 1
    });
    fs::rename(&path, &old).unwrap();
    stage.reopen();
    crate::events::testing::eventually("the new file", || path.exists());
    queue.push(call_to(2));
    stage.shutdown(LIMIT).unwrap();
    assert_eq!(sequences(&lines(&old)), [1]);
    assert_eq!(sequences(&lines(&path)), [2]);
}

#[test]
fn dead_syslog_receivers_do_not_delay_the_file() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("events.jsonl");
    let socket = dir.path().join("log");
    // One is not there, one never reads.
    let _unread = UnixDatagram::bind(&socket).unwrap();
    let syslog = vec![
        format!("unix:{}", dir.path().join("none").display()).parse().unwrap(),
        format!("unix:{}", socket.display()).parse().unwrap(),
    ];
    let (queue, stage) = run(EventsConfig { syslog, ..EventsConfig::new(&path) });
    for port in 1..=10_000 {
        queue.push(call_to(port));
    }
    crate::events::testing::eventually("all lines", || counter(&queue, "events_written") >= 10_000);
    assert!(counter(&queue, "syslog_lost") > 0);
    let begin = Instant::now();
    stage.shutdown(Duration::from_secs(3)).unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let events = lines(&path);
    assert_eq!(calls(&events), 10_000);
    assert!(lost(&events, "syslog") > 0);
}

#[test]
fn disk_that_refuses_delays_nobody_and_followers_see_everything() {
    let config = EventsConfig { backlog_bytes: 10_000, ..EventsConfig::new("/dev/full") };
    let (queue, stage) = run(config);
    let mut feed = queue.subscribe();
    for port in 1..=100 {
        queue.push(call_to(port));
    }
    let events: Vec<_> = (0..100).map(|_| next(&mut feed)).collect();
    assert_eq!(calls(&events), 100);
    let numbered = events.iter().filter(|event| !event["metadata"]["sequence"].is_null()).count();
    assert_eq!(counter(&queue, "events_lost_disk"), 100 - numbered as u64);
    assert!(counter(&queue, "events_disk_errors") > 0);
    match stage.shutdown(Duration::ZERO) {
        Err(EventsError::Unwritten { lines, .. }) => assert_eq!(lines, numbered as u64),
        other => panic!("{other:?}"),
    }
}

#[test]
fn start_fails_when_the_file_cannot_be_used() {
    let dir = TempDir::new().unwrap();
    let error = start(EventsConfig::new(dir.path()), Arc::new(SystemClock)).err().unwrap();
    assert!(matches!(error, EventsError::NotAFile { .. }));
}

#[test]
fn dropped_stage_ends_its_thread() {
    let dir = TempDir::new().unwrap();
    let (queue, mut stage) = run(EventsConfig::new(dir.path().join("events.jsonl")));
    let thread = stage.thread.take().unwrap();
    drop(stage);
    thread.join().unwrap();
    queue.push(call_to(1));
    assert_eq!(counter(&queue, "events_lost_queue"), 1);
}

#[test]
fn stage_that_died_is_an_error_at_shutdown() {
    let dir = TempDir::new().unwrap();
    let (_, mut stage) = run(EventsConfig::new(dir.path().join("events.jsonl")));
    stage.stop(Instant::now());
    stage.thread.take().unwrap().join().unwrap();
    // As after a panic: there is no result.
    stage.ended.recv().unwrap().unwrap();
    assert!(!stage.is_running());
    assert!(matches!(stage.shutdown(LIMIT), Err(EventsError::Died)));
}

#[test]
#[ignore = "needs root: mounts a tmpfs; run with `--ignored`"]
fn what_a_full_disk_cost_is_told_when_there_is_room_again() {
    let disk = crate::events::testing::SmallDisk::mount();
    let path = disk.path().join("events.jsonl");
    let config = EventsConfig { backlog_bytes: 50_000, ..EventsConfig::new(&path) };
    let (queue, stage) = run(config);
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![0; 150 << 10]).unwrap();
    for port in 1..=500 {
        queue.push(call_to(port));
    }
    crate::events::testing::eventually("a full backlog", || {
        counter(&queue, "events_queued") == 0 && counter(&queue, "events_lost_disk") > 0
    });
    fs::remove_file(&ballast).unwrap();
    crate::events::testing::eventually("an empty backlog", || {
        counter(&queue, "events_backlog_bytes") == 0
    });
    stage.shutdown(LIMIT).unwrap();
    let events = lines(&path);
    assert_eq!(calls(&events) + lost(&events, "disk"), 500);
    assert_eq!(sequences(&events), (1..=events.len() as u64).collect::<Vec<_>>());
}
