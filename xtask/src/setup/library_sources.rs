//! The sources of Rust's core library, of exactly the version of the pinned toolchain.
//!
//! In: the toolchain. Out: `lib/rustlib/src/rust` below its sysroot. First asks rustup; where that
//! fails, takes Debian's package of the same version from a private package state made of the
//! machine's own sources. Never changes the machine's package sources.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{State, private_apt::PrivateApt};
use crate::{command, workspace::Workspace};

/// The Debian release whose packages follow Rust's newest versions.
const SUITE: &str = "trixie-backports";

/// Whether the sources are there.
pub(crate) fn state() -> Result<State> {
    let library = rustlib()?.join("src/rust/library/core/src/lib.rs");
    let present = library.is_file();
    Ok(if present { State::Present(library.display().to_string()) } else { State::Missing })
}

/// Gets them.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]).current_dir(&workspace.root);
    let Err(refused) = command::run_quietly("adding rust-src", &mut rustup) else {
        return Ok(());
    };
    println!("  rustup has no rust-src here ({}); taking Debian's", first_line(&refused));
    let version = rustc(&["--version"])?;
    let version = version.split_whitespace().nth(1).context("`rustc --version` has no version")?;
    from_debian(version, &workspace.target.join("setup"), &rustlib()?.join("src")).context(
        "where rustup's server and Debian's can't be reached, unpack the sources of the \
         toolchain's version to lib/rustlib/src/rust below `rustc --print sysroot`",
    )
}

/// Fetches Debian's package into `scratch` and puts its content below `destination`.
fn from_debian(version: &str, scratch: &Path, destination: &Path) -> Result<()> {
    let apt = PrivateApt::create(&scratch.join("apt"), &[SUITE])?;
    apt.update()?;
    let versions = command::capture(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let exact = exact_version(&versions, version)
        .with_context(|| format!("{SUITE} has no rust-src of version {version}"))?;
    let unpacked = destination.join(format!("debian-{version}"));
    apt.unpack(&[format!("rust-src={exact}")], &unpacked)?;
    let sources = unpacked.join(format!("usr/src/rustc-{version}"));
    if !sources.join("library/core").is_dir() {
        bail!("{} has no library/core; the package has another layout", sources.display());
    }
    let link = destination.join("rust");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("can't replace {}", link.display()));
        }
        Ok(()) | Err(_) => {}
    }
    symlink(&sources, &link).with_context(|| format!("can't link {}", link.display()))
}

/// The full version in the output of `apt-cache madison` that packages upstream's `version`.
fn exact_version(madison: &str, version: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let upstream = |full: &str| {
        full.strip_prefix(version).is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    };
    versions.filter(|full| upstream(full)).map(str::to_owned).next()
}

fn rustlib() -> Result<PathBuf> {
    Ok(PathBuf::from(rustc(&["--print", "sysroot"])?).join("lib/rustlib"))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let folder = env!("CARGO_MANIFEST_DIR");
    command::capture(Command::new("rustc").args(arguments).current_dir(folder))
}

fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().nth(1).unwrap_or("no reason given").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_upstream_version_is_taken() {
        let madison = " rust-src | 1.96.0+dfsg1-1~bpo13+1 | somewhere\n \
                       rust-src | 1.95.0+dfsg1-1~bpo13+1 | somewhere\n";
        assert_eq!(exact_version(madison, "1.95.0").unwrap(), "1.95.0+dfsg1-1~bpo13+1");
        assert_eq!(exact_version(madison, "1.9"), None);
    }

    #[test]
    #[ignore = "needs a Debian mirror; run by hand"]
    fn debian_package_has_the_core_library() {
        let scratch = std::env::temp_dir().join(format!("xtask-sources-{}", std::process::id()));
        let outcome = from_debian("1.95.0", &scratch, &scratch.join("src"));
        let found = scratch.join("src/rust/library/core/src/lib.rs").is_file();
        fs::remove_dir_all(&scratch).unwrap();
        outcome.unwrap();
        assert!(found);
    }
}
