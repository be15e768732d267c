//! A daemon without a kernel: answers every control command from memory, behind a real socket.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use agent_enforcer::{
    api::{self, ApiError},
    control::{
        ActionView, ActivityView, AgentView, AnswerSpec, AnswerView, Authority, Control,
        ControlError, EventFeed, ExplainQuestion, ExplainStep, ExplainTarget, Explanation,
        GhostView, GrantSpec, GrantView, ImageView, InstanceView, ManifestSeenView, PendingView,
        PolicyView, RecentView, Reply, Status, TalliesView,
    },
};
use tokio::{
    sync::{Notify, broadcast, watch},
    task::JoinHandle,
    time::timeout,
};

/// No test waits longer for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);
/// Who may approve besides root, who may not.
pub(crate) const APPROVER: u32 = 64_001;
/// A name that an agent may have chosen to attack a terminal.
pub(crate) const HOSTILE: &str = "x\u{1b}[2J\u{9b}1m\u{202e}\u{7}y";

pub(crate) struct FakeControl {
    pub(crate) grants: Mutex<Vec<GrantView>>,
    pub(crate) recent: Mutex<Vec<String>>,
    pub(crate) live: broadcast::Sender<String>,
    /// What `policy reload` fails with.
    pub(crate) reload_error: Mutex<Option<ControlError>>,
    /// What is not as it should be.
    pub(crate) problems: Mutex<Vec<String>>,
    pub(crate) detached: Mutex<Option<String>>,
    /// `grant revoke` announces itself, waits for the release, and counts.
    pub(crate) revoking: Notify,
    pub(crate) release: Notify,
    pub(crate) revoked: AtomicUsize,
    pub(crate) revocation_done: Notify,
    /// How many calls wait, and told when that changes.
    pub(crate) waiting: AtomicUsize,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) asked_by: Mutex<Option<Authority>>,
    pub(crate) answered: Mutex<Option<(AnswerSpec, Authority)>>,
}

impl FakeControl {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            grants: Mutex::default(),
            recent: Mutex::default(),
            live: broadcast::channel(4).0,
            reload_error: Mutex::default(),
            problems: Mutex::default(),
            detached: Mutex::default(),
            revoking: Notify::new(),
            release: Notify::new(),
            revoked: AtomicUsize::new(0),
            revocation_done: Notify::new(),
            waiting: AtomicUsize::new(1),
            changes: watch::channel(0).0,
            asked_by: Mutex::default(),
            answered: Mutex::default(),
        })
    }
}

pub(crate) fn moment(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::new(seconds, 123_456_789)
}

pub(crate) fn status() -> Status {
    Status {
        version: "0.1.0".to_owned(),
        pid: 42,
        started: moment(1_000_000_000),
        plane: "cgroup".to_owned(),
        kernel: "6.18.15".to_owned(),
        generation: u64::MAX,
        agents: 1,
        instances: 2,
        processes: 3,
        pending: 4,
        grants: 5,
        reasons: BTreeMap::from([("no_grant".to_owned(), 6)]),
        counters: BTreeMap::from([("requests".to_owned(), 7), ("held".to_owned(), 0)]),
        programs: vec!["ae_connect4".to_owned()],
        spiffe_broker: String::new(),
        problems: Vec::new(),
    }
}

pub(crate) fn agent() -> AgentView {
    AgentView {
        name: "coder".to_owned(),
        owner: "platform".to_owned(),
        purpose: HOSTILE.to_owned(),
        mode: "enforce".to_owned(),
        tools: vec!["git".to_owned(), "web".to_owned()],
        standing: vec!["git".to_owned()],
        instances: vec![InstanceView {
            id: "i-1a2b".to_owned(),
            pid: 4711,
            exe: hostile_path(),
            sha256: "ab".repeat(32),
            script: hostile_path(),
            script_sha256: "cd".repeat(32),
            unverified: String::new(),
            container: "0123456789ab".to_owned(),
            spiffe_id: Some("spiffe://example.org/agent/coder".to_owned()),
            started: moment(1_000_000_001),
            processes: 2,
            ended: None,
            images: vec![ImageView { exe: "/bin/sh".to_owned(), sha256: None }],
            more_images: 3,
            activity: activity(),
        }],
        in_policy: true,
        ghosts: vec![GhostView { word: "unused".to_owned(), since: moment(1_000_000_002) }],
        agent_id: Some("spiffe://example.org/agent/coder".to_owned()),
        manifest: Some(ManifestSeenView { version: 4, digest: "cd".repeat(32) }),
        first_seen: moment(1_000_000_000),
        last_seen: Some(moment(1_000_000_003)),
        instances_ever: 300,
        instances_forgotten: 44,
        activity: activity(),
        ended_instances: vec![InstanceView {
            id: "i-1a2a".to_owned(),
            pid: 4710,
            exe: PathBuf::from("/bin/sh"),
            sha256: String::new(),
            script: PathBuf::new(),
            script_sha256: String::new(),
            unverified: "inline_code".to_owned(),
            container: String::new(),
            spiffe_id: None,
            started: moment(1_000_000_000),
            processes: 0,
            ended: Some(moment(1_000_000_001)),
            images: Vec::new(),
            more_images: 0,
            activity: ActivityView::default(),
        }],
    }
}

fn activity() -> ActivityView {
    ActivityView {
        calls: TalliesView { allowed: 5, denied: 6, audited: 7 },
        last_action: Some(ActionView {
            at: moment(1_000_000_002),
            outcome: "denied".to_owned(),
            reason: "no_grant".to_owned(),
            destination: "192.0.2.1:443/tcp".to_owned(),
            tool: Some("web".to_owned()),
        }),
        principals: RecentView { count: 1, latest: vec!["ada".to_owned()] },
        grants: RecentView { count: 20, latest: vec!["g-20".to_owned(), "g-19".to_owned()] },
    }
}

/// Not UTF-8, and with an escape sequence.
pub(crate) fn hostile_path() -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    PathBuf::from(std::ffi::OsString::from_vec(b"/tmp/\xff\x1b[31mevil".to_vec()))
}

pub(crate) fn pending_call() -> PendingView {
    PendingView {
        request: 9,
        agent: "coder".to_owned(),
        instance: "i-1a2b".to_owned(),
        pid: 4711,
        exe: hostile_path(),
        destination: "192.0.2.1:443/tcp".to_owned(),
        tool: Some("web".to_owned()),
        reason: "no_grant".to_owned(),
        since: moment(1_000_000_002),
        until: moment(1_000_000_003),
        calls: 11,
        approval: None,
    }
}

pub(crate) fn policy() -> PolicyView {
    PolicyView {
        generation: 3,
        directory: PathBuf::from("/etc/agent-enforcer/policy"),
        yaml: "apiVersion: agent-enforcer/v1\ntools: []\n".to_owned(),
    }
}

fn answer<'a, T: Send + 'a>(result: Result<T, ControlError>) -> Reply<'a, T> {
    Box::pin(async move { result })
}

impl Control for FakeControl {
    fn status(&self) -> Reply<'_, Status> {
        let problems = self.problems.lock().unwrap().clone();
        answer(Ok(Status { problems, ..status() }))
    }

    fn agents(&self) -> Reply<'_, Vec<AgentView>> {
        answer(Ok(vec![agent()]))
    }

    fn policy_show(&self) -> Reply<'_, PolicyView> {
        answer(Ok(policy()))
    }

    fn policy_reload(&self) -> Reply<'_, PolicyView> {
        answer(self.reload_error.lock().unwrap().clone().map_or_else(|| Ok(policy()), Err))
    }

    fn grant_issue(&self, spec: GrantSpec) -> Reply<'_, GrantView> {
        let mut grants = self.grants.lock().unwrap();
        let not_before = spec.not_before.unwrap_or_else(SystemTime::now);
        let grant = GrantView {
            id: format!("g-{}", grants.len() + 1),
            agent: spec.agent.unwrap_or_else(|| "coder".to_owned()),
            instance: spec.instance,
            tools: spec.tools,
            locations: Vec::new(),
            principal: spec.principal,
            task: spec.task,
            reason: spec.reason,
            issued: SystemTime::now(),
            not_before,
            expires: not_before + spec.lifetime,
            max_uses: spec.max_uses,
            uses: 0,
            state: "live".to_owned(),
            issuer: None,
            jti: None,
            parent: None,
        };
        grants.push(grant.clone());
        answer(Ok(grant))
    }

    fn grant_present(&self, token: String) -> Reply<'_, GrantView> {
        let error = format!("token_malformed: {token:?} is none; issue a token");
        answer(Err(ControlError::Invalid(error)))
    }

    fn grant_list(&self) -> Reply<'_, Vec<GrantView>> {
        answer(Ok(self.grants.lock().unwrap().clone()))
    }

    fn grant_revoke(&self, grant: String, _reason: String) -> Reply<'_, GrantView> {
        let found = self.grants.lock().unwrap().iter().find(|held| held.id == grant).cloned();
        match found {
            None => answer(Err(ControlError::NotFound(format!("there is no grant {grant}")))),
            Some(found) => Box::pin(async move {
                self.revoking.notify_one();
                self.release.notified().await;
                self.revoked.fetch_add(1, Ordering::SeqCst);
                self.revocation_done.notify_one();
                Ok(GrantView { state: "revoked".to_owned(), ..found })
            }),
        }
    }

    fn pending(&self, authority: Authority) -> Reply<'_, Vec<PendingView>> {
        *self.asked_by.lock().unwrap() = Some(authority);
        let calls = vec![pending_call(); self.waiting.load(Ordering::SeqCst)];
        answer(Ok(calls))
    }

    fn may_approve(&self, uid: u32) -> bool {
        uid == APPROVER
    }

    fn pending_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn answer(&self, spec: AnswerSpec, authority: Authority) -> Reply<'_, AnswerView> {
        let view = AnswerView {
            id: spec.id.clone(),
            verdict: "approved".to_owned(),
            approver: format!("user {}", authority.uid),
            until: moment(1) + spec.lifetime,
            whole_tool: spec.whole_tool,
        };
        *self.answered.lock().unwrap() = Some((spec, authority));
        answer(Ok(view))
    }

    fn explain(&self, question: ExplainQuestion) -> Reply<'_, Explanation> {
        assert_ne!(question.pid, 666, "a failure inside the daemon");
        answer(Ok(Explanation {
            outcome: "denied".to_owned(),
            reason: "no_tool".to_owned(),
            remedy: "name the destination in a tool of the policy".to_owned(),
            agent: Some("coder".to_owned()),
            instance: None,
            destination: match question.to {
                ExplainTarget::Address { to, protocol } => format!("{to}/{protocol}"),
                ExplainTarget::Endpoint(endpoint) => endpoint.to_string(),
            },
            steps: vec![ExplainStep {
                question: "tool".to_owned(),
                found: "none".to_owned(),
                holds: false,
            }],
        }))
    }

    fn events(&self) -> Reply<'_, EventFeed> {
        let recent = self.recent.lock().unwrap().clone();
        answer(Ok(EventFeed { recent, live: self.live.subscribe() }))
    }

    fn detach(&self, reason: String) -> Reply<'_, ()> {
        *self.detached.lock().unwrap() = Some(reason);
        answer(Ok(()))
    }
}

/// A served [`FakeControl`] in a directory of its own.
pub(crate) struct Daemon {
    pub(crate) control: Arc<FakeControl>,
    pub(crate) directory: tempfile::TempDir,
    stop: watch::Sender<bool>,
    servers: [JoinHandle<Result<(), ApiError>>; 2],
}

impl Daemon {
    /// Bound before this returns: clients can connect at once.
    pub(crate) fn start() -> Self {
        let directory = private_directory();
        let control = FakeControl::new();
        let (root, approvers) =
            (api::socket_path(directory.path()), api::approvals_path(directory.path()));
        let listeners = [
            api::Listener::bind(&root, api::Audience::Root).unwrap(),
            api::Listener::bind(&approvers, api::Audience::Approvers).unwrap(),
        ];
        let (stop, stopped) = watch::channel(false);
        let servers = listeners.map(|listener| {
            let answers = Arc::clone(&control);
            let mut stopped = stopped.clone();
            tokio::spawn(listener.serve(answers, async move {
                let _ = stopped.changed().await;
            }))
        });
        Self { control, directory, stop, servers }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        api::socket_path(self.directory.path())
    }

    pub(crate) async fn client(&self) -> api::Client {
        api::Client::connect(&self.socket()).await.unwrap()
    }

    pub(crate) fn ask_to_stop(&mut self) {
        self.stop.send_replace(true);
    }

    pub(crate) async fn stopped(self) -> Result<(), ApiError> {
        let [root, approvers] = self.servers;
        timeout(DEADLINE, root).await.unwrap().unwrap()?;
        timeout(DEADLINE, approvers).await.unwrap().unwrap()
    }
}

pub(crate) fn private_directory() -> tempfile::TempDir {
    tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
}

/// Lets everybody reach what is in a directory, as a careless administrator would.
pub(crate) fn open_up(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

pub(crate) fn need_root() {
    assert!(
        rustix::process::geteuid().is_root(),
        "run this test as root: the control API answers nobody else"
    );
}
