//! Agents that try as hard as they can.

use agent_enforcer_tests::{
    TestHost,
    load::{LoadOp, Tally},
    wait::wait_until,
};

use crate::account::{Account, LONG, alone, kernel_denials};

/// Denials that refused calls may be told as: one each, and one more of the kernel side for a call
/// that was held.
fn most_records(refused: &Tally) -> u64 {
    refused.total() + refused.denied() - refused.of(libc::EACCES)
}

#[test]
fn every_call_of_a_deny_flood_is_accounted_and_the_host_stays_responsive() {
    const AGENTS: usize = 4;
    let _alone = alone();
    let host = TestHost::start();
    let mut stranger = host.stranger();
    let mut agents: Vec<_> = (0..AGENTS).map(|_| host.agent("strict")).collect();
    for agent in &mut agents {
        assert!(agent.connect("warm", host.at(10)).is_ok());
    }
    let flood = LoadOp::Flood { address: host.at(50), ports: 1, calls: u64::MAX, millis: 2000 };
    let tickets: Vec<_> = agents.iter_mut().map(|agent| agent.begin_load(flood.clone())).collect();
    // While it goes on; fewer than a listener's backlog, as the server may get no turn to accept.
    let calm = LoadOp::Flood { address: host.at(10), ports: 1, calls: 100, millis: 20_000 };
    let calm = stranger.load(calm);
    assert_eq!((calm.of(0), calm.total()), (100, 100), "{calm:?}");
    assert!(calm.longest_us < 1_000_000, "a host's connect waits for no agent: {calm:?}");
    assert!(host.try_cli(&["status"]).status.success(), "the daemon answers");
    let (mut made, mut records) = (0, 0);
    for (agent, ticket) in agents.iter_mut().zip(tickets) {
        let tally = agent.finish_load(ticket);
        assert_eq!(tally.denied(), tally.total(), "{tally:?}");
        made += tally.total();
        records += most_records(&tally);
    }
    assert!(made > 10_000, "{made} calls in two seconds are no flood");
    wait_until("every call is told or counted as lost", LONG, || {
        let account = Account::of(&host);
        (made..=records).contains(&(account.denied + account.lost))
    });
    assert!((made..=records).contains(&kernel_denials(&host)));
    assert!(host.servers.at(host.at(50)).is_empty(), "nothing went out");
    eprintln!("{} denied calls/s, {} records lost", made / 2, Account::of(&host).lost);
}

#[test]
fn flood_of_questions_does_not_starve_another_agents_verdicts() {
    let _alone = alone();
    let host = TestHost::start();
    let mut flooder = host.agent("waits");
    let mut other = host.agent("hasty");
    for agent in [&mut flooder, &mut other] {
        assert!(agent.connect("warm", host.at(10)).is_ok());
    }
    let flood =
        LoadOp::Flood { address: host.at(50), ports: 50_000, calls: u64::MAX, millis: 3000 };
    let ticket = flooder.begin_load(flood);
    // Each port is a question of its own.
    let asks = LoadOp::Flood { address: host.at(40), ports: 100, calls: 100, millis: 20_000 };
    let tally = other.load(asks);
    assert_eq!((tally.of(0), tally.total()), (0, 100), "{tally:?}");
    assert!(tally.longest_us < 5_000_000, "{tally:?}");
    assert!(other.connect("standing", host.at(10)).is_ok());
    let refused = flooder.finish_load(ticket);
    assert_eq!(refused.of(0), 0, "{refused:?}");
    wait_until("the other's calls are told with their own reason", LONG, || {
        (100..=most_records(&tally)).contains(&host.calls("denied", "tool_not_approved"))
    });
    let told = refused.total() + 100..=most_records(&refused) + most_records(&tally);
    wait_until("the flood's calls are told", LONG, || {
        let account = Account::of(&host);
        told.contains(&(account.denied + account.lost))
    });
}
