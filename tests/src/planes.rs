//! Which planes of enforcement a test may count on.

/// Whether `bpf` is promised to be in this kernel's LSM list. The machines of `cargo xtask test vm`
/// promise it (`AGENT_ENFORCER_TEST_LSM`); elsewhere a test of that plane has nothing to test.
pub fn lsm_is_promised() -> bool {
    std::env::var_os("AGENT_ENFORCER_TEST_LSM").is_some()
}
