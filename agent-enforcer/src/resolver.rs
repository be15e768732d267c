//! 2. Request -> Decision.

pub mod attestation;
pub mod grant;
pub mod policy;
