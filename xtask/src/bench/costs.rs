//! What a call costs that needs no answer: a host process's, and an agent's with a verdict.
//!
//! In: the world. Out: ratios. One process is measured in turns outside and inside the enforced
//! subtree, so that both sides share everything but the programs. Each turn inside stands between two
//! outside and is compared with their mean, so that a drift of the machine cancels out; how far those
//! two differ tells how far the method itself is off.

use anyhow::{Result, bail};

use super::{
    report::{Reach, Row, Unit},
    statistics::Sorted,
    world::{KNOWN, Place, World},
};

/// Pairs of blocks.
const ROUNDS: usize = 150;
/// Connects per block: fewer than a listener's queue holds.
const BLOCK: usize = 300;
/// Connects of a block that are not counted: a process that was just moved is cold.
const WARM_UP: usize = 30;

/// `connect_host_p50`.
pub(super) fn host(world: &World) -> Result<Row> {
    let costs = compare(world, Place::Host)?;
    Ok(row("connect_host_p50", 1.02, &costs, "a process that is no agent's"))
}

/// `connect_cached_p50`.
pub(super) fn cached(world: &World) -> Result<Row> {
    let costs = compare(world, Place::Agent)?;
    Ok(row("connect_cached_p50", 1.05, &costs, "an agent's process, verdict in the kernel"))
}

struct Costs {
    ratios: Sorted,
    controls: Sorted,
    without: Sorted,
    with: Sorted,
}

fn compare(world: &World, place: Place) -> Result<Costs> {
    // Born where it is measured: an agent's process stays one wherever it is moved.
    let mut client = world.client(place)?;
    let mut block = |place: Place| -> Result<f64> {
        world.place(&client, place)?;
        let samples = client.tcp(BLOCK + WARM_UP, &[KNOWN])?;
        world.drain()?;
        if samples.failed > 0 {
            bail!("{} of {} connects failed at {place:?}", samples.failed, BLOCK + WARM_UP);
        }
        Ok(Sorted::new(samples.micros.into_iter().skip(WARM_UP).collect()).median())
    };
    let mut ratios = Vec::new();
    let mut controls = Vec::new();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (before, enforced, after) =
            (block(Place::Outside)?, block(place)?, block(Place::Outside)?);
        let bare = f64::midpoint(before, after);
        ratios.push(enforced / bare);
        controls.push(after / before);
        without.push(bare);
        with.push(enforced);
    }
    Ok(Costs {
        ratios: Sorted::new(ratios),
        controls: Sorted::new(controls),
        without: Sorted::new(without),
        with: Sorted::new(with),
    })
}

fn row(id: &'static str, reach: f64, costs: &Costs, who: &str) -> Row {
    let Costs { ratios, controls, without, with } = costs;
    let note = format!(
        "{who}: {:.2} us by {:.2} us; none by none {:.3}",
        with.median(),
        without.median(),
        controls.median()
    );
    let runs = (ratios.count(), ratios.spread());
    Row::new(id, Unit::Ratio, Reach::AtMost(reach), ratios.median(), runs, note)
}
