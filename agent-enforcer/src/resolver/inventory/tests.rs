//! What is remembered, for how long, what a crash leaves, and what makes a ghost.

use std::{
    fs,
    path::{Path, PathBuf},
};

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    id::{ExecId, Generation, GrantId},
    reason::Reason,
    record::Hook,
};
use redb::{ReadableTable as _, TableDefinition};

use super::{record::Recent, *};
use crate::{
    decision::{Code, GrantRef, Sha256Digest},
    resolver::{
        grant::{GrantStore, GrantStoreError},
        policy::testing::policy,
    },
};

const DAY: Duration = Duration::from_hours(24);
const UNUSED: Duration = Duration::from_hours(30 * 24);

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Policy text of agents, each with its owner.
fn agents_of(agents: &[(&str, &str)]) -> String {
    let entry = |(name, owner): &(&str, &str)| {
        format!(
            "  - {{ name: {name}, owner: {owner}, purpose: P, selectors: [[\"unix:uid:7\", \"cgroup:path:/{name}\"]], tools: [] }}\n"
        )
    };
    format!("agents:\n{}", agents.iter().map(entry).collect::<String>())
}

fn process(exe: &str, sha256: Option<u8>) -> Process {
    Process {
        pid: 42,
        start_ns: 1,
        exec: ExecId::new(9),
        exe: Some(PathBuf::from(exe)),
        sha256: sha256.map(|byte| Sha256Digest([byte; 32])),
        fsverity: None,
        code: Code::Own,
        uid: 0,
        gid: 0,
        cgroup: String::new(),
        unit: None,
        container: None,
        comm: String::new(),
        ancestors: Vec::new(),
        spiffe_id: None,
    }
}

fn call(instance: u64, outcome: Outcome, grant: Option<(u64, &str)>) -> CallDecision {
    CallDecision {
        outcome,
        reason: Reason::NoGrant,
        audited_reason: None,
        miss_reason: None,
        count: 1,
        time_ns: 0,
        last_ns: 0,
        stalled_ns: 0,
        agent: "a".into(),
        owner: "o".into(),
        instance: InstanceId::new(instance),
        process: Arc::new(process("/bin/a", None)),
        last_pid: 42,
        destination: Destination::v4(0xc000_0201, 443, PROTOCOL_TCP),
        peer: None,
        tool: Some("web".into()),
        grant: grant.map(|(id, principal)| {
            Arc::new(GrantRef {
                id: GrantId::new(id),
                principal: principal.to_owned(),
                task: String::new(),
                issuer: None,
                jti: None,
                txn: None,
            })
        }),
        approval: None,
        hook: Hook::Connect,
        socket_cookie: 0,
        netns_cookie: 0,
        generation: Generation::new(1),
    }
}

fn begin(inventory: &mut Inventory, agent: &str, id: u64) {
    let process = process("/bin/a", Some(1));
    inventory.begin(InstanceId::new(id), &agent.into(), &process, at(id), at(id));
    inventory.note_image(InstanceId::new(id), &process);
}

fn end(inventory: &mut Inventory, id: u64) {
    inventory.end(InstanceId::new(id), at(id + 1));
}

fn remembered(inventory: &Inventory, agent: &str) -> Vec<u64> {
    let of_agent = inventory.instances().filter(|(_, record)| &*record.agent == agent);
    let mut ids: Vec<_> = of_agent.map(|(id, _)| id.get()).collect();
    ids.sort_unstable();
    ids
}

fn save(inventory: &mut Inventory, store: &GrantStore) {
    while let Some(changes) = inventory.take_changes() {
        store.record_inventory(&changes).unwrap();
    }
}

/// Everything, in a form that can be compared.
fn whole(
    inventory: &Inventory,
) -> (BTreeMap<Arc<str>, AgentRecord>, BTreeMap<u64, InstanceRecord>) {
    let agents = inventory.agents().map(|(name, record)| (Arc::clone(name), record.clone()));
    let instances = inventory.instances().map(|(id, record)| (id.get(), record.clone()));
    (agents.collect(), instances.collect())
}

#[test]
fn calls_are_in_the_totals_of_agent_and_instance() {
    let mut inventory = Inventory::default();
    inventory.note_policy(&policy(&agents_of(&[("a", "o")])), at(1));
    begin(&mut inventory, "a", 5);
    inventory.note_call(&call(5, Outcome::Allowed, Some((3, "ada"))), at(30));
    inventory.note_call(&call(5, Outcome::Stalled, None), at(31));
    inventory.note_call(&CallDecision { count: 7, ..call(5, Outcome::Denied, None) }, at(20));
    inventory.note_call(&call(5, Outcome::Audited, Some((4, "eve"))), at(10));
    // Of an instance that nothing is known of, as it was forgotten.
    inventory.note_call(&call(99, Outcome::Denied, None), at(10));
    let instance = inventory.instance(InstanceId::new(5)).unwrap();
    assert_eq!(instance.activity.calls, Tallies { allowed: 1, denied: 7, audited: 1 });
    assert_eq!(instance.activity.grants, Recent { count: 1, latest: vec![3] });
    assert_eq!(instance.activity.principals, Recent { count: 1, latest: vec!["ada".into()] });
    let last = instance.activity.last.as_ref().unwrap();
    assert_eq!((last.at, last.outcome), (at(30), Outcome::Allowed), "later told, not later seen");
    assert_eq!(last.destination.to_string(), "192.0.2.1:443/tcp");
    let agent = inventory.agent("a").unwrap();
    assert_eq!(agent.activity.calls, Tallies { allowed: 1, denied: 8, audited: 1 });
    assert_eq!((agent.first_seen, agent.last_seen), (at(1), Some(at(30))));
    assert_eq!((agent.instances, agent.forgotten), (1, 0));
}

#[test]
fn lists_within_a_record_are_bounded() {
    let mut inventory = Inventory::default();
    begin(&mut inventory, "a", 5);
    for grant in 1..=40 {
        let principal = format!("p{grant}");
        inventory.note_call(&call(5, Outcome::Allowed, Some((grant, &principal))), at(grant));
    }
    inventory.note_call(&call(5, Outcome::Allowed, Some((30, "p30"))), at(50));
    for number in 0..20 {
        let path = format!("/{number}{}", "x".repeat(5000));
        inventory.note_image(InstanceId::new(5), &process(&path, Some(number)));
    }
    let record = inventory.instance(InstanceId::new(5)).unwrap();
    assert_eq!((record.activity.grants.count, record.activity.principals.count), (40, 40));
    assert_eq!(record.activity.grants.latest.len(), 16);
    assert_eq!(record.activity.grants.latest.last(), Some(&30));
    assert_eq!((record.images.len(), record.more_images), (8, 13));
    assert_eq!(&*record.images[0].exe, "/bin/a", "the first stays");
    assert!(record.images.iter().all(|image| image.exe.len() <= 1024));
}

#[test]
fn digest_that_comes_later_is_of_the_same_image() {
    let mut inventory = Inventory::default();
    let id = InstanceId::new(5);
    inventory.begin(id, &"a".into(), &process("/bin/b", None), at(1), at(1));
    for digest in [None, Some(2), None, Some(2), Some(3)] {
        inventory.note_image(id, &process("/bin/b", digest));
    }
    let digests = inventory.instance(id).unwrap().images.iter().map(|image| image.sha256);
    let digests: Vec<_> = digests.collect();
    assert_eq!(digests, [Some(Sha256Digest([2; 32])), Some(Sha256Digest([3; 32]))]);
}

#[test]
fn agent_of_many_instances_loses_its_own_oldest_and_nobody_elses() {
    let limits = Limits { ended_per_agent: 100, ended: 130 };
    let mut inventory = Inventory::with_limits(limits);
    for id in 1..=20 {
        begin(&mut inventory, "quiet", id);
        end(&mut inventory, id);
    }
    begin(&mut inventory, "flood", 21);
    begin(&mut inventory, "other", 22);
    for id in 100..2100 {
        begin(&mut inventory, "flood", id);
        end(&mut inventory, id);
    }
    let kept: Vec<_> = std::iter::once(21).chain(2000..2100).collect();
    assert_eq!(remembered(&inventory, "flood"), kept, "what lives stays, then the newest");
    for id in 3000..3050 {
        begin(&mut inventory, "other", id);
        end(&mut inventory, id);
    }
    assert_eq!(remembered(&inventory, "quiet").len(), 20);
    assert_eq!(remembered(&inventory, "other").len(), 51);
    assert_eq!(remembered(&inventory, "flood").len(), 61, "who has most gives way");
    let flood = inventory.agent("flood").unwrap();
    assert_eq!((flood.instances, flood.forgotten), (2001, 1940));
    assert_eq!(inventory.agent("quiet").unwrap().forgotten, 0);
}

#[test]
fn everything_comes_back_from_the_store_and_the_forgotten_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let store = GrantStore::open(dir.path()).unwrap();
    let mut inventory = Inventory::with_limits(Limits { ended_per_agent: 3, ended: 100 });
    inventory.note_policy(&policy(&agents_of(&[("a", "o"), ("b", "p")])), at(1));
    for id in 1..=6 {
        begin(&mut inventory, "a", id);
        inventory.note_call(&call(id, Outcome::Allowed, Some((id, "ada"))), at(id + 10));
    }
    assert!(inventory.judge_ghosts(&policy(&agents_of(&[("a", "o")])), UNUSED, at(9)).len() == 1);
    save(&mut inventory, &store);
    assert_eq!(inventory.take_changes(), None);
    for id in 1..=5 {
        end(&mut inventory, id);
    }
    save(&mut inventory, &store);
    drop(store);
    let store = GrantStore::open(dir.path()).unwrap();
    let loaded = store.load_inventory().unwrap();
    assert_eq!(whole(&loaded), whole(&inventory));
    assert_eq!(remembered(&loaded, "a"), [3, 4, 5, 6]);
    assert_eq!(
        (loaded.agent("a").unwrap().instances, loaded.agent("a").unwrap().forgotten),
        (6, 2)
    );
}

#[test]
fn what_was_not_stored_is_all_that_a_crash_loses() {
    let dir = tempfile::tempdir().unwrap();
    let store = GrantStore::open(dir.path()).unwrap();
    let mut inventory = Inventory::default();
    begin(&mut inventory, "a", 5);
    inventory.note_call(&call(5, Outcome::Denied, None), at(10));
    save(&mut inventory, &store);
    let stored = whole(&inventory);
    inventory.note_call(&call(5, Outcome::Denied, None), at(11));
    begin(&mut inventory, "a", 6);
    let taken = inventory.take_changes().unwrap();
    // The daemon dies with the batch in hand; what runs is found again by the next one.
    drop((inventory, taken, store));
    let store = GrantStore::open(dir.path()).unwrap();
    let mut loaded = store.load_inventory().unwrap();
    assert_eq!(whole(&loaded), stored);
    loaded.end_others(|id| id.get() != 5, at(99));
    assert_eq!(loaded.instance(InstanceId::new(5)).unwrap().ended, Some(at(99)));
    begin(&mut loaded, "a", 5);
    assert!(loaded.instance(InstanceId::new(5)).unwrap().ended.is_some(), "it begins only once");
    assert_eq!(loaded.agent("a").unwrap().instances, 1);
}

#[test]
fn one_step_has_so_many_instances_and_all_steps_have_all() {
    let dir = tempfile::tempdir().unwrap();
    let store = GrantStore::open(dir.path()).unwrap();
    let mut inventory = Inventory::default();
    for id in 1..=2500 {
        begin(&mut inventory, "a", id);
    }
    let mut steps = 0;
    while let Some(changes) = inventory.take_changes() {
        assert!(changes.instances.len() <= STEP);
        store.record_inventory(&changes).unwrap();
        steps += 1;
    }
    assert_eq!((steps, whole(&store.load_inventory().unwrap()).1.len()), (3, 2500));
}

fn broken(dir: &Path, change: impl FnOnce(&redb::WriteTransaction)) -> String {
    let database = redb::Database::open(dir.join("grants.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
    drop(database);
    let error = GrantStore::open(dir).unwrap().load_inventory().unwrap_err();
    assert!(matches!(error, GrantStoreError::Corrupted { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn rows_that_can_not_be_read_are_an_error_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut inventory = Inventory::default();
    begin(&mut inventory, "a", 26);
    save(&mut inventory, &GrantStore::open(dir.path()).unwrap());
    let file = dir.path().join("grants.redb");
    let sound = fs::read(&file).unwrap();
    let agents = TableDefinition::<&str, &[u8]>::new("inventory_agents");
    let instances = TableDefinition::<u64, &[u8]>::new("inventory_instances");
    let later = broken(dir.path(), |transaction| {
        let mut agents = transaction.open_table(agents).unwrap();
        let row = agents.get("a").unwrap().unwrap().value().to_vec();
        let row = String::from_utf8(row).unwrap().replacen('{', r#"{"later":1,"#, 1);
        agents.insert("a", row.as_bytes()).unwrap();
    });
    assert!(later.contains("inventory of agent a: unknown field `later`"), "{later}");
    assert!(later.contains("restore it from a backup, or move it away"), "{later}");
    fs::write(&file, &sound).unwrap();
    let torn = broken(dir.path(), |transaction| {
        transaction.open_table(instances).unwrap().insert(26, &b"{"[..]).unwrap();
    });
    assert!(torn.contains("inventory of instance i-1a: EOF"), "{torn}");
    fs::write(&file, &sound).unwrap();
    let orphan = broken(dir.path(), |transaction| {
        transaction.open_table(agents).unwrap().remove("a").unwrap();
    });
    assert!(orphan.contains("instance i-1a: there is no agent \"a\""), "{orphan}");
}

/// What has changed: words that were found, and words that are over with a `-` before them.
fn judge(inventory: &mut Inventory, policy: &Policy, now: SystemTime) -> Vec<String> {
    let changes = inventory.judge_ghosts(policy, UNUSED, now);
    let word = |change: GhostChange| {
        let sign = if change.found.is_some() { "" } else { "-" };
        format!("{}:{sign}{}", change.agent, change.word)
    };
    changes.into_iter().map(word).collect()
}

#[test]
fn agent_that_left_the_policy_is_a_ghost_until_it_is_back() {
    let mut inventory = Inventory::default();
    let both = policy(&agents_of(&[("a", "o"), ("b", "o")]));
    let one = policy(&agents_of(&[("b", "o")]));
    inventory.note_policy(&both, at(1));
    assert!(judge(&mut inventory, &both, at(2)).is_empty());
    assert_eq!(judge(&mut inventory, &one, at(3)), ["a:not_in_policy"]);
    assert!(judge(&mut inventory, &one, at(4)).is_empty(), "told once");
    assert_eq!(inventory.agent("a").unwrap().ghosts.values().copied().collect::<Vec<_>>(), [at(3)]);
    assert_eq!(judge(&mut inventory, &both, at(5)), ["a:-not_in_policy"]);
}

#[test]
fn ghost_is_told_once_across_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let store = GrantStore::open(dir.path()).unwrap();
    let mut inventory = Inventory::default();
    inventory.note_policy(&policy(&agents_of(&[("a", "o"), ("b", "o")])), at(1));
    let one = policy(&agents_of(&[("b", "o")]));
    assert_eq!(judge(&mut inventory, &one, at(3)).len(), 1);
    save(&mut inventory, &store);
    let mut loaded = store.load_inventory().unwrap();
    assert!(judge(&mut loaded, &one, at(4)).is_empty());
}

#[test]
fn agent_is_unused_after_so_long_without_a_call() {
    let mut inventory = Inventory::default();
    let policy = policy(&agents_of(&[("a", "o")]));
    inventory.note_policy(&policy, at(0));
    let second = Duration::from_secs(1);
    assert!(judge(&mut inventory, &policy, at(0) + UNUSED - second).is_empty());
    assert_eq!(judge(&mut inventory, &policy, at(0) + UNUSED), ["a:unused"]);
    begin(&mut inventory, "a", 5);
    assert!(judge(&mut inventory, &policy, at(0) + UNUSED).is_empty(), "to run is not to act");
    inventory.note_call(&call(5, Outcome::Denied, None), at(0) + UNUSED);
    assert_eq!(judge(&mut inventory, &policy, at(0) + UNUSED + second), ["a:-unused"]);
    assert!(judge(&mut inventory, &policy, at(0) + 2 * UNUSED - second).is_empty());
    assert_eq!(judge(&mut inventory, &policy, at(0) + 2 * UNUSED), ["a:unused"]);
    // The clock was set back.
    assert_eq!(judge(&mut inventory, &policy, at(0)), ["a:-unused"]);
}

#[test]
fn owner_is_gone_where_the_policy_named_it_as_a_principal_and_does_not_any_more() {
    let mut inventory = Inventory::default();
    let with = |principals: &str, owner| {
        policy(&format!("{principals}{}", agents_of(&[("a", owner), ("b", "team")])))
    };
    let ada = "principals: [{ name: ada, tools: [] }, { name: bob, tools: [] }]\n";
    let bob = "principals: [{ name: bob, tools: [] }]\n";
    for (principals, owner, expected) in [
        (bob, "ada", vec![]),
        (ada, "ada", vec![]),
        (bob, "ada", vec!["a:owner_gone"]),
        // Nothing is known of anybody.
        ("", "ada", vec!["a:-owner_gone"]),
        (bob, "ada", vec!["a:owner_gone"]),
        (bob, "bob", vec!["a:-owner_gone"]),
        ("principals: [{ name: eve, tools: [] }]\n", "bob", vec!["a:owner_gone"]),
        ("principals: [{ name: eve, tools: [] }]\n", "team", vec!["a:-owner_gone"]),
    ] {
        let policy = with(principals, owner);
        inventory.note_policy(&policy, at(1));
        assert_eq!(judge(&mut inventory, &policy, at(2)), expected, "{principals} {owner}");
    }
}

#[test]
fn agent_whose_manifest_does_not_count_is_a_ghost_by_the_word_of_its_reason() {
    let mut inventory = Inventory::default();
    let id = "spiffe://example.org/agent/a";
    let text =
        agents_of(&[("a", "o")]).replace("purpose: P", &format!("purpose: P, agent_id: \"{id}\""));
    let policy = policy(&text);
    inventory.note_policy(&policy, at(1));
    assert_eq!(inventory.agent("a").unwrap().agent_id.as_deref(), Some(id));
    assert_eq!(judge(&mut inventory, &policy, at(2)), ["a:manifest_missing"]);
    assert_eq!(judge(&mut inventory, &policy, at(2) + UNUSED + DAY), ["a:unused"]);
    for reason in [Reason::ManifestExpired, Reason::ManifestRevoked, Reason::ManifestSuspended] {
        let ghost = Ghost::Manifest(reason);
        assert_eq!((ghost.word(), ghost.remedy()), (reason.word(), reason.remedy()));
    }
}
