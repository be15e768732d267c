//! Agents for whom somebody else vouches: who is asked, what was answered, and until when it counts.
//!
//! In: images that hold by what this host sees itself, answers of the attestor. Out: how each such
//! image stands ([`ImageStanding`]). An answer belongs to one image and ends with what vouches for it;
//! it is asked for again before. Where there is no answer, the image may do nothing: it is asked for
//! when it wants to do something.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::{id::ExecId, reason::Reason, record::ProcessFacts};

use super::{Engine, images::ImageStanding, nanoseconds};
use crate::{
    decision::Process,
    events::DaemonEvent,
    resolver::{
        attestation::attestor::{Attestation as Answer, Attestor, Subject},
        policy::{AgentManifest, Attestation},
        spiffe::SpiffeId,
    },
};

/// When a question counts as lost: longer than any attestor takes.
const LOST: Duration = Duration::from_secs(30);
/// Shortest time between two questions about an image that has an answer.
const RENEW: Duration = Duration::from_secs(1);
/// How long a question that got no answer is not asked again: calls that waited for it end, and who calls
/// again and again does not keep the attestor busy.
const PAUSE: Duration = Duration::from_secs(1);

/// See the module's header.
pub(super) struct Identities {
    attestor: Option<Box<dyn Attestor>>,
    known: HashMap<ExecId, Known>,
    /// When the question was asked, ns of `CLOCK_BOOTTIME`.
    asked: HashMap<ExecId, u64>,
    /// Until when an image that got no answer is not asked about, ns of `CLOCK_BOOTTIME`.
    paused: HashMap<ExecId, u64>,
}

/// An answer.
struct Known {
    /// Each with its end, ns of `CLOCK_BOOTTIME`.
    ids: Vec<(SpiffeId, u64)>,
    /// When to ask again.
    renew_ns: u64,
}

/// What is known of an image's name.
enum Named {
    /// It is the agent's.
    Rightly,
    /// It is another one.
    Otherwise,
    /// Nobody has said.
    Unknown,
}

impl Identities {
    pub(super) fn new(attestor: Option<Box<dyn Attestor>>) -> Self {
        let (known, asked, paused) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { attestor, known, asked, paused }
    }

    /// Where the attestor is, and whether it answers; `None` where there is none.
    pub(super) fn state(&self) -> Option<(String, Option<String>)> {
        let state = self.attestor.as_ref()?.state();
        Some((state.address, state.fault))
    }

    fn named(&self, exec: ExecId, wanted: &SpiffeId, now_ns: u64) -> Named {
        let Some(known) = self.known.get(&exec) else { return Named::Unknown };
        let mut live = known.ids.iter().filter(|(_, until_ns)| now_ns < *until_ns).peekable();
        if live.peek().is_none() {
            return Named::Unknown;
        }
        if live.any(|(id, _)| id == wanted) { Named::Rightly } else { Named::Otherwise }
    }

    fn ask(&mut self, facts: &ProcessFacts, now_ns: u64) -> bool {
        if self.asked.contains_key(&facts.exec) {
            return true;
        }
        if self.paused.get(&facts.exec).is_some_and(|until_ns| now_ns < *until_ns) {
            return false;
        }
        let Some(attestor) = &self.attestor else { return false };
        let ProcessFacts { exec, tgid, start_ns, .. } = *facts;
        match attestor.ask(Subject { exec, pid: tgid, start_ns }) {
            Ok(()) => {
                self.asked.insert(exec, now_ns);
                true
            }
            Err(busy) => {
                tracing::warn!(pid = tgid, error = %busy, "an identity is not asked for");
                false
            }
        }
    }

    /// Images whose questions are lost.
    fn take_lost(&mut self, now_ns: u64) -> Vec<ExecId> {
        let is_lost = |_: &ExecId, at_ns: &mut u64| now_ns >= *at_ns + nanoseconds(LOST);
        self.asked.extract_if(is_lost).map(|(exec, _)| exec).collect()
    }

    /// Images to ask about again.
    fn due(&mut self, now_ns: u64) -> Vec<ExecId> {
        let due = self.known.iter_mut().filter(|(_, known)| now_ns >= known.renew_ns);
        due.map(|(exec, known)| {
            known.renew_ns = renew_ns(&known.ids, now_ns);
            *exec
        })
        .collect()
    }

    /// Drops what has ended; true where something has.
    fn drop_ended(&mut self, now_ns: u64) -> bool {
        let before = self.known.len();
        self.known.retain(|_, known| known.ids.iter().any(|(_, until_ns)| now_ns < *until_ns));
        self.known.len() < before
    }
}

impl Engine {
    /// How an image stands that holds by what this host sees itself.
    pub(super) fn standing_by_identity(
        &self,
        facts: &ProcessFacts,
        process: &Process,
    ) -> ImageStanding {
        let agent = self.agent_names.get(&facts.agent).and_then(|name| self.policy.agent(name));
        match agent.map_or(Attestation::Local, |agent| agent.attestation) {
            Attestation::Local => return self.standing_by_manifest(facts, process),
            Attestation::Spiffe => {}
        }
        let manifest = agent.and_then(|agent| agent.manifest.as_ref());
        let Some(wanted) = manifest.map(AgentManifest::agent_id) else { return unavailable() };
        match self.identities.named(facts.exec, wanted, self.clock.now_ns()) {
            Named::Rightly => self.standing_by_manifest(facts, process),
            Named::Otherwise => ImageStanding::Refused(Reason::SpiffeIdMismatch),
            Named::Unknown => unavailable(),
        }
    }

    /// Asks who an image is that nobody has named.
    pub(super) fn ask_identity(&mut self, facts: &ProcessFacts) -> ImageStanding {
        let now_ns = self.clock.now_ns();
        if self.identities.ask(facts, now_ns) { ImageStanding::Asked } else { unavailable() }
    }

    /// Somebody vouches for an image, or nobody does.
    pub(super) fn on_identified(&mut self, subject: Subject, answer: Answer) {
        let exec = subject.exec;
        self.identities.asked.remove(&exec);
        let Some(image) = self.images.get(&exec) else { return };
        let (facts, before) = (image.facts, image.standing);
        let mut process = (*image.process).clone();
        match answer {
            Ok(identities) => {
                let now_ns = self.clock.now_ns();
                let until_ns = |expires: SystemTime| {
                    let left = expires.duration_since(SystemTime::now()).unwrap_or_default();
                    now_ns.saturating_add(nanoseconds(left))
                };
                let ids: Vec<_> =
                    identities.into_iter().map(|one| (one.id, until_ns(one.expires))).collect();
                process.spiffe_id = self.own_name(&facts, &ids);
                let known = Known { renew_ns: renew_ns(&ids, now_ns), ids };
                self.identities.known.insert(exec, known);
                // Otherwise it is read anew when it asks.
                if before != ImageStanding::Asked && !before.may_act() {
                    return;
                }
                let standing = self.conclude(&facts, process, None);
                self.note_change(exec, before, standing);
            }
            Err(error) => {
                tracing::warn!(pid = subject.pid, %error, "an identity is not vouched for");
                // What was answered before counts to its end.
                let until_ns = self.clock.now_ns() + nanoseconds(PAUSE);
                self.identities.paused.insert(exec, until_ns);
                if before == ImageStanding::Asked {
                    self.remember(&facts, process, unavailable());
                }
            }
        }
        self.announce(&facts);
        self.decide_waiting(|key, _group| key.exec == exec);
    }

    /// The name to tell: the agent's own where it is among them.
    fn own_name(&self, facts: &ProcessFacts, ids: &[(SpiffeId, u64)]) -> Option<SpiffeId> {
        let agent = self.agent_names.get(&facts.agent).and_then(|name| self.policy.agent(name));
        let wanted = agent.and_then(|agent| agent.manifest.as_ref()).map(AgentManifest::agent_id);
        let own = ids.iter().find(|(id, _)| Some(id) == wanted);
        own.or_else(|| ids.first()).map(|(id, _)| id.clone())
    }

    /// An image that may act no more takes its verdicts along; one that is another's is told.
    fn note_change(&mut self, exec: ExecId, before: ImageStanding, now: ImageStanding) {
        let mismatch = ImageStanding::Refused(Reason::SpiffeIdMismatch);
        if now == mismatch
            && let Some(image) = self.images.get(&exec)
            && let Some(agent) = self.agent_names.get(&image.facts.agent)
        {
            self.tell(DaemonEvent::IdentityRefused {
                agent: Arc::clone(agent),
                instance: image.facts.instance,
                process: Arc::clone(&image.process),
                reason: Reason::SpiffeIdMismatch,
            });
        }
        if before.may_act() && !now.may_act() {
            self.recompile();
        }
    }

    /// Asks again ahead of time, and ends what nobody vouches for any more.
    pub(super) fn watch_identities(&mut self, now_ns: u64) {
        for exec in self.identities.take_lost(now_ns) {
            if let Some(image) = self.images.get_mut(&exec)
                && image.standing == ImageStanding::Asked
            {
                image.standing = unavailable();
                self.decide_waiting(|key, _group| key.exec == exec);
            }
        }
        self.identities.paused.retain(|_, until_ns| now_ns < *until_ns);
        for exec in self.identities.due(now_ns) {
            if let Some(facts) = self.images.get(&exec).map(|image| image.facts) {
                self.identities.ask(&facts, now_ns);
            } else {
                self.identities.known.remove(&exec);
            }
        }
        if self.identities.drop_ended(now_ns) && self.rejudge_images() {
            self.recompile();
        }
    }
}

/// Half of what is left from now on.
fn renew_ns(ids: &[(SpiffeId, u64)], now_ns: u64) -> u64 {
    let first_end = ids.iter().map(|(_, until_ns)| *until_ns).min().unwrap_or(now_ns);
    now_ns + (first_end.saturating_sub(now_ns) / 2).max(nanoseconds(RENEW))
}

const fn unavailable() -> ImageStanding {
    ImageStanding::Unreadable(Reason::SpiffeUnavailable)
}
