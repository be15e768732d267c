//! What a probe does in great numbers: calls as fast as they go, connections that are held, and
//! trees of processes. One [`Tally`] tells what came of all of them.

use std::{collections::BTreeMap, net::SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    probe::{Probe, Ticket},
    script::{Op, Reply},
};

/// Something to do many times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum LoadOp {
    /// Connects to ports beginning with the address's, one after the other, for a while.
    Flood {
        /// Where to.
        address: SocketAddr,
        /// How many ports take turns, at least 1.
        ports: u16,
        /// At most so many calls.
        calls: u64,
        /// At most so long.
        millis: u64,
    },
    /// Begins non-blocking connections and keeps them.
    Hold {
        /// Where to.
        address: SocketAddr,
        /// How many.
        calls: u64,
    },
    /// Waits until every kept connection is made or has failed, and closes them all. Those that are
    /// neither in time count as `ETIME`.
    Settle {
        /// At most so long.
        millis: u64,
    },
    /// Forks a tree of processes, two children each; every one connects, and lives on.
    Crowd {
        /// Where to.
        address: SocketAddr,
        /// How many.
        processes: u32,
    },
    /// Ends the tree and waits until every process of it is gone.
    Disperse,
}

/// How many calls came to what: errno (0 is success) -> calls.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// By errno.
    pub errnos: BTreeMap<i32, u64>,
    /// The longest call, us.
    pub longest_us: u64,
}

impl Tally {
    /// Adds a call.
    pub fn add(&mut self, errno: i32, micros: u64) {
        *self.errnos.entry(errno).or_default() += 1;
        self.longest_us = self.longest_us.max(micros);
    }

    /// How many calls came to an errno.
    pub fn of(&self, errno: i32) -> u64 {
        self.errnos.get(&errno).copied().unwrap_or_default()
    }

    /// How many calls were denied: in the hook, or held first where the answer came late, and then
    /// ended by the daemon or by their own timers.
    pub fn denied(&self) -> u64 {
        self.of(libc::EACCES) + self.of(libc::ECONNABORTED) + self.of(libc::ETIMEDOUT)
    }

    /// How many calls were made.
    pub fn total(&self) -> u64 {
        self.errnos.values().sum()
    }

    /// How many calls failed.
    pub fn failed(&self) -> u64 {
        self.total() - self.of(0)
    }

    fn from_reply(reply: &Reply) -> Self {
        assert!(reply.is_ok(), "{reply:?}");
        serde_json::from_str(&reply.data).expect("a tally")
    }
}

impl Probe {
    /// Does something many times and waits for it.
    pub fn load(&mut self, op: LoadOp) -> Tally {
        let ticket = self.begin_load(op);
        self.finish_load(ticket)
    }

    /// Begins to do something many times. Not for what forks: only one thread may do that.
    pub fn begin_load(&mut self, op: LoadOp) -> Ticket {
        self.begin(Op::Load(op))
    }

    /// What came of it.
    pub fn finish_load(&mut self, ticket: Ticket) -> Tally {
        let reply = self.wait_for(ticket, std::time::Duration::from_mins(1));
        Tally::from_reply(&reply.expect("the probe answers in time"))
    }
}
