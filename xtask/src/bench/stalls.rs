//! What a question adds to a call when the daemon answers it from its policy.
//!
//! In: the world. Out: two rows. An agent's new process connects to destinations that its policy
//! allows but that the kernel must ask for, then to the same ones again, now with verdicts; the
//! second pass is the comparison, percentile by percentile: what a machine's own interruptions add
//! to the slowest calls is in both. That every call of the first pass was asked for, and none of the
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
    let (mut asked_for, mut known) = (Vec::new(), Vec::new());
    let (mut medians, mut tails) = (Vec::new(), Vec::new());
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
        let (one, other) = (Sorted::new(first.micros.clone()), Sorted::new(second.micros.clone()));
        medians.push(one.median() - other.median());
        tails.push(one.percentile(99) - other.percentile(99));
        asked_for.extend(first.micros);
        known.extend(second.micros);
    }
    let (asked_for, known) = (Sorted::new(asked_for), Sorted::new(known));
    let row = |id, reach, percent, rounds: Vec<f64>| {
        let (one, other) = (asked_for.percentile(percent), known.percentile(percent));
        let note = format!(
            "{} answered connects: {one:.2} us by {other:.2} us with a verdict, both the {percent}th percentile",
            asked_for.count()
        );
        let rounds = Sorted::new(rounds);
        let runs = (rounds.count(), rounds.spread());
        Row::new(id, Unit::Microseconds, Reach::AtMost(reach), one - other, runs, note)
    };
    Ok((row("stall_added_p50", 10.0, 50, medians), row("stall_added_p99", 50.0, 99, tails)))
}
