//! The harness of the T1 tests: one [`TestHost`] is the daemon with real eBPF, a cgroup of its
//! own to enforce below, and two network namespaces: one for agents, one for the rest of the world.
//!
//! The daemon and the probe are found beside the test's own executable, so both must be built
//! with the same profile first: `cargo build -p agent-enforcer -p agent-enforcer-tests`. Everything
//! needs root; without it, or without a fresh binary, a test fails and says so.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is the verdict of a test"
)]

pub mod binaries;
pub mod cgroup;
pub mod daemon;
pub mod events;
pub mod host;
pub mod load;
pub mod network;
pub mod planes;
pub mod probe;
pub mod script;
pub mod servers;
pub mod signatory;
pub mod trick;
pub mod unix;
pub mod wait;

pub use events::Event;
pub use host::{GrantRequest, HostBuilder, TestHost};
pub use probe::{Probe, Ticket};
pub use script::{ForkKind, Op, Reply};
pub use servers::{Arrival, Servers, What};
pub use signatory::{Signatory, unsigned_manifest};
pub use trick::{Trick, Word};
