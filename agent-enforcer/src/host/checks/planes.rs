//! Which planes the host has, and what stays open on them.

use std::io;

use super::Check;
use crate::host::LSM_LIST;

/// What no plane sees, in the words of the threat model.
const NOT_COVERED: &str = "bind, listen and accept (what is answered is judged); an io_uring \
    submission thread borrowed from another process; unix sockets that were connected before \
    the process became an agent's or that are passed to it";
/// What only the LSM plane sees.
const NOT_COVERED_WITHOUT_LSM: &str = "sockets of families other than INET and INET6 (AF_PACKET \
    and AF_VSOCK skip egress too); sockets inherited or passed (SCM_RIGHTS, \
    pidfd_getfd) already connected, until they send; ptrace of a process of the same user that is no agent's; \
    helpers that the kernel starts (core_pattern, modprobe, request-key); uid 0 without \
    capabilities acting against the daemon, its files and the kernel's settings";
/// Where the cgroup plane has hooks for unix sockets (6.7).
const UNIX_BY_NAME: &str = "unix sockets whose path an agent goes on changing during its calls, in a \
    directory that it may write to: the kernel follows the path once more after it was judged";
/// Where it has none.
const UNIX_UNSEEN: &str = "unix sockets, so local proxies and deputies behind them (container \
    runtimes, systemd, D-Bus, ssh-agent): Linux 6.7 or newer judges them";
/// What no plane sees of it.
const NOT_GUARDED: &str = "uid 0 without capabilities in the host's own file system: it owns what \
    root's other programs execute and read";
/// Where the kernel switches its function tracer.
pub(super) const FTRACE: &str = "/proc/sys/kernel/ftrace_enabled";
/// From then on programs of BPF LSM run with the function tracer off.
const WITHOUT_FTRACE: (u32, u32) = (7, 0);

fn is_listed(list: &io::Result<String>) -> bool {
    list.as_ref().is_ok_and(|list| has_bpf(list))
}

fn has_bpf(list: &str) -> bool {
    list.split(',').any(|name| name.trim() == "bpf")
}

/// Whether programs of BPF LSM are run at all.
pub(super) fn lsm(list: &io::Result<String>) -> Check {
    const NAME: &str = "lsm_plane";
    let (found, remedy) = match list {
        Ok(list) if has_bpf(list) => {
            return Check::ok(NAME, format!("the kernel's security modules are {list}"));
        }
        Ok(list) => (
            format!("bpf is not among the kernel's security modules ({list})"),
            format!("start the kernel with `lsm={list},bpf`; until then see `not_covered`"),
        ),
        Err(error) => (
            format!("the kernel's security modules can't be read ({LSM_LIST}: {error})"),
            "`mount -t securityfs none /sys/kernel/security`".to_owned(),
        ),
    };
    Check::warn(NAME, found, &remedy)
}

/// What agents may get round. `unix_hooks`: whether the kernel has cgroup hooks for unix sockets.
pub(super) fn not_covered(list: &io::Result<String>, unix_hooks: bool) -> Check {
    let unix = if unix_hooks { UNIX_BY_NAME } else { UNIX_UNSEEN };
    let without_lsm: &[_] = if is_listed(list) { &[] } else { &[unix, NOT_COVERED_WITHOUT_LSM] };
    let gaps = [&[NOT_COVERED], without_lsm, &[NOT_GUARDED]].concat();
    Check::warn(
        "not_covered",
        gaps.join("; "),
        "run agents without root and capabilities, keep such sockets out of their reach",
    )
}

/// The switch that silences the LSM plane; `kernel` is its version, where it has one.
pub(super) fn ftrace(
    list: &io::Result<String>,
    kernel: Option<(u32, u32)>,
    setting: &io::Result<String>,
) -> Check {
    const NAME: &str = "ftrace";
    match setting.as_ref().map(|text| text.trim()) {
        _ if !is_listed(list) => Check::ok(NAME, "not needed without the LSM plane"),
        _ if kernel.is_some_and(|version| version >= WITHOUT_FTRACE) => {
            Check::ok(NAME, "not needed by this kernel")
        }
        Ok("1") => Check::ok(NAME, "on"),
        Ok(_) => Check::fail(
            NAME,
            "off: no program of BPF LSM runs",
            "`sysctl kernel.ftrace_enabled=1`, and find out who switched it off",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("{FTRACE} can't be read: {error}"),
            "for the LSM plane, boot a kernel with CONFIG_FUNCTION_TRACER=y",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::CheckLevel;

    type Text = io::Result<String>;

    fn missing() -> Text {
        Err(io::ErrorKind::NotFound.into())
    }

    #[test]
    fn warns_without_the_lsm_plane() {
        assert_eq!(lsm(&Ok("lockdown,bpf\n".to_owned())).level, CheckLevel::Ok);
        assert_eq!(lsm(&Ok("lockdown,yama".to_owned())).level, CheckLevel::Warn);
        assert_eq!(lsm(&missing()).level, CheckLevel::Warn);
    }

    #[test]
    fn fails_where_the_lsm_plane_is_switched_off() {
        let of = |list: &str, kernel, setting: Text| {
            ftrace(&Ok(list.to_owned()), Some(kernel), &setting).level
        };
        let (off, on) = (|| Ok("0\n".to_owned()), || Ok("1\n".to_owned()));
        assert_eq!(of("bpf", (6, 18), off()), CheckLevel::Fail);
        assert_eq!(of("bpf", (6, 18), on()), CheckLevel::Ok);
        assert_eq!(of("bpf", (6, 18), missing()), CheckLevel::Warn);
        assert_eq!(of("bpf", (7, 3), off()), CheckLevel::Ok);
        assert_eq!(of("yama", (6, 18), off()), CheckLevel::Ok);
    }

    #[test]
    fn tells_which_gaps_the_lsm_plane_closes() {
        let gaps = |list: Text| not_covered(&list, true).found;
        assert!(gaps(Ok("yama".to_owned())).contains("ptrace"));
        assert!(!gaps(Ok("yama,bpf".to_owned())).contains("ptrace"));
        assert!(gaps(missing()).contains("ptrace"));
        assert!(!gaps(Ok("yama,bpf".to_owned())).contains("follows the path"));
        assert!(gaps(missing()).contains("follows the path"));
        assert!(not_covered(&missing(), false).found.contains("Linux 6.7"));
    }
}
