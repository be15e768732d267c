//! Files that the enforcer lives by, and files that change the kernel for all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_enforcer_tests::{Op, TestHost, Trick, Word, binaries};
use libc::{O_DIRECTORY, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY};
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
};

use super::{
    assert_denied, assert_refused, call, child_of, open, root_agent, root_stranger, user_agent,
    wait_guarded,
};

/// The daemon looks for its files every second; this is how one knows that it has.
fn closed_files(host: &TestHost) -> Vec<PathBuf> {
    vec![
        host.daemon.state_directory(),
        host.daemon.policy_directory().join("policy.yaml"),
        host.daemon.events_file(),
        host.directory().join("run/control.sock"),
        binaries::daemon().to_owned(),
    ]
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn j11_files_of_the_daemon_are_closed_to_agents() {
    let host = TestHost::start();
    let (mut agent, mut stranger) = (root_agent(&host), root_stranger(&host));
    let outside = host.directory().join("outside");
    fs::create_dir(&outside).unwrap();
    for path in &closed_files(&host) {
        // Beside it: nothing is renamed or linked from one file system to another.
        let name = path.with_extension("moved");
        if path.is_file() {
            let opened = stranger.run(open(path, O_RDONLY));
            assert!(opened.is_ok(), "{}: {opened:?}", path.display());
            assert_denied(&agent.run(open(path, O_RDONLY)), "open");
            assert_denied(&agent.run(open(path, O_RDONLY | O_TRUNC)), "truncate");
        }
        let path = path.as_path();
        for attempt in [
            call(libc::SYS_rename, [path.into(), name.as_path().into()]),
            call(libc::SYS_chmod, [path.into(), 0o777_i64.into()]),
            call(libc::SYS_lchown, [path.into(), 1_i64.into(), 1_i64.into()]),
        ] {
            let what = format!("{attempt:?}");
            // To give a file away is a capability's right.
            assert_refused(&agent.run(attempt), &what);
        }
        if !path.is_dir() {
            let made = call(libc::SYS_link, [path.into(), name.as_path().into()]);
            assert_denied(&agent.run(made), "link");
            assert_denied(&agent.run(call(libc::SYS_unlink, [path.into()])), "unlink");
            assert!(path.exists());
        }
    }
    let mine = outside.join("mine");
    fs::write(&mine, "").unwrap();
    for directory in [host.daemon.state_directory(), host.daemon.policy_directory()] {
        let new = directory.join("new");
        let new = new.as_path();
        for attempt in [
            open(&directory, O_RDONLY | O_DIRECTORY),
            call(
                libc::SYS_open,
                [new.into(), i64::from(libc::O_CREAT | O_WRONLY).into(), 0_i64.into()],
            ),
            call(libc::SYS_mkdir, [new.into(), 0o700_i64.into()]),
            call(
                libc::SYS_mknod,
                [new.into(), i64::from(libc::S_IFIFO | 0o600).into(), 0_i64.into()],
            ),
            call(libc::SYS_symlink, [mine.as_path().into(), new.into()]),
            call(libc::SYS_link, [mine.as_path().into(), new.into()]),
            call(libc::SYS_rename, [mine.as_path().into(), new.into()]),
            call(libc::SYS_rmdir, [directory.as_path().into()]),
        ] {
            let what = format!("{attempt:?}");
            assert_denied(&agent.run(attempt), &what);
            assert!(!new.exists(), "{what}");
        }
    }
    let event = wait_guarded(&host, "file", agent.pid());
    assert_eq!(event.own("agent"), "strict");
    // Its own files are its own.
    let own = outside.join("own");
    let made = open(&own, libc::O_CREAT | O_RDWR);
    assert!(agent.run(made).is_ok());
    for twin in [
        call(libc::SYS_chmod, [own.as_path().into(), 0o640_i64.into()]),
        call(libc::SYS_rename, [own.as_path().into(), mine.as_path().into()]),
        call(libc::SYS_unlink, [mine.as_path().into()]),
    ] {
        let what = format!("{twin:?}");
        let reply = agent.run(twin);
        assert!(reply.is_ok(), "{what}: {reply:?}");
    }
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn directories_that_lead_to_the_daemons_files_stay_where_they_are() {
    let host = TestHost::start();
    let (mut agent, mut stranger) = (root_agent(&host), root_stranger(&host));
    let other = host.directory().with_extension("moved");
    let directory = host.directory();
    let there = call(libc::SYS_rename, [directory.into(), other.as_path().into()]);
    let back = call(libc::SYS_rename, [other.as_path().into(), directory.into()]);
    assert_denied(&agent.run(there.clone()), "rename");
    assert_denied(&agent.run(call(libc::SYS_chmod, [directory.into(), 0_i64.into()])), "chmod");
    let touch = [(-100_i64).into(), directory.into(), 0_i64.into(), 0_i64.into()];
    let touched = agent.run(call(libc::SYS_utimensat, touch));
    assert!(touched.is_ok(), "its times are no matter: {touched:?}");
    assert!(stranger.run(there).is_ok());
    assert!(stranger.run(back).is_ok());
    wait_guarded(&host, "file", agent.pid());
}

/// Of these, what this kernel has.
fn existing(paths: &[String]) -> Vec<PathBuf> {
    let existing: Vec<_> = paths.iter().map(PathBuf::from).filter(|path| path.exists()).collect();
    assert!(existing.len() + 2 >= paths.len(), "this kernel has only {existing:?}");
    existing
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn j09_j10_agents_change_nothing_of_the_kernel() {
    let host = TestHost::start();
    let traces = host.directory().join("traces");
    fs::create_dir(&traces).unwrap();
    mount("tracefs", &traces, "tracefs", MountFlags::empty(), None::<&std::ffi::CStr>).unwrap();
    let daemon = host.daemon.pid();
    let cgroup = host.cgroup("strict");
    let writable = existing(&[
        "/proc/sys/kernel/ftrace_enabled".to_owned(),
        "/proc/sys/kernel/core_pattern".to_owned(),
        "/proc/sys/kernel/modprobe".to_owned(),
        "/proc/sysrq-trigger".to_owned(),
        "/sys/kernel/mm/transparent_hugepage/enabled".to_owned(),
        "/sys/kernel/profiling".to_owned(),
        format!("/proc/{daemon}/oom_score_adj"),
        format!("/proc/{daemon}/task/{daemon}/oom_score_adj"),
        format!("/proc/{daemon}/autogroup"),
        traces.join("tracing_on").display().to_string(),
        cgroup.join("cgroup.procs").display().to_string(),
        cgroup.join("cgroup.freeze").display().to_string(),
    ]);
    let (mut agent, mut stranger) = (root_agent(&host), root_stranger(&host));
    for path in &writable {
        let opened = stranger.run(open(path, O_WRONLY));
        assert!(opened.is_ok(), "{}: {opened:?}", path.display());
        assert_denied(&agent.run(open(path, O_WRONLY)), &path.display().to_string());
        let chmod = call(libc::SYS_chmod, [path.as_path().into(), 0o666_i64.into()]);
        let reply = agent.run(chmod);
        assert!(!reply.is_ok(), "chmod {}: {reply:?}", path.display());
    }
    for directory in [host.daemon.bpffs().join("new"), cgroup.join("new")] {
        let made = call(libc::SYS_mkdir, [directory.as_path().into(), 0o700_i64.into()]);
        assert_denied(&agent.run(made), "mkdir");
    }
    wait_guarded(&host, "file", agent.pid());
    // To look is free, and so is what is its own.
    for path in ["/proc/sys/kernel/ftrace_enabled", "/sys/kernel/profiling"] {
        assert!(agent.run(open(path.as_ref(), O_RDONLY)).is_ok(), "{path}");
    }
    for mut agent in [agent, user_agent(&host)] {
        let child = child_of(&mut agent);
        for path in ["/proc/self/oom_score_adj".to_owned(), format!("/proc/{child}/oom_score_adj")]
        {
            assert!(agent.run(open(path.as_ref(), O_RDWR)).is_ok(), "{path}");
        }
    }
    unmount(&traces, UnmountFlags::DETACH).unwrap();
}

/// A sysctl of its own network namespace is a container's own affair.
#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn l18_agent_sets_up_namespaces_of_its_own() {
    let host = TestHost::start();
    let mut agent = user_agent(&host);
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWNS;
    let made = agent.run(Trick::Unshare { flags }.into());
    assert!(made.is_ok(), "{made:?}");
    let map = agent.run(open("/proc/self/uid_map".as_ref(), O_WRONLY));
    assert!(map.is_ok(), "{map:?}");
    let line = format!("0 {} 1\n", super::USER);
    let length = i64::try_from(line.len()).unwrap();
    let written =
        call(libc::SYS_write, [map.value.into(), Word::Bytes(line.into()), length.into()]);
    assert!(agent.run(written).is_ok());
    let forward = "/proc/sys/net/ipv4/ip_forward";
    let opened = agent.run(open(forward.as_ref(), O_WRONLY));
    assert!(opened.is_ok(), "{opened:?}");
    assert!(!agent.run(open("/proc/sys/kernel/core_pattern".as_ref(), O_WRONLY)).is_ok());
}

/// A node of its own shows that the number counts, not the name.
#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn b14_devices_that_send_are_closed_to_agents() {
    let host = TestHost::start();
    let (mut agent, mut stranger) = (root_agent(&host), root_stranger(&host));
    let node = |name: &str, major: u32, minor: u32| {
        let path = host.directory().join(name);
        let kind = FileType::CharacterDevice;
        mknodat(CWD, &path, kind, Mode::from(0o666), makedev(major, minor)).unwrap();
        path
    };
    // tun, vhost-net, vhost-vsock, vfio, ppp, a verbs device, a USB device.
    let numbers = [(10, 200), (10, 238), (10, 241), (10, 196), (108, 0), (231, 192), (189, 1)];
    for (major, minor) in numbers {
        let path = node(&format!("device-{major}-{minor}"), major, minor);
        for flags in [O_RDONLY, O_RDWR] {
            assert_denied(&agent.run(open(&path, flags)), &format!("{major}:{minor}"));
            let opened = stranger.run(open(&path, flags));
            let found = opened.is_ok() || matches!(opened.errno, libc::ENXIO | libc::ENODEV);
            assert!(found, "{major}:{minor} is its driver's for others: {opened:?}");
        }
    }
    let event = wait_guarded(&host, "device", agent.pid());
    assert!(event.text("/message").contains("device 10:200"), "{}", event.text("/message"));
    for (major, minor) in [(1, 3), (1, 9)] {
        let path = node(&format!("device-{major}-{minor}"), major, minor);
        assert!(agent.run(open(&path, O_RDWR)).is_ok(), "{major}:{minor}");
    }
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn f05_f14_agents_only_read_what_services_of_the_host_act_upon() {
    let mut host = TestHost::builder().flag("--agents-read-only=@DIR@/spool").stopped().build();
    let spool = host.directory().join("spool");
    let queue = spool.join("cron/crontabs");
    fs::create_dir_all(&queue).unwrap();
    let job = queue.join("job");
    fs::write(&job, "* * * * * root true").unwrap();
    host.daemon.start();
    let (mut agent, mut stranger) = (root_agent(&host), root_stranger(&host));
    let mine = host.directory().join("mine");
    fs::write(&mine, "").unwrap();
    assert!(agent.run(open(&job, O_RDONLY)).is_ok(), "to read is free");
    assert!(agent.run(open(&queue, O_RDONLY | O_DIRECTORY)).is_ok());
    let (new, moved) = (queue.join("new"), spool.with_extension("moved"));
    let (new, job, mine) = (new.as_path(), job.as_path(), mine.as_path());
    let make = i64::from(libc::O_CREAT | O_WRONLY);
    for attempt in [
        open(job, O_WRONLY),
        open(job, O_RDONLY | O_TRUNC),
        call(libc::SYS_open, [new.into(), make.into(), 0o600_i64.into()]),
        call(libc::SYS_mkdir, [new.into(), 0o700_i64.into()]),
        call(libc::SYS_link, [mine.into(), new.into()]),
        call(libc::SYS_rename, [mine.into(), new.into()]),
        call(libc::SYS_rename, [job, mine].map(Word::from)),
        call(libc::SYS_unlink, [job.into()]),
        call(libc::SYS_chmod, [job.into(), 0o777_i64.into()]),
        call(libc::SYS_rename, [spool.as_path().into(), moved.as_path().into()]),
    ] {
        let what = format!("{attempt:?}");
        assert_denied(&agent.run(attempt), &what);
        assert!(!new.exists() && job.exists(), "{what}");
    }
    wait_guarded(&host, "file", agent.pid());
    assert!(stranger.run(open(job, O_WRONLY)).is_ok());
    assert!(stranger.run(open(new, libc::O_CREAT | O_WRONLY)).is_ok());
}

fn mount_overlay(lower: &Path, at: &Path) -> Op {
    let mut options = format!("lowerdir={}:{}", lower.display(), at.display()).into_bytes();
    options.push(0);
    let kind = || Word::Bytes(b"overlay\0".to_vec());
    call(libc::SYS_mount, [kind(), at.into(), kind(), 0_i64.into(), Word::Bytes(options)])
}

#[test]
#[ignore = "needs BPF LSM: `cargo xtask test vm` boots kernels with it"]
fn closed_files_are_closed_under_an_overlay_too() {
    let host = TestHost::start();
    let at = host.directory().join("overlay");
    fs::create_dir(&at).unwrap();
    let through = at.join("policy.yaml");
    for (probe, is_denied) in [(root_stranger(&host), false), (root_agent(&host), true)] {
        let mut probe = probe;
        // Its user is not mapped into the namespace, and is uid 0 of the host all the same.
        let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS;
        assert!(probe.run(Trick::Unshare { flags }.into()).is_ok());
        let mounted = probe.run(mount_overlay(&host.daemon.policy_directory(), &at));
        assert!(mounted.is_ok(), "{mounted:?}");
        let opened = probe.run(open(&through, O_RDONLY));
        // Before 6.5 the file of the layer is opened with the first, later with the first read.
        let reply = if opened.is_ok() {
            let room = Word::Bytes(vec![0; 8]);
            probe.run(call(libc::SYS_read, [opened.value.into(), room, 8_i64.into()]))
        } else {
            opened
        };
        if is_denied {
            assert_denied(&reply, "a layer's file");
        } else {
            assert!(reply.is_ok() && reply.value == 8, "{reply:?}");
        }
    }
}
