use std::{
    os::unix::{fs::MetadataExt as _, net::UnixListener},
    path::PathBuf,
};

use agent_enforcer_common::{
    destination::PROTOCOL_TCP,
    record::{RecordHeader, RecordKind},
};

use super::*;
use crate::{host::netns_cookie, hostile_text::json_escaped};

const NETNS: u64 = 5;

/// A daemon's control socket and another server, in a directory that only root may write.
struct Host {
    dir: tempfile::TempDir,
    _control: UnixListener,
    peers: Peers,
}

impl Host {
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/run").unwrap();
        let path = dir.path().join("control.sock");
        let control = UnixListener::bind(&path).unwrap();
        let peers = Peers::new(std::slice::from_ref(&path), NETNS).unwrap();
        Self { dir, _control: control, peers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The kernel side tells of a socket, by its inode.
    fn called(&mut self, name: &str, number: u64, spelt: &[u8]) -> Destination {
        let peer = self.peer(name);
        self.peers.learn_record(&record(peer, number, spelt));
        Destination::unix(number)
    }

    fn peer(&self, name: &str) -> UnixPeer {
        let id = self.peers.files.identify(&self.path(name)).unwrap();
        assert_eq!(id.inode, std::fs::metadata(self.path(name)).unwrap().ino());
        UnixPeer { inode: id.inode, device: id.device, generation: 9, ..abstract_peer(b"", 0) }
    }

    fn endpoint(&self, name: &str) -> String {
        format!("unix:{}", self.path(name).display())
    }

    fn tool(&mut self, policy: &Policy, destination: &Destination) -> Option<String> {
        self.peers.locate(policy, destination);
        self.peers.tool(policy, destination).map(|tool| tool.name.to_string())
    }
}

fn policy(endpoints: &[String]) -> Policy {
    let dir = tempfile::tempdir().unwrap();
    let tool = |(number, endpoint): (usize, &String)| {
        format!("  - {{name: t{number}, endpoints: [\"{endpoint}\"]}}\n")
    };
    let tools: String = endpoints.iter().enumerate().map(tool).collect();
    let text = format!("apiVersion: agent-enforcer/v1\ntools:\n{tools}");
    std::fs::write(dir.path().join("policy.yaml"), text).unwrap();
    Policy::load(dir.path()).unwrap()
}

fn words(bytes: &[u8]) -> [u64; UNIX_NAME_WORDS] {
    let mut words = [0; UNIX_NAME_WORDS];
    for (word, bytes) in words.iter_mut().zip(bytes.chunks(8)) {
        let mut whole = [0; 8];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(whole);
    }
    words
}

fn abstract_peer(name: &[u8], netns_cookie: u64) -> UnixPeer {
    let length = u32::try_from(name.len()).unwrap();
    UnixPeer {
        inode: 0,
        netns_cookie,
        device: 0,
        generation: 0,
        length,
        _pad: 0,
        name: words(name),
    }
}

fn record(peer: UnixPeer, number: u64, path: &[u8]) -> PeerRecord {
    PeerRecord {
        header: RecordHeader { kind: RecordKind::Peer as u32, size: 0, time_ns: 1 },
        named: NumberedPeer { peer, number },
        path_length: u32::try_from(path.len()).unwrap(),
        _pad: 0,
        path: words(path),
    }
}

#[test]
fn a_socket_is_the_tool_of_the_path_that_leads_to_it_whatever_its_server_calls_it() {
    let mut host = Host::new();
    let _server = UnixListener::bind(host.path("real.sock")).unwrap();
    std::os::unix::fs::symlink("real.sock", host.path("link.sock")).unwrap();
    let called = host.called("real.sock", 7, b"./x");
    for name in ["real.sock", "link.sock"] {
        let policy = policy(&[host.endpoint(name)]);
        assert_eq!(host.tool(&policy, &called).as_deref(), Some("t0"), "{name}");
        let shown = host.peers.name(&called).unwrap();
        assert_eq!(shown.name, host.endpoint(name));
        assert!(shown.detail.unwrap().starts_with("inode "));
    }
    let other = policy(&["unix:/run/no-such.sock".to_owned()]);
    assert_eq!(host.tool(&other, &called), None);
    assert_eq!(host.peers.name(&called).unwrap().name, "unix:./x");
}

#[test]
fn a_name_that_its_server_made_up_makes_it_no_tool() {
    let mut host = Host::new();
    let _server = UnixListener::bind(host.path("engine.sock")).unwrap();
    let _liar = UnixListener::bind(host.path("liar.sock")).unwrap();
    let policy = policy(&[host.endpoint("engine.sock")]);
    let spelt = host.path("engine.sock");
    let called = host.called("liar.sock", 7, spelt.as_os_str().as_bytes());
    assert_eq!(host.tool(&policy, &called), None);
}

#[test]
fn what_a_path_leads_to_is_looked_up_each_time() {
    let mut host = Host::new();
    let _first = UnixListener::bind(host.path("engine.sock")).unwrap();
    let policy = policy(&[host.endpoint("engine.sock")]);
    let first = host.called("engine.sock", 1, b"");
    assert!(host.tool(&policy, &first).is_some());
    std::fs::rename(host.path("engine.sock"), host.path("old.sock")).unwrap();
    let _second = UnixListener::bind(host.path("engine.sock")).unwrap();
    let second = host.called("engine.sock", 2, b"");
    assert!(host.tool(&policy, &second).is_some());
    assert_eq!(host.tool(&policy, &first), None);
}

#[test]
fn abstract_names_are_compared_byte_for_byte_in_the_daemons_network_namespace() {
    let mut host = Host::new();
    let policy = policy(&["unix:@service".to_owned()]);
    for (number, name, netns, expected) in [
        (1, &b"service"[..], NETNS, Some("t0")),
        (2, b"service", NETNS + 1, None),
        (3, b"service", 0, None),
        (4, b"Service", NETNS, None),
        (5, b"service\0", NETNS, None),
        (6, b"servic", NETNS, None),
        (7, b"\xff", NETNS, None),
        (8, b"", NETNS, None),
    ] {
        host.peers.learn_record(&record(abstract_peer(name, netns), number, b""));
        let found = host.tool(&policy, &Destination::unix(number));
        assert_eq!(found.as_deref(), expected, "{number}");
    }
    let shown = host.peers.name(&Destination::unix(2)).unwrap();
    assert_eq!(shown.to_string(), "unix:@service (netns 6)");
}

#[test]
fn an_inode_without_generation_could_be_another_by_now() {
    let mut host = Host::new();
    let _server = UnixListener::bind(host.path("engine.sock")).unwrap();
    let sure = host.called("engine.sock", 1, b"");
    let peer = UnixPeer { generation: 0, ..host.peer("engine.sock") };
    host.peers.learn_record(&record(peer, 2, b""));
    host.peers.learn_record(&record(abstract_peer(b"name", NETNS), 3, b""));
    assert!(!host.peers.is_ambiguous(&sure));
    assert!(host.peers.is_ambiguous(&Destination::unix(2)));
    assert!(!host.peers.is_ambiguous(&Destination::unix(3)));
    assert!(!host.peers.is_ambiguous(&Destination::v4(1, 2, PROTOCOL_TCP)));
}

#[test]
fn the_control_socket_is_recognised_by_any_name() {
    let mut host = Host::new();
    let called = host.called("control.sock", 1, b"/tmp/harmless");
    assert!(host.peers.is_control(&called));
    std::os::unix::fs::symlink("control.sock", host.path("alias")).unwrap();
    let at = |name: &str| Endpoint::parse(&host.endpoint(name)).unwrap();
    assert!(
        host.peers.is_control_at(&at("alias")) && host.peers.is_control_at(&at("control.sock"))
    );
    assert!(!host.peers.is_control_at(&at("other.sock")));
    assert!(!host.peers.is_control(&Destination::unix(2)));
}

#[test]
fn what_is_asked_about_need_not_have_been_called() {
    let host = Host::new();
    let _server = UnixListener::bind(host.path("engine.sock")).unwrap();
    std::os::unix::fs::symlink("engine.sock", host.path("alias")).unwrap();
    let policy = policy(&[host.endpoint("engine.sock"), "unix:@name".to_owned()]);
    let tool = |text: &str| {
        let endpoint = Endpoint::parse(text).unwrap();
        host.peers.tool_of_endpoint(&policy, &endpoint).map(|tool| &*tool.name)
    };
    assert_eq!(tool(&host.endpoint("engine.sock")), Some("t0"));
    assert_eq!(tool(&host.endpoint("alias")), Some("t0"));
    assert_eq!(tool(&host.endpoint("other")), None);
    assert_eq!(tool("unix:@name"), Some("t1"));
    assert_eq!(tool("unix:@other"), None);
}

#[test]
fn names_of_peers_are_for_people_and_lose_nothing() {
    let mut host = Host::new();
    let _server = UnixListener::bind(host.path("engine.sock")).unwrap();
    let shown = |host: &Host, peer: &Destination| host.peers.name(peer).unwrap();
    let called = host.called("engine.sock", 1, b"/run/100%/\xff\x1b[2J\0");
    let name = shown(&host, &called);
    assert!(name.percent_encoded);
    assert_eq!(name.name, "unix:/run/100%25/%FF\u{1b}[2J");
    assert!(!json_escaped(&name.to_string()).contains('\u{1b}'));
    let peer = host.peer("engine.sock");
    host.peers.learn_entry(&NumberedPeer { peer, number: 2 });
    assert_eq!(shown(&host, &Destination::unix(2)).name, "unix:?");
    assert_eq!(shown(&host, &Destination::unix(3)).to_string(), "unix:#3");
    assert_eq!(shown(&host, &Destination::unix(NAMELESS_PEER)).to_string(), "unix:nameless");
    assert_eq!(shown(&host, &Destination::unix(UNKNOWN_PEER)).to_string(), "unix:?");
    assert_eq!(shown(&host, &Destination::netlink(9)).to_string(), "netlink:audit");
    assert_eq!(shown(&host, &Destination::netlink(30)).to_string(), "netlink:30");
    assert_eq!(shown(&host, &Destination::socket(17)).to_string(), "family:packet");
    assert_eq!(shown(&host, &Destination::vsock(2, 7)).to_string(), "vsock:2:7");
    assert_eq!(host.peers.name(&Destination::v4(1, 2, PROTOCOL_TCP)), None);
}

#[test]
fn peers_are_bounded_and_a_record_tells_more_than_the_table() {
    let mut host = Host::new();
    for number in 1..=PEER_LIMIT as u64 + 1 {
        host.peers.learn_record(&record(abstract_peer(b"name", NETNS), number, b""));
    }
    assert_eq!((host.peers.known.len(), host.peers.order.len()), (PEER_LIMIT, PEER_LIMIT));
    assert!(host.peers.is_unknown(&Destination::unix(1)));
    assert!(!host.peers.is_unknown(&Destination::unix(2)));
    // Nothing is known of these anywhere.
    assert!(!host.peers.is_unknown(&Destination::unix(NAMELESS_PEER)));
    assert!(!host.peers.is_unknown(&Destination::unix(UNKNOWN_PEER)));
    assert!(!host.peers.is_unknown(&Destination::netlink(0)));
    let _server = UnixListener::bind(host.path("engine.sock")).unwrap();
    let called = host.called("engine.sock", 1, b"/run/x");
    let peer = host.peer("engine.sock");
    host.peers.learn_entry(&NumberedPeer { peer, number: 1 });
    assert_eq!(host.peers.name(&called).unwrap().name, "unix:/run/x");
}

#[test]
fn this_network_namespace_has_a_cookie() {
    assert_ne!(netns_cookie().unwrap(), 0);
    assert_eq!(netns_cookie().unwrap(), netns_cookie().unwrap());
}
