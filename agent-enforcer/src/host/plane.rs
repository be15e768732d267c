//! Which plane of enforcement the host has, and which one is wished for.

use std::{fmt, fs, io};

use clap::ValueEnum;

/// Where the kernel lists its active security modules (securityfs, 4.11).
pub const LSM_LIST: &str = "/sys/kernel/security/lsm";

/// Which kernel programs are in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plane {
    /// Those of the cgroup hooks and lineage alone.
    Cgroup,
    /// These and those of BPF LSM.
    Lsm,
}

impl fmt::Display for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cgroup => "cgroup",
            Self::Lsm => "lsm",
        })
    }
}

/// Which plane the daemon is told to enforce on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PlaneWish {
    /// The LSM plane where the kernel has it, otherwise the cgroup plane alone.
    #[default]
    Auto,
    /// The cgroup plane alone.
    Cgroup,
    /// The LSM plane; without it the daemon does not start.
    Lsm,
}

/// The LSM plane was demanded and is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "`--plane lsm`, but {found}; add `bpf` to the list (`lsm=` on the kernel's command line, see \
     `agent-enforcer doctor`), or start with `--plane auto`"
)]
pub struct PlaneError {
    found: String,
}

impl PlaneWish {
    /// The plane that this wish means on this host.
    pub fn resolve(self) -> Result<Plane, PlaneError> {
        self.resolve_with(lsm_list())
    }

    fn resolve_with(self, list: io::Result<String>) -> Result<Plane, PlaneError> {
        let found = match (self, list) {
            (Self::Cgroup, _) => return Ok(Plane::Cgroup),
            (_, Ok(list)) if has_bpf(&list) => return Ok(Plane::Lsm),
            (Self::Auto, _) => return Ok(Plane::Cgroup),
            (Self::Lsm, Ok(list)) => format!("the kernel's security modules are `{list}`"),
            (Self::Lsm, Err(error)) => format!("{LSM_LIST} can't be read: {error}"),
        };
        Err(PlaneError { found })
    }
}

/// The active security modules, as the kernel lists them. Without `bpf` among them programs load and
/// attach as ever, and are never run.
pub fn lsm_list() -> io::Result<String> {
    Ok(fs::read_to_string(LSM_LIST)?.trim().to_owned())
}

fn has_bpf(list: &str) -> bool {
    list.split(',').any(|name| name == "bpf")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(wish: PlaneWish, list: &str) -> Result<Plane, PlaneError> {
        wish.resolve_with(Ok(list.to_owned()))
    }

    #[test]
    fn takes_the_lsm_plane_where_the_kernel_lists_bpf() {
        assert_eq!(of(PlaneWish::Auto, "capability,yama,bpf").unwrap(), Plane::Lsm);
        assert_eq!(of(PlaneWish::Auto, "capability,bpfx").unwrap(), Plane::Cgroup);
        assert_eq!(of(PlaneWish::Cgroup, "bpf").unwrap(), Plane::Cgroup);
    }

    #[test]
    fn refuses_to_do_without_a_plane_that_was_demanded() {
        let error = of(PlaneWish::Lsm, "capability,yama").unwrap_err().to_string();
        assert!(error.contains("capability,yama") && error.contains("lsm="), "{error}");
        let unread = || Err(io::Error::from(io::ErrorKind::NotFound));
        assert!(PlaneWish::Lsm.resolve_with(unread()).is_err());
        assert_eq!(PlaneWish::Auto.resolve_with(unread()).unwrap(), Plane::Cgroup);
    }
}
