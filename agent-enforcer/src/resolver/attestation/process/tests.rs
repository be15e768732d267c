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
#[ignore = "a helper process of executable_redirected_by_its_owner_is_a_mismatch"]
fn helper_redirects_its_executable() {
    if !is_helper() {
        return;
    }
    let program = std::env::current_exe().unwrap();
    detach_from(program.as_os_str().as_bytes());
    let innocent = fs::File::open("/bin/true").unwrap();
    redirect_to(&innocent);
    helper_is_ready();
}

/// `PR_SET_MM_MAP` with everything as it is, but for the executable. Needs `CAP_CHECKPOINT_RESTORE`
/// in the user namespace of the process only.
fn redirect_to(file: &fs::File) {
    use std::os::fd::AsRawFd as _;
    const SET_MM_MAP: libc::c_ulong = 14;
    /// `struct prctl_mm_map`, include/uapi/linux/prctl.h.
    #[repr(C)]
    struct MemoryMap {
        /// Code, data, heap, stack, arguments, environment.
        addresses: [u64; 11],
        auxv: u64,
        auxv_size: u32,
        exe_fd: u32,
    }
    let stat = fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let field = |number: usize| fields[number - 3].parse::<u64>().unwrap();
    // SAFETY: asks for the end of the heap and changes nothing.
    let heap_end = unsafe { libc::sbrk(0) } as u64;
    let addresses = [
        field(26),
        field(27),
        field(45),
        field(46),
        field(47),
        heap_end,
        field(28),
        field(48),
        field(49),
        field(50),
        field(51),
    ];
    let exe_fd = u32::try_from(file.as_raw_fd()).unwrap();
    let map = MemoryMap { addresses, auxv: 0, auxv_size: 0, exe_fd };
    // SAFETY: the kernel reads `map`, which lives, and keeps notes only: no memory moves.
    let result = unsafe {
        libc::prctl(libc::PR_SET_MM, SET_MM_MAP, &raw const map, size_of::<MemoryMap>(), 0)
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

/// Replaces every mapping of a file by a copy of it, in place: the kernel lets /proc/PID/exe be
/// redirected only when its old target is no longer mapped.
fn detach_from(file: &[u8]) {
    let maps = fs::read("/proc/self/maps").unwrap();
    for line in maps.split(|&byte| byte == b'\n').filter(|line| line.ends_with(file)) {
        let line = String::from_utf8_lossy(line);
        let (range, rest) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let start = usize::from_str_radix(start, 16).unwrap();
        let length = usize::from_str_radix(end, 16).unwrap() - start;
        let allowed = |letter, flag| if rest[..4].contains(letter) { flag } else { 0 };
        let protection = allowed('r', libc::PROT_READ)
            | allowed('w', libc::PROT_WRITE)
            | allowed('x', libc::PROT_EXEC);
        // SAFETY: the copy has the same content and protection, and takes the place of the original
        // in one system call, during which this is the only thread that runs code of the file.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let writable = libc::PROT_READ | libc::PROT_WRITE;
            let copy = libc::mmap(std::ptr::null_mut(), length, writable, flags, -1, 0);
            assert_ne!(copy, libc::MAP_FAILED);
            libc::mprotect(start as *mut _, length, protection | libc::PROT_READ);
            std::ptr::copy_nonoverlapping(start as *const u8, copy.cast(), length);
            assert_eq!(libc::mprotect(copy, length, protection), 0);
            let how = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let moved = libc::mremap(copy, length, length, how, start as *mut libc::c_void);
            assert_eq!(moved as usize, start);
        }
    }
}

#[test]
fn executable_redirected_by_its_owner_is_a_mismatch() {
    // As any user can: in a user namespace of its own.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
    let name = format!("{}::helper_redirects_its_executable", module_path!());
    let child = Running::helper_under(command, &name);
    let shown = fs::read_link(format!("/proc/{}/exe", child.pid())).unwrap();
    assert_eq!(shown, fs::canonicalize("/bin/true").unwrap());
    let executed = fs::metadata(std::env::current_exe().unwrap()).unwrap();
    let facts = ProcessFacts {
        exe_inode: executed.ino(),
        exe_device: kernel_encoding(executed.dev()),
        ..facts_of(child.pid())
    };
    let error = read(&facts).unwrap_err();
    assert!(matches!(error.failure, ReadFailure::ExecutableMismatch { .. }), "{error}");
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
