//! Planes of enforcement, as tests are told of them.

use std::fs;

use serde::Serialize;

/// A plane of enforcement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Plane {
    /// Programs of cgroup hooks.
    Cgroup,
    /// Those, and programs of BPF LSM.
    Lsm,
}

impl Plane {
    pub(crate) const ALL: [Self; 2] = [Self::Cgroup, Self::Lsm];
    /// Tells tests on which plane their daemons are to enforce.
    pub(crate) const VARIABLE: &str = "AGENT_ENFORCER_TEST_PLANE";

    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Cgroup => "cgroup",
            Self::Lsm => "lsm",
        }
    }

    /// Those that this kernel has; the last one is what daemons choose (securityfs, 4.11).
    pub(crate) fn of_this_kernel() -> Vec<Self> {
        let has_bpf = fs::read_to_string("/sys/kernel/security/lsm")
            .is_ok_and(|modules| modules.trim().split(',').any(|module| module == "bpf"));
        if has_bpf { Self::ALL.to_vec() } else { vec![Self::Cgroup] }
    }
}
