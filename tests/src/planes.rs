//! Which plane of enforcement the daemons of the tests are told to enforce on.

use std::env;

/// What `--plane` says, where the tests are told (`AGENT_ENFORCER_TEST_PLANE`). The machines of
/// `cargo xtask test vm` have the LSM plane, and say so.
pub fn wished() -> Option<String> {
    env::var("AGENT_ENFORCER_TEST_PLANE").ok()
}

/// Whether it is the LSM plane; elsewhere a test of that plane has nothing to test.
pub fn lsm_is_promised() -> bool {
    wished().as_deref() == Some("lsm")
}
