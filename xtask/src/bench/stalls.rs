//! What a question adds to a call when the daemon answers it from its policy.
//!
//! In: the world. Out: two rows. An agent's new process connects to destinations that its policy
//! allows but that the kernel must ask for, then to the same ones again, now with verdicts; the
//! second pass is the comparison. That every call of the first pass was asked for, and none of the
//! second, is read from the kernel's own counter.

use anyhow::{Result, bail};

use super::{
    report::{Reach, Row, Unit},
    statistics::Sorted,
    world::{Place, World, asked},
};

/// Processes.
const ROUNDS: usize = 20;
/// Destinations of each.
const DESTINATIONS: usize = 200;
/// Destinations asked for before measuring: the first one waits for the process's attestation.
const WARM_UP: usize = 20;

/// `stall_added_p50` and `stall_added_p99`.
pub(super) fn rows(world: &World) -> Result<(Row, Row)> {
    let mut added = Vec::new();
    let (mut medians, mut tails) = (Vec::new(), Vec::new());
    let mut known = Vec::new();
    for _ in 0..ROUNDS {
        let mut client = world.client(Place::Agent)?;
        let warm_up = client.tcp(1, &asked(DESTINATIONS, WARM_UP))?;
        let destinations = asked(0, DESTINATIONS);
        let before = world.questions()?;
        let first = client.tcp(1, &destinations)?;
        let between = world.questions()?;
        let second = client.tcp(1, &destinations)?;
        let after = world.questions()?;
        world.drain()?;
        let failed = warm_up.failed + first.failed + second.failed;
        if failed > 0 {
            bail!("{failed} connects of an agent failed that its policy allows");
        }
        if between - before != DESTINATIONS as u64 || after != between {
            bail!(
                "of {DESTINATIONS} first connects {} were asked for, of as many second ones {}",
                between - before,
                after - between
            );
        }
        let base = Sorted::new(second.micros).median();
        let round = Sorted::new(first.micros.iter().map(|micros| micros - base).collect());
        medians.push(round.median());
        tails.push(round.percentile(99));
        added.extend(first.micros.into_iter().map(|micros| micros - base));
        known.push(base);
    }
    let added = Sorted::new(added);
    let base = Sorted::new(known).median();
    let row = |id, reach, value, rounds: &Sorted| {
        let note = format!("{} answered connects, by {base:.2} us with a verdict", added.count());
        let runs = (rounds.count(), rounds.spread());
        Row::new(id, Unit::Microseconds, Reach::AtMost(reach), value, runs, note)
    };
    let (medians, tails) = (Sorted::new(medians), Sorted::new(tails));
    Ok((
        row("stall_added_p50", 10.0, added.median(), &medians),
        row("stall_added_p99", 50.0, added.percentile(99), &tails),
    ))
}
