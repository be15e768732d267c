//! What can be wrong with a policy: each problem with its place and its remedy.
//!
//! In: what the reader and the checks found. Out: one line per problem. Text from a policy file
//! comes here quoted, so that a file can't write to a terminal or a log.

use std::{fmt, io};

use super::{
    cedar::{DEPTH_LIMIT, POLICY_LIMIT},
    directory::{DIRECTORY_LIMIT, FILE_LIMIT},
    endpoint::EndpointProblem,
    place::Place,
};
use crate::{
    resolver::{
        grant::token::IssuerError,
        manifest::ManifestError,
        spiffe::{SpiffeId, SpiffeIdError},
    },
    signing::KeySetError,
};

/// Everything that is wrong with a policy. Shown one problem per line.
#[derive(Debug)]
pub struct PolicyErrors(Vec<PolicyError>);

/// One problem at its place.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {problem}")]
pub struct PolicyError {
    place: Place,
    problem: Box<Problem>,
}

/// What is wrong, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The directory is not there.
    #[error("there is no such directory; create it, or name another with `--policy`")]
    DirectoryMissing,
    /// The path is no directory.
    #[error("this is not a directory; name the directory that holds the policy files")]
    NotADirectory,
    /// The directory can't be listed.
    #[error("the directory can't be read ({0}); make it readable for the daemon")]
    DirectoryUnreadable(#[source] io::Error),
    /// The directory has no policy file.
    #[error("the directory has no `*.yaml` or `*.yml` file; put a policy file there")]
    DirectoryEmpty,
    /// The files are too large in all.
    #[error("the policy files have {0} bytes in all, more than {DIRECTORY_LIMIT}; remove some")]
    DirectoryTooLarge(u64),
    /// No file names anything.
    #[error("no file names a tool or an agent; add `tools:` and `agents:`")]
    NothingNamed,
    /// The file is a directory, device, pipe or socket.
    #[error("this is not a regular file; replace it by one, or rename it")]
    NotARegularFile,
    /// The file can't be read.
    #[error("the file can't be read ({0}); make it readable for the daemon, or remove it")]
    FileUnreadable(#[source] io::Error),
    /// The file is too large.
    #[error("the file has {0} bytes, more than {FILE_LIMIT}; split it")]
    FileTooLarge(u64),
    /// The file is not text.
    #[error("this byte is not UTF-8; save the file as UTF-8")]
    NotUtf8,
    /// The file begins with a byte order mark.
    #[error("the file begins with a byte order mark; save it as UTF-8 without one")]
    ByteOrderMark,

    /// The file does not say its version.
    #[error("`apiVersion` is missing; begin the file with `apiVersion: agent-enforcer/v1`")]
    ApiVersionMissing,
    /// The file is of a version that this daemon does not know.
    #[error("apiVersion {0} is not known; this daemon reads `agent-enforcer/v1`")]
    ApiVersionUnknown(String),
    /// The YAML can't be decoded.
    #[error("{0}; correct the YAML here, docs/policy.md shows the form")]
    Syntax(String),
    /// A scalar where a list belongs, and the like.
    #[error("{0} is expected here; docs/policy.md shows the form")]
    Shape(&'static str),
    /// A key that does not exist.
    #[error("key {key} is not known; the keys here are {known}")]
    UnknownKey {
        /// The key, quoted.
        key: String,
        /// The keys that exist.
        known: String,
    },
    /// A required key is not there.
    #[error("key `{0}` is missing; add it")]
    MissingKey(&'static str),
    /// A key stands twice.
    #[error("key {0} stands twice in one mapping; remove one")]
    DuplicateKey(String),
    /// A key without a value.
    #[error("the key has no value; write one, or remove the key")]
    MissingValue,
    /// Anchors, aliases, merge keys.
    #[error("anchors, aliases and merge keys are not allowed; write the value out")]
    Anchor,
    /// A YAML tag.
    #[error("tag {0} is not allowed; remove it")]
    Tag(String),
    /// Nested deeper than any policy is.
    #[error("the YAML is nested deeper than a policy is; remove the inner levels")]
    TooDeep,
    /// More than one document.
    #[error("a second document begins here; put it in a file of its own")]
    SecondDocument,

    /// A name in another form.
    #[error(
        "{0} is not a name; use 1 to 63 of a-z, 0-9, `.`, `_` and `-`, beginning with a letter or digit"
    )]
    BadName(String),
    /// A name given twice.
    #[error("{what} {name} is defined at {first} already; rename or remove one")]
    DuplicateName {
        /// `tool` or `agent`.
        what: &'static str,
        /// The name, quoted.
        name: String,
        /// Where it was first.
        first: Place,
    },
    /// An entry of a list given twice.
    #[error("{0} stands twice in this list; remove one")]
    DuplicateEntry(String),
    /// A list without entries.
    #[error("`{0}` is empty; {1}")]
    EmptyList(&'static str, &'static str),
    /// A text that is empty, too long or has control characters.
    #[error("`{key}` {fault}; write 1 to {limit} bytes on one line")]
    BadText {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        fault: &'static str,
        /// Longest text, bytes.
        limit: usize,
    },

    /// A tool with neither addresses nor hosts nor endpoints.
    #[error("tool {0} has no destination; add `cidrs`, `endpoints` or `listen`")]
    NoDestination(String),
    /// A tool with addresses only.
    #[error("tool {0} has CIDRs but no ports; add `ports`")]
    NoPorts(String),
    /// Ports or protocols of a tool without addresses.
    #[error("`{key}` belongs to CIDRs, and tool {tool} has none; add `cidrs`, or remove `{key}`")]
    WithoutCidrs {
        /// `ports` or `protocol`.
        key: &'static str,
        /// The tool, quoted.
        tool: String,
    },
    /// A tool with hosts only.
    #[error("tool {0} has hosts but no CIDRs, and names are not resolved yet; add their `cidrs`")]
    HostsWithoutCidrs(String),
    /// Not a host name.
    #[error("{0} is not a host name; write it like `api.example.com`, addresses go to `cidrs`")]
    BadHost(String),
    /// Not an address.
    #[error(
        "{0} is not an address or CIDR; write it like `192.0.2.0/24`, `2001:db8::/32` or `192.0.2.1`"
    )]
    BadCidr(String),
    /// A prefix length out of range.
    #[error("{text} has no valid prefix length; use 0 to {longest}")]
    BadPrefixLength {
        /// The CIDR, quoted.
        text: String,
        /// Longest prefix of the family.
        longest: u8,
    },
    /// An address in an unusual spelling.
    #[error("{text} is not in canonical form; write `{canonical}`")]
    NotCanonical {
        /// The CIDR, quoted.
        text: String,
        /// How it is written.
        canonical: String,
    },
    /// Address bits below the prefix.
    #[error("{text} has host bits set; write `{network}`")]
    HostBits {
        /// The CIDR, quoted.
        text: String,
        /// The network it is in.
        network: String,
    },
    /// IPv4 in IPv6 form.
    #[error("{text} is IPv4 in IPv6 form; write `{v4}`")]
    MappedCidr {
        /// The CIDR, quoted.
        text: String,
        /// The same as IPv4.
        v4: String,
    },
    /// The unspecified address as a host.
    #[error("{text} is never a destination: the kernel turns it into loopback; write `{loopback}`")]
    Unspecified {
        /// The address, quoted.
        text: String,
        /// The loopback address of its family.
        loopback: &'static str,
    },
    /// Not a port or range.
    #[error("{0} is not a port or range; write 1 to 65535, or a range like \"8000-8100\"")]
    BadPort(String),
    /// A range with its ends exchanged.
    #[error("{text} is a reversed range; write \"{last}-{first}\"")]
    ReversedPorts {
        /// The range, quoted.
        text: String,
        /// Its first port.
        first: u16,
        /// Its last port.
        last: u16,
    },
    /// Not a protocol.
    #[error("{0} is not a protocol; use `tcp`, `udp` or [tcp, udp]")]
    BadProtocol(String),
    /// Not an address to be called at.
    #[error(
        "{0} is no address of this host with its ports; write it like `127.0.0.1:8080`, \"[::1]:8000-8100\" or \"*:443\""
    )]
    BadListen(String),
    /// Not an executable.
    #[error(
        "{0} is no executable; write a program's name like `git`, an absolute path, or sha256: and its digest"
    )]
    BadVia(String),
    /// Not an endpoint.
    #[error(transparent)]
    Endpoint(#[from] EndpointProblem),
    /// Two tools cover one destination.
    #[error("{0}; take it out of one, each destination has one tool")]
    Overlap(Box<Overlap>),

    /// A section that may stand once, twice.
    #[error("`{section}` stands at {first} already; keep one")]
    SectionTwice {
        /// Its key.
        section: &'static str,
        /// Where it was first.
        first: Place,
    },
    /// A tool that needs approval and nobody may approve.
    #[error(
        "tool {0} needs approval, but there are no `approvers`; name who may approve, or set `mode: unattended` under `approvals`"
    )]
    NoApprovers(String),
    /// An approver who could not answer.
    #[error("approver {0} has neither `uid` nor `key`; give the user that answers, or the key")]
    SilentApprover(String),
    /// Two approvers of one key.
    #[error("this key is approver {other}'s at {first} already; give each approver its own key")]
    ApproverKeyClash {
        /// The other's name, quoted.
        other: String,
        /// Where the other is.
        first: Place,
    },
    /// A webhook that can't be used.
    #[error("`{key}` of the webhook can't be {value}; {remedy}")]
    BadWebhook {
        /// The key.
        key: &'static str,
        /// As written, quoted.
        value: String,
        /// What to write.
        remedy: &'static str,
    },
    /// A webhook whose answers nobody could sign.
    #[error("no approver has a `key` to answer through the webhook; give one its key")]
    NobodySigns,
    /// Two approvers of one user.
    #[error("user {uid} is approver {other} at {first} already; give each approver its own user")]
    ApproverClash {
        /// The user id.
        uid: u32,
        /// The other's name, quoted.
        other: String,
        /// Where the other is.
        first: Place,
    },
    /// A duration outside its bounds.
    #[error("`{key}` of {value} is out of bounds; use {shortest} to {longest}")]
    DurationBounds {
        /// The key.
        key: &'static str,
        /// The value, quoted.
        value: String,
        /// Shortest.
        shortest: &'static str,
        /// Longest.
        longest: &'static str,
    },
    /// A manifest that can't be read.
    #[error("{0}; docs/manifests.md shows the form")]
    Manifest(#[from] ManifestError),
    /// A second manifest of an agent.
    #[error("{agent} has a manifest in {first} already; keep the newest one")]
    SecondManifest {
        /// Its SPIFFE ID.
        agent: SpiffeId,
        /// Where the other is.
        first: Place,
    },
    /// A manifest of another name.
    #[error(
        "the manifest of {agent} is of {name}, and the policy calls that agent {called}; correct one of the names"
    )]
    ManifestName {
        /// The SPIFFE ID.
        agent: SpiffeId,
        /// What the manifest says, quoted.
        name: String,
        /// What the policy says, quoted.
        called: String,
    },
    /// A member of a manifest that does not fit the policy.
    #[error("{path}: {problem}")]
    InManifest {
        /// Where in the manifest.
        path: String,
        /// What is wrong.
        problem: Box<Self>,
    },
    /// Not a SPIFFE ID.
    #[error("{text} is no SPIFFE ID: {error}")]
    BadSpiffeId {
        /// The text, quoted.
        text: String,
        /// What is wrong.
        error: SpiffeIdError,
    },
    /// Not Cedar.
    #[error("{0}; correct the Cedar here, docs/policy.md shows the form")]
    CedarSyntax(String),
    /// A policy that is too long.
    #[error(
        "this policy has more than {POLICY_LIMIT} bytes without its strings and comments; split it"
    )]
    CedarTooLong,
    /// A policy that is nested too deeply.
    #[error("brackets are nested deeper than {DEPTH_LIMIT} levels here; take some away")]
    CedarTooDeep,
    /// A template.
    #[error("this is a template; write the agent or tool instead of the slot")]
    CedarTemplate,
    /// A policy that is wrong by the schema.
    #[error("{0}; correct it by the schema in docs/policy.md")]
    CedarInvalid(String),
    /// A policy without a name.
    #[error("the policy has no `@id(\"...\")`; add one, events name it")]
    CedarNoId,
    /// An id of those that are rendered.
    #[error("id {0} is one of those that stand for the YAML; choose another")]
    CedarReservedId(String),
    /// An annotation that does not exist.
    #[error("annotation {0} is not known; use `@id`, `@reason` and `@approval`")]
    CedarAnnotation(String),
    /// A forbid that asks for approval.
    #[error("a forbid needs nobody's approval; remove `@approval`, or make it a permit")]
    CedarApprovalOfForbid,
    /// What this program gives Cedar itself is refused.
    #[error("the daemon can't check Cedar policies here; report this with the policy")]
    CedarSchema,
    /// Keys that are no set.
    #[error(transparent)]
    Keys(#[from] KeySetError),
    /// An issuer that can't be one.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// An agent whose name is to be vouched for, and that has none.
    #[error("`attestation: spiffe` needs the agent's SPIFFE ID; add `agent_id`")]
    AttestedNameless,
    /// A key that no file has.
    #[error("key {0} is not defined; add it under `keys:`, or correct the name")]
    UnknownKeyId(String),
    /// An agent that no file defines.
    #[error("agent {0} is not defined; define it under `agents:`, or correct the name")]
    UnknownAgent(String),
    /// A tool that no file defines.
    #[error("tool {0} is not defined; define it under `tools:`, or correct the name")]
    UnknownTool(String),
    /// A tool that everyone has already.
    #[error("tool {tool} is standing for everyone at {first} already; remove one")]
    EveryoneTwice {
        /// The tool, quoted.
        tool: String,
        /// Where it was first.
        first: Place,
    },
    /// A standing tool that is not approved.
    #[error("standing tool {0} is not among the agent's `tools`; add it there, or remove it here")]
    StandingNotApproved(String),
    /// A word that is none of the choices.
    #[error("{value} is no value of `{key}`; use {choices}")]
    BadWord {
        /// The key.
        key: &'static str,
        /// The value, quoted.
        value: String,
        /// What may stand there.
        choices: &'static str,
    },
    /// Not a duration.
    #[error("{0} is not a duration; write it like `5s`, `500ms` or `2m`")]
    BadDuration(String),
    /// A stall limit that is too long.
    #[error("a stall limit of {0} is too long; use 0s to 10m")]
    StallLimit(String),
    /// Not a socket mark.
    #[error("{0} is not a socket mark; write 1 to 4294967295, or 0x1 to 0xffffffff in quotes")]
    BadMark(String),

    /// Not a selector.
    #[error(
        "{0} is not a selector; use systemd:id:, unix:uid:, unix:path:, unix:sha256: or cgroup:path: with a value"
    )]
    BadSelector(String),
    /// Not a systemd unit.
    #[error("{0} is not a unit name; write it with its type, like `systemd:id:agent@*.service`")]
    BadUnit(String),
    /// Slices hold units and are none.
    #[error("{0} is a slice, not a unit; name the units in it, or select it with `cgroup:path:`")]
    SliceIsNoUnit(String),
    /// Not a user id.
    #[error("{0} is not a user id; write the number that `id -u USER` shows")]
    BadUser(String),
    /// Not a digest.
    #[error("{0} is not a SHA-256 digest; write the 64 digits that `sha256sum FILE` shows")]
    BadDigest(String),
    /// Not an absolute, normal path.
    #[error("{0} can't match; write an absolute path without `//`, `.`, `..` and a trailing `/`")]
    BadPath(String),
    /// Every process on the host would be an agent's.
    #[error("{0} matches everything on the host; name what belongs to the agent")]
    MatchesAll(String),
    /// A glob that does not fit.
    #[error("this glob has {length} bytes, more than {limit}; shorten it with `*`")]
    GlobTooLong {
        /// Bytes it has.
        length: usize,
        /// Bytes it may have.
        limit: usize,
    },
    /// Two selectors of one kind.
    #[error("this term names two {0}; keep one, and write the other as a term of its own")]
    TwoOfOneKind(&'static str),
    /// A digest alone.
    #[error(
        "a digest can't recognise a process, it is demanded of those that the term matches; add a selector like unix:path: to the term"
    )]
    DigestAlone,
    /// A term twice, in two agents.
    #[error(
        "agent {agent} claims the processes that agent {other} claims at {first}; change one of the terms (digests don't tell agents apart)"
    )]
    TermClaimed {
        /// The agent at the place.
        agent: String,
        /// The other one.
        other: String,
        /// Where the other claims them.
        first: Place,
    },
    /// A term twice, in one agent.
    #[error("this term stands at {0} already; remove one")]
    DuplicateTerm(Place),
    /// A demand that another term takes back.
    #[error(
        "this term and the one at {0} match the same processes, but only one demands a digest; remove one"
    )]
    DigestContradiction(Place),
    /// More terms than the kernel's tables hold.
    #[error("the policy has more than {0} different selector terms; merge some with globs")]
    TooManyTerms(usize),
    /// More cgroup globs than the kernel's tables hold.
    #[error("the policy has more than {0} different cgroup globs; merge some with `*`")]
    TooManyPatterns(u32),
}

/// A destination that two tools cover.
#[derive(Debug)]
pub struct Overlap {
    /// The tool that is reported, quoted.
    pub(super) tool: String,
    /// A network, port and protocol, or an endpoint, that both cover.
    pub(super) destination: String,
    /// The other tool, quoted.
    pub(super) other: String,
    /// The network or endpoint of the other tool that covers it, and where that stands.
    pub(super) cover: String,
    pub(super) cover_place: Place,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tool, destination, other, cover, cover_place } = self;
        write!(
            f,
            "{destination} of tool {tool} is covered by {cover} of tool {other} ({cover_place}) too"
        )
    }
}

impl PolicyError {
    pub(super) fn new(place: Place, problem: Problem) -> Self {
        Self { place, problem: Box::new(problem) }
    }

    /// Where it is.
    pub const fn place(&self) -> &Place {
        &self.place
    }

    /// What it is.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }
}

impl PolicyErrors {
    pub(super) fn new(mut errors: Vec<PolicyError>) -> Self {
        errors.sort_by(|a, b| a.place.cmp(&b.place));
        Self(errors)
    }

    /// Each problem, in the order of the files and of the lines in them.
    pub fn iter(&self) -> impl Iterator<Item = &PolicyError> {
        self.0.iter()
    }
}

impl From<PolicyError> for PolicyErrors {
    fn from(error: PolicyError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for PolicyErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for error in &self.0 {
            write!(f, "{separator}{error}")?;
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for PolicyErrors {}
