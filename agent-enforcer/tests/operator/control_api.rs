//! The control API from end to end: the real client, a real socket, the real server.

use std::{
    fs,
    io::{ErrorKind, Read, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    sync::atomic::Ordering,
    time::Duration,
};

use agent_enforcer::{
    api::{ApiError, Audience, Client, EventItem, EventQuery, EventStream, Listener, socket_path},
    control::{ControlError, ExplainQuestion, ExplainTarget, GrantSpec},
};
use tokio::time::timeout;

use crate::fake_control::{
    DEADLINE, Daemon, agent, need_root, open_up, pending_call, policy, private_directory, status,
};

fn spec() -> GrantSpec {
    GrantSpec {
        agent: Some("coder".to_owned()),
        instance: None,
        tools: vec!["git".to_owned()],
        principal: "ada".to_owned(),
        task: "T-1".to_owned(),
        reason: "line\nbreak".to_owned(),
        not_before: None,
        lifetime: Duration::from_mins(15),
        max_uses: Some(3),
    }
}

fn same<T: std::fmt::Debug>(one: &T, other: &T) {
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}

async fn next(events: &mut EventStream) -> Result<Option<EventItem>, ApiError> {
    timeout(DEADLINE, events.next()).await.expect("an event in time")
}

fn line(text: &str) -> EventItem {
    EventItem::Line(text.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_arrive_as_they_were_given() {
    need_root();
    let daemon = Daemon::start();
    let client = daemon.client().await;
    same(&client.status().await.unwrap(), &status());
    same(&client.agents().await.unwrap(), &vec![agent()]);
    same(&client.policy_show().await.unwrap(), &policy());
    same(&client.policy_reload().await.unwrap(), &policy());
    same(&client.pending().await.unwrap(), &vec![pending_call()]);
    let grant = client.grant_issue(spec()).await.unwrap();
    assert_eq!((grant.reason.as_str(), grant.max_uses), ("line\nbreak", Some(3)));
    same(&client.grant_list().await.unwrap(), &vec![grant]);
    let to = ExplainTarget::Address { to: "[fe80::1%3]:53".parse().unwrap(), protocol: 17 };
    let explanation = client.explain(ExplainQuestion { pid: 1, to }).await.unwrap();
    assert_eq!(explanation.destination, "[fe80::1%3]:53/17");
    client.detach("upgrade".to_owned()).await.unwrap();
    assert_eq!(daemon.control.detached.lock().unwrap().as_deref(), Some("upgrade"));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_arrive_whole() {
    need_root();
    let daemon = Daemon::start();
    let client = daemon.client().await;
    // As long as the errors of a policy can be, in characters that take the most room.
    let long = "agents.yaml:7:3: \u{201c}\u{e4}\u{201d}\n".repeat(2_000);
    for error in [
        ControlError::Invalid(long),
        ControlError::NotFound("gone".to_owned()),
        ControlError::Unavailable("starting".to_owned()),
        ControlError::Internal(String::new()),
    ] {
        *daemon.control.reload_error.lock().unwrap() = Some(error.clone());
        let told = client.policy_reload().await.unwrap_err();
        assert_eq!(format!("{told:?}"), format!("Refused({error:?})"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_of_one_command_leaves_the_others_alone() {
    need_root();
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let to = ExplainTarget::Address { to: "192.0.2.1:1".parse().unwrap(), protocol: 6 };
    let error = client.explain(ExplainQuestion { pid: 666, to }).await.unwrap_err();
    assert!(matches!(error, ApiError::Refused(ControlError::Internal(_))), "{error}");
    client.status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_command_that_is_too_large() {
    need_root();
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let large = GrantSpec { reason: "x".repeat(100_000), ..spec() };
    let error = client.grant_issue(large).await.unwrap_err();
    assert!(matches!(error, ApiError::Refused(ControlError::Invalid(_))), "{error}");
    assert!(daemon.control.grants.lock().unwrap().is_empty());
    client.status().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn revocation_goes_on_when_its_client_goes_away() {
    need_root();
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let grant = client.grant_issue(spec()).await.unwrap();
    let command = tokio::spawn(async move { client.grant_revoke(grant.id, String::new()).await });
    timeout(DEADLINE, daemon.control.revoking.notified()).await.unwrap();
    command.abort();
    assert!(command.await.unwrap_err().is_cancelled());
    // A later command on a new connection has come through after the old one was gone.
    daemon.client().await.status().await.unwrap();
    daemon.control.release.notify_one();
    timeout(DEADLINE, daemon.control.revocation_done.notified()).await.unwrap();
    assert_eq!(daemon.control.revoked.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_begin_with_the_newest_and_go_on() {
    need_root();
    let daemon = Daemon::start();
    *daemon.control.recent.lock().unwrap() = vec!["1".to_owned(), "2".to_owned(), "3".to_owned()];
    let client = daemon.client().await;
    let mut all = client.events(EventQuery::default()).await.unwrap();
    for expected in ["1", "2", "3"] {
        assert_eq!(next(&mut all).await.unwrap(), Some(line(expected)));
    }
    assert_eq!(next(&mut all).await.unwrap(), None);

    let query = EventQuery { follow: true, count: Some(1) };
    let mut followed = client.events(query).await.unwrap();
    assert_eq!(next(&mut followed).await.unwrap(), Some(line("3")));
    daemon.control.live.send("4".to_owned()).unwrap();
    assert_eq!(next(&mut followed).await.unwrap(), Some(line("4")));

    let query = EventQuery { follow: true, count: Some(0) };
    let mut later = client.events(query).await.unwrap();
    daemon.control.live.send("5".to_owned()).unwrap();
    assert_eq!(next(&mut later).await.unwrap(), Some(line("5")));
}

/// More large events than socket, windows and queues hold.
const SENT: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn slow_reader_learns_how_many_events_it_missed() {
    need_root();
    let daemon = Daemon::start();
    let client = daemon.client().await;
    let query = EventQuery { follow: true, count: None };
    let mut events = client.events(query).await.unwrap();
    // Nobody reads meanwhile.
    let large = "x".repeat(100_000);
    for _ in 0..SENT {
        daemon.control.live.send(large.clone()).unwrap();
        tokio::task::yield_now().await;
    }
    daemon.control.live.send("last".to_owned()).unwrap();
    let (mut read, mut skipped) = (0, 0);
    loop {
        match next(&mut events).await.unwrap() {
            Some(EventItem::Line(text)) if text == "last" => break,
            Some(EventItem::Line(_)) => read += 1,
            Some(EventItem::Skipped(some)) => skipped += some,
            None => panic!("the feed ended"),
        }
    }
    assert!(skipped > 0);
    assert_eq!(read + skipped, SENT);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_feeds_after_the_last_event_and_removes_the_socket() {
    need_root();
    let mut daemon = Daemon::start();
    let client = daemon.client().await;
    let query = EventQuery { follow: true, count: None };
    let mut events = client.events(query).await.unwrap();
    daemon.control.live.send("stopping".to_owned()).unwrap();
    daemon.ask_to_stop();
    assert_eq!(next(&mut events).await.unwrap(), Some(line("stopping")));
    let error = next(&mut events).await.unwrap_err();
    assert!(matches!(error, ApiError::Refused(ControlError::Unavailable(_))), "{error}");
    let socket = daemon.socket();
    let directory = daemon.directory.path().to_owned();
    drop((events, client));
    daemon.stopped().await.unwrap();
    assert!(!socket.exists(), "{}", directory.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn half_open_clients_are_closed_and_make_room() {
    need_root();
    let daemon = Daemon::start();
    let limit = Some(DEADLINE);
    let mut silent: Vec<_> = (0..64)
        .map(|_| {
            let stream = UnixStream::connect(daemon.socket()).unwrap();
            stream.set_read_timeout(limit).unwrap();
            stream
        })
        .collect();
    // One more is closed at once. It is accepted after the others.
    let mut extra = UnixStream::connect(daemon.socket()).unwrap();
    extra.set_read_timeout(limit).unwrap();
    let closed = tokio::task::spawn_blocking(move || {
        let at_once = ended(&mut extra);
        // Dribbling keeps nobody connected.
        if let Some(first) = silent.first_mut() {
            first.write_all(b"PRI").unwrap();
        }
        (at_once, silent.iter_mut().all(ended))
    });
    assert_eq!(timeout(DEADLINE, closed).await.unwrap().unwrap(), (true, true));
    daemon.client().await.status().await.unwrap();
}

/// Whether the other side closes the connection in time, whatever it said before.
fn ended(stream: &mut UnixStream) -> bool {
    match stream.read_to_end(&mut Vec::new()) {
        Ok(_) => true,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_does_not_wait_for_ever_for_a_silent_client() {
    need_root();
    let mut daemon = Daemon::start();
    let _silent = UnixStream::connect(daemon.socket()).unwrap();
    daemon.client().await.status().await.unwrap();
    daemon.ask_to_stop();
    daemon.stopped().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn second_daemon_is_refused_and_the_first_goes_on() {
    need_root();
    let daemon = Daemon::start();
    let error = Listener::bind(&daemon.socket(), Audience::Root).unwrap_err();
    assert!(matches!(error, ApiError::AlreadyRunning { .. }), "{error}");
    daemon.client().await.status().await.unwrap();
}

async fn refusal(socket: &Path) -> ApiError {
    Client::connect(socket).await.map(drop).unwrap_err()
}

#[tokio::test]
async fn client_tells_why_it_can_not_connect() {
    let directory = private_directory();
    let socket = socket_path(directory.path());
    assert!(matches!(refusal(&socket).await, ApiError::NoSocket { .. }));
    drop(UnixListener::bind(&socket).unwrap());
    assert!(matches!(refusal(&socket).await, ApiError::NotListening { .. }));
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "").unwrap();
    assert!(matches!(refusal(&socket).await, ApiError::NotASocket { .. }));
    assert!(matches!(refusal(&socket.join("below")).await, ApiError::NoSocket { .. }));
    let long = directory.path().join("x".repeat(120));
    assert!(matches!(refusal(&long).await, ApiError::PathTooLong { .. }));
}

#[tokio::test]
async fn client_believes_root_only() {
    need_root();
    let directory = private_directory();
    open_up(directory.path(), 0o777);
    let socket = socket_path(directory.path());
    let path = socket.clone();
    // A thread may be another user than its process; the kernel notes who listens.
    let listener = std::thread::spawn(move || {
        let nobody = rustix::process::Uid::from_raw(65534);
        rustix::thread::set_thread_uid(nobody).unwrap();
        UnixListener::bind(path).unwrap()
    })
    .join()
    .unwrap();
    let error = refusal(&socket).await;
    assert!(matches!(error, ApiError::ForeignServer { uid: 65534, .. }), "{error}");
    drop(listener);
}
