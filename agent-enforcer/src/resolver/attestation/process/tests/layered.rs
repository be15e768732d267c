//! File systems whose device number in stat is not the kernel's, and mounts that nobody has.

use super::*;

/// The kernel's own word on inode and device, from a source that the code under test does not use.
fn inode_as_the_kernel_has_it(path: &Path) -> (u64, u32) {
    use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
    use std::os::fd::AsRawFd as _;
    let inotify = init(CreateFlags::CLOEXEC).unwrap();
    add_watch(&inotify, path, WatchFlags::DELETE_SELF).unwrap();
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", inotify.as_raw_fd())).unwrap();
    let watch = text.lines().find(|line| line.starts_with("inotify ")).unwrap();
    let field = |key: &str| {
        let value = watch.split_ascii_whitespace().find_map(|field| field.strip_prefix(key));
        u64::from_str_radix(value.unwrap(), 16).unwrap()
    };
    (field("ino:"), u32::try_from(field("sdev:")).unwrap())
}

/// A process in a mount namespace of its own, whose executable has another device number in stat
/// than in the kernel: overlayfs over two file systems.
fn process_on_overlay(then: &str) -> Running {
    let script = format!(
        "set -e; d=$(mktemp -d); mount -t tmpfs lower $d; mkdir $d/l $d/m $d/t; \
         mount -t tmpfs upper $d/t; mkdir $d/t/u $d/t/w; cp /bin/sleep $d/l/agent; \
         mount -t overlay overlay -o lowerdir=$d/l,upperdir=$d/t/u,workdir=$d/t/w $d/m; \
         cd /; exec 3<$d/m/agent; {then} echo ready; exec $d/m/agent 600"
    );
    let mut child = Running::start(Command::new("unshare").args(["--mount", "sh", "-c", &script]));
    child.wait_for("ready");
    eventually("it runs", || {
        let exe = fs::read_link(format!("/proc/{}/exe", child.pid())).unwrap();
        exe.ends_with("agent") || exe.ends_with("agent (deleted)")
    });
    child
}

#[test]
fn the_device_of_a_layered_file_system_is_the_kernels() {
    let child = process_on_overlay("");
    let link = format!("/proc/{}/exe", child.pid());
    let (inode, device) = inode_as_the_kernel_has_it(Path::new(&link));
    let as_in_stat = facts_of(child.pid());
    assert_eq!(as_in_stat.exe_inode, inode);
    assert_ne!(as_in_stat.exe_device, device, "this test needs the two numbers to differ");
    let facts = ProcessFacts { exe_device: device, ..as_in_stat };
    read(&facts).unwrap();
    for wrong in [device + 1, 8 << 20 | 1] {
        let error = read(&ProcessFacts { exe_device: wrong, ..facts }).unwrap_err();
        assert!(matches!(error.failure, ReadFailure::ExecutableMismatch { .. }), "{error}");
    }
}

#[test]
fn an_unmounted_file_system_leaves_the_device_unknown() {
    let script = "set -e; d=$(mktemp -d); mount -t tmpfs one $d; cp /bin/sleep $d/agent; \
                  $d/agent 600 & echo $!; \
                  until [ $(readlink /proc/$!/exe) = $d/agent ]; do :; done; umount -l $d; echo ready; wait";
    let mut parent = Running::start(Command::new("unshare").args(["--mount", "sh", "-c", script]));
    let pid: u32 = parent.read_line().trim().parse().unwrap();
    parent.wait_for("ready");
    let _ended_with_the_test = KillOnDrop(pid);
    let facts = facts_of(pid);
    read(&facts).unwrap();
    let error = read(&ProcessFacts { exe_device: facts.exe_device + 1, ..facts }).unwrap_err();
    assert!(matches!(error.failure, ReadFailure::DeviceUnknown { .. }), "{error}");
    assert_eq!(error.reason(), Reason::IdentityUnverified);
}

struct KillOnDrop(u32);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0).unwrap()).unwrap();
        let _ended = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}
