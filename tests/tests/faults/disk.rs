//! An events file on a disk with no room: enforcement goes on, and every loss is told.

use std::{
    ffi::CString,
    fs::{self, File},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    time::Duration,
};

use agent_enforcer_tests::{Event, TestHost, load::LoadOp, wait::wait_until};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

/// A small file system with the host's events file on it.
struct SmallDisk {
    directory: PathBuf,
    file: PathBuf,
}

impl SmallDisk {
    /// For a daemon that does not run yet.
    fn under_events_of(host: &TestHost, size: &str) -> Self {
        let directory = host.directory().join("disk");
        let file = host.daemon.events_file();
        fs::create_dir(&directory).expect("a new directory");
        let options = CString::new(format!("size={size},mode=700")).expect("no zero byte");
        mount("tmpfs", &directory, "tmpfs", MountFlags::empty(), Some(options.as_c_str()))
            .expect("a small file system; T1 tests need root");
        let small = directory.join("events.jsonl");
        for path in [&small, &file] {
            let made = File::create(path).expect("a new file");
            made.set_permissions(fs::Permissions::from_mode(0o600)).expect("an own file");
        }
        mount_bind(&small, &file).expect("the file on the small file system");
        Self { directory, file }
    }

    fn resize(&self, size: &str) {
        let options = CString::new(format!("size={size}")).expect("no zero byte");
        mount_remount(&self.directory, MountFlags::empty(), options.as_c_str())
            .expect("a file system of another size");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        for mounted in [&self.file, &self.directory] {
            if let Err(error) = unmount(mounted, UnmountFlags::DETACH) {
                eprintln!("{} is left mounted: {error}", mounted.display());
            }
        }
    }
}

/// Denied calls that the events tell of, and those that they say were lost.
fn accounted(events: &[Event]) -> (u64, u64) {
    let told = events.iter().filter(|event| event.is_call() && event.outcome() == "denied");
    let lost = events.iter().filter(|event| {
        ["events_lost", "records_lost"].contains(&event.code()) && event.own("lost") == "denied"
    });
    (told.map(Event::count).sum(), lost.map(Event::count).sum())
}

#[test]
fn full_disk_stops_no_enforcement_and_losses_are_told_when_there_is_room() {
    // More lines than the daemon keeps in memory (16 MiB): a port each, so that none folds.
    const CALLS: u16 = 16_000;
    const LONG: Duration = Duration::from_mins(1);
    let mut host = TestHost::builder().stopped().build();
    let disk = SmallDisk::under_events_of(&host, "64k");
    host.daemon.start();
    let mut agent = host.agent("strict");
    assert!(!agent.connect("first", host.at(50)).is_ok());
    let calls = u64::from(CALLS);
    let op = LoadOp::Flood { address: host.at(50), ports: CALLS, calls, millis: 60_000 };
    let tally = agent.load(op);
    assert_eq!((tally.denied(), tally.total()), (calls, calls), "{tally:?}");
    wait_until("events are lost", LONG, || host.counter("events_lost_disk") > 0);
    wait_until("every event was looked at", LONG, || host.counter("events_queued") == 0);
    assert!(host.counter("events_disk_errors") > 0);
    assert!(host.cli(&["status"])["problems"].to_string().contains("events_lost_disk"));
    assert!(agent.connect("standing", host.at(10)).is_ok(), "what is allowed goes on");
    assert!(agent.connect("denied", host.at(50)).is_denied());

    disk.resize("256m");
    host.wait_event_for("events_lost", LONG, |event| {
        event.code() == "events_lost" && event.own("reason") == "disk"
    });
    wait_until("every call is told or counted as lost", LONG, || {
        let (told, lost) = accounted(&host.events());
        told + lost == calls + 2
    });
    let events = host.events();
    let sequences: Vec<_> = events.iter().filter_map(Event::sequence).collect();
    assert!(sequences.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no gap in the sequence");
    host.daemon.stop();
}
