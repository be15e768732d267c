//! `kill -9` at any moment: what the store has returned is there.
//!
//! The test runs itself again as a child that issues, revokes and spends, says what has returned,
//! and is killed in the middle of it, again and again on one store.

use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use agent_enforcer_common::id::GrantId;

use super::{
    GrantStore,
    testing::{moment, new_grant},
};

/// Set in the child: the state directory.
const CHILD: &str = "AGENT_ENFORCER_CRASH_TEST_STATE";
const NAME: &str = "resolver::grant::crash_tests::kill_9_loses_nothing_that_was_returned";
const ROUNDS: usize = 12;
/// A child that nobody kills ends by itself, so that the parent never waits for ever.
const LIFE_LIMIT: Duration = Duration::from_mins(1);

#[test]
fn kill_9_loses_nothing_that_was_returned() {
    if let Some(state) = env::var_os(CHILD) {
        write_until_killed(Path::new(&state));
    }
    let dir = tempfile::tempdir().unwrap();
    let mut issued = BTreeSet::new();
    let mut revoked = BTreeSet::new();
    let mut uses = 0;
    let mut epochs = BTreeSet::new();
    for round in 0..ROUNDS {
        for line in run_and_kill(dir.path(), 5 + 7 * round) {
            let (what, number) = line.split_once(' ').unwrap();
            let number: u64 = number.parse().unwrap();
            match what {
                "issued" => assert!(issued.insert(number), "grant {number} was given out twice"),
                "revoked" => assert!(revoked.insert(number)),
                "used" => uses = number,
                "epoch" => assert!(epochs.insert(number), "epoch {number} was given out twice"),
                other => panic!("the child said {other:?}"),
            }
        }
        let table = GrantStore::open(dir.path()).unwrap().load(&moment(100)).unwrap();
        for number in &issued {
            assert!(table.get(GrantId::new(*number)).is_some(), "grant {number} was lost");
        }
        for number in &revoked {
            let grant = table.get(GrantId::new(*number)).unwrap();
            assert!(grant.revoked.is_some(), "the revocation of grant {number} was lost");
        }
        let spent: u64 = table.iter().map(|grant| u64::from(grant.uses)).sum();
        assert!(spent >= uses, "{spent} uses are stored, {uses} were returned");
        uses = spent;
    }
    assert!(issued.len() > ROUNDS && !revoked.is_empty() && uses > 0);
}

/// Never returns: the parent kills this process.
fn write_until_killed(state: &Path) -> ! {
    let store = GrantStore::open(state).unwrap();
    let now = moment(100);
    let mut uses: u32 = store.load(&now).unwrap().iter().map(|grant| grant.uses).sum();
    let mut out = std::io::stdout();
    let mut say = |what: &str, number: u64| {
        writeln!(out, "\n>{what} {number}").unwrap();
        out.flush().unwrap();
    };
    say("epoch", store.next_epoch().unwrap());
    let begun = Instant::now();
    while begun.elapsed() < LIFE_LIMIT {
        let mut new = new_grant(&now);
        new.max_uses = Some(1000);
        let id = store.issue(new).unwrap().id;
        say("issued", id.get());
        store.record_use(id, &now).unwrap();
        uses += 1;
        say("used", u64::from(uses));
        if id.get().is_multiple_of(2) {
            store.revoke(id, "test", &now).unwrap();
            say("revoked", id.get());
        }
    }
    panic!("nobody killed this process");
}

/// Reads `lines` of what the child says, kills it, and reads what it had said by then.
fn run_and_kill(state: &Path, lines: usize) -> Vec<String> {
    let mut child = Command::new(env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(CHILD, state)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let mut said = output
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix('>').map(str::to_owned));
    let mut heard: Vec<String> = said.by_ref().take(lines).collect();
    assert_eq!(heard.len(), lines, "the child ended by itself");
    child.kill().unwrap();
    heard.extend(said.filter(|line| line.contains(' ')));
    child.wait().unwrap();
    heard
}
