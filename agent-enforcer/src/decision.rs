//! The words of one decision: who asked, for what, what was decided and why.
//!
//! In: facts from the resolver. Out: the same values for verdicts, events and the control API.
//! Nothing here does I/O.

use std::{fmt, path::PathBuf, str::FromStr, sync::Arc};

use agent_enforcer_common::{
    destination::Destination,
    id::{ExecId, Generation, GrantId, InstanceId},
    reason::Reason,
    record::{Guard, Hook},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{resolver::spiffe::SpiffeId, strict_json};

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It went ahead.
    Allowed,
    /// It failed, or its packets were dropped.
    Denied,
    /// It went ahead although it would have been denied (`mode: audit`).
    Audited,
    /// It waits.
    Stalled,
}

impl Outcome {
    /// The word that operators see.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Audited => "audited",
            Self::Stalled => "stalled",
        }
    }
}

/// SHA-256 of a file's content.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Sha256Digest(pub [u8; 32]);

/// Not a digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 digest is 64 digits 0-9 and a-f; write what `sha256sum FILE` shows")]
pub struct NotADigest;

impl FromStr for Sha256Digest {
    type Err = NotADigest;

    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NotADigest),
        };
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(NotADigest);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(bytes))
    }
}

impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        strict_json::text(deserializer)
    }
}

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Sha256Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One step of a process's ancestry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Ancestor {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Executable, empty where it could not be read.
    pub exe: PathBuf,
}

/// A container, by the cgroup that its runtime made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// The runtime: `docker`, `podman`, ...
    pub runtime: &'static str,
    /// Its id, 64 digits.
    pub id: String,
}

/// A script that an interpreter runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Its path as the kernel names it.
    pub path: PathBuf,
    /// Digest of its content, as it was when it was executed.
    pub sha256: Sha256Digest,
    /// Its fs-verity digest, where it has one.
    pub fsverity: Option<Sha256Digest>,
}

/// Which code a program image runs beside its executable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Code {
    /// None that is known: it is no interpreter, or was not looked at.
    Own,
    /// A script.
    Script(Script),
    /// Code that nobody can vouch for.
    Unverified(Unverified),
}

/// Why nobody can vouch for the code of a program image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unverified {
    /// It stands in the arguments (`-c`).
    InlineCode,
    /// It is read from standard input, or typed.
    StdinCode,
    /// A module that the interpreter looks for (`-m`).
    Module,
    /// An option loads code beside the script, or may.
    LoadsCode,
    /// A shell that reads files of its user first.
    StartupFiles,
    /// An option, or a command, that is not known.
    UnknownOption,
    /// The arguments are longer than what the kernel side records, or could not be read.
    ArgumentsUnknown,
    /// The exec was not seen: it was before the daemon, or its record was lost.
    ExecNotSeen,
    /// The script was named by a descriptor, or through /proc.
    Descriptor,
    /// The process is in mounts of its own, which it can change.
    OwnMounts,
    /// The process has left the directory, root or mounts that it was started in.
    Moved,
    /// The script, or what leads to it, was changed when it was executed or later.
    ChangedAfterExec,
    /// The script could not be found or read.
    ScriptUnreadable,
    /// It is no regular file.
    NotAFile,
    /// It comes from a server (FUSE, NFS), which can give each reader another content.
    ServedFile,
    /// The executable is in memory only.
    Memfd,
    /// The executable had been deleted when it was executed.
    DeletedExecutable,
}

impl Unverified {
    /// Every cause.
    pub const ALL: [Self; 17] = [
        Self::InlineCode,
        Self::StdinCode,
        Self::Module,
        Self::LoadsCode,
        Self::StartupFiles,
        Self::UnknownOption,
        Self::ArgumentsUnknown,
        Self::ExecNotSeen,
        Self::Descriptor,
        Self::OwnMounts,
        Self::Moved,
        Self::ChangedAfterExec,
        Self::ScriptUnreadable,
        Self::NotAFile,
        Self::ServedFile,
        Self::Memfd,
        Self::DeletedExecutable,
    ];

    /// The word in events and views.
    pub const fn word(self) -> &'static str {
        match self {
            Self::InlineCode => "inline_code",
            Self::StdinCode => "stdin_code",
            Self::Module => "module",
            Self::LoadsCode => "loads_code",
            Self::StartupFiles => "startup_files",
            Self::UnknownOption => "unknown_option",
            Self::ArgumentsUnknown => "arguments_unknown",
            Self::ExecNotSeen => "exec_not_seen",
            Self::Descriptor => "descriptor",
            Self::OwnMounts => "own_mounts",
            Self::Moved => "moved",
            Self::ChangedAfterExec => "changed_after_exec",
            Self::ScriptUnreadable => "script_unreadable",
            Self::NotAFile => "not_a_file",
            Self::ServedFile => "served_file",
            Self::Memfd => "memfd",
            Self::DeletedExecutable => "deleted_executable",
        }
    }

    /// Whether it is the executable itself that nobody can vouch for.
    pub const fn is_of_executable(self) -> bool {
        matches!(self, Self::Memfd | Self::DeletedExecutable)
    }
}

impl Code {
    /// The script.
    pub const fn script(&self) -> Option<&Script> {
        match self {
            Self::Script(script) => Some(script),
            Self::Own | Self::Unverified(_) => None,
        }
    }

    /// Why nobody can vouch for it; empty where somebody can.
    pub const fn unverified(&self) -> &'static str {
        match self {
            Self::Unverified(why) => why.word(),
            Self::Own | Self::Script(_) => "",
        }
    }
}

/// The attested facts about a process: nothing in it was chosen by the process, but `comm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// Thread group id in the initial pid namespace.
    pub pid: u32,
    /// Start, ns of `CLOCK_BOOTTIME`.
    pub start_ns: u64,
    /// The program image.
    pub exec: ExecId,
    /// Executable as the kernel names it; `None` where the process was gone before it was read.
    pub exe: Option<PathBuf>,
    /// Digest of the executable's content; `None` where it could not be read.
    pub sha256: Option<Sha256Digest>,
    /// Its fs-verity digest, where it has one.
    pub fsverity: Option<Sha256Digest>,
    /// Which code it runs beside its executable.
    pub code: Code,
    /// Real user id.
    pub uid: u32,
    /// Real group id.
    pub gid: u32,
    /// Cgroup v2 path, as in /proc/PID/cgroup; empty where unknown.
    pub cgroup: String,
    /// The systemd unit that the cgroup belongs to.
    pub unit: Option<String>,
    /// The container that the cgroup belongs to.
    pub container: Option<Container>,
    /// Name of the process as it chose it: for people, never for a decision.
    pub comm: String,
    /// Parent first, up to pid 1.
    pub ancestors: Vec<Ancestor>,
    /// Whom a SPIFFE broker says it is, where one is asked.
    pub spiffe_id: Option<SpiffeId>,
}

/// The grant behind a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantRef {
    /// Its id.
    pub id: GrantId,
    /// On whose behalf.
    pub principal: String,
    /// For which task.
    pub task: String,
    /// Who issued the token that it came of.
    pub issuer: Option<String>,
    /// The id of that token.
    pub jti: Option<String>,
    /// The transaction of that token.
    pub txn: Option<String>,
}

/// The yes of an approver behind a decision.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ApprovalRef {
    /// The question that was answered, `a-0123456789abcdef`.
    pub question: String,
    /// Who said yes.
    pub approver: String,
}

/// A destination that is no IP address, as people know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName {
    /// `unix:/run/docker.sock`, `netlink:audit`. Of a unix socket that the policy does not name it is
    /// what its server called it: for people, never for a decision.
    pub name: String,
    /// What it is, where its name does not tell: `inode 7 on 0:25`, `netns 1`.
    pub detail: Option<String>,
    /// Bytes of the name that are not UTF-8 are written as `%XX`.
    pub percent_encoded: bool,
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, detail, percent_encoded: _ } = self;
        f.write_str(name)?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

/// One decided (or stalled) call: what an event is made of.
#[derive(Clone, Debug)]
pub struct CallDecision {
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Reason,
    /// In audit mode: why it would have been denied.
    pub audited_reason: Option<Reason>,
    /// What exactly was missing, where an agent was denied what no verdict covers.
    pub miss_reason: Option<Reason>,
    /// The policies that decided, by their ids, where a policy is the reason.
    pub policies: Vec<Arc<str>>,
    /// How many calls it stands for: the kernel side counts identical ones.
    pub count: u64,
    /// When the kernel saw the call, ns of `CLOCK_BOOTTIME`; of several, none was seen before.
    pub time_ns: u64,
    /// When it saw the last of them, ns of `CLOCK_BOOTTIME`.
    pub last_ns: u64,
    /// How long the caller waited for the answer, ns.
    pub stalled_ns: u64,
    /// Name of the agent.
    pub agent: Arc<str>,
    /// Owner of the agent.
    pub owner: Arc<str>,
    /// The instance.
    pub instance: InstanceId,
    /// The process that became the program image.
    pub process: Arc<Process>,
    /// Process id of the last caller: forked children share the image.
    pub last_pid: u32,
    /// Where the call went.
    pub destination: Destination,
    /// How people know it, where it is no IP address.
    pub peer: Option<Arc<PeerName>>,
    /// The tool that the destination belongs to.
    pub tool: Option<Arc<str>>,
    /// The grant.
    pub grant: Option<Arc<GrantRef>>,
    /// The approver's yes, where it needed one.
    pub approval: Option<Arc<ApprovalRef>>,
    /// The hook that saw it.
    pub hook: Hook,
    /// Cookie of the socket, 0 where it is of several.
    pub socket_cookie: u64,
    /// Cookie of the network namespace, 0 where the kernel does not tell.
    pub netns_cookie: u64,
    /// The generation that it was decided in.
    pub generation: Generation,
}

/// What an agent's process tried and is denied to every agent, whatever its grants.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// What it was aimed at.
    pub guard: Guard,
    /// Process that it was aimed at, 0 where it was none.
    pub target_pid: u32,
    /// See [`Guard`].
    pub argument: u64,
    /// When the kernel saw it, ns of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// Name of the agent; empty where the process was not tracked.
    pub agent: Arc<str>,
    /// Owner of the agent.
    pub owner: Arc<str>,
    /// The instance.
    pub instance: InstanceId,
    /// The process that became the program image.
    pub process: Arc<Process>,
    /// Process id of the caller: forked children share the image.
    pub pid: u32,
}

impl CallDecision {
    /// Where the call went, as people know it.
    pub fn destination_text(&self) -> String {
        self.peer.as_ref().map_or_else(|| self.destination.to_string(), ToString::to_string)
    }

    /// The reason that says most about what can be done.
    pub fn telling_reason(&self) -> Reason {
        self.miss_reason.or(self.audited_reason).unwrap_or(self.reason)
    }
}

/// How people write an instance: `i-1a2b`.
pub fn instance_name(instance: InstanceId) -> String {
    format!("i-{:x}", instance.get())
}

/// The inverse of [`instance_name`].
pub fn parse_instance(text: &str) -> Option<InstanceId> {
    let raw = u64::from_str_radix(text.strip_prefix("i-")?, 16).ok()?;
    (raw != 0).then_some(InstanceId::new(raw))
}

/// How people write a grant: `g-42`.
pub fn grant_name(grant: GrantId) -> String {
    format!("g-{}", grant.get())
}

/// The inverse of [`grant_name`].
pub fn parse_grant(text: &str) -> Option<GrantId> {
    let raw = text.strip_prefix("g-")?.parse().ok()?;
    (raw != 0).then_some(GrantId::new(raw))
}
