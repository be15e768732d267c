//! A fork bomb.

use agent_enforcer_tests::{TestHost, load::LoadOp, wait::wait_until};

use crate::account::{Account, LONG, alone};

#[test]
fn every_process_of_a_fork_bomb_belongs_to_the_agent() {
    const PROCESSES: u32 = 2000;
    let _alone = alone();
    let host = TestHost::start();
    let mut stranger = host.stranger();
    let mut agent = host.agent("strict");
    assert!(agent.connect("warm", host.at(10)).is_ok());
    let tally = agent.load(LoadOp::Crowd { address: host.at(50), processes: PROCESSES });
    let calls = u64::from(PROCESSES);
    assert_eq!((tally.denied(), tally.total()), (calls, calls), "{tally:?}");
    assert!(host.servers.at(host.at(50)).is_empty(), "no stranger among them");
    wait_until("every denial is told", LONG, || {
        let account = Account::of(&host);
        account.denied + account.lost == calls
    });
    let agents = host.cli(&["agents"]);
    let agents = agents.as_array().expect("a list");
    let strict = agents.iter().find(|agent| agent["name"] == "strict").expect("an agent");
    assert_eq!(strict["instances"].as_array().map(Vec::len), Some(1), "{strict}");
    assert_eq!(strict["instances"][0]["processes"], PROCESSES + 1);
    assert_eq!(host.cli(&["status"])["processes"], PROCESSES + 1);
    assert!(stranger.connect("host", host.at(50)).is_ok());

    agent.load(LoadOp::Disperse);
    wait_until("only the agent's first process is left", LONG, || {
        host.cli(&["status"])["processes"] == 1
    });
    agent.kill();
    host.wait_event_for("the instance ended", LONG, |event| event.code() == "instance_ended");
    let status = host.cli(&["status"]);
    assert_eq!((&status["processes"], &status["instances"]), (&0.into(), &0.into()), "{status}");
}
