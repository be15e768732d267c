//! 2. Request -> Decision.

pub mod approval;
pub mod attestation;
pub mod grant;
pub mod inventory;
pub mod manifest;
pub mod policy;
pub mod spiffe;
pub mod text;
