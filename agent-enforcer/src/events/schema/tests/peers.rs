//! Destinations that are no IP addresses.

use super::*;
use crate::decision::PeerName;

#[test]
fn peers_without_an_address_are_named() {
    let named = |destination, name: &str, detail: Option<&str>, hook| {
        let peer = PeerName {
            name: name.to_owned(),
            detail: detail.map(str::to_owned),
            percent_encoded: name.contains('%'),
        };
        call_event(CallDecision { destination, peer: Some(Arc::new(peer)), hook, ..call() })
    };
    let detail = Some("inode 7 on 0:25");
    let unix = Destination::unix(3);
    let event = named(unix, "unix:/run/docker.sock", detail, Hook::UnixConnect);
    assert_eq!(
        event["dst_endpoint"],
        json!({
            "name": "unix:/run/docker.sock", "uid": "inode 7 on 0:25",
            "type_id": 99, "type": "Unix socket",
        })
    );
    let info = &event["connection_info"];
    assert_eq!((&info["protocol_name"], &info["protocol_num"]), (&json!("unix"), &json!(-1)));
    assert_eq!(info["protocol_ver_id"], 0);
    let shown = "unix:/run/docker.sock (inode 7 on 0:25)";
    assert_eq!(event["unmapped"]["agent_enforcer"]["destination"], shown);
    assert!(event["message"].as_str().unwrap().contains(shown));

    for (destination, name, protocol, kind) in [
        (Destination::vsock(2, 1024), "vsock:2:1024", json!("vsock"), "Virtual machine"),
        (Destination::netlink(9), "netlink:audit", json!("netlink"), "Netlink protocol"),
        (Destination::socket(17), "family:packet", json!("packet"), "Address family"),
        (Destination::socket(200), "family:200", json!(null), "Address family"),
    ] {
        let event = named(destination, name, None, Hook::LsmCreate);
        let endpoint = json!({ "name": name, "type_id": 99, "type": kind });
        assert_eq!(event["dst_endpoint"], endpoint);
        assert_eq!(event["connection_info"]["protocol_name"], protocol);
        assert_eq!(event["connection_info"]["protocol_num"], -1);
    }

    let hostile = "unix:/tmp/%FF\n\u{1b}]52;c;eA==\u{7}\u{202e}";
    let event = named(unix, hostile, detail, Hook::UnixSend);
    assert_eq!(event["dst_endpoint"]["name"], hostile);
    let encoded = &event["unmapped"]["agent_enforcer"]["percent_encoded"];
    assert_eq!(*encoded, json!(["dst_endpoint.name"]));
}
