//! Which tally counts which calls, and how many of them were told.
//!
//! In: allowed calls of the kernel side, each of which may begin a tally; the mapped counts. Out:
//! what was counted and has no event yet. What a slot counts never changes while a program may
//! count in it: other calls get another slot, and it is free again a while after no verdict names
//! it. Nothing here writes a verdict or an event.

use std::{
    collections::{BTreeMap, HashMap},
    mem::offset_of,
    sync::atomic::Ordering::Relaxed,
};

use agent_enforcer_common::{
    record::{CallRecord, RecordKind},
    tally::Tally,
};

use super::pending::GroupKey;
use crate::kernel::mapped::MappedArray;

/// How long a program may count for a verdict that is gone, ns: far longer than any runs.
const HELD_NS: u64 = 1_000_000_000;
/// What was not called for so long is idle, ns.
const IDLE_NS: u64 = 1_000_000_000;
/// Slots that are made free ahead of need.
const RESERVE: usize = 256;

/// Calls that were counted and have no event yet.
#[derive(Debug)]
pub(super) struct Counted {
    /// What is the same of all of them.
    pub(super) template: CallRecord,
    pub(super) count: u64,
    /// Thread group of the last.
    pub(super) last_tgid: u32,
    /// None was before, ns of `CLOCK_BOOTTIME`.
    pub(super) since_ns: u64,
    /// When the last was seen, ns of `CLOCK_BOOTTIME`.
    pub(super) last_ns: u64,
}

/// A slot in use.
#[derive(Debug)]
struct Use {
    key: GroupKey,
    /// Since when no verdict names it, ns of `CLOCK_BOOTTIME`.
    retired_ns: Option<u64>,
}

/// See the module's header.
pub(super) struct Tallies {
    array: MappedArray,
    used: BTreeMap<u32, Use>,
    /// The slots in use that verdicts of this daemon name.
    live: HashMap<GroupKey, u32>,
    free: Vec<u32>,
    /// When all were looked at, ns of `CLOCK_BOOTTIME`.
    looked_ns: u64,
    /// By how much `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`, ns.
    asleep_ns: u64,
}

impl Tallies {
    /// Takes the array over; what an earlier daemon's verdicts name is retired with them.
    pub(super) fn take_over(array: MappedArray, asleep_ns: u64) -> Self {
        let (used, live, free) = (BTreeMap::new(), HashMap::new(), Vec::new());
        let mut tallies = Self { array, used, live, free, looked_ns: 0, asleep_ns };
        let slots = u32::try_from(tallies.array.slots()).unwrap_or(u32::MAX);
        // The lowest are given out first, so that few pages are touched.
        for slot in (1..slots).rev() {
            match tallies.in_use(slot) {
                Some(Tally { template, .. }) => {
                    let key = GroupKey::of(&template);
                    tallies.used.insert(slot, Use { key, retired_ns: None });
                }
                None => tallies.free.push(slot),
            }
        }
        tallies
    }

    /// The slot of calls like this one, for their verdict; `None` where there is no room.
    pub(super) fn slot_of(&mut self, template: &CallRecord, now_ns: u64) -> Option<u32> {
        let key = GroupKey::of(template);
        if let Some(&slot) = self.live.get(&key) {
            if self.in_use(slot).is_some_and(|tally| same_terms(&tally.template, template)) {
                return Some(slot);
            }
            self.retire(slot, now_ns);
        }
        let slot = self.free.pop()?;
        let time_ns = template.header.time_ns;
        let begun = Tally {
            last_coarse_ns: time_ns.saturating_sub(self.asleep_ns),
            told_ns: time_ns,
            template: *template,
            ..Tally::default()
        };
        self.array.write(slot as usize, &begun);
        self.used.insert(slot, Use { key, retired_ns: None });
        self.live.insert(key, slot);
        Some(slot)
    }

    /// The slots with calls that have no event yet.
    pub(super) fn untold(&self) -> Vec<u32> {
        self.used.keys().copied().filter(|&slot| !self.is_told(slot)).collect()
    }

    /// What a slot has counted and nobody was told, for whoever tells it: it is taken once.
    pub(super) fn take(&self, slot: u32, now_ns: u64) -> Option<Counted> {
        let Tally { count, last_coarse_ns, last_tgid, told, told_ns, template, _pad } =
            self.in_use(slot)?;
        let last_ns = last_coarse_ns + self.asleep_ns;
        self.set(slot, offset_of!(Tally, told), count);
        self.set(slot, offset_of!(Tally, told_ns), now_ns);
        (count != told).then_some(Counted {
            template,
            count: count.wrapping_sub(told),
            last_tgid: u32::try_from(last_tgid).unwrap_or_default(),
            since_ns: told_ns.max(self.looked_ns).min(last_ns),
            last_ns,
        })
    }

    /// All that was counted before this moment has been taken.
    pub(super) const fn looked_at(&mut self, now_ns: u64, asleep_ns: u64) {
        self.looked_ns = now_ns;
        self.asleep_ns = asleep_ns;
    }

    /// No verdict names a slot any more.
    pub(super) fn retire(&mut self, slot: u32, now_ns: u64) {
        if let Some(used) = self.used.get_mut(&slot) {
            self.live.remove(&used.key);
            used.retired_ns = Some(now_ns);
        }
    }

    /// No verdict names any slot any more.
    pub(super) fn retire_all(&mut self, now_ns: u64) {
        self.live.clear();
        for used in self.used.values_mut() {
            used.retired_ns.get_or_insert(now_ns);
        }
    }

    /// Frees the slots that nobody can count in any more and whose calls are told.
    pub(super) fn release(&mut self, now_ns: u64) {
        let ended = |used: &Use| used.retired_ns.is_some_and(|since| now_ns >= since + HELD_NS);
        let slots: Vec<u32> = self
            .used
            .iter()
            .filter(|&(&slot, used)| ended(used) && self.is_told(slot))
            .map(|(&slot, _)| slot)
            .collect();
        for slot in slots {
            self.array.write(slot as usize, &Tally::default());
            self.used.remove(&slot);
            self.free.push(slot);
        }
    }

    /// Where room is short: what was idle longest. Whoever asks takes the verdicts back and retires
    /// the slots.
    pub(super) fn idle(&self, now_ns: u64) -> Vec<(u32, GroupKey)> {
        let retired = self.used.len() - self.live.len();
        let wanted = RESERVE.saturating_sub(self.free.len() + retired);
        if wanted == 0 {
            return Vec::new();
        }
        let mut idle: Vec<(u64, u32, GroupKey)> = self
            .live
            .iter()
            .map(|(&key, &slot)| {
                (self.word(slot, offset_of!(Tally, last_coarse_ns)) + self.asleep_ns, slot, key)
            })
            .filter(|&(last_ns, _, _)| now_ns.saturating_sub(last_ns) >= IDLE_NS)
            .collect();
        idle.sort_unstable();
        idle.truncate(wanted);
        idle.into_iter().map(|(_, slot, key)| (slot, key)).collect()
    }

    /// A slot in use, as it stands.
    fn in_use(&self, slot: u32) -> Option<Tally> {
        let tally: Tally = self.array.read(slot as usize)?;
        (tally.template.header.kind == RecordKind::Allowed as u32).then_some(tally)
    }

    fn is_told(&self, slot: u32) -> bool {
        self.word(slot, offset_of!(Tally, count)) == self.word(slot, offset_of!(Tally, told))
    }

    fn word(&self, slot: u32, offset: usize) -> u64 {
        let word = self.array.slot(slot as usize).and_then(|words| words.get(offset / 8));
        word.map_or(0, |word| word.load(Relaxed))
    }

    fn set(&self, slot: u32, offset: usize, value: u64) {
        if let Some(word) = self.array.slot(slot as usize).and_then(|words| words.get(offset / 8)) {
            word.store(value, Relaxed);
        }
    }
}

/// Whether calls are allowed for the same reason. Those of another network namespace are not
/// counted, so they change nothing.
fn same_terms(one: &CallRecord, other: &CallRecord) -> bool {
    (one.generation, one.grant, one.tool, one.reason)
        == (other.generation, other.grant, other.tool, other.reason)
}

#[cfg(test)]
mod tests;
