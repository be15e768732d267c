//! Processes that run already: after the programs are attached, so that nothing slips between.
//!
//! First what an earlier daemon's kernel side has tagged, then a scan of /proc until a whole pass
//! finds nobody new. A process that is tagged here takes its sockets along.

use std::collections::BTreeMap;

use agent_enforcer_common::{
    config::StateWord,
    id::{AgentId, ExecId, InstanceId},
    names,
    process::{InstanceState, ProcessTag, TermSet},
    record::ProcessFacts,
    tag::{FlowState, SocketTag},
};
use aya::maps::MapError;

use super::{Engine, selectors::Selectors};
use crate::{
    events::DaemonEvent,
    kernel::maps::ProcessMaps,
    resolver::{
        attestation::{
            ProcError,
            adopt::{AdoptError, Adoption, Judge, Judgement, adopt},
            same_start,
            scan::{ScanError, ScannedExecutable, ScannedImage, ScannedProcess, Scanner},
            sockets::sockets_of,
        },
        policy::SelectorPlan,
    },
    verdicts::{VerdictError, Verdicts},
};

/// Why running processes can't be taken in.
#[derive(Debug, thiserror::Error)]
pub enum AdoptionError {
    /// /proc.
    #[error(transparent)]
    Proc(#[from] ProcError),
    /// No end.
    #[error(transparent)]
    Adopt(#[from] AdoptError),
    /// A state word.
    #[error(transparent)]
    Verdict(#[from] VerdictError),
    /// A map.
    #[error("map `{map}`: {source}; raise `--max-processes`, or stop agents' processes")]
    Map {
        /// Its name.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
}

impl Engine {
    /// Takes in every running process of an agent.
    pub(super) fn adopt(&mut self) -> Result<(), AdoptionError> {
        let mut scanner = Scanner::new()?;
        self.remove_stale_tags(&mut scanner)?;
        let agent_ids = &self.agent_ids;
        let mut tagger = Tagger {
            plan: &self.plan,
            selectors: &self.selectors,
            agent_id: &|name| agent_ids.get(name).copied(),
            maps: &mut self.processes,
            verdicts: &mut self.verdicts,
            unjudged: BTreeMap::new(),
            failure: None,
        };
        let adoption = adopt(&mut scanner, &mut tagger)?;
        let Tagger { unjudged, failure, .. } = tagger;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(what) = unjudged_summary(&unjudged) {
            tracing::warn!("{what}");
            self.tell(DaemonEvent::Alarm {
                what,
                remedy: "restart what may be an agent's, so that it is judged when it executes; \
                         where a security module hides it, permit the daemon to read it"
                    .to_owned(),
            });
        }
        self.take_in(adoption);
        Ok(())
    }

    /// Tags of processes that ended, or whose pid another has now, while nobody looked.
    fn remove_stale_tags(&mut self, scanner: &mut Scanner) -> Result<(), AdoptionError> {
        let failed = |source| AdoptionError::Map { map: names::PROCS, source };
        let tags: Vec<(u32, ProcessTag)> =
            self.processes.processes.iter().collect::<Result<_, _>>().map_err(failed)?;
        for (pid, tag) in tags {
            if !scanner.still_alive(pid, tag.start_ns)? {
                self.processes.processes.remove(pid).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Sockets that a newly recognised process brought along.
    pub(super) fn tag_inherited_sockets(&mut self, facts: &ProcessFacts) {
        tag_sockets(&mut self.processes, facts.tgid, &facts.tag());
    }

    fn take_in(&mut self, adoption: Adoption<ProcessTag>) {
        let Adoption { mut marked, passes } = adoption;
        tracing::info!(processes = marked.len(), passes, "running processes were judged");
        marked.sort_by_key(|(process, _)| process.start_ns);
        for (process, tag) in marked {
            let facts = ProcessFacts {
                tgid: process.pid,
                uid: process.uid,
                gid: process.gid,
                ..ProcessFacts::of(&tag)
            };
            self.attest(&facts);
        }
    }
}

struct Tagger<'a> {
    plan: &'a SelectorPlan,
    selectors: &'a Selectors,
    agent_id: &'a dyn Fn(&str) -> Option<AgentId>,
    maps: &'a mut ProcessMaps,
    verdicts: &'a mut Verdicts,
    /// Why, by pid.
    unjudged: BTreeMap<u32, String>,
    failure: Option<AdoptionError>,
}

impl Tagger<'_> {
    fn classify(&self, process: &ScannedProcess) -> Option<AgentId> {
        let named = match &process.image {
            ScannedImage::Executable(ScannedExecutable { inode, device: Some(device), .. }) => {
                self.selectors.executable_terms(*inode, *device)
            }
            ScannedImage::Executable(_) | ScannedImage::None | ScannedImage::Unreadable(_) => None,
        };
        let named = named.unwrap_or(TermSet::EMPTY);
        let term = self.plan.classify(&process.cgroup, process.uid, named)?;
        (self.agent_id)(&term.agent)
    }

    /// A process that nothing matches, but that a selector of its unknown executable could.
    fn note_if_missed(&mut self, process: &ScannedProcess) {
        let why = match &process.image {
            ScannedImage::None
            | ScannedImage::Executable(ScannedExecutable { device: Some(_), .. }) => return,
            ScannedImage::Executable(ScannedExecutable { device: None, .. }) => {
                "its executable is on no mount that can be seen".to_owned()
            }
            ScannedImage::Unreadable(kind) => format!("its executable can't be read: {kind}"),
        };
        if self.plan.some_executable_is_claimed(&process.cgroup, process.uid) {
            self.unjudged.insert(process.pid, format!("process {}: {why}", process.pid));
        }
    }

    /// Tags a process as the kernel side would have.
    fn tag(
        &mut self,
        process: &ScannedProcess,
        agent: AgentId,
        parent: Option<&ProcessTag>,
    ) -> Result<ProcessTag, AdoptionError> {
        let instance = match parent {
            Some(parent) => parent.instance,
            None => InstanceId::new(self.verdicts.next_id()?),
        };
        let executable = match &process.image {
            ScannedImage::Executable(executable) => Some(executable),
            ScannedImage::None | ScannedImage::Unreadable(_) => None,
        };
        let tag = ProcessTag {
            instance,
            exec: ExecId::new(self.verdicts.next_id()?),
            start_ns: process.start_ns,
            exe_inode: executable.map_or(0, |executable| executable.inode),
            exe_device: executable.and_then(|executable| executable.device).unwrap_or_default(),
            agent,
        };
        let state = self
            .maps
            .instances
            .get(&instance, 0)
            .unwrap_or(InstanceState { agent, ..InstanceState::default() });
        let state = InstanceState { processes: state.processes + 1, ..state };
        let failed = |map| move |source| AdoptionError::Map { map, source };
        self.maps.instances.insert(instance, state, 0).map_err(failed(names::INSTANCES))?;
        self.maps.processes.insert(process.pid, tag).map_err(failed(names::PROCS))?;
        Ok(tag)
    }
}

/// One sentence about all of them; `None` where there are none.
fn unjudged_summary(unjudged: &BTreeMap<u32, String>) -> Option<String> {
    const EXAMPLES: usize = 5;
    let examples: Vec<&str> = unjudged.values().map(String::as_str).take(EXAMPLES).collect();
    let more = if unjudged.len() > examples.len() { "; ..." } else { "" };
    (!examples.is_empty()).then(|| {
        let (count, examples) = (unjudged.len(), examples.join("; "));
        format!("running processes that could not be judged: {count} ({examples}{more})")
    })
}

/// Tags the sockets that a process has already; those that it makes from now on are tagged by the
/// kernel side. A socket that is tagged keeps its tag.
fn tag_sockets(maps: &mut ProcessMaps, pid: u32, tag: &ProcessTag) {
    /// `BPF_NOEXIST`
    const ONLY_NEW: u64 = 1;
    let sockets = match sockets_of(pid, tag.start_ns) {
        Ok(sockets) => sockets,
        Err(error) => {
            tracing::debug!(pid, %error, "open sockets are not tagged");
            return;
        }
    };
    let fresh = socket_tag(pid, tag);
    for socket in sockets {
        match maps.sockets.insert(&socket, fresh, ONLY_NEW) {
            Ok(()) => {}
            Err(error) => tracing::debug!(pid, %error, "an open socket is not tagged, or was"),
        }
    }
}

fn socket_tag(pid: u32, tag: &ProcessTag) -> SocketTag {
    SocketTag {
        destination: agent_enforcer_common::destination::Destination::without_peer(0),
        instance: tag.instance,
        exec: tag.exec,
        generation: agent_enforcer_common::id::Generation::NONE,
        expires_ns: 0,
        grant: agent_enforcer_common::id::GrantId::NONE,
        pending_since_ns: 0,
        request: agent_enforcer_common::id::RequestId::NONE,
        netns_cookie: 0,
        agent: tag.agent,
        tool: agent_enforcer_common::id::ToolId::NONE,
        tgid: pid,
        reason: 0,
        state: FlowState::Fresh as u8,
        flags: 0,
    }
}

impl Judge for Tagger<'_> {
    type Mark = ProcessTag;

    fn judge(
        &mut self,
        process: &ScannedProcess,
        parent: Option<&ProcessTag>,
    ) -> Judgement<ProcessTag> {
        if let Ok(tag) = self.maps.processes.get(process.pid)
            && same_start(tag.start_ns, process.start_ns)
        {
            return Judgement::MarkedByKernel(tag);
        }
        let own = self.classify(process);
        let (agent, parent) = match (parent, own) {
            (Some(parent), _) => (parent.agent, Some(parent)),
            (None, Some(agent)) => (agent, None),
            (None, None) => {
                self.note_if_missed(process);
                return Judgement::NoAgent;
            }
        };
        match self.tag(process, agent, parent) {
            Ok(tag) => {
                tag_sockets(self.maps, process.pid, &tag);
                Judgement::Marked(tag)
            }
            Err(error) => {
                self.failure.get_or_insert(error);
                Judgement::NoAgent
            }
        }
    }

    fn forget(&mut self, process: &ScannedProcess, mark: &ProcessTag) {
        let _gone = self.maps.processes.remove(process.pid);
        if let Ok(state) = self.maps.instances.get(&mark.instance, 0) {
            let left = InstanceState { processes: state.processes.saturating_sub(1), ..state };
            let _ = if left.processes == 0 {
                self.maps.instances.remove(&mark.instance)
            } else {
                self.maps.instances.insert(mark.instance, left, 0)
            };
        }
    }

    fn unreadable(&mut self, error: &ScanError) {
        self.unjudged.insert(error.pid, error.to_string());
    }
}

impl Verdicts {
    /// A number for an instance or image that the kernel side will not give out. Between read and
    /// write it may count on: so a stretch far beyond its pace is skipped.
    fn next_id(&mut self) -> Result<u64, VerdictError> {
        const STRIDE: u64 = 1 << 20;
        let next = self.word(StateWord::NextId)? + STRIDE;
        self.set(StateWord::NextId, next)?;
        Ok(next - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_unjudged_processes_are_one_sentence() {
        let unjudged = |pids: std::ops::Range<u32>| -> BTreeMap<u32, String> {
            pids.map(|pid| (pid, format!("process {pid}: gone dark"))).collect()
        };
        assert_eq!(unjudged_summary(&unjudged(0..0)), None);
        assert_eq!(
            unjudged_summary(&unjudged(1..2)).unwrap(),
            "running processes that could not be judged: 1 (process 1: gone dark)"
        );
        let many = unjudged_summary(&unjudged(1..1000)).unwrap();
        assert!(many.contains("judged: 999 (process 1: gone dark; process 2:"), "{many}");
        assert!(many.ends_with("process 5: gone dark; ...)"), "{many}");
    }
}
