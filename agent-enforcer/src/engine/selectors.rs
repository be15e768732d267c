//! The selector tables of the kernel side: loads a plan into the slot that is not in force.
//!
//! Patterns go in before existing cgroups are looked at, so that one made meanwhile is matched by
//! the kernel side, and none slips between.

use std::{collections::HashMap, path::PathBuf};

use agent_enforcer_common::{
    id::AgentId,
    names,
    process::{
        CgroupKey, ExecutableKey, PATTERN_LIMIT, SELECTOR_SLOTS, SelectorDefaults, TERM_LIMIT,
        TERM_WORDS, TermSet, UserKey,
    },
};
use aya::maps::{HashMap as BpfHashMap, MapData, MapError};

use crate::{
    kernel::maps::{SelectorMaps, removed},
    resolver::{
        attestation::{
            ProcError,
            cgroups::{CgroupError, cgroup_tree},
            executables::{NamedExecutable, Resolution},
        },
        policy::SelectorPlan,
    },
};

const NO_TERMS: SelectorDefaults = SelectorDefaults {
    any_cgroup: TermSet::EMPTY,
    any_user: TermSet::EMPTY,
    any_executable: TermSet::EMPTY,
    patterns: 0,
    terms: 0,
};

/// Why the tables can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum SelectorError {
    /// A map.
    #[error("map `{map}`: {source}; the policy names too many cgroups or executables for it")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// The cgroups can't be read.
    #[error(transparent)]
    Cgroups(#[from] CgroupError),
    /// Executables can't be looked up.
    #[error(transparent)]
    Executables(#[from] ProcError),
}

/// The loader.
pub(super) struct Selectors {
    maps: SelectorMaps,
    cgroups: PathBuf,
    slot: u32,
}

impl Selectors {
    /// `cgroups` is the mount point of cgroup v2.
    pub(super) const fn new(maps: SelectorMaps, cgroups: PathBuf) -> Self {
        Self { maps, cgroups, slot: 0 }
    }

    /// Loads a plan; returns the slot to put in force.
    pub(super) fn load(
        &mut self,
        plan: &SelectorPlan,
        executables: &Resolution,
        agent_id: impl Fn(&str) -> Option<AgentId>,
    ) -> Result<u64, SelectorError> {
        let slot = (self.slot + 1) % SELECTOR_SLOTS;
        self.clear(slot)?;
        let failed = |map| move |source| SelectorError::Map { map, source };
        for (position, pattern) in (0..PATTERN_LIMIT).zip(plan.patterns()) {
            self.maps
                .patterns
                .set(slot * PATTERN_LIMIT + position, pattern, 0)
                .map_err(failed(names::PATTERNS))?;
        }
        for (position, term) in (0u32..).zip(plan.terms()).take(TERM_LIMIT) {
            let agent = agent_id(&term.agent).unwrap_or_default();
            self.maps
                .terms
                .set(slot * TERM_SLOT + position, agent, 0)
                .map_err(failed(names::TERMS))?;
        }
        self.maps.defaults.set(slot, plan.defaults(), 0).map_err(failed(names::DEFAULTS))?;
        for (uid, terms) in plan.users() {
            self.maps
                .users
                .insert(UserKey { uid: *uid, slot }, terms, 0)
                .map_err(failed(names::USERS))?;
        }
        for cgroup in cgroup_tree(&self.cgroups)? {
            let cgroup = cgroup?;
            let terms = plan.cgroup_terms(&cgroup.path);
            if terms != TermSet::EMPTY {
                let key = CgroupKey { cgroup: cgroup.id, slot, _pad: 0 };
                self.maps.cgroups.insert(key, terms, 0).map_err(failed(names::CGROUPS))?;
            }
        }
        self.set_executables_in(slot, plan, executables)?;
        self.slot = slot;
        Ok(u64::from(slot))
    }

    /// Replaces the executables of the slot in force: first what is new, then what is gone. Positions
    /// beyond the plan's globs are somebody else's.
    pub(super) fn set_executables(
        &mut self,
        plan: &SelectorPlan,
        resolution: &Resolution,
    ) -> Result<(), SelectorError> {
        self.set_executables_in(self.slot, plan, resolution)
    }

    fn set_executables_in(
        &mut self,
        slot: u32,
        plan: &SelectorPlan,
        resolution: &Resolution,
    ) -> Result<(), SelectorError> {
        let failed = |source| SelectorError::Map { map: names::EXECUTABLES, source };
        let mut wanted: HashMap<ExecutableKey, TermSet> = HashMap::new();
        for NamedExecutable { glob, inode, device, path: _, file: _ } in &resolution.executables {
            let Some((_, terms)) = plan.executables().get(*glob) else { continue };
            let key = ExecutableKey { inode: *inode, device: *device, slot };
            unite(wanted.entry(key).or_insert(TermSet::EMPTY), terms);
        }
        for (key, terms) in &wanted {
            self.maps.executables.insert(key, terms, 0).map_err(failed)?;
        }
        remove_where(&mut self.maps.executables, |key| {
            key.slot == slot && !wanted.contains_key(key)
        })
        .map_err(failed)
    }

    /// The terms that an executable satisfies, by its inode.
    pub(super) fn executable_terms(&self, inode: u64, device: u32) -> Option<TermSet> {
        self.maps.executables.get(&ExecutableKey { inode, device, slot: self.slot }, 0).ok()
    }

    fn clear(&mut self, slot: u32) -> Result<(), SelectorError> {
        let failed = |map| move |source| SelectorError::Map { map, source };
        // Without terms and patterns nothing is matched, and the mkdir hook adds nothing.
        self.maps.defaults.set(slot, NO_TERMS, 0).map_err(failed(names::DEFAULTS))?;
        remove_where(&mut self.maps.cgroups, |key| key.slot == slot)
            .map_err(failed(names::CGROUPS))?;
        remove_where(&mut self.maps.users, |key| key.slot == slot).map_err(failed(names::USERS))?;
        remove_where(&mut self.maps.executables, |key| key.slot == slot)
            .map_err(failed(names::EXECUTABLES))
    }

    /// Continues with the slot that an earlier daemon left in force.
    pub(super) const fn resume(&mut self, slot: u32) {
        self.slot = slot;
    }
}

/// [`TERM_LIMIT`] as the kernel side counts.
#[expect(clippy::cast_possible_truncation, reason = "1024")]
const TERM_SLOT: u32 = TERM_LIMIT as u32;

fn unite(into: &mut TermSet, terms: &TermSet) {
    for (into, word) in into.words.iter_mut().zip(terms.words).take(TERM_WORDS) {
        *into |= word;
    }
}

fn remove_where<K: aya::Pod, V: aya::Pod>(
    map: &mut BpfHashMap<MapData, K, V>,
    unwanted: impl Fn(&K) -> bool,
) -> Result<(), MapError> {
    let keys: Vec<K> = map.keys().collect::<Result<_, _>>()?;
    for key in keys.into_iter().filter(unwanted) {
        removed(map.remove(&key))?;
    }
    Ok(())
}
