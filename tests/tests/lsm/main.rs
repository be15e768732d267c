//! What the LSM plane adds, on kernels that have it: `cargo xtask test vm` boots some. Elsewhere
//! these tests are skipped, and counted as such.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a panic is the verdict of a test"
)]

mod families;
mod guard;
mod park;
mod passing;
mod unix;

use agent_enforcer_tests::{HostBuilder, TestHost};

/// A host whose agents may use some destinations that are no IP addresses: `strict` at once, `waits`
/// and `parks` (which waits stopped for TCP, too) once they are granted.
fn host() -> HostBuilder {
    TestHost::builder().policy(
        r#"apiVersion: agent-enforcer/v1
tools:
  - { name: model, cidrs: [192.0.2.10, "2001:db8::10"], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: web, cidrs: [192.0.2.20, "2001:db8::20"], ports: ["1-65535"], protocol: [tcp, udp] }
  - { name: builder, endpoints: ["unix:@DIR@/granted", "unix:@ae-t1-granted", "vsock:1:7", "netlink:sock_diag"] }
  - { name: asked, endpoints: ["unix:@DIR@/asked", "netlink:audit"] }
agents:
  - name: strict
    owner: owner@example.com
    purpose: Never waits
    selectors: [["cgroup:path:@CG@/strict"]]
    tools: [model, builder]
    standing: [model, builder]
    stall_limit: 0s
  - name: waits
    owner: owner@example.com
    purpose: Waits long for its grants
    selectors: [["cgroup:path:@CG@/waits"]]
    tools: [model, web, asked]
    standing: [model]
    stall_limit: @PATIENCE@
  - name: parks
    owner: owner@example.com
    purpose: Is stopped while it waits
    selectors: [["cgroup:path:@CG@/parks"]]
    tools: [model, web, asked]
    standing: [model]
    stall: { tcp: park }
    stall_limit: @PATIENCE@
  - name: hasty
    owner: owner@example.com
    purpose: Is stopped while it waits half a second
    selectors: [["cgroup:path:@CG@/hasty"]]
    tools: [model, web, asked]
    standing: [model]
    stall: { tcp: park }
    stall_limit: @HASTE@
"#,
    )
}
