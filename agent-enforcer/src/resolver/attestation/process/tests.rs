use std::{
    fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::Path,
    process::Command,
    thread,
};

use super::*;
use crate::resolver::attestation::{
    START_TICK_NS,
    testing::{
        Running, eventually, facts_of, helper_is_ready, is_helper, kernel_encoding, own_start_ns,
        start_ns_of,
    },
};

mod layered;
mod redirected;

fn read(facts: &ProcessFacts) -> Result<ProcessReading, ReadError> {
    ProcessReader::new().unwrap().read(facts)
}

fn helper(name: &str) -> Running {
    Running::helper(&format!("{}::{name}", module_path!()))
}

fn sleep() -> Running {
    Running::start(Command::new("sleep").arg("600"))
}

#[test]
fn reads_everything_about_a_process() {
    let child = sleep();
    let reading = read(&facts_of(child.pid())).unwrap();
    let process = &reading.process;
    let program = fs::canonicalize("/bin/sleep").unwrap();
    assert_eq!(process.exe.as_deref(), Some(program.as_path()));
    assert_eq!((process.pid, process.uid, process.gid), (child.pid(), 1000, 1001));
    assert_eq!(process.comm, "sleep");
    assert_eq!(process.sha256, None);
    assert!(!reading.executable.is_deleted());
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    assert!(own.lines().any(|line| line == format!("0::{}", process.cgroup)), "{own}");
    let ancestors: Vec<u32> = process.ancestors.iter().map(|ancestor| ancestor.pid).collect();
    assert_eq!(ancestors.first(), Some(&std::process::id()));
    assert_eq!(ancestors.last(), Some(&1));
    assert_eq!(process.ancestors[0].exe, std::env::current_exe().unwrap());
}

#[test]
fn the_executable_reads_as_the_file_that_runs() {
    let child = sleep();
    let reading = read(&facts_of(child.pid())).unwrap();
    let mut content = Vec::new();
    reading.executable.open().unwrap().read_to_end(&mut content).unwrap();
    assert!(content == fs::read("/bin/sleep").unwrap());
}

#[test]
fn the_pidfd_is_of_the_process() {
    let mut child = sleep();
    let reading = read(&facts_of(child.pid())).unwrap();
    assert!(!has_ended(&reading.pidfd).unwrap());
    child.kill();
    eventually("the pidfd tells of the end", || has_ended(&reading.pidfd).unwrap());
}

#[test]
fn a_name_made_of_brackets_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("a) R 1 (");
    fs::copy("/bin/sleep", &program).unwrap();
    let child = Running::start(Command::new(&program).arg("600"));
    let process = read(&facts_of(child.pid())).unwrap().process;
    assert_eq!(process.comm, "a) R 1 (");
    assert_eq!(process.ancestors[0].pid, std::process::id());
    assert_eq!(process.exe, Some(program));
}

#[test]
fn a_reused_pid_is_not_the_process() {
    let child = sleep();
    for wrong in [START_TICK_NS, 60_000_000_000] {
        let mut facts = facts_of(child.pid());
        facts.start_ns -= wrong;
        let error = read(&facts).unwrap_err();
        assert!(matches!(error.failure, ReadFailure::Gone), "{error}");
        // Nothing of the innocent owner of the number is believed.
        assert_eq!((error.process.comm.as_str(), error.process.exe.as_ref()), ("recorded", None));
    }
}

#[test]
fn a_process_that_is_gone_keeps_what_the_kernel_recorded() {
    let mut child = sleep();
    let facts = facts_of(child.pid());
    child.kill();
    child.wait();
    let error = read(&facts).unwrap_err();
    assert!(matches!(error.failure, ReadFailure::Gone), "{error}");
    assert_eq!(error.reason(), Reason::IdentityUnverified);
    assert_eq!((error.process.pid, error.process.uid), (child.pid(), 1000));
    assert_eq!(error.process.comm, "recorded");
}

#[test]
fn a_zombie_is_gone() {
    let mut child = sleep();
    let facts = facts_of(child.pid());
    let reading = read(&facts).unwrap();
    child.kill();
    eventually("it is a zombie", || has_ended(&reading.pidfd).unwrap());
    let error = read(&facts).unwrap_err();
    assert!(matches!(error.failure, ReadFailure::Gone), "{error}");
}

#[test]
fn a_pid_that_no_process_can_have_is_gone() {
    for tgid in [0, u32::MAX, 1 << 22] {
        let error = read(&ProcessFacts { tgid, ..ProcessFacts::default() }).unwrap_err();
        assert!(matches!(error.failure, ReadFailure::Gone), "{tgid}: {error}");
    }
}

#[test]
fn an_exit_during_the_reading_is_gone_and_nothing_else() {
    let mut reader = ProcessReader::new().unwrap();
    for _ in 0..50 {
        let mut child = sleep();
        let facts = facts_of(child.pid());
        thread::scope(|scope| {
            let reading = scope.spawn(|| {
                loop {
                    match reader.read(&facts) {
                        Ok(_) => {}
                        Err(error) => break error,
                    }
                }
            });
            child.kill();
            child.wait();
            let error = reading.join().unwrap();
            assert!(matches!(error.failure, ReadFailure::Gone), "{error}");
        });
    }
}

#[test]
fn another_inode_or_device_than_recorded_is_a_mismatch() {
    let child = sleep();
    let right = facts_of(child.pid());
    let wrong_inode = ProcessFacts { exe_inode: right.exe_inode + 1, ..right };
    let wrong_device = ProcessFacts { exe_device: right.exe_device ^ 1, ..right };
    // What FUSE offers an attacker: any inode number, on an anonymous device.
    let anonymous = ProcessFacts { exe_device: right.exe_device & 0xf_ffff, ..right };
    for facts in [wrong_inode, wrong_device, anonymous] {
        let error = read(&facts).unwrap_err();
        assert!(matches!(error.failure, ReadFailure::ExecutableMismatch { .. }), "{error}");
        assert_eq!(error.reason(), Reason::ExecutableMismatch);
        assert!(error.process.exe.is_some());
    }
}

#[test]
#[ignore = "a helper process: its leading thread exits"]
fn helper_loses_its_leader() {
    if !is_helper() {
        return;
    }
    thread::spawn(|| {
        let leader = format!("/proc/self/task/{}/stat", std::process::id());
        eventually("the leader is a zombie", || {
            fs::read_to_string(&leader).unwrap().contains(") Z ")
        });
        helper_is_ready();
        std::process::exit(0);
    });
    // SAFETY: the handler makes one system call and does not return; the leader, which waits for
    // this test, holds nothing that others need.
    unsafe {
        libc::signal(libc::SIGUSR1, end_this_thread as *const () as libc::sighandler_t);
        libc::syscall(libc::SYS_tgkill, libc::getpid(), libc::getpid(), libc::SIGUSR1);
    }
    thread::park();
}

extern "C" fn end_this_thread(_signal: libc::c_int) {
    // SAFETY: ends the thread without running anything else.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

#[test]
fn a_process_without_its_leading_thread_is_read_through_another() {
    let child = helper("helper_loses_its_leader");
    assert!(fs::read_link(format!("/proc/{}/exe", child.pid())).is_err());
    let program = fs::metadata(std::env::current_exe().unwrap()).unwrap();
    let mut facts = ProcessFacts {
        start_ns: start_ns_of(child.pid()),
        exe_inode: program.ino(),
        exe_device: kernel_encoding(program.dev()),
        tgid: child.pid(),
        ..ProcessFacts::default()
    };
    for tid in [0, child.pid(), u32::MAX] {
        facts.tid = tid;
        let process = read(&facts).unwrap().process;
        assert_eq!(process.exe, Some(std::env::current_exe().unwrap()));
        assert!(process.cgroup.starts_with('/'));
    }
    assert!(network_namespace(child.pid(), facts.start_ns).is_ok());
}

#[test]
fn a_deleted_executable_keeps_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("agent");
    fs::copy("/bin/sleep", &program).unwrap();
    let child = Running::start(Command::new(&program).arg("600"));
    fs::remove_file(&program).unwrap();
    let reading = read(&facts_of(child.pid())).unwrap();
    assert!(reading.executable.is_deleted());
    assert_eq!(reading.process.exe, Some(program));
}

#[test]
fn a_name_that_says_deleted_is_a_name() {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("agent (deleted)");
    fs::copy("/bin/sleep", &program).unwrap();
    let child = Running::start(Command::new(&program).arg("600"));
    let reading = read(&facts_of(child.pid())).unwrap();
    assert!(!reading.executable.is_deleted());
    assert_eq!(reading.process.exe.as_ref(), Some(&program));
    // The name is gone, the file is not: another name leads to it.
    fs::hard_link(&program, directory.path().join("other")).unwrap();
    fs::remove_file(&program).unwrap();
    let reading = read(&facts_of(child.pid())).unwrap();
    assert!(reading.executable.is_deleted());
    assert_eq!(reading.process.exe, Some(program));
}

#[test]
fn a_chain_of_parents_is_cut_off() {
    let chain = "n=$1; if [ $n -gt 0 ]; then sh -c \"$0\" \"$0\" $((n-1)); exit; fi; \
                 echo $$; read _";
    let mut top = Running::start(Command::new("sh").args(["-c", chain, chain, "40"]));
    let pid: u32 = top.read_line().trim().parse().unwrap();
    let process = read(&facts_of(pid)).unwrap().process;
    assert_eq!(process.ancestors.len(), ANCESTOR_LIMIT);
}

#[test]
fn network_namespaces_are_told_apart() {
    let child = Running::start(Command::new("unshare").args(["--net", "sleep", "600"]));
    eventually("it runs", || {
        fs::read_link(format!("/proc/{}/exe", child.pid())).unwrap().ends_with("sleep")
    });
    let inode = |pid, start_ns| {
        rustix::fs::fstat(network_namespace(pid, start_ns).unwrap()).unwrap().st_ino
    };
    let own = fs::metadata("/proc/self/ns/net").unwrap().ino();
    assert_eq!(inode(std::process::id(), own_start_ns()), own);
    assert_ne!(inode(child.pid(), start_ns_of(child.pid())), own);
    let reused = network_namespace(child.pid(), own_start_ns() - 60_000_000_000);
    assert!(matches!(reused, Err(ProcError::Gone)));
}

#[test]
#[ignore = "a measurement, not a test: run it alone, with --release --nocapture"]
fn measure_one_reading() {
    let child = sleep();
    let facts = facts_of(child.pid());
    let mut reader = ProcessReader::new().unwrap();
    let mut times: Vec<_> = (0..20_000)
        .map(|_| {
            let start = std::time::Instant::now();
            reader.read(&facts).unwrap();
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    let ancestors = reader.read(&facts).unwrap().process.ancestors.len();
    println!("p50 {:?} p99 {:?}, {ancestors} ancestors", times[10_000], times[19_800]);
}
