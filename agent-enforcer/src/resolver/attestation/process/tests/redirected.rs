//! The attack: /proc/PID/exe redirected by its owner.

use super::*;

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
