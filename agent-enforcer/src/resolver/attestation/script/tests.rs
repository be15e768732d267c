use std::{fs, os::unix::fs::MetadataExt as _, os::unix::fs::symlink, process::Command};

use super::*;
use crate::resolver::attestation::{
    exec::Arguments,
    testing::{Running, eventually, kernel_encoding, start_ns_of},
};

fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap()
}

fn place(path: &str) -> Place {
    let found = fs::metadata(path).unwrap();
    Place { inode: found.ino(), device: kernel_encoding(found.dev()) }
}

/// A process in a directory, with what the kernel would have seen of it now.
fn search(process: &Running, path: &str) -> ScriptSearch {
    let pid = process.pid();
    let mounts = fs::read_link(format!("/proc/{pid}/ns/mnt")).unwrap();
    let mounts = mounts.to_str().unwrap().trim_start_matches("mnt:[").trim_end_matches(']');
    let seen = ExecFacts {
        time_ns: now_ns(),
        arguments: Arguments::all(&[]),
        directory: place(&format!("/proc/{pid}/cwd")),
        root: place(&format!("/proc/{pid}/root")),
        mounts: mounts.parse().unwrap(),
        mounts_are_hosts: true,
    };
    ScriptSearch { pid, start_ns: start_ns_of(pid), seen, path: path.into() }
}

struct Stage {
    directory: tempfile::TempDir,
    process: Running,
}

impl Stage {
    /// `bin/x`, and a process whose working directory is `bin`.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let bin = directory.path().join("bin");
        fs::create_dir(&bin).unwrap();
        fs::write(bin.join("x"), "x").unwrap();
        symlink("../bin/x", bin.join("link")).unwrap();
        fs::create_dir(directory.path().join("other")).unwrap();
        fs::write(directory.path().join("other/x"), "y").unwrap();
        let process = Running::start(Command::new("sleep").arg("600").current_dir(&bin));
        let stage = Self { directory, process };
        eventually("all of it has aged", || stage.find("link").is_ok());
        stage
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    fn find(&self, path: &str) -> Result<PathBuf, &'static str> {
        found(&search(&self.process, path))
    }
}

fn found(search: &ScriptSearch) -> Result<PathBuf, &'static str> {
    search.run().map(|file| file.path().clone()).map_err(Unverified::word)
}

#[test]
fn script_is_found_from_where_the_process_was_started() {
    let stage = Stage::new();
    let script = PathBuf::from(stage.path("bin/x"));
    for path in ["x", "./x", "../bin//x", "link", &stage.path("bin/x"), &stage.path("bin/link")] {
        assert_eq!(stage.find(path), Ok(script.clone()), "{path}");
    }
    assert_eq!(stage.find("none"), Err("script_unreadable"));
    assert_eq!(stage.find("."), Err("not_a_file"));
    assert_eq!(stage.find("/dev/null"), Err("not_a_file"));
    assert_eq!(stage.find("/proc/self/exe"), Err("descriptor"));
    assert_eq!(stage.find("/dev/fd/0"), Err("descriptor"));
    let mut circle = String::from("link/");
    circle.push_str(&"../".repeat(NAMES));
    assert!(stage.find(&circle).is_err());
}

#[test]
fn process_that_has_left_is_noticed() {
    let stage = Stage::new();
    let start = search(&stage.process, "x");
    let with = |change: fn(&mut ScriptSearch)| {
        let mut other = start.clone();
        change(&mut other);
        found(&other)
    };
    assert_eq!(with(|it| it.seen.directory.inode += 1), Err("moved"));
    assert_eq!(with(|it| it.seen.directory.device += 1), Err("moved"));
    assert_eq!(with(|it| it.seen.root.inode += 1), Err("moved"));
    assert_eq!(with(|it| it.seen.mounts += 1), Err("moved"));
    assert_eq!(with(|it| it.seen.mounts_are_hosts = false), Err("own_mounts"));
    assert_eq!(with(|it| it.start_ns += 1_000_000_000), Err("script_unreadable"));
    assert!(with(|_| {}).is_ok());
}

#[test]
fn whatever_was_changed_since_is_noticed() {
    type Change = (&'static str, &'static str, fn(&Stage));
    let changes: [Change; 4] = [
        ("bin/x", "written", |stage| fs::write(stage.path("bin/x"), "x").unwrap()),
        ("bin/x", "renamed", |stage| stage.rename("other/x", "bin/x")),
        ("bin/x", "directory", |stage| {
            stage.rename("bin", "gone");
            stage.rename("other", "bin");
        }),
        ("bin/link", "link", |stage| {
            fs::remove_file(stage.path("bin/link")).unwrap();
            symlink("../other/x", stage.path("bin/link")).unwrap();
        }),
    ];
    for (script, what, change) in changes {
        let stage = Stage::new();
        let before = search(&stage.process, &stage.path(script));
        assert!(found(&before).is_ok(), "{what}");
        change(&stage);
        assert_eq!(found(&before), Err("changed_after_exec"), "{what}");
    }
    // A new file beside it is no change.
    let stage = Stage::new();
    let before = search(&stage.process, &stage.path("bin/x"));
    fs::write(stage.path("bin/log"), "").unwrap();
    assert!(found(&before).is_ok());
}
