use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    process::Command,
    time::Duration,
};

use super::*;
use crate::resolver::attestation::testing::{Running, eventually, helper_is_ready, is_helper};

fn install(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"\x7fELF").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

struct Watched {
    directory: tempfile::TempDir,
    watcher: ExecutableWatcher,
    globs: Vec<String>,
}

impl Watched {
    fn new(globs: &[&str], prepare: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        prepare(directory.path());
        let globs =
            globs.iter().map(|glob| format!("{}/{glob}", directory.path().display())).collect();
        let mut watched = Self { directory, watcher: ExecutableWatcher::new().unwrap(), globs };
        watched.resolve();
        watched
    }

    fn path(&self, below: &str) -> std::path::PathBuf {
        self.directory.path().join(below)
    }

    fn resolve(&mut self) -> Resolution {
        let resolution = self.watcher.resolve(&self.globs).unwrap();
        // What the walk itself did is no news.
        assert_eq!(self.watcher.drain().unwrap(), Change::None);
        resolution
    }

    /// The kernel queues events before the system call that causes them returns.
    fn changed(&mut self) -> bool {
        let now = Timespec::try_from(Duration::ZERO).unwrap();
        let mut ready = [PollFd::new(&self.watcher, PollFlags::IN)];
        let readable = poll(&mut ready, Some(&now)).unwrap() > 0;
        let change = self.watcher.drain().unwrap();
        assert!(readable || change == Change::None);
        change == Change::Possible
    }
}

#[test]
fn an_installed_program_is_noticed() {
    let mut watched = Watched::new(&["bin/agent*"], |path| install(&path.join("bin/other")));
    assert!(!watched.changed());
    install(&watched.path("bin/agent1"));
    assert!(watched.changed());
    assert_eq!(watched.resolve().executables.len(), 1);
    assert!(!watched.changed());
}

#[test]
fn an_upgrade_by_rename_is_noticed() {
    let mut watched = Watched::new(&["bin/agent"], |path| install(&path.join("bin/agent")));
    let before = watched.resolve().executables;
    install(&watched.path("new"));
    assert!(!watched.changed());
    fs::rename(watched.path("new"), watched.path("bin/agent")).unwrap();
    assert!(watched.changed());
    assert_ne!(watched.resolve().executables[0].inode, before[0].inode);
}

#[test]
fn a_removed_program_is_noticed() {
    let mut watched = Watched::new(&["bin/agent"], |path| install(&path.join("bin/agent")));
    fs::remove_file(watched.path("bin/agent")).unwrap();
    assert!(watched.changed());
}

#[test]
fn a_program_made_executable_is_noticed() {
    let mut watched = Watched::new(&["bin/agent"], |path| {
        install(&path.join("bin/agent"));
        fs::set_permissions(path.join("bin/agent"), fs::Permissions::from_mode(0o644)).unwrap();
    });
    fs::set_permissions(watched.path("bin/agent"), fs::Permissions::from_mode(0o755)).unwrap();
    assert!(watched.changed());
}

#[test]
fn other_names_in_the_same_directories_do_not_count() {
    let mut watched = Watched::new(&["bin/agent", "opt/v?/agent"], |path| {
        install(&path.join("bin/agent"));
        install(&path.join("opt/v1/agent"));
    });
    for other in ["x", "bin/x", "opt/x", "opt/version/agent", "opt/v1/x"] {
        install(&watched.path(other));
    }
    assert!(!watched.changed());
    install(&watched.path("opt/v2/agent"));
    assert!(watched.changed());
}

#[test]
fn a_path_that_comes_to_be_is_noticed_step_by_step() {
    let mut watched = Watched::new(&["a/b/agent"], |_| {});
    fs::create_dir(watched.path("a")).unwrap();
    assert!(watched.changed());
    watched.resolve();
    fs::create_dir(watched.path("a/b")).unwrap();
    assert!(watched.changed());
    watched.resolve();
    install(&watched.path("a/b/agent"));
    assert!(watched.changed());
    assert_eq!(watched.resolve().executables.len(), 1);
}

#[test]
fn everything_below_a_globstar_is_watched() {
    let mut watched = Watched::new(&["opt/**"], |path| install(&path.join("opt/a/b/agent")));
    install(&watched.path("opt/a/b/c/agent2"));
    assert!(watched.changed());
    watched.resolve();
    install(&watched.path("opt/a/b/c/agent3"));
    assert!(watched.changed());
}

#[test]
fn a_switched_symlink_is_noticed_wherever_it_is() {
    let mut watched = Watched::new(&["bin/agent"], |path| {
        install(&path.join("opt/v1/agent"));
        install(&path.join("opt/v2/agent"));
        fs::create_dir(path.join("bin")).unwrap();
        symlink("v1", path.join("opt/current")).unwrap();
        symlink("../opt/current/agent", path.join("bin/agent")).unwrap();
    });
    symlink("v2", watched.path("opt/next")).unwrap();
    assert!(!watched.changed());
    fs::rename(watched.path("opt/next"), watched.path("opt/current")).unwrap();
    assert!(watched.changed());
    assert_eq!(watched.resolve().executables[0].file, watched.path("opt/v2/agent"));
    // The end of the chain is watched where it is.
    install(&watched.path("new"));
    fs::rename(watched.path("new"), watched.path("opt/v2/agent")).unwrap();
    assert!(watched.changed());
}

#[test]
fn a_moved_directory_is_noticed() {
    let mut watched = Watched::new(&["a/*/agent"], |path| install(&path.join("a/b/agent")));
    fs::rename(watched.path("a/b"), watched.path("elsewhere")).unwrap();
    assert!(watched.changed());
    watched.resolve();
    // No longer on the way.
    install(&watched.path("elsewhere/agent"));
    assert!(!watched.changed());
}

#[test]
fn directories_of_former_globs_are_let_go() {
    let mut watched = Watched::new(&["a/agent"], |path| {
        install(&path.join("a/agent"));
        install(&path.join("b/agent"));
    });
    watched.globs = vec![format!("{}/b/agent", watched.directory.path().display())];
    watched.resolve();
    fs::remove_file(watched.path("a/agent")).unwrap();
    assert!(!watched.changed());
    fs::remove_file(watched.path("b/agent")).unwrap();
    assert!(watched.changed());
}

#[test]
fn many_interests_in_one_directory_become_any() {
    let globs: Vec<String> = (0..INTEREST_LIMIT + 10).map(|n| format!("bin/agent{n}")).collect();
    let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
    let mut watched = Watched::new(&globs, |path| fs::create_dir(path.join("bin")).unwrap());
    install(&watched.path("bin/agent5"));
    assert!(watched.changed());
}

#[test]
fn lost_events_mean_that_everything_may_have_changed() {
    let mut watched = Watched::new(&["bin/*"], |path| install(&path.join("bin/agent")));
    let limit: usize = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let (one, two) = (watched.path("bin/agent"), watched.path("bin/agent2"));
    // Two events each.
    for _ in 0..=limit / 4 {
        fs::rename(&one, &two).unwrap();
        fs::rename(&two, &one).unwrap();
    }
    assert_eq!(watched.watcher.drain().unwrap(), Change::Overflow);
    watched.resolve();
}

#[test]
fn a_directory_that_cannot_be_watched_is_a_problem() {
    // The limits of a user namespace are its owner's to lower.
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user"]).arg(std::env::current_exe().unwrap());
    Running::helper_under(command, &format!("{}::helper_runs_out_of_watches", module_path!()));
}

#[test]
#[ignore = "a helper process of a_directory_that_cannot_be_watched_is_a_problem"]
fn helper_runs_out_of_watches() {
    if !is_helper() {
        return;
    }
    let mut watcher = ExecutableWatcher::new().unwrap();
    fs::write("/proc/sys/user/max_inotify_watches", "1").unwrap();
    let problems = watcher.resolve(&["/bin/true"]).unwrap().problems;
    assert!(matches!(problems.as_slice(), [GlobProblem::Unwatched { .. }, ..]), "{problems:?}");
    fs::write("/proc/sys/user/max_inotify_instances", "1").unwrap();
    let error = ExecutableWatcher::new().unwrap_err();
    assert!(matches!(error, WatchError::Inotify(_)), "{error}");
    helper_is_ready();
}

#[test]
fn a_mount_on_the_way_is_noticed() {
    let mut command = Command::new("unshare");
    command.arg("--mount").arg(std::env::current_exe().unwrap());
    let name = format!("{}::helper_mounts_over_a_program", module_path!());
    Running::helper_under(command, &name);
}

#[test]
#[ignore = "a helper process of a_mount_on_the_way_is_noticed"]
fn helper_mounts_over_a_program() {
    if !is_helper() {
        return;
    }
    let mut watched = Watched::new(&["bin/agent"], |path| install(&path.join("bin/agent")));
    let mount = Command::new("mount")
        .args(["-t", "tmpfs", "over"])
        .arg(watched.path("bin"))
        .status()
        .unwrap();
    assert!(mount.success());
    eventually("the mount is noticed", || watched.watcher.drain().unwrap() == Change::Possible);
    assert!(watched.resolve().executables.is_empty());
    helper_is_ready();
}
