//! The maps that the daemon reads and writes, typed.
//!
//! One value for each side of the daemon that owns it: a map has one writer.

use agent_enforcer_common::{
    config::AgentProfile,
    guard::GuardedInode,
    id::{AgentId, ExecId, InstanceId, RequestId},
    names,
    park::ParkedCall,
    peer::{FoundSocket, NumberedPeer, UnixPeer},
    process::{
        CgroupKey, CgroupPattern, ExecutableKey, Identity, InstanceState, SelectorDefaults,
        TermSet, UserKey,
    },
    tag::SocketTag,
    tally::Tally,
    verdict::{PortTable, PrefixKey, Verdict, VerdictKey},
};
use aya::{
    Ebpf,
    maps::{Array, HashMap, LpmTrie, MapData, MapError, PerCpuArray, RingBuf, SkStorage},
};
use rustix::io::Errno;

use super::{loader::LoadError, mapped::MappedArray, processes::Processes};

/// What became of removing an entry: one that is not there is removed.
pub fn removed(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(Errno::NOENT.raw_os_error()) =>
        {
            Ok(())
        }
        other => other,
    }
}

/// Every map of the kernel side.
pub struct Maps {
    /// The ring buffer.
    pub ring: RingBuf<MapData>,
    /// Verdicts, prefixes, identities and profiles.
    pub verdicts: VerdictMaps,
    /// Tags of processes and sockets.
    pub processes: ProcessMaps,
    /// Selector tables.
    pub selectors: SelectorMaps,
    /// Counters.
    pub counters: CounterMaps,
    /// Calls that are counted; also the kernel side's to write.
    pub tallies: MappedArray,
    /// Files and directories that are closed to agents.
    pub guarded: HashMap<MapData, GuardedInode, u32>,
    /// State words.
    pub state: Array<MapData, u64>,
}

/// What the verdict writer writes.
pub struct VerdictMaps {
    /// The exact cache.
    pub exact: HashMap<MapData, VerdictKey, Verdict>,
    /// Allowed prefixes.
    pub prefixes: LpmTrie<MapData, PrefixKey, PortTable>,
    /// Questions whose calls were denied, and why.
    pub ended: HashMap<MapData, RequestId, u16>,
    /// Attested program images.
    pub identities: HashMap<MapData, ExecId, Identity>,
    /// Agents.
    pub profiles: HashMap<MapData, AgentId, AgentProfile>,
}

/// What adoption writes and queries read.
pub struct ProcessMaps {
    /// Tags of processes.
    pub processes: Processes,
    /// Instances.
    pub instances: HashMap<MapData, InstanceId, InstanceState>,
    /// Tags of sockets.
    pub sockets: SkStorage<MapData, SocketTag>,
    /// Stopped callers, by thread group and thread.
    pub parked: HashMap<MapData, u64, ParkedCall>,
    /// Unix sockets that were called. The kernel side's to write.
    pub peers: HashMap<MapData, UnixPeer, NumberedPeer>,
    /// Where paths of unix sockets lead, by the number of the question.
    pub found: HashMap<MapData, u64, FoundSocket>,
}

/// What the selector loader writes.
pub struct SelectorMaps {
    /// Terms by cgroup.
    pub cgroups: HashMap<MapData, CgroupKey, TermSet>,
    /// Terms by user.
    pub users: HashMap<MapData, UserKey, TermSet>,
    /// Terms by executable.
    pub executables: HashMap<MapData, ExecutableKey, TermSet>,
    /// Cgroup patterns.
    pub patterns: Array<MapData, CgroupPattern>,
    /// Agents by term.
    pub terms: Array<MapData, AgentId>,
    /// Terms that need less than all three.
    pub defaults: Array<MapData, SelectorDefaults>,
}

/// What status reads.
pub struct CounterMaps {
    /// One per reason.
    pub reasons: PerCpuArray<MapData, u64>,
    /// One per `Counter`.
    pub counters: PerCpuArray<MapData, u64>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, LoadError> {
        Ok(Self {
            ring: take(ebpf, names::RING)?,
            verdicts: VerdictMaps {
                exact: take(ebpf, names::VERDICTS)?,
                prefixes: take(ebpf, names::PREFIXES)?,
                ended: take(ebpf, names::ENDED)?,
                identities: take(ebpf, names::IDENTITIES)?,
                profiles: take(ebpf, names::PROFILES)?,
            },
            processes: ProcessMaps {
                processes: Processes::new(
                    take(ebpf, names::PROCS)?,
                    take_mapped::<u64>(ebpf, names::MARKED)?,
                ),
                instances: take(ebpf, names::INSTANCES)?,
                sockets: take(ebpf, names::TAGS)?,
                parked: take(ebpf, names::PARKED)?,
                peers: take(ebpf, names::PEERS)?,
                found: take(ebpf, names::FOUND)?,
            },
            selectors: SelectorMaps {
                cgroups: take(ebpf, names::CGROUPS)?,
                users: take(ebpf, names::USERS)?,
                executables: take(ebpf, names::EXECUTABLES)?,
                patterns: take(ebpf, names::PATTERNS)?,
                terms: take(ebpf, names::TERMS)?,
                defaults: take(ebpf, names::DEFAULTS)?,
            },
            counters: CounterMaps {
                reasons: take(ebpf, names::REASONS)?,
                counters: take(ebpf, names::COUNTERS)?,
            },
            tallies: take_mapped::<Tally>(ebpf, names::TALLIES)?,
            guarded: take(ebpf, names::GUARDED)?,
            state: take(ebpf, names::STATE)?,
        })
    }
}

fn take<M>(ebpf: &mut Ebpf, name: &'static str) -> Result<M, LoadError>
where
    M: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = ebpf.take_map(name).ok_or(LoadError::NoMap { name })?;
    M::try_from(map).map_err(|source| LoadError::Map { name, source })
}

fn take_mapped<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<MappedArray, LoadError> {
    let map = ebpf.take_map(name).ok_or(LoadError::NoMap { name })?;
    Ok(MappedArray::of::<T>(name, &map)?)
}
