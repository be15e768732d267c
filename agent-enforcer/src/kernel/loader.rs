//! Loads, attaches and pins the kernel programs, or takes over those of an earlier daemon.
//!
//! In: the object inside this binary, settings, a cgroup, a BPF file system. Out: programs in
//! force and their maps. On an error nothing new is in force and what was in force still is.

use std::{fs::File, path::PathBuf};

use agent_enforcer_common::{config::Limits, names};
use aya::{
    BtfError as TypesError, Ebpf, EbpfError, EbpfLoader, include_bytes_aligned,
    maps::{MapError, MapInfo},
    programs::{
        ProgramError, SockOps,
        links::{LinkError, PinnedLink},
    },
};

use super::{
    btf::{self, BtfError},
    held::HeldTimers,
    mapped::MappedError,
    maps::Maps,
    pins::{Pins, PinsError},
    programs::{self, Placed},
    unix_hooks::{self, UnixHook},
};
use crate::host::Plane;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/agent-enforcer.bpf.o"));

/// Why the kernel side is not in force.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Offsets unknown.
    #[error(transparent)]
    Btf(#[from] BtfError),
    /// Hooks of the LSM plane unknown.
    #[error(
        "the kernel's types can't be read: {0}; start with `--plane cgroup`, or see `agent-enforcer doctor`"
    )]
    Types(#[source] TypesError),
    /// Pins impossible.
    #[error(transparent)]
    Pins(#[from] PinsError),
    /// The object was refused.
    #[error(
        "the kernel refused the object: {source}; run as root, and see `agent-enforcer doctor`"
    )]
    Object {
        /// What the loader said.
        #[from]
        source: EbpfError,
    },
    /// A program is missing: the binary is broken.
    #[error("the object has no program `{name}`; reinstall agent-enforcer")]
    NoProgram {
        /// Its name.
        name: &'static str,
    },
    /// A map is missing: the binary is broken.
    #[error("the object has no map `{name}`; reinstall agent-enforcer")]
    NoMap {
        /// Its name.
        name: &'static str,
    },
    /// A map is not what it should be.
    #[error("map `{name}`: {source}; `agent-enforcer detach`, then start again")]
    Map {
        /// Its name.
        name: &'static str,
        /// What is wrong.
        source: MapError,
    },
    /// An array can't be mapped.
    #[error(transparent)]
    Mapped(#[from] MappedError),
    /// A program was refused.
    #[error("program `{name}`: {source}; see `agent-enforcer doctor`")]
    Program {
        /// Its name.
        name: &'static str,
        /// What the verifier or the attach point said.
        source: ProgramError,
    },
    /// A program of a hook that aya does not know.
    #[error("cannot {call} program `{name}`: {source}; see `agent-enforcer doctor`")]
    Hook {
        /// Its name.
        name: &'static str,
        /// What was tried.
        call: &'static str,
        /// What the verifier or the attach point said.
        source: std::io::Error,
    },
    /// A link can't be kept.
    #[error("link of program `{name}`: {source}")]
    Link {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: LinkError,
    },
    /// A link can't be pinned.
    #[error("pin of program `{name}`: {source}")]
    Pin {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: aya::pin::PinError,
    },
    /// The cgroup can't be opened.
    #[error("cannot open the cgroup {}: {source}; give a cgroup v2 directory with --cgroup-root", path.display())]
    Cgroup {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// What is loaded, how big, and where it is put in force.
#[derive(Debug, Clone)]
pub struct KernelConfig {
    /// Where pins are kept.
    pub bpffs: PathBuf,
    /// Which programs are put in force.
    pub plane: Plane,
    /// The cgroup v2 directory that everything is attached to; its root, outside tests.
    pub cgroup_root: PathBuf,
    /// Limits and budgets of the programs.
    pub limits: Limits,
    /// Room for processes of agents.
    pub max_processes: u32,
    /// Room for cached verdicts.
    pub max_verdicts: u32,
    /// Bytes of the ring buffer, a power of two.
    pub ring_bytes: u32,
}

/// The kernel side, loaded.
pub struct Kernel {
    ebpf: Ebpf,
    config: KernelConfig,
    /// Programs that this kernel has a place for.
    placed: Vec<Placed>,
    /// Of the cgroup plane, where the kernel has the hooks: the LSM plane sees the sockets themselves.
    unix_hooks: Vec<UnixHook>,
    pins: Pins,
    /// The daemon keeps its own references: a removed pin detaches nothing while it runs.
    links: Vec<PinnedLink>,
}

impl Kernel {
    /// Loads programs and maps; maps of an earlier daemon are reused. Nothing is in force yet.
    pub fn load(config: KernelConfig) -> Result<(Self, Maps), LoadError> {
        let pins = Pins::take(&config.bpffs)?;
        pins.create()?;
        let offsets = btf::offsets()?;
        let guard_offsets = match config.plane {
            Plane::Cgroup => None,
            Plane::Lsm => Some(btf::guard_offsets()?),
        };
        let paths: Vec<_> = names::MAPS.iter().map(|name| (*name, pins.map(name))).collect();
        let mut loader = EbpfLoader::new();
        loader
            .override_global(names::OFFSETS, &offsets, true)
            .override_global(names::LIMITS, &config.limits, true)
            .map_max_entries(names::PROCS, size(&pins, names::PROCS, config.max_processes))
            .map_max_entries(names::VERDICTS, size(&pins, names::VERDICTS, config.max_verdicts))
            .map_max_entries(names::RING, size(&pins, names::RING, config.ring_bytes));
        if let Some(guard_offsets) = &guard_offsets {
            loader.override_global(names::GUARD_OFFSETS, guard_offsets, true);
        }
        for (name, path) in &paths {
            loader.map_pin_path(name, path);
        }
        let mut ebpf = loader.load(OBJECT)?;
        let placed = programs::load(&mut ebpf, config.plane)?;
        let unix_hooks = if config.plane == Plane::Cgroup && offsets.call_address_length != 0 {
            unix_hooks::load(&ebpf, &pins, OBJECT)?
        } else {
            Vec::new()
        };
        let maps = Maps::take(&mut ebpf)?;
        Ok((Self { ebpf, config, placed, unix_hooks, pins, links: Vec::new() }, maps))
    }

    /// Whether an earlier daemon's programs are in force.
    pub fn takes_over(&self) -> bool {
        self.pins.in_force()
    }

    /// The program that sets the timers of held connections, to be attached where there are some.
    pub fn held_timers(&mut self) -> Result<HeldTimers, LoadError> {
        let name = names::SOCK_OPS;
        if self.holds_everywhere() {
            return Ok(HeldTimers::new(None, self.pins.held()));
        }
        // A second handle of a loaded program is only to be had from a pin.
        self.pins.remove_program(name)?;
        let pin = self.pins.program(name);
        let program = programs::get(&mut self.ebpf, name)?;
        program.pin(&pin).map_err(|source| LoadError::Pin { name, source })?;
        let handle = SockOps::from_pin(&pin);
        self.pins.remove_program(name)?;
        let handle = handle.map_err(|source| LoadError::Program { name, source })?;
        Ok(HeldTimers::new(Some(handle), self.pins.held()))
    }

    /// Where no call waits in the hook, its packets go out before the daemon has seen the question:
    /// too late to look where they are held.
    const fn holds_everywhere(&self) -> bool {
        self.config.limits.wait_turns == 0
    }

    /// Names of the programs that [`Self::attach`] puts in force.
    pub fn programs(&self) -> Vec<String> {
        let placed = self.placed.iter().map(|placed| placed.name);
        placed.chain(self.unix_hooks.iter().map(|hook| hook.name)).map(str::to_owned).collect()
    }

    /// Puts every program in force. Links of an earlier daemon go one by one, each after its
    /// successor is attached: for a moment both judge, and there is none without a judge.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        let cgroup = File::open(&self.config.cgroup_root).map_err(|source| LoadError::Cgroup {
            path: self.config.cgroup_root.clone(),
            source,
        })?;
        let mut links = Vec::new();
        let everywhere = self.holds_everywhere();
        let stands = |placed: &Placed| everywhere || placed.name != names::SOCK_OPS;
        for placed in self.placed.iter().filter(|placed| stands(placed)) {
            let name = placed.name;
            let link = programs::attach(&mut self.ebpf, *placed, &cgroup)?;
            let next = self.next_link(name);
            links.push((name, link.pin(next).map_err(|source| LoadError::Pin { name, source })?));
        }
        for hook in &self.unix_hooks {
            links.push((hook.name, hook.attach(&cgroup, &self.next_link(hook.name))?));
        }
        let mut in_force = Vec::with_capacity(links.len());
        for (name, link) in links {
            self.pins.replace_link(name)?;
            self.links.push(link);
            in_force.push(name);
        }
        // Connections that are held now get them again when they ask.
        self.pins.remove_held()?;
        // Those of another plane, and `sock_ops` at the root.
        Ok(self.pins.keep_links(&in_force)?)
    }

    /// Where a link waits, free of what a daemon left that died between pin and rename.
    fn next_link(&self, name: &str) -> PathBuf {
        let next = self.pins.next_link(name);
        let _ = std::fs::remove_file(&next);
        next
    }

    /// Ends programs of another release, which judge beside these. Only once the agents' processes are in
    /// the new tables: until then nobody else knows them.
    pub fn end_other_versions(&self) -> Result<(), LoadError> {
        Ok(self.pins.remove_other_versions()?)
    }

    /// Takes back what [`Self::attach`] did; programs of another release stay in force.
    pub fn withdraw(self) -> Result<(), LoadError> {
        Ok(self.pins.remove_own_version()?)
    }

    /// Ends enforcement.
    pub fn detach(self) -> Result<(), LoadError> {
        Ok(self.pins.remove_all()?)
    }
}

/// A pinned map is taken over as it is: a ring that is read as one of another size yields nonsense.
fn size(pins: &Pins, map: &'static str, wanted: u32) -> u32 {
    let Ok(pinned) = MapInfo::from_pin(pins.map(map)) else { return wanted };
    let size = pinned.max_entries();
    if size != wanted {
        tracing::warn!(
            map,
            size,
            wanted,
            "a pinned map keeps its size; `agent-enforcer detach` and a new start change it"
        );
    }
    size
}
