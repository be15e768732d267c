//! How many questions one core can answer.
//!
//! In: the world. Out: one row: questions answered by the processor time that the daemon took for
//! them, all of its threads together, as the kernel's scheduler counted it. The asking processes
//! share the machine with the daemon, so answers per second of wall clock would measure them.

use std::fs;

use anyhow::{Context, Result, bail};

use super::{
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

/// `decisions_per_s`.
pub(super) fn row(world: &World) -> Result<Row> {
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
        "{CLIENTS} processes asking, {QUESTIONS} datagrams each; by the daemon's own time; {late} came late"
    );
    let runs = (rates.count(), rates.spread());
    let reach = Reach::AtLeast(100_000.0);
    Ok(Row::new("decisions_per_s", Unit::PerSecond, reach, rates.median(), runs, note))
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
