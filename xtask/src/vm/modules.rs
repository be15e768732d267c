//! Which modules a machine loads, and in which order.
//!
//! In: a kernel's `modules.dep`. Out: paths of modules, each after those it needs.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// The test network, and ending sockets of others.
const NEEDED: &[&str] = &["veth", "tcp_diag", "udp_diag"];
/// What agents must not use, or what must not help them, where the kernel has it.
const WANTED: &[&str] =
    &["sctp", "dccp_ipv4", "dccp_ipv6", "l2tp_ip", "l2tp_ip6", "overlay", "vsock_loopback"];

/// In the order in which to load them.
pub(super) fn in_order(directory: &Path) -> Result<Vec<PathBuf>> {
    let path = directory.join("modules.dep");
    let table =
        fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
    let mut order = Vec::new();
    for name in NEEDED.iter().chain(WANTED) {
        match with_dependencies(name, &table) {
            Some(files) => order.extend(files),
            None if WANTED.contains(name) => {}
            None => bail!("{} has no module {name}", directory.display()),
        }
    }
    let mut seen = std::collections::HashSet::new();
    order.retain(|file| seen.insert(*file));
    Ok(order.into_iter().map(|file| directory.join(file)).collect())
}

/// A module after what it needs: `modules.dep` names that in the opposite order.
fn with_dependencies<'a>(name: &str, table: &'a str) -> Option<Vec<&'a str>> {
    let (module, needs) = table
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(module, _)| module_name(module) == name)?;
    Some(needs.split_whitespace().rev().chain([module]).collect())
}

/// `kernel/net/ipv4/tcp_diag.ko.xz` is `tcp_diag`; files may be named with `-`.
fn module_name(path: &str) -> String {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split('.').next().unwrap_or(file).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "kernel/net/ipv4/inet_diag.ko.xz:\n\
        kernel/net/ipv4/tcp_diag.ko.xz: kernel/net/ipv4/inet_diag.ko.xz kernel/a-first.ko.xz\n";

    #[test]
    fn module_comes_after_what_it_needs() {
        assert_eq!(
            with_dependencies("tcp_diag", TABLE).unwrap(),
            [
                "kernel/a-first.ko.xz",
                "kernel/net/ipv4/inet_diag.ko.xz",
                "kernel/net/ipv4/tcp_diag.ko.xz"
            ]
        );
        assert_eq!(with_dependencies("sctp", TABLE), None);
    }

    #[test]
    fn module_is_known_by_its_name_in_the_kernel() {
        assert_eq!(module_name("kernel/net/l2tp-ip.ko"), "l2tp_ip");
        assert_eq!(module_name("kernel/net/ipv4/tcp_diag.ko.xz"), "tcp_diag");
    }
}
