//! 2. Request -> Decision.

pub mod approval;
pub mod attestation;
pub mod grant;
pub mod policy;
