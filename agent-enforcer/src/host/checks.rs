//! Whether the host has what enforcement needs; `agent-enforcer doctor` and the daemon's start ask.
//!
//! In: the running host. Out: one [`Check`] per question, each with what was found and what to
//! do. Needs no daemon, changes nothing, never stops at the first finding.

mod planes;

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};

use rustix::system::uname;
use serde::Serialize;

use super::{cgroup2_root, file_system, lsm_list, sock_diag};

/// `BPF_FS_MAGIC`, include/uapi/linux/magic.h
const BPFFS_MAGIC: u64 = 0xcafe_4a11;
/// `BTF_MAGIC`, include/uapi/linux/btf.h
const BTF_MAGIC: u16 = 0xeb9f;
/// Oldest kernel that everything was tried on.
const OLDEST_KERNEL: (u32, u32) = (6, 1);

/// Capabilities without which nothing works: name, bit (include/uapi/linux/capability.h).
const NEEDED_CAPABILITIES: &[(&str, u32)] = &[
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];
/// Capabilities without which some of it works worse.
const USEFUL_CAPABILITIES: &[(&str, u32)] =
    &[("CAP_DAC_READ_SEARCH", 2), ("CAP_KILL", 5), ("CAP_SYS_RESOURCE", 24)];

/// How good a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckLevel {
    /// As it should be.
    Ok,
    /// Works, with a limit that one should know.
    Warn,
    /// Enforcement does not work.
    Fail,
}

impl fmt::Display for CheckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "fail",
        })
    }
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What was asked; stable.
    pub name: &'static str,
    /// How good it is.
    pub level: CheckLevel,
    /// What was found.
    pub found: String,
    /// What to do about it; empty when nothing is to be done.
    pub remedy: String,
}

impl Check {
    /// As it should be.
    pub fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, level: CheckLevel::Ok, found: found.into(), remedy: String::new() }
    }

    /// Works, with a limit.
    pub fn warn(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self { name, level: CheckLevel::Warn, found: found.into(), remedy: remedy.to_owned() }
    }

    /// Does not work.
    pub fn fail(name: &'static str, found: impl Into<String>, remedy: &str) -> Self {
        Self { name, level: CheckLevel::Fail, found: found.into(), remedy: remedy.to_owned() }
    }
}

/// What the daemon is told on its command line about the host.
#[derive(Clone, Debug)]
pub struct CheckTargets {
    /// `--bpffs`
    pub bpffs: PathBuf,
    /// `--cgroup-root`
    pub cgroup_root: Option<PathBuf>,
}

/// Asks everything that can be asked without the daemon.
pub fn checks(targets: &CheckTargets) -> Vec<Check> {
    let CheckTargets { bpffs, cgroup_root } = targets;
    let [needed, useful] = capabilities(fs::read_to_string("/proc/self/status"));
    let (list, release) = (lsm_list(), uname().release().to_string_lossy().into_owned());
    vec![
        needed,
        useful,
        kernel(&release),
        btf(fs::read("/sys/kernel/btf/vmlinux")),
        match cgroup2_root(cgroup_root.as_deref()) {
            Ok(root) => Check::ok("cgroup2", root.display().to_string()),
            Err(error) => Check::fail(
                "cgroup2",
                error.to_string(),
                "mount it, or name it with `--cgroup-root`",
            ),
        },
        mounted_bpffs(bpffs),
        planes::not_covered(&list, crate::kernel::btf::has_unix_hooks()),
        planes::lsm(&list),
        planes::ftrace(&list, version(&release), &fs::read_to_string(planes::FTRACE)),
        jit(&fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")),
        unprivileged_bpf(&fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled")),
        socket_destroy(sock_diag::destroy_works()),
        processors(fs::read_to_string("/sys/devices/system/cpu/online")),
        file_systems(fs::read_to_string("/proc/self/mounts")),
    ]
}

fn capabilities(status: io::Result<String>) -> [Check; 2] {
    const NEEDED: &str = "capabilities";
    const USEFUL: &str = "more_capabilities";
    const REMEDY: &str =
        "run as root with all capabilities (`sudo`, or the systemd unit as shipped)";
    let effective = status.ok().as_deref().and_then(effective_capabilities);
    let Some(effective) = effective else {
        let found = "the capabilities of this process can't be read";
        return [
            Check::fail(NEEDED, found, "mount /proc"),
            Check::warn(USEFUL, found, "mount /proc"),
        ];
    };
    let missing = |list: &[(&str, u32)]| {
        let names: Vec<_> = list
            .iter()
            .filter(|(_, bit)| effective >> bit & 1 == 0)
            .map(|(name, _)| *name)
            .collect();
        (!names.is_empty()).then(|| format!("missing: {}", names.join(", ")))
    };
    let names = |list: &[(&'static str, u32)]| {
        list.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    [
        match missing(NEEDED_CAPABILITIES) {
            None => Check::ok(NEEDED, names(NEEDED_CAPABILITIES)),
            Some(found) => Check::fail(NEEDED, found, REMEDY),
        },
        match missing(USEFUL_CAPABILITIES) {
            None => Check::ok(USEFUL, names(USEFUL_CAPABILITIES)),
            Some(found) => Check::warn(USEFUL, found, REMEDY),
        },
    ]
}

fn effective_capabilities(status: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(value.trim(), 16).ok()
}

fn kernel(release: &str) -> Check {
    const NAME: &str = "kernel";
    let (major, minor) = OLDEST_KERNEL;
    match version(release) {
        Some(version) if version >= OLDEST_KERNEL => Check::ok(NAME, release),
        Some(_) => Check::fail(
            NAME,
            format!("{release} is older than {major}.{minor}"),
            "boot a newer kernel (on Debian 12: the default one)",
        ),
        None => Check::warn(
            NAME,
            format!("{release} names no version"),
            &format!("see that the kernel is {major}.{minor} or newer"),
        ),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn btf(content: io::Result<Vec<u8>>) -> Check {
    const NAME: &str = "btf";
    const PATH: &str = "/sys/kernel/btf/vmlinux";
    const REMEDY: &str = "boot a kernel with CONFIG_DEBUG_INFO_BTF=y (every distribution's has it)";
    match content {
        Ok(bytes) if bytes.starts_with(&BTF_MAGIC.to_ne_bytes()) => {
            Check::ok(NAME, format!("{PATH}, {} KiB", bytes.len() >> 10))
        }
        Ok(_) => Check::fail(NAME, format!("{PATH} is not BTF"), REMEDY),
        Err(error) => Check::fail(NAME, format!("{PATH}: {error}"), REMEDY),
    }
}

fn mounted_bpffs(bpffs: &Path) -> Check {
    const NAME: &str = "bpffs";
    let path = bpffs.display();
    if file_system(bpffs) == Some(BPFFS_MAGIC) {
        return Check::ok(NAME, path.to_string());
    }
    Check::fail(
        NAME,
        format!("{path} is not a bpf file system"),
        &format!("`mount -t bpf bpf {path}`, or name the mount point with `--bpffs`"),
    )
}

fn jit(setting: &io::Result<String>) -> Check {
    const NAME: &str = "bpf_jit";
    match setting.as_ref().map(|text| text.trim()) {
        Ok("1" | "2") => Check::ok(NAME, "on"),
        Ok(_) => Check::warn(
            NAME,
            "off: every call of an agent costs more",
            "`sysctl net.core.bpf_jit_enable=1`",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("net.core.bpf_jit_enable can't be read: {error}"),
            "see that the kernel has CONFIG_BPF_JIT=y",
        ),
    }
}

fn unprivileged_bpf(setting: &io::Result<String>) -> Check {
    const NAME: &str = "unprivileged_bpf";
    match setting.as_ref().map(|text| text.trim()) {
        Ok("1" | "2") => Check::ok(NAME, "off"),
        Ok(_) => Check::warn(
            NAME,
            "on: any user may load BPF programs",
            "`sysctl kernel.unprivileged_bpf_disabled=1`",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("kernel.unprivileged_bpf_disabled can't be read: {error}"),
            "see that unprivileged users can't load BPF programs",
        ),
    }
}

fn socket_destroy(result: io::Result<()>) -> Check {
    const NAME: &str = "socket_destroy";
    match result {
        Ok(()) => Check::ok(NAME, "denied and revoked sockets can be ended"),
        Err(error) => Check::warn(
            NAME,
            format!("sockets can't be ended ({error}): a denied caller waits for its own time-out"),
            "needs CAP_NET_ADMIN, a kernel with CONFIG_INET_DIAG_DESTROY=y, `modprobe tcp_diag`, and `lo` up",
        ),
    }
}

fn processors(online: io::Result<String>) -> Check {
    const NAME: &str = "processors";
    match online.ok().as_deref().and_then(processor_count) {
        Some(1) => Check::warn(
            NAME,
            "1: calls do not wait in the hook, as the daemon could not run meanwhile",
            "give the machine a second CPU for answers within microseconds",
        ),
        Some(count) => Check::ok(NAME, count.to_string()),
        None => Check::warn(NAME, "their number can't be read", "mount /sys"),
    }
}

/// Types of file systems whose files are fetched from somewhere else by whom an agent does not become.
const REACHING_OUT: &[&str] = &[
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "ceph",
    "afs",
    "9p",
    "lustre",
    "gfs2",
    "ocfs2",
    "coda",
    "orangefs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.s3fs",
    "fuse.rclone",
    "fuse.davfs2",
];

/// File systems that reach out when they are touched: a way past every hook of sockets.
fn file_systems(mounts: io::Result<String>) -> Check {
    const NAME: &str = "file_systems";
    let Ok(mounts) = mounts else {
        return Check::warn(NAME, "the mounts can't be read", "mount /proc");
    };
    let reaching: Vec<String> = mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            // systemd's own, for a local one.
            let automounts = kind == "autofs" && place != "/proc/sys/fs/binfmt_misc";
            let reaches = automounts || REACHING_OUT.contains(&kind);
            reaches.then(|| format!("{place} ({kind})"))
        })
        .collect();
    if reaching.is_empty() {
        return Check::ok(NAME, "none reaches out to the network");
    }
    Check::warn(
        NAME,
        format!("whoever touches these reaches out to the network: {}", reaching.join(", ")),
        "keep them out of the agents' mount namespaces (`InaccessiblePaths=`); take automounters that \
         accept host names (/net) away",
    )
}

/// Of a list such as `0-3,6`.
fn processor_count(online: &str) -> Option<u32> {
    online.trim().split(',').try_fold(0_u32, |count, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        count.checked_add(last.checked_sub(first)?.checked_add(1)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_systems_that_reach_out_are_named() {
        let local = "proc /proc proc rw 0 0\nsystemd-1 /proc/sys/fs/binfmt_misc autofs rw 0 0\n";
        assert_eq!(file_systems(Ok(local.to_owned())).level, CheckLevel::Ok);
        let remote = format!("{local}-hosts /net autofs rw 0 0\nnas:/a /srv/a nfs4 rw 0 0\n");
        let check = file_systems(Ok(remote));
        assert_eq!(check.level, CheckLevel::Warn);
        assert!(check.found.ends_with(": /net (autofs), /srv/a (nfs4)"), "{}", check.found);
        assert_eq!(file_systems(Err(missing())).level, CheckLevel::Warn);
    }

    fn missing() -> io::Error {
        io::ErrorKind::NotFound.into()
    }

    #[test]
    fn asks_every_question_once_and_gives_a_remedy_for_each_fault() {
        let targets = CheckTargets { bpffs: "/nonexistent".into(), cgroup_root: None };
        let checks = checks(&targets);
        let names: std::collections::BTreeSet<_> = checks.iter().map(|check| check.name).collect();
        assert_eq!(names.len(), checks.len());
        for check in &checks {
            assert!(!check.found.is_empty(), "{}", check.name);
            assert_eq!(check.remedy.is_empty(), check.level == CheckLevel::Ok, "{}", check.name);
        }
        let bpffs = checks.iter().find(|check| check.name == "bpffs").unwrap();
        assert_eq!(bpffs.level, CheckLevel::Fail);
    }

    #[test]
    fn fails_kernel_older_than_6_1() {
        for (release, level) in [
            ("5.15.0-91-generic", CheckLevel::Fail),
            ("6.0.19", CheckLevel::Fail),
            ("6.1.0-30-amd64", CheckLevel::Ok),
            ("7.3.4", CheckLevel::Ok),
            ("6.18-rc1", CheckLevel::Ok),
            ("custom", CheckLevel::Warn),
        ] {
            assert_eq!(kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn names_missing_capabilities() {
        let all = u64::MAX;
        let [needed, useful] = capabilities(Ok(format!("Name:\tx\nCapEff:\t{all:016x}\n")));
        assert_eq!((needed.level, useful.level), (CheckLevel::Ok, CheckLevel::Ok));
        let [needed, useful] = capabilities(Ok(format!("CapEff:\t{:016x}\n", all & !(1 << 39))));
        assert_eq!((needed.level, useful.level), (CheckLevel::Fail, CheckLevel::Ok));
        assert_eq!(needed.found, "missing: CAP_BPF");
        let [needed, useful] = capabilities(Err(missing()));
        assert_eq!((needed.level, useful.level), (CheckLevel::Fail, CheckLevel::Warn));
    }

    #[test]
    fn fails_without_btf() {
        assert_eq!(btf(Err(missing())).level, CheckLevel::Fail);
        assert_eq!(btf(Ok(vec![0; 64])).level, CheckLevel::Fail);
        assert_eq!(btf(Ok(BTF_MAGIC.to_ne_bytes().to_vec())).level, CheckLevel::Ok);
    }

    #[test]
    fn warns_about_switches_in_the_wrong_position() {
        for check in [
            jit(&Ok("0\n".to_owned())),
            jit(&Err(missing())),
            unprivileged_bpf(&Ok("0\n".to_owned())),
            unprivileged_bpf(&Err(missing())),
            socket_destroy(Err(missing())),
            processors(Ok("0\n".to_owned())),
            processors(Ok("x".to_owned())),
        ] {
            assert_eq!(check.level, CheckLevel::Warn, "{check:?}");
        }
        assert_eq!(jit(&Ok("1\n".to_owned())).level, CheckLevel::Ok);
        assert_eq!(unprivileged_bpf(&Ok("2\n".to_owned())).level, CheckLevel::Ok);
    }

    #[test]
    fn counts_processors_in_ranges() {
        assert_eq!(processor_count("0-3,6\n"), Some(5));
        assert_eq!(processor_count("0"), Some(1));
        assert_eq!(processor_count("3-0"), None);
        assert_eq!(processor_count(""), None);
    }
}
