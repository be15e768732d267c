//! How long a daemon takes from its start until it enforces.
//!
//! In: the world, its daemon running. Out: one row: from exec to READY, once over what a killed
//! daemon left in force, once on a host where nothing is; the worse of the two. The daemon runs
//! again afterwards.

use anyhow::Result;

use super::{
    report::{Reach, Row, Unit},
    statistics::Sorted,
    world::World,
};

/// Starts of each kind.
const ROUNDS: usize = 15;

/// `start_to_enforcing`.
pub(super) fn row(world: &mut World) -> Result<Row> {
    let daemon = &mut world.daemon;
    let (mut taken_over, mut fresh) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        daemon.kill()?;
        taken_over.push(millis(daemon.start()?));
        daemon.detach()?;
        fresh.push(millis(daemon.start()?));
    }
    let (taken_over, fresh) = (Sorted::new(taken_over), Sorted::new(fresh));
    let note = format!(
        "exec to READY, worse of both: after a kill {:.0} ms, with nothing in force {:.0} ms",
        taken_over.median(),
        fresh.median()
    );
    let worse = if taken_over.median() > fresh.median() { &taken_over } else { &fresh };
    let runs = (worse.count(), worse.spread());
    let reach = Reach::AtMost(300.0);
    Ok(Row::new("start_to_enforcing", Unit::Milliseconds, reach, worse.median(), runs, note))
}

fn millis(took: std::time::Duration) -> f64 {
    took.as_secs_f64() * 1000.0
}
