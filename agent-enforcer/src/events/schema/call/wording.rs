//! How OCSF says what became of a call, and how bad that is.
//!
//! In: outcome, reason, protocol, hook. Out: OCSF's numbers and captions. Every outcome and
//! every reason is named, so that a new one breaks the build until somebody has judged it.

use agent_enforcer_common::{
    destination::{Destination, PROTOCOL_TCP, PROTOCOL_UDP, PeerFamily},
    reason::Reason,
    record::Hook,
};

use super::super::{Kind, Severity, Status};
use crate::{decision::Outcome, resolver::policy::family_word};

const NETWORK_OPEN: Kind =
    Kind { class_uid: 4001, class_name: "Network Activity", activity_id: 1, activity_name: "Open" };
const NETWORK_REFUSE: Kind = Kind { activity_id: 5, activity_name: "Refuse", ..NETWORK_OPEN };

/// How OCSF says an outcome: activity, action, disposition, status.
pub(super) struct Wording {
    pub(super) kind: Kind,
    pub(super) action: (u8, &'static str),
    pub(super) disposition: (u8, &'static str),
    pub(super) status: Status,
}

pub(super) const fn wording(outcome: Outcome) -> Wording {
    match outcome {
        Outcome::Allowed => Wording {
            kind: NETWORK_OPEN,
            action: (1, "Allowed"),
            disposition: (1, "Allowed"),
            status: Status::Success,
        },
        Outcome::Denied => Wording {
            kind: NETWORK_REFUSE,
            action: (2, "Denied"),
            disposition: (2, "Blocked"),
            status: Status::Failure,
        },
        Outcome::Audited => Wording {
            kind: NETWORK_OPEN,
            action: (3, "Observed"),
            disposition: (17, "Logged"),
            status: Status::Success,
        },
        // Neither allowed nor denied yet: the call was made to wait.
        Outcome::Stalled => Wording {
            kind: NETWORK_OPEN,
            action: (4, "Modified"),
            disposition: (14, "Delayed"),
            status: Status::Other("Stalled"),
        },
    }
}

/// `reason`: the one that says most about a denial, made or only audited.
pub(super) const fn severity(outcome: Outcome, reason: Reason) -> Severity {
    match outcome {
        Outcome::Allowed | Outcome::Stalled => Severity::Informational,
        Outcome::Denied | Outcome::Audited => severity_of_denial(reason),
    }
}

/// High: the agent tries to get round the enforcement, or the enforcement has a fault.
const fn severity_of_denial(reason: Reason) -> Severity {
    match reason {
        Reason::None
        | Reason::AllowedStanding
        | Reason::AllowedGrant
        | Reason::AllowedPolicy
        | Reason::Audited
        | Reason::CallerGone
        | Reason::Stalled => Severity::Informational,
        Reason::NoGrant
        | Reason::DeniedOnMiss
        | Reason::GrantNotYetValid
        | Reason::GrantExpired
        | Reason::GrantUsedUp
        | Reason::StallTimeout
        | Reason::GrantParentEnded
        | Reason::GrantUnsigned
        | Reason::GrantIssuerNotTrusted
        | Reason::NeedsApproval
        | Reason::ApprovalTimeout
        | Reason::ApprovalUnattended => Severity::Low,
        Reason::NoTool
        | Reason::ToolNotApproved
        | Reason::GrantRevoked
        | Reason::AgentUnknown
        | Reason::PendingLimit
        | Reason::RateLimited
        | Reason::ProtocolNotAllowed
        | Reason::SocketUnnamed
        | Reason::MalformedPacket
        | Reason::ToolNotInManifest
        | Reason::PrincipalNotAllowed
        | Reason::PolicyForbids
        | Reason::NotVia
        | Reason::GrantManifestChanged
        | Reason::ManifestExpired
        | Reason::ManifestSuspended
        | Reason::ManifestNotYetValid
        | Reason::ApprovalDenied
        | Reason::ApprovalLimit => Severity::Medium,
        Reason::IdentityUnverified
        | Reason::DigestMismatch
        | Reason::DaemonDown
        | Reason::RingFull
        | Reason::ProcessTableFull
        | Reason::PolicyFailed
        | Reason::TagFailed
        | Reason::Internal
        | Reason::Guarded
        | Reason::SourceRoute
        | Reason::SoftwareNotApproved
        | Reason::ScriptUnverified
        | Reason::ManifestMissing
        | Reason::ManifestUntrusted
        | Reason::ManifestRevoked
        | Reason::ManifestRolledBack
        | Reason::SpiffeIdMismatch
        | Reason::SpiffeUnavailable => Severity::High,
        Reason::ExecutableMismatch => Severity::Critical,
    }
}

/// Severity of a process whose identity was refused.
pub(in crate::events::schema) fn severity_of_refusal(reason: Reason) -> Severity {
    severity_of_denial(reason).max(Severity::High)
}

pub(super) fn protocol_name(destination: &Destination) -> Option<&'static str> {
    match PeerFamily::from_raw(destination.family())? {
        PeerFamily::Ip | PeerFamily::Listen => match destination.protocol() {
            PROTOCOL_TCP => Some("tcp"),
            PROTOCOL_UDP => Some("udp"),
            _ => None,
        },
        PeerFamily::Unix => Some("unix"),
        PeerFamily::Vsock => Some("vsock"),
        PeerFamily::Netlink => Some("netlink"),
        PeerFamily::Socket => family_word(destination),
    }
}

/// `dst_endpoint.type` of a peer that is no IP address.
pub(super) const fn peer_kind(destination: &Destination) -> &'static str {
    match PeerFamily::from_raw(destination.family()) {
        Some(PeerFamily::Unix) => "Unix socket",
        Some(PeerFamily::Vsock) => "Virtual machine",
        Some(PeerFamily::Netlink) => "Netlink protocol",
        Some(PeerFamily::Socket | PeerFamily::Ip | PeerFamily::Listen) | None => "Address family",
    }
}

pub(super) const fn hook_word(hook: Hook) -> &'static str {
    match hook {
        Hook::Connect => "connect",
        Hook::Sendmsg => "sendmsg",
        Hook::SocketCreate => "socket_create",
        Hook::Egress => "egress",
        Hook::LsmCreate => "lsm_socket_create",
        Hook::LsmConnect => "lsm_socket_connect",
        Hook::LsmSendmsg => "lsm_socket_sendmsg",
        Hook::UnixConnect => "unix_stream_connect",
        Hook::UnixSend => "unix_may_send",
        Hook::CgroupUnixConnect => "connect_unix",
        Hook::CgroupUnixSend => "sendmsg_unix",
    }
}
