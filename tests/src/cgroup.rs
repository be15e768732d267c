//! A cgroup of the test, which goes with everything in it.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::wait::poll_for;

/// A directory of the cgroup v2 hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    mount: PathBuf,
}

impl Cgroup {
    /// Makes a cgroup at the root of the hierarchy.
    pub fn create(name: &str) -> Self {
        let mount = mount_point().expect("a cgroup v2 hierarchy; see `agent-enforcer doctor`");
        let path = mount.join(name);
        fs::create_dir(&path).expect("a new cgroup; T1 tests need root");
        Self { path, mount }
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as selectors name it: from the root of the hierarchy.
    pub fn name(&self) -> String {
        let below = self.path.strip_prefix(&self.mount).expect("made below the mount");
        format!("/{}", below.display())
    }

    /// Makes a cgroup below, if it is not there yet.
    pub fn child(&self, name: &str) -> PathBuf {
        let path = self.path.join(name);
        fs::create_dir_all(&path).expect("a new cgroup below the test's");
        path
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Every process in it is the test's (5.14).
        let _ = fs::write(self.path.join("cgroup.kill"), "1");
        let removed = poll_for(Duration::from_secs(5), || remove(&self.path).ok());
        if removed.is_none() {
            eprintln!("cgroup {} is left", self.path.display());
        }
    }
}

/// Looked up here and not by the daemon's library: the probe is hashed by the daemon in each test,
/// and without that library it is small.
fn mount_point() -> Option<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").ok()?;
    table.lines().find_map(|line| {
        let (mount, source) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (root == "/" && source.starts_with("cgroup2 ")).then(|| PathBuf::from(point))
    })
}

fn remove(path: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
