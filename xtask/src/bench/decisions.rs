//! How many questions one core can answer.
//!
//! In: the world. Out: rows: questions answered by the processor time that the daemon took for
//! them, all of its threads together, as the kernel's scheduler counted it. The asking processes
//! share the machine with the daemon, so answers per second of wall clock would measure them. One row is
//! of a policy whose answer is known when it is loaded, the others of Cedar policies that must all be
//! asked about each call.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result, bail};

use super::{
    RowId,
    report::{Reach, Row, Unit},
    statistics::Sorted,
    world::{Client, Place, World, asked},
};

/// Rounds, each with new processes, so that every destination is new again.
const ROUNDS: usize = 10;
/// Processes that ask at the same time.
const CLIENTS: usize = 2;
/// Questions of each: below what one process may ask in a second.
const QUESTIONS: usize = 2000;

/// Rows with Cedar policies of the asking agent, and how many.
pub(super) const CEDAR: [(RowId, Policies); 3] = [
    (RowId::DecisionsPerS1, Policies { id: "decisions_per_s_1", count: 1, reach: 100_000.0 }),
    (RowId::DecisionsPerS10, Policies { id: "decisions_per_s_10", count: 10, reach: 50_000.0 }),
    (RowId::DecisionsPerS100, Policies { id: "decisions_per_s_100", count: 100, reach: 10_000.0 }),
];

/// What a row is measured with.
#[derive(Clone, Copy)]
pub(super) struct Policies {
    id: &'static str,
    count: u16,
    reach: f64,
}

/// `decisions_per_s`.
pub(super) fn row(world: &World) -> Result<Row> {
    measure(world, "decisions_per_s", 100_000.0, "")
}

/// `decisions_per_s_1` and the like: policies that forbid ports which nobody asks for.
pub(super) fn cedar_row(world: &World, policies: Policies) -> Result<Row> {
    let Policies { id, count, reach } = policies;
    let mut text = String::new();
    for number in 1..=count {
        writeln!(
            text,
            "@id(\"forbid-{number}\") forbid (principal in Agent::\"bench-agent\", action, resource in Tool::\"asked\") \
             when {{ resource has port && resource.port == {number} }};"
        )?;
    }
    put_in_force(world, &text)?;
    let measured = measure(world, id, reach, &format!("{count} Cedar policies asked each time; "));
    put_in_force(world, "")?;
    measured
}

fn put_in_force(world: &World, cedar: &str) -> Result<()> {
    world.daemon.write_policy("bench.cedar", cedar)?;
    world.daemon.control(&["policy", "reload"])?;
    Ok(())
}

fn measure(world: &World, id: &'static str, reach: f64, how: &str) -> Result<Row> {
    let pid = world.daemon.pid()?;
    let mut rates = Vec::new();
    let mut late = 0;
    for _ in 0..ROUNDS {
        let mut clients: Vec<Client> =
            (0..CLIENTS).map(|_| world.client(Place::Agent)).collect::<Result<_>>()?;
        let questions = world.questions()?;
        let time = processor_seconds(pid)?;
        for client in &mut clients {
            client.begin_udp(&asked(0, QUESTIONS))?;
        }
        for client in &mut clients {
            // A datagram whose answer comes late fails with EAGAIN; its question counts.
            late += client.end()?.failed;
        }
        let took = processor_seconds(pid)? - time;
        let answered = u32::try_from(world.questions()? - questions)?;
        if answered == 0 {
            bail!("no datagram of an agent led to a question");
        }
        rates.push(f64::from(answered) / took);
    }
    let rates = Sorted::new(rates);
    let note = format!(
        "{how}{CLIENTS} processes asking, {QUESTIONS} datagrams each; by the daemon's own time; {late} came late"
    );
    let runs = (rates.count(), rates.spread());
    let reach = Reach::AtLeast(reach);
    Ok(Row::new(id, Unit::PerSecond, reach, rates.median(), runs, note))
}

/// Processor time of all threads of a process, s.
fn processor_seconds(pid: u32) -> Result<f64> {
    let mut nanos = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).context("the daemon is gone")? {
        let path = thread?.path().join("schedstat");
        let text =
            fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let first = text.split(' ').next().context("a thread has no processor time")?;
        nanos += first.parse::<f64>().context("a thread's processor time is no number")?;
    }
    Ok(nanos / 1e9)
}
