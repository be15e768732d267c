//! The policy in force.

use super::{path, path_bytes};
use crate::{api::wire, control::PolicyView};

impl From<PolicyView> for wire::PolicyResponse {
    fn from(policy: PolicyView) -> Self {
        let PolicyView { generation, directory, yaml } = policy;
        Self { generation, directory: path_bytes(directory), yaml }
    }
}

impl From<wire::PolicyResponse> for PolicyView {
    fn from(policy: wire::PolicyResponse) -> Self {
        let wire::PolicyResponse { generation, directory, yaml } = policy;
        Self { generation, directory: path(directory), yaml }
    }
}
