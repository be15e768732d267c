//! 3. Decision -> verdict maps: the only writer of what the kernel side obeys.
//!
//! In: rulings, identities, compiled prefixes. Out: map entries, and the generation, flipped in
//! one write after everything of it is loaded. Nothing here decides anything.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use agent_enforcer_common::{
    NEVER_NS,
    config::{AgentProfile, PROFILE_AUDIT, PROFILE_DENY_ON_MISS, PROFILE_PARK_TCP, StateWord},
    destination::{Destination, words_be},
    id::{AgentId, ExecId, Generation, GrantId, RequestId, ToolId},
    names,
    process::Identity,
    reason::Reason,
    verdict::{
        Action, PREFIX_FIXED_BITS, PrefixKey, VERDICT_FLOW_ONLY, VERDICT_MARKS, VERDICT_ONCE,
        Verdict, VerdictKey,
    },
};
use aya::maps::{Array, MapData, MapError, lpm_trie::Key};

use crate::{
    kernel::maps::{VerdictMaps, removed},
    resolver::policy::{Agent, Compiled, Mode, OnMiss, Policy, TcpStall},
};

/// A map did not take an entry.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} map `{map}`: {source}; see `agent-enforcer status`")]
pub struct VerdictError {
    what: &'static str,
    map: &'static str,
    source: MapError,
}

/// What a call is allowed under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Until when, ns of `CLOCK_BOOTTIME`.
    pub expires_ns: u64,
    /// The grant, or none.
    pub grant: GrantId,
    /// The tool.
    pub tool: ToolId,
    /// Why.
    pub reason: Reason,
    /// How far it goes.
    pub extent: Extent,
    /// The agent's profile names a mark for its sockets.
    pub marks: bool,
}

/// How far an allowance goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Every call.
    Any,
    /// One call.
    Once,
    /// The packets of a flow that was admitted before.
    LiveFlow,
}

/// The writer.
pub struct Verdicts {
    maps: VerdictMaps,
    state: Array<MapData, u64>,
    generation: Generation,
    prefixes: Vec<Key<PrefixKey>>,
    /// As the policy has them.
    profiles: BTreeMap<AgentId, AgentProfile>,
    /// Agents whose calls are asked for, whatever their profile says (`Compiled::asked`).
    asked: BTreeSet<AgentId>,
}

impl Verdicts {
    /// Takes the maps; prefixes that an earlier daemon left are replaced by the next [`Self::load`].
    pub fn new(maps: VerdictMaps, state: Array<MapData, u64>) -> Result<Self, VerdictError> {
        let read = |source| VerdictError { what: "read", map: names::STATE, source };
        let generation =
            Generation::new(state.get(&(StateWord::Generation as u32), 0).map_err(read)?);
        let prefixes = maps
            .prefixes
            .keys()
            .collect::<Result<_, _>>()
            .map_err(|source| VerdictError { what: "read", map: names::PREFIXES, source })?;
        let (profiles, asked) = (BTreeMap::new(), BTreeSet::new());
        Ok(Self { maps, state, generation, prefixes, profiles, asked })
    }

    /// The generation in force.
    pub const fn generation(&self) -> Generation {
        self.generation
    }

    /// Tells the kernel side that the daemon lives.
    pub fn heartbeat(&mut self, now_ns: u64) -> Result<(), VerdictError> {
        self.set(StateWord::Heartbeat, now_ns)
    }

    /// Writes a state word.
    pub fn set(&mut self, word: StateWord, value: u64) -> Result<(), VerdictError> {
        self.state.set(word as u32, value, 0).map_err(|source| VerdictError {
            what: "write",
            map: names::STATE,
            source,
        })
    }

    /// Reads a state word.
    pub fn word(&self, word: StateWord) -> Result<u64, VerdictError> {
        self.state.get(&(word as u32), 0).map_err(|source| VerdictError {
            what: "read",
            map: names::STATE,
            source,
        })
    }

    /// Lets a program image act, or refuses everything it does.
    pub fn identify(&mut self, exec: ExecId, refused: Option<Reason>) -> Result<(), VerdictError> {
        let identity = Identity { reason: refused.unwrap_or(Reason::None).raw(), _pad: [0; 6] };
        self.maps.identities.insert(exec, identity, 0).map_err(|source| VerdictError {
            what: "write",
            map: names::IDENTITIES,
            source,
        })
    }

    /// Lets nothing of a program image pass without a question.
    pub fn forget_identity(&mut self, exec: ExecId) -> Result<(), VerdictError> {
        let failed = |source| VerdictError { what: "remove from", map: names::IDENTITIES, source };
        removed(self.maps.identities.remove(&exec)).map_err(failed)
    }

    /// Answers: the call goes ahead, and each that does is recorded.
    pub fn allow(
        &mut self,
        exec: ExecId,
        destination: Destination,
        allowance: &Allowance,
    ) -> Result<(), VerdictError> {
        self.allow_counted(exec, destination, allowance, NO_TALLY)
    }

    /// Answers: the call goes ahead, and those after it are counted in a slot of the tallies.
    pub fn allow_counted(
        &mut self,
        exec: ExecId,
        destination: Destination,
        allowance: &Allowance,
        tally: u32,
    ) -> Result<(), VerdictError> {
        let Allowance { expires_ns, grant, tool, reason, extent, marks } = *allowance;
        let extent = match extent {
            Extent::Any => 0,
            Extent::Once => VERDICT_ONCE,
            Extent::LiveFlow => VERDICT_FLOW_ONLY,
        };
        let flags = extent | if marks { VERDICT_MARKS } else { 0 };
        let verdict = Verdict {
            key: VerdictKey { exec, destination },
            generation: self.generation,
            expires_ns,
            grant,
            tool,
            reason: reason.raw(),
            action: Action::Allow as u8,
            flags,
            tally,
            _pad: 0,
        };
        self.answer(verdict)
    }

    /// Answers: the call fails. The answer is kept until `expires_ns` or the next generation.
    pub fn deny(
        &mut self,
        exec: ExecId,
        destination: Destination,
        reason: Reason,
        tool: Option<ToolId>,
        expires_ns: u64,
    ) -> Result<(), VerdictError> {
        let verdict = Verdict {
            key: VerdictKey { exec, destination },
            generation: self.generation,
            expires_ns,
            grant: GrantId::NONE,
            tool: tool.unwrap_or_default(),
            reason: reason.raw(),
            action: Action::Deny as u8,
            flags: 0,
            tally: NO_TALLY,
            _pad: 0,
        };
        self.answer(verdict)
    }

    fn answer(&mut self, verdict: Verdict) -> Result<(), VerdictError> {
        self.maps.exact.insert(verdict.key, verdict, 0).map_err(|source| VerdictError {
            what: "write",
            map: names::VERDICTS,
            source,
        })
    }

    /// Ends what is held for a question, for good: its denial may be over before the next packet.
    pub fn end(&mut self, request: RequestId, reason: Reason) -> Result<(), VerdictError> {
        self.maps.ended.insert(request, reason.raw(), 0).map_err(|source| VerdictError {
            what: "write",
            map: names::ENDED,
            source,
        })
    }

    /// Whether what is held for a question was ended.
    pub fn has_ended(&self, request: RequestId) -> bool {
        self.maps.ended.get(&request, 0).is_ok()
    }

    /// Takes an answer that admits one call back; false where a call has taken it.
    pub fn withdraw(&mut self, exec: ExecId, destination: Destination) -> bool {
        self.maps.exact.remove(&VerdictKey { exec, destination }).is_ok()
    }

    /// The answer in force, if there is one.
    pub fn in_force(&self, exec: ExecId, destination: Destination, now_ns: u64) -> Option<Verdict> {
        let verdict = self.maps.exact.get(&VerdictKey { exec, destination }, 0).ok()?;
        (verdict.generation == self.generation && now_ns < verdict.expires_ns).then_some(verdict)
    }

    /// Whether an answer that admits one call has not been taken yet.
    pub fn has_untaken(&self, exec: ExecId, destination: Destination, now_ns: u64) -> bool {
        self.in_force(exec, destination, now_ns)
            .is_some_and(|verdict| verdict.flags & VERDICT_ONCE != 0)
    }

    /// Loads the profiles of a policy; agents that are not in it are denied everything. Those that are
    /// asked about stay so until the next [`Self::load`].
    pub fn load_profiles<'a>(
        &mut self,
        policy: &Policy,
        agents: impl Iterator<Item = (AgentId, &'a Agent)>,
    ) -> Result<(), VerdictError> {
        let failed = |what| move |source| VerdictError { what, map: names::PROFILES, source };
        let mut gone: HashSet<AgentId> =
            self.maps.profiles.keys().collect::<Result<_, _>>().map_err(failed("read"))?;
        self.profiles = agents.map(|(id, agent)| (id, profile(policy, agent))).collect();
        for (&id, &profile) in &self.profiles {
            gone.remove(&id);
            Self::write_profile(&mut self.maps, id, profile, &self.asked)?;
        }
        for id in gone {
            self.maps.profiles.remove(&id).map_err(failed("write"))?;
        }
        Ok(())
    }

    /// Writes an agent's profile, which asks if the agent is one of `asked`.
    fn write_profile(
        maps: &mut VerdictMaps,
        id: AgentId,
        profile: AgentProfile,
        asked: &BTreeSet<AgentId>,
    ) -> Result<(), VerdictError> {
        let left = if asked.contains(&id) { !PROFILE_DENY_ON_MISS } else { !0 };
        let profile = AgentProfile { flags: profile.flags & left, ..profile };
        let failed = |source| VerdictError { what: "write", map: names::PROFILES, source };
        maps.profiles.insert(id, profile, 0).map_err(failed)
    }

    /// Puts in force about which agents the kernel side asks although they may not wait. Before the
    /// generation that needs it: to ask for more than that is no harm, the daemon denies as it would.
    fn ask_about(&mut self, asked: &BTreeSet<AgentId>) -> Result<(), VerdictError> {
        for id in self.asked.symmetric_difference(asked) {
            if let Some(profile) = self.profiles.get(id) {
                Self::write_profile(&mut self.maps, *id, *profile, asked)?;
            }
        }
        self.asked.clone_from(asked);
        Ok(())
    }

    /// Loads compiled prefixes under the next generation and puts it in force in one write. On an
    /// error the generation before stays in force, whole.
    pub fn load(&mut self, compiled: &Compiled) -> Result<Generation, VerdictError> {
        let failed = |source| VerdictError { what: "write", map: names::PREFIXES, source };
        self.ask_about(&compiled.asked)?;
        let next = Generation::new(self.generation.get() + 1);
        let mut loaded = Vec::with_capacity(compiled.prefixes.len());
        for prefix in &compiled.prefixes {
            let key = Key::new(
                PREFIX_FIXED_BITS + prefix.prefix_length,
                PrefixKey {
                    generation: next,
                    scope: prefix.scope,
                    protocol: prefix.kind,
                    address_be: words_be(prefix.address.into()),
                },
            );
            if let Err(source) = self.maps.prefixes.insert(&key, prefix.table, 0) {
                self.remove(loaded);
                return Err(failed(source));
            }
            loaded.push(key);
        }
        if let Err(error) = self.set(StateWord::Generation, next.get()) {
            self.remove(loaded);
            return Err(error);
        }
        self.generation = next;
        let old = std::mem::replace(&mut self.prefixes, loaded);
        self.remove(old);
        Ok(next)
    }

    /// Removes prefixes that are not in force; what can't be removed does no harm.
    fn remove(&mut self, prefixes: Vec<Key<PrefixKey>>) {
        for key in prefixes {
            if let Err(error) = self.maps.prefixes.remove(&key) {
                tracing::debug!(%error, "a stale prefix stays");
            }
        }
    }
}

fn profile(policy: &Policy, agent: &Agent) -> AgentProfile {
    let audit = match agent.mode {
        Mode::Enforce => 0,
        Mode::Audit => PROFILE_AUDIT,
    };
    let on_miss = match agent.on_miss {
        OnMiss::Stall => 0,
        // The prefixes don't tell all that is allowed: only the daemon knows.
        OnMiss::Deny if policy.must_ask_for_some(agent) => 0,
        OnMiss::Deny => PROFILE_DENY_ON_MISS,
    };
    let stall_tcp = match agent.stall_tcp {
        TcpStall::Hold => 0,
        TcpStall::Park => PROFILE_PARK_TCP,
    };
    AgentProfile {
        flags: audit | on_miss | stall_tcp,
        socket_mark: agent.socket_mark.map_or(0, std::num::NonZeroU32::get),
    }
}

/// [`Verdict::tally`]: each call is recorded.
const NO_TALLY: u32 = 0;
/// An answer that holds until the next generation.
pub const UNTIL_NEXT_GENERATION_NS: u64 = NEVER_NS;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_profile_says_what_the_policy_says() {
        let flags = |keys: &str| {
            let dir = tempfile::tempdir().unwrap();
            let text = format!(
                "apiVersion: agent-enforcer/v1\nagents:\n  - {{name: bot, owner: o, purpose: p, \
                 selectors: [[\"unix:uid:7\"]], tools: []{keys}}}\n"
            );
            std::fs::write(dir.path().join("policy.yaml"), text).unwrap();
            let policy = Policy::load(dir.path()).unwrap();
            profile(&policy, policy.agent("bot").unwrap()).flags
        };
        assert_eq!(flags(""), 0);
        assert_eq!(flags(", stall: {tcp: hold}"), 0);
        assert_eq!(flags(", stall: {tcp: park}"), PROFILE_PARK_TCP);
        assert_eq!(flags(", mode: audit, stall: {tcp: park}"), PROFILE_AUDIT | PROFILE_PARK_TCP);
        assert_eq!(flags(", on_miss: deny"), PROFILE_DENY_ON_MISS);
    }
}
