//! Nothing in the repository may name a package registry's host or a path of one machine.
//!
//! In: files under version control, but Cargo.lock, which cargo writes. Out: each place that does.

use std::fs;

use anyhow::{Context, Result, bail};

use super::Verdict;
use crate::workspace::Workspace;

/// Hosts of package registries, taken apart so that this file does not name them.
const HOSTS: &[&str] = &[
    concat!("crates", ".", "io"),
    concat!("static.rust", "-lang", ".org"),
    concat!("py", "pi.org"),
    concat!("python", "hosted", ".org"),
    concat!("npm", "js", ".org"),
    concat!("npm", "js", ".com"),
    concat!("ruby", "gems", ".org"),
    concat!("proxy.", "golang", ".org"),
    concat!("deb.", "debian", ".org"),
    concat!("snapshot.", "debian", ".org"),
    concat!("archive.", "ubuntu", ".com"),
    concat!("docker", ".io"),
    concat!("gh", "cr.io"),
    concat!("quay", ".io"),
    concat!("gcr", ".io"),
];

/// Beginnings of paths that exist on one machine only.
const PATHS: &[&str] =
    &[concat!("/", "root", "/"), concat!("/", "work", "/"), concat!("/", "home", "/")];

pub(crate) fn check(workspace: &Workspace) -> Result<Verdict> {
    let mut found = Vec::new();
    for file in workspace.tracked_files()? {
        if file.file_name().is_some_and(|name| name == "Cargo.lock") {
            continue;
        }
        let path = workspace.root.join(&file);
        let content = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let text = String::from_utf8_lossy(&content);
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = offence(line) {
                found.push(format!("{}:{}: {word}", file.display(), number + 1));
            }
        }
    }
    if !found.is_empty() {
        bail!("registry hosts and machine paths don't belong here:\n{}", found.join("\n"));
    }
    Ok(Verdict::Clean)
}

fn offence(line: &str) -> Option<&'static str> {
    let starts_path = |path: &&&str| {
        line.match_indices(**path).any(|(at, _)| {
            let before = line.get(..at).and_then(|head| head.chars().next_back());
            !before.is_some_and(|c| c.is_alphanumeric() || "-_.}*<>".contains(c))
        })
    };
    let host = HOSTS.iter().find(|host| line.contains(**host));
    host.or_else(|| PATHS.iter().find(starts_path)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hosts_and_paths_and_nothing_else() {
        assert!(offence(&format!("see https://{}/x", concat!("crates", ".io"))).is_some());
        assert!(offence(&format!("cd {}x", concat!("/wo", "rk/"))).is_some());
        assert!(offence(&format!("\"{}.cargo\"", concat!("/ro", "ot/"))).is_some());
        assert!(offence("net/ipv4/route.c, target/work/x, $dir/root/x").is_none());
    }
}
