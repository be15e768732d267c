//! Why a call was allowed, denied or stalled: one list for kernel counters, events, CLI and docs.
//!
//! Append-only: values are on the wire, in pinned maps and in people's SIEM rules.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $value:literal => $word:literal, $remedy:literal;)+) => {
        /// One cause, one word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Reason {
            $($(#[$doc])* $name = $value,)+
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason of a number from the wire; `None` for a number of a newer version.
            pub const fn from_raw(raw: u16) -> Option<Self> {
                match raw {
                    $($value => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The word used in counters, events, the CLI and the docs.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)+
                }
            }

            /// What a person can do about it.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(Self::$name => $remedy,)+
                }
            }
        }
    };
}

reasons! {
    /// Nothing was decided.
    None = 0 => "none", "nothing to do";
    /// The tool is standing for the agent.
    AllowedStanding = 1 => "allowed_standing", "nothing to do";
    /// A live grant covers the tool.
    AllowedGrant = 2 => "allowed_grant", "nothing to do";
    /// The agent is in audit mode; the call went through although it would have been denied.
    Audited = 3 => "audited", "set `mode: enforce` once the audit events are as wished";
    /// A policy permits the call without a grant.
    AllowedPolicy = 5 => "allowed_policy", "nothing to do";
    /// The call waits for its decision.
    Stalled = 4 => "stalled", "see `agent-enforcer pending`, then `agent-enforcer grant issue`";

    /// The destination belongs to no tool of the policy.
    NoTool = 16 => "no_tool", "name the destination in a tool of the policy";
    /// The destination's tool is not in the agent's approved set.
    ToolNotApproved = 17 => "tool_not_approved", "add the tool to the agent's `tools`";
    /// The tool is approved but there is no grant for it.
    NoGrant = 18 => "no_grant", "`agent-enforcer grant issue`, or make the tool `standing`";
    /// The only grants that cover the tool begin later.
    GrantNotYetValid = 19 => "grant_not_yet_valid", "wait for the grant's not-before, or issue another";
    /// The only grants that cover the tool have ended.
    GrantExpired = 20 => "grant_expired", "issue a new grant";
    /// The only grants that cover the tool were revoked.
    GrantRevoked = 21 => "grant_revoked", "ask whoever revoked it; issue a new grant";
    /// The only grants that cover the tool have no uses left.
    GrantUsedUp = 22 => "grant_used_up", "issue a new grant, or one with more uses";
    /// No grant came within the agent's stall limit.
    StallTimeout = 23 => "stall_timeout", "issue the grant sooner, or raise `stall_limit`";
    /// The agent may not wait (`on_miss: deny`): no verdict covers the call. The event tells what is
    /// missing.
    DeniedOnMiss = 26 => "denied_on_miss", "see the event's `miss_reason`, or set `on_miss: stall`";
    /// The caller ended before its call was decided.
    CallerGone = 25 => "caller_gone", "nothing to do: the call was never made";
    /// The agent's signed manifest does not name the tool.
    ToolNotInManifest = 27 => "tool_not_in_manifest", "add the tool to the agent's manifest, and sign it anew";
    /// The only grants that cover the tool are on behalf of somebody for whom it may not be used.
    PrincipalNotAllowed = 28 => "principal_not_allowed", "grant it on behalf of somebody whose `principals` entry has the tool";
    /// A rule of the policy forbids the call.
    PolicyForbids = 29 => "policy_forbids", "see the event's `policy_ids`, and change that rule";
    /// The tool may be used by certain executables only, and this is none of them.
    NotVia = 30 => "not_via", "call the tool by one of the executables of its `via`";
    /// The only grants that cover the tool were issued for another version of the agent's manifest.
    GrantManifestChanged = 31 => "grant_manifest_changed", "issue a grant for the manifest in force";
    /// The agent is not in the policy in force.
    AgentUnknown = 24 => "agent_unknown", "put the agent back into the policy, or stop its processes";

    /// The process's identity could not be established.
    IdentityUnverified = 32 => "identity_unverified", "see the daemon's log for the process and the file";
    /// The executable's digest is not the one the policy demands.
    DigestMismatch = 33 => "digest_mismatch", "reinstall the executable, or update `unix:sha256:` in the policy";
    /// The executable in /proc is not the one the kernel recorded at exec.
    ExecutableMismatch = 34 => "executable_mismatch", "treat the process as compromised";
    /// The agent's signed manifest does not list the executable.
    SoftwareNotApproved = 35 => "software_not_approved", "add the executable's digest to the manifest's `software`, or name it in the tool's `via`";
    /// An interpreter runs code that is not a script of the agent's manifest, or that nobody can vouch for.
    ScriptUnverified = 36 => "script_unverified", "run a script that the manifest lists, by its absolute path, from a directory that only root can change";
    /// The policy names an identity for the agent, and there is no manifest of it.
    ManifestMissing = 37 => "manifest_missing", "put the agent's signed manifest into the policy directory";
    /// The agent's manifest is signed by nobody whom the policy trusts, or its signature does not hold.
    ManifestUntrusted = 38 => "manifest_untrusted", "have the manifest signed by a key that the policy trusts for this agent";
    /// The agent's manifest has expired.
    ManifestExpired = 39 => "manifest_expired", "sign a manifest with a later `valid_until`";
    /// The agent's manifest says that it is suspended.
    ManifestSuspended = 40 => "manifest_suspended", "ask the agent's sponsor; sign a manifest whose `lifecycle` is `active`";
    /// The agent's manifest says that it is revoked.
    ManifestRevoked = 41 => "manifest_revoked", "ask the agent's sponsor; an agent that was revoked needs a new manifest";
    /// The agent's manifest is older than one that was in force, or another one of the same version.
    ManifestRolledBack = 42 => "manifest_rolled_back", "put back the newest version of the manifest, or sign a higher one";
    /// The agent's manifest was issued in the future.
    ManifestNotYetValid = 43 => "manifest_not_yet_valid", "wait for its `issued_at`, or set the clock of this host";
    /// The workload's SPIFFE identity is not the agent's.
    SpiffeIdMismatch = 44 => "spiffe_id_mismatch", "register the workload under the agent's `agent_id`, or correct the policy";
    /// The workload's SPIFFE identity could not be had.
    SpiffeUnavailable = 45 => "spiffe_unavailable", "see that the SPIFFE broker runs and knows the workload";

    /// The daemon is not answering (its heartbeat is stale).
    DaemonDown = 48 => "daemon_down", "`systemctl start agent-enforcer`; see `agent-enforcer doctor`";
    /// The ring buffer to the daemon is full.
    RingFull = 49 => "ring_full", "lower the load; see `agent-enforcer status` for lost records";
    /// Too many calls are pending for the instance or in all.
    PendingLimit = 50 => "pending_limit", "decide what is pending; see `agent-enforcer pending`";
    /// The instance asks too often.
    RateLimited = 51 => "rate_limited", "find out why the agent tries so many destinations";
    /// The process table was full when the process was forked.
    ProcessTableFull = 52 => "process_table_full", "raise `--max-processes` (docs/operations.md), restart the agent";
    /// The socket could not be tagged (out of memory).
    TagFailed = 53 => "tag_failed", "raise the memory limit of the agent's cgroup";
    /// An error inside a kernel program or the daemon.
    Internal = 54 => "internal", "report it with `agent-enforcer doctor --output json`";

    /// Family, type or protocol of the socket is not in the allow-list.
    ProtocolNotAllowed = 64 => "protocol_not_allowed", "use TCP or UDP";
    /// The packet carries a source route or routing header.
    SourceRoute = 65 => "source_route", "send without IP options and routing headers";
    /// The packet could not be parsed.
    MalformedPacket = 66 => "malformed_packet", "find out what the agent sends";
    /// Where the path of a unix socket leads the daemon can't tell, so nobody can tell what is called.
    SocketUnnamed = 68 => "socket_unnamed", "call the socket by its canonical path: no links below /proc, none that a file system serves";
    /// What no agent may do, whatever its grants: change the kernel, or touch the enforcer and
    /// processes that are not its own.
    Guarded = 67 => "guarded", "find out why the agent tries it; see the event's `guard`";

    /// The only grants that cover the tool were derived from one that has ended or was taken back.
    GrantParentEnded = 72 => "grant_parent_ended", "issue the grant that it was derived from anew";
    /// The only grants that cover the tool are unsigned, and the agent may have signed ones only.
    GrantUnsigned = 73 => "grant_unsigned", "present a signed grant, or set `grants: {local: allow}` for the agent";
    /// The only grants that cover the tool are of an issuer whom the policy does not trust with it any more.
    GrantIssuerNotTrusted = 74 => "grant_issuer_not_trusted", "issue a grant by an issuer and key that the policy names for agent and tool";
    /// A rule of the policy that has a say in the call can't be evaluated.
    PolicyFailed = 75 => "policy_failed", "see the event's `policy_ids`, and correct that rule";

    /// The use of the tool needs an approver's yes.
    NeedsApproval = 80 => "needs_approval", "`agent-enforcer approve`, or take `approval: required` from the tool";
    /// An approver said no.
    ApprovalDenied = 81 => "approval_denied", "ask the approver whom the event names";
    /// No approver answered in time.
    ApprovalTimeout = 82 => "approval_timeout", "approve sooner, or raise `wait` under `approvals`";
    /// The use of the tool needs an approver's yes, and nobody is there to give one.
    ApprovalUnattended = 83 => "approval_unattended", "set `mode: attended` under `approvals` when somebody is there";
    /// Too many questions of the instance wait for an approver, or it has asked too often.
    ApprovalLimit = 84 => "approval_limit", "answer what is pending; find out why the agent asks for so much";
}

impl Reason {
    /// Length of counter arrays indexed by a reason's number.
    pub const SLOTS: u32 = 128;

    /// The number on the wire.
    pub const fn raw(self) -> u16 {
        self as u16
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_documented_with_what_to_do() {
        let page = include_str!("../../docs/reasons.md");
        for reason in Reason::ALL.iter().filter(|reason| **reason != Reason::None) {
            let row = page.lines().find(|row| row.starts_with(&format!("| `{}` |", reason.word())));
            let row = row.unwrap_or_else(|| panic!("docs/reasons.md lacks `{}`", reason.word()));
            assert!(row.contains(&format!("| {} |", reason.remedy())), "{row}");
        }
    }

    #[test]
    fn words_are_unique_and_numbers_fit_the_counters() {
        let words: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for &reason in Reason::ALL {
            assert!(u32::from(reason.raw()) < Reason::SLOTS);
            assert_eq!(Reason::from_raw(reason.raw()), Some(reason));
        }
    }
}
