//! Destinations that are no IP addresses, as far as the daemon answers for them on either plane: what
//! would be decided, and what everyone has.

use std::os::unix::{fs::symlink, net::UnixListener};

use agent_enforcer_tests::TestHost;

const POLICY: &str = r#"apiVersion: agent-enforcer/v1
tools:
  - { name: engine, endpoints: ["unix:@DIR@/engine.sock", "unix:@DIR@/run/control.sock"] }
  - { name: names, endpoints: ["unix:@DIR@/names.sock", "unix:@names"] }
  - { name: machine, endpoints: ["vsock:2:*", netlink:audit, family:packet] }
everyone: { standing: [names] }
agents:
  - name: chosen
    owner: owner@example.com
    purpose: Asks about sockets
    selectors: [["cgroup:path:@CG@/chosen"]]
    tools: [engine, machine]
    standing: [machine]
    stall: { tcp: park }
"#;

#[test]
fn explains_endpoints_by_what_they_lead_to() {
    let host = TestHost::builder().policy(POLICY).build();
    let path = |name: &str| host.directory().join(name);
    let _engine = UnixListener::bind(path("engine.sock")).unwrap();
    let _names = UnixListener::bind(path("names.sock")).unwrap();
    symlink("engine.sock", path("alias.sock")).unwrap();
    let agent = host.agent("chosen");
    let unix = |name: &str| format!("unix:{}", path(name).display());
    for (to, outcome, reason) in [
        (unix("names.sock"), "allowed", "allowed_standing"),
        (unix("engine.sock"), "stalled", "no_grant"),
        (unix("run/control.sock"), "denied", "guarded"),
        (unix("other.sock"), "denied", "no_tool"),
        // Whoever may write to the directory that the test is in would choose.
        (unix("alias.sock"), "denied", "no_tool"),
        ("unix:@names".to_owned(), "allowed", "allowed_standing"),
        ("unix:@engine".to_owned(), "denied", "no_tool"),
        ("vsock:2:7".to_owned(), "allowed", "allowed_standing"),
        ("vsock:3:7".to_owned(), "denied", "no_tool"),
        ("netlink:9".to_owned(), "allowed", "allowed_standing"),
        ("family:packet".to_owned(), "allowed", "allowed_standing"),
        ("family:alg".to_owned(), "denied", "no_tool"),
    ] {
        let explained = host.explain(agent.pid(), &to);
        assert_eq!(
            (&explained["outcome"], &explained["reason"]),
            (&outcome.into(), &reason.into()),
            "{to}"
        );
    }
    assert_eq!(host.explain(agent.pid(), "netlink:9")["destination"], "netlink:audit");
    let shown = host.cli(&["policy", "show"])["yaml"].as_str().unwrap().to_owned();
    assert!(shown.contains("tcp: park") && shown.contains("vsock:2:*"), "{shown}");
}
