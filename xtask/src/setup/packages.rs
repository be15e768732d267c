//! Debian packages, from the machine's own sources.
//!
//! In: package names. Out: installed packages; a service among them is masked before it arrives,
//! so that it never starts.

use std::process::Command;

use anyhow::{Context, Result};

use crate::command;

/// Installs packages.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    update()?;
    let mut install = apt_get();
    install.args(["install", "--yes", "--no-install-recommends"]).args(packages);
    command::run_quietly(&format!("installing {}", packages.join(" ")), &mut install).with_context(
        || format!("install {} with the system's package manager and repeat", packages.join(" ")),
    )
}

/// Installs packages for their programs only: `service` is masked first and stays masked.
pub(crate) fn install_without_service(packages: &[&str], service: &str) -> Result<()> {
    if command::find("systemctl").is_some() {
        println!("  {service} stays masked; `systemctl unmask {service}` to use it as a service");
        command::run(command::as_root("systemctl").args(["mask", service]))
            .with_context(|| format!("can't keep {service} from starting"))?;
    }
    install(packages)
}

fn update() -> Result<()> {
    command::run_quietly("reading package lists", apt_get().arg("update")).context(
        "the package lists can't be read; check the network and the machine's package sources",
    )
}

fn apt_get() -> Command {
    let mut command = command::as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "--quiet"]);
    command
}
