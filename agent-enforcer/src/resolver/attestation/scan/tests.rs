use std::{os::unix::fs::MetadataExt as _, process::Command};

use super::*;
use crate::resolver::attestation::testing::{
    Running, eventually, facts_of, own_start_ns, start_ns_of,
};

fn executable_of(process: &ScannedProcess) -> &ScannedExecutable {
    match &process.image {
        ScannedImage::Executable(executable) => executable,
        other @ (ScannedImage::None | ScannedImage::Unreadable(_)) => panic!("{other:?}"),
    }
}

fn scan() -> Vec<ScannedProcess> {
    // Others come and go meanwhile; none of them may be an error.
    Scanner::new().unwrap().scan().unwrap().map(Result::unwrap).collect()
}

#[test]
fn finds_a_process_with_all_that_is_told_of_it() {
    let child = Running::start(Command::new("setpriv").args([
        "--reuid=1234",
        "--regid=2345",
        "--clear-groups",
        "sleep",
        "600",
    ]));
    let facts = || facts_of(child.pid());
    let sleep = std::fs::canonicalize("/bin/sleep").unwrap();
    eventually("it sleeps", || {
        std::fs::read_link(format!("/proc/{}/exe", child.pid())).is_ok_and(|exe| exe == sleep)
    });
    let found = scan().into_iter().find(|process| process.pid == child.pid()).unwrap();
    assert!(same_start(found.start_ns, facts().start_ns));
    assert_eq!(found.parent, std::process::id());
    assert_eq!((found.uid, found.gid), (1234, 2345));
    assert_eq!(found.comm, "sleep");
    let executable = executable_of(&found);
    assert_eq!(executable.path, sleep);
    assert_eq!(executable.inode, std::fs::metadata(&sleep).unwrap().ino());
    assert_eq!(executable.device, Some(facts().exe_device));
    let own = scan().into_iter().find(|process| process.pid == std::process::id()).unwrap();
    assert_eq!(found.cgroup, own.cgroup);
}

#[test]
fn leaves_out_the_kernels_threads() {
    let found = scan();
    let comm = std::fs::read_to_string("/proc/2/comm").unwrap();
    assert_eq!(comm.trim(), "kthreadd", "this test needs the initial pid namespace");
    assert!(found.iter().all(|process| process.pid != 2 && process.parent != 2));
    assert!(found.iter().any(|process| process.pid == 1));
}

#[test]
fn a_process_without_its_leading_thread_is_found_and_alive() {
    let child =
        Running::helper("crate::resolver::attestation::process::tests::helper_loses_its_leader");
    let found = scan().into_iter().find(|process| process.pid == child.pid()).unwrap();
    assert_eq!(executable_of(&found).path, std::env::current_exe().unwrap());
    assert!(Scanner::new().unwrap().still_alive(child.pid(), found.start_ns).unwrap());
}

#[test]
fn a_zombie_is_not_alive_and_executes_nothing() {
    let mut child = Running::start(Command::new("sleep").arg("600"));
    let start_ns = start_ns_of(child.pid());
    let mut scanner = Scanner::new().unwrap();
    assert!(scanner.still_alive(child.pid(), start_ns).unwrap());
    child.kill();
    eventually("it is not alive", || !scanner.still_alive(child.pid(), start_ns).unwrap());
    eventually("it executes nothing", || {
        let found = scan().into_iter().find(|process| process.pid == child.pid()).unwrap();
        found.image == ScannedImage::None
    });
    child.wait();
    assert!(!scanner.still_alive(child.pid(), start_ns).unwrap());
}

#[test]
fn another_start_is_another_process() {
    let mut scanner = Scanner::new().unwrap();
    let (pid, start_ns) = (std::process::id(), own_start_ns());
    assert!(scanner.still_alive(pid, start_ns + 1).unwrap());
    assert!(!scanner.still_alive(pid, start_ns + 10_000_000).unwrap());
    assert!(!scanner.still_alive(u32::MAX, 0).unwrap());
}

#[test]
fn a_name_cannot_pass_for_an_id() {
    let status = b"Name:\tUid:\\n7\nUmask:\t0022\nUid:\t1000\t0\t0\t0\nGid:\t1001\t0\t0\t0\n";
    assert_eq!(real_id(status, b"Uid:"), Some(1000));
    assert_eq!(real_id(status, b"Gid:"), Some(1001));
    assert_eq!(real_id(b"Name:\tx\n", b"Uid:"), None);
    assert_eq!(real_id(b"Uid:\tx\n", b"Uid:"), None);
}
