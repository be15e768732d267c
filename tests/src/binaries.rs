//! Where the daemon and the probe are: beside the test's own executable, and fresh.
//!
//! `AGENT_ENFORCER_BIN` names another daemon, for instance an installed one.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::SystemTime,
};

const REMEDY: &str =
    "run `cargo build -p agent-enforcer -p agent-enforcer-tests` with the same profile first";
/// What the daemon is built from, relative to the workspace.
const SOURCES: [&str; 5] = [
    "agent-enforcer/src",
    "agent-enforcer-common/src",
    "agent-enforcer-ebpf/src",
    "proto",
    "Cargo.lock",
];

/// The daemon's binary.
pub fn daemon() -> &'static Path {
    static DAEMON: OnceLock<PathBuf> = OnceLock::new();
    DAEMON.get_or_init(|| {
        if let Some(named) = env::var_os("AGENT_ENFORCER_BIN") {
            return PathBuf::from(named);
        }
        let path = beside("agent-enforcer");
        let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace");
        let newest = SOURCES.iter().filter_map(|source| newest(&workspace.join(source))).max();
        let built = modified(&path).expect("a binary that was just found");
        assert!(
            newest.is_none_or(|newest| newest <= built),
            "{} is older than its sources; {REMEDY}",
            path.display()
        );
        path
    })
}

/// The probe's binary.
pub fn probe() -> &'static Path {
    static PROBE: OnceLock<PathBuf> = OnceLock::new();
    PROBE.get_or_init(|| beside("agent-probe"))
}

fn beside(name: &str) -> PathBuf {
    let own = env::current_exe().expect("the path of this executable");
    let directory = own.parent().expect("an executable is in a directory");
    // Tests are in `deps`, below the binaries.
    let directory = match directory.file_name() {
        Some(last) if last == "deps" => directory.parent().expect("deps is in a directory"),
        _ => directory,
    };
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing; {REMEDY}", path.display());
    path
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}

fn newest(path: &Path) -> Option<SystemTime> {
    if !path.is_dir() {
        return modified(path);
    }
    let entries = fs::read_dir(path).ok()?;
    entries.filter_map(|entry| newest(&entry.ok()?.path())).max()
}
