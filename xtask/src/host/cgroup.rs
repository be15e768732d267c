//! Cgroups below the root of the v2 hierarchy, wherever this machine has it mounted.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::wait;

const END_LIMIT: Duration = Duration::from_secs(5);

/// A cgroup; ended and removed when dropped, with every process in it.
pub(crate) struct Cgroup {
    path: PathBuf,
    selector_path: String,
}

impl Cgroup {
    /// Creates one directly below the root of the hierarchy.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let Mount { point, root } = mount()?;
        Self::at(point.join(name), format!("{}/{name}", root.trim_end_matches('/')))
    }

    /// Creates one below this one.
    pub(crate) fn child(&self, name: &str) -> Result<Self> {
        Self::at(self.path.join(name), format!("{}/{name}", self.selector_path))
    }

    /// Its folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Its path as /proc/PID/cgroup and `cgroup:path:` selectors write it.
    pub(crate) fn selector_path(&self) -> &str {
        &self.selector_path
    }

    /// Moves a process in.
    pub(crate) fn take(&self, pid: u32) -> Result<()> {
        let members = self.path.join("cgroup.procs");
        fs::write(&members, pid.to_string())
            .with_context(|| format!("can't move process {pid} to {}", self.path.display()))
    }

    fn at(path: PathBuf, selector_path: String) -> Result<Self> {
        fs::create_dir(&path).with_context(|| format!("can't create cgroup {}", path.display()))?;
        Ok(Self { path, selector_path })
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("can't remove cgroup {}: {error:#}", self.path.display());
        }
    }
}

/// Ends every process in a cgroup, and removes it.
pub(super) fn remove(path: &Path) -> Result<()> {
    fs::write(path.join("cgroup.kill"), "1").context("can't end its processes")?;
    let end = std::time::Instant::now() + END_LIMIT;
    // An interrupt must not keep this from happening, so this does not use `wait`.
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) if std::time::Instant::now() >= end => return Err(error.into()),
            Err(_) => std::thread::sleep(wait::PAUSE),
        }
    }
}

/// Folders below the root of the hierarchy whose name begins so.
pub(super) fn named(prefix: &str) -> Result<Vec<PathBuf>> {
    let Mount { point, .. } = mount()?;
    let entries =
        fs::read_dir(&point).with_context(|| format!("can't read {}", point.display()))?;
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(prefix) && entry.path().is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Where the v2 hierarchy is mounted, and which part of it.
struct Mount {
    point: PathBuf,
    root: String,
}

fn mount() -> Result<Mount> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("can't read the mounts")?;
    let found = table.lines().find_map(parse_mount);
    let Some(mount) = found else {
        bail!("no cgroup v2 is mounted; mount one: `mount -t cgroup2 none /sys/fs/cgroup`");
    };
    Ok(mount)
}

/// `30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw`.
fn parse_mount(line: &str) -> Option<Mount> {
    let (place, kind) = line.split_once(" - ")?;
    if kind.split(' ').next()? != "cgroup2" {
        return None;
    }
    let mut fields = place.split(' ').skip(3);
    let root = fields.next()?.to_owned();
    let point = PathBuf::from(fields.next()?.replace(r"\040", " "));
    Some(Mount { point, root })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_v2_mount_of_a_hybrid_layout() {
        let v1 = "31 24 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd";
        let v2 = "32 24 0:28 /part /sys/fs/cgroup/uni\\040fied rw shared:9 - cgroup2 cgroup2 rw";
        assert!(parse_mount(v1).is_none());
        let mount = parse_mount(v2).unwrap();
        assert_eq!(mount.point, Path::new("/sys/fs/cgroup/uni fied"));
        assert_eq!(mount.root, "/part");
    }
}
