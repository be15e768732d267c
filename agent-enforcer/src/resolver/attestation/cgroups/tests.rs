use std::{
    collections::BTreeMap,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
};

use super::*;

/// Where the v2 hierarchy is mounted: under `unified` in hybrid layouts.
fn hierarchy() -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| line.contains(" - cgroup2 ")).expect("no cgroup v2");
    PathBuf::from(mount.split(' ').nth(4).unwrap())
}

/// A cgroup of this test, removed at its end.
struct OwnCgroup(PathBuf);

impl OwnCgroup {
    fn new(name: &str) -> Self {
        let path = hierarchy().join(format!("{name}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for OwnCgroup {
    fn drop(&mut self) {
        let _removed = fs::remove_dir(self.0.join("inner"));
        let _removed = fs::remove_dir(&self.0);
    }
}

/// The id that the kernel itself gives out, from another source than the code under test.
fn id_by_handle(path: &Path) -> u64 {
    #[repr(C)]
    struct Handle {
        header: [u32; 2],
        id: [u8; 8],
    }
    let directory = fs::File::open(path).unwrap();
    let mut handle = Handle { header: [8, 0], id: [0; 8] };
    let mut mount = 0;
    // SAFETY: the handle has room for the 8 bytes that its header promises.
    let result = unsafe {
        libc::name_to_handle_at(
            directory.as_raw_fd(),
            c"".as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            libc::AT_EMPTY_PATH,
        )
    };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
    u64::from_ne_bytes(handle.id)
}

#[test]
fn lists_every_cgroup_with_the_kernels_id() {
    let own = OwnCgroup::new("attestation-tree");
    fs::create_dir(own.0.join("inner")).unwrap();
    let root = hierarchy();
    let found: BTreeMap<String, u64> = cgroup_tree(&root)
        .unwrap()
        .map(|cgroup| cgroup.map(|cgroup| (cgroup.path, cgroup.id)).unwrap())
        .collect();
    for path in [root.clone(), own.0.clone(), own.0.join("inner")] {
        let below = path.strip_prefix(&root).unwrap().to_str().unwrap();
        assert_eq!(found.get(&format!("/{below}")), Some(&id_by_handle(&path)), "{below}");
    }
}

#[test]
fn parents_come_first() {
    let own = OwnCgroup::new("attestation-order");
    fs::create_dir(own.0.join("inner")).unwrap();
    let paths: Vec<_> = cgroup_tree(&own.0).unwrap().map(|cgroup| cgroup.unwrap().path).collect();
    assert_eq!(paths, ["/", "/inner"]);
}

#[test]
fn a_cgroup_that_vanishes_is_left_out() {
    let own = OwnCgroup::new("attestation-vanish");
    fs::create_dir(own.0.join("inner")).unwrap();
    let mut tree = cgroup_tree(&own.0).unwrap();
    assert_eq!(tree.next().unwrap().unwrap().path, "/");
    fs::remove_dir(own.0.join("inner")).unwrap();
    assert!(tree.next().is_none());
}

#[test]
fn only_a_cgroup_v2_file_system_will_do() {
    assert!(matches!(cgroup_tree(Path::new("/proc")), Err(CgroupError::NotCgroup2 { .. })));
    let missing = cgroup_tree(Path::new("/no/such/hierarchy"));
    assert!(matches!(missing, Err(CgroupError::Unreadable { .. })));
}

#[test]
fn a_name_that_is_no_utf8_does_not_stop_the_list() {
    let own = OwnCgroup::new("attestation-bytes");
    let odd = own.0.join(std::ffi::OsStr::from_bytes(b"x\xff"));
    fs::create_dir(&odd).unwrap();
    let paths: Vec<_> = cgroup_tree(&own.0).unwrap().map(|cgroup| cgroup.unwrap().path).collect();
    fs::remove_dir(odd).unwrap();
    assert_eq!(paths, ["/", "/x\u{fffd}"]);
}

#[test]
fn the_v2_line_is_found_among_the_others() {
    let hybrid = b"9:name=systemd:/x\n1:cpu:/0::/y\n0::/a b/c:d\n";
    assert_eq!(v2_path(hybrid), Some(&b"/a b/c:d"[..]));
    assert_eq!(v2_path(b"1:cpu:/\n"), None);
}
