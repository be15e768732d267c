use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP},
    id::{ExecId, GrantId},
    record::{ProcessFacts, RecordHeader},
};

use super::*;

const SECOND: u64 = 1_000_000_000;
const ASLEEP: u64 = 2;

fn template(port: u16) -> CallRecord {
    CallRecord {
        header: RecordHeader { kind: RecordKind::Allowed as u32, size: 168, time_ns: 5 },
        process: ProcessFacts { exec: ExecId::new(9), ..ProcessFacts::default() },
        destination: Destination::v4(0xc000_0201, port, PROTOCOL_TCP),
        generation: 3,
        ..CallRecord::default()
    }
}

fn table(slots: usize) -> Tallies {
    Tallies::take_over(MappedArray::alone::<Tally>(slots), ASLEEP)
}

/// What a program does.
fn count(tallies: &Tallies, slot: u32, calls: u64, at_ns: u64) {
    let words = tallies.array.slot(slot as usize).expect("a slot");
    words[offset_of!(Tally, last_coarse_ns) / 8].store(at_ns - ASLEEP, Relaxed);
    words[offset_of!(Tally, last_tgid) / 8].store(77, Relaxed);
    words[offset_of!(Tally, count) / 8].fetch_add(calls, Relaxed);
}

fn harvest(tallies: &mut Tallies, now_ns: u64) -> Vec<Counted> {
    let taken = tallies.untold().into_iter().filter_map(|slot| tallies.take(slot, now_ns));
    let taken = taken.collect();
    tallies.looked_at(now_ns, ASLEEP);
    taken
}

#[test]
fn what_was_counted_is_told_once() {
    let mut tallies = table(8);
    let slot = tallies.slot_of(&template(1), 10).expect("room");
    assert_ne!(slot, 0);
    assert!(harvest(&mut tallies, 10).is_empty());
    count(&tallies, slot, 5, 20);
    let told = harvest(&mut tallies, 30);
    assert_eq!(told.len(), 1);
    let Counted { count: calls, last_tgid, since_ns, last_ns, .. } = told[0];
    assert_eq!((calls, last_tgid, since_ns, last_ns), (5, 77, 10, 20));
    assert!(harvest(&mut tallies, 40).is_empty());
    count(&tallies, slot, 2, 50);
    let told = harvest(&mut tallies, 60);
    assert_eq!((told[0].count, told[0].since_ns, told[0].last_ns), (2, 40, 50));
}

#[test]
fn what_is_counted_meanwhile_is_told_now_or_the_next_time() {
    let mut tallies = table(8);
    let slot = tallies.slot_of(&template(1), 0).expect("room");
    count(&tallies, slot, 5, 10);
    assert_eq!(tallies.untold(), [slot]);
    count(&tallies, slot, 3, 11);
    assert_eq!(tallies.take(slot, 20).map(|counted| counted.count), Some(8));
    assert!(tallies.take(slot, 20).is_none());
    count(&tallies, slot, 1, 21);
    assert_eq!(harvest(&mut tallies, 30)[0].count, 1);
}

#[test]
fn one_image_and_destination_has_one_slot() {
    let mut tallies = table(8);
    let slot = tallies.slot_of(&template(1), 0).expect("room");
    let other_namespace = CallRecord { netns_cookie: 8, ..template(1) };
    assert_eq!(tallies.slot_of(&other_namespace, 0), Some(slot));
    assert_ne!(tallies.slot_of(&template(2), 0), Some(slot));
}

#[test]
fn calls_under_another_grant_are_not_told_under_the_first() {
    let mut tallies = table(8);
    let granted = |grant| CallRecord { grant: GrantId::new(grant), ..template(1) };
    let first = tallies.slot_of(&granted(1), 0).expect("room");
    let second = tallies.slot_of(&granted(2), 1).expect("room");
    assert_ne!(first, second);
    // A program still held the first verdict.
    count(&tallies, first, 1, 2);
    count(&tallies, second, 4, 3);
    let mut told: Vec<_> = harvest(&mut tallies, 4)
        .iter()
        .map(|counted| (counted.template.grant.get(), counted.count))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [(1, 1), (2, 4)]);
}

#[test]
fn slot_is_reused_a_second_after_its_verdict_is_gone_and_not_before_all_is_told() {
    let mut tallies = table(2);
    let slot = tallies.slot_of(&template(1), 0).expect("room");
    assert_eq!(tallies.slot_of(&template(2), 0), None);
    tallies.retire_all(10);
    tallies.release(10 + SECOND - 1);
    assert_eq!(tallies.slot_of(&template(2), 0), None);
    count(&tallies, slot, 1, 20);
    tallies.release(10 + SECOND);
    assert_eq!(tallies.slot_of(&template(2), 0), None);
    assert_eq!(harvest(&mut tallies, 10 + SECOND)[0].count, 1);
    tallies.release(10 + SECOND);
    assert_eq!(tallies.slot_of(&template(2), 0), Some(slot));
    assert!(harvest(&mut tallies, 2 * SECOND).is_empty());
}

#[test]
fn longest_idle_slots_are_made_free_when_room_gets_short() {
    let mut tallies = table(RESERVE + 3);
    let first = tallies.slot_of(&template(1), 0).expect("room");
    let second = tallies.slot_of(&template(2), 0).expect("room");
    assert!(tallies.idle(9 * SECOND).is_empty());
    let third = tallies.slot_of(&template(3), 0).expect("room");
    count(&tallies, first, 1, 3 * SECOND);
    count(&tallies, second, 1, 2 * SECOND);
    count(&tallies, third, 1, 9 * SECOND);
    let idle = tallies.idle(9 * SECOND);
    assert_eq!(idle, [(second, GroupKey::of(&template(2)))]);
    tallies.retire(second, 9 * SECOND);
    assert!(tallies.idle(9 * SECOND).is_empty(), "one is on its way");
    assert_eq!(tallies.slot_of(&template(1), 0), Some(first));
}

#[test]
fn what_an_earlier_daemon_left_is_told_and_then_free() {
    let mut before = table(4);
    let slot = before.slot_of(&template(1), 0).expect("room");
    count(&before, slot, 6, 10);
    harvest(&mut before, 20);
    count(&before, slot, 4, 30);
    let mut after = Tallies::take_over(before.array, ASLEEP);
    after.retire_all(40);
    let told = harvest(&mut after, 50);
    assert_eq!((told.len(), told[0].count, told[0].since_ns), (1, 4, 20));
    assert_eq!(told[0].template.destination, template(1).destination);
    assert_ne!(after.slot_of(&template(1), 50), Some(slot));
    after.release(40 + SECOND);
    assert_eq!(after.free.len(), 2);
}
