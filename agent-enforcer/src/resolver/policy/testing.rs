//! Policies for tests.

use super::{Policy, PolicyErrors};

/// Loads a policy of one file.
pub(in crate::resolver) fn load_text(text: &str) -> Result<Policy, PolicyErrors> {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("policy.yaml"), text).unwrap();
    Policy::load(dir.path())
}

/// Loads a valid policy of one file; the version is added.
pub(in crate::resolver) fn policy(sections: &str) -> Policy {
    load_text(&format!("apiVersion: agent-enforcer/v1\n{sections}")).unwrap()
}
