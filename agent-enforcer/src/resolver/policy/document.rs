//! A policy file as written: YAML to text with places, nothing checked but its form.
//!
//! In: the text of one file. Out: a [`Document`], or the one place where its form is wrong. Every
//! scalar is kept as text, so that the checks see exactly what was written (`0x10`, `010`, `1e3`)
//! and can point at it. Anchors, tags and merge keys are refused: what is reviewed is what holds.

use std::{fmt, sync::Arc};

use schemars::JsonSchema;
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use serde_saphyr::{
    Error, Location, Options, Spanned,
    budget::BudgetBreach,
    options::{DuplicateKeyPolicy, MergeKeyPolicy},
};

use super::{
    error::{PolicyError, Problem},
    place::{Place, quote},
    schema,
};
use crate::{resolver::grant::token::IssuerEntry, signing::PublicKey};

/// What `apiVersion` must say.
pub(super) const API_VERSION: &str = "agent-enforcer/v1";

/// Levels of a policy, with room for flow and block forms of each.
const DEPTH_LIMIT: usize = 12;
const NODE_LIMIT: usize = 600_000;

/// A policy of agent-enforcer: tools are named sets of destinations, agents are classes of
/// workload that may use some of them. All files of a directory are merged.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Document {
    /// Version of this format.
    #[serde(rename = "apiVersion")]
    #[schemars(schema_with = "schema::api_version")]
    _api_version: Spanned<String>,
    /// Named sets of destinations. No destination may belong to two tools.
    #[serde(default)]
    pub(super) tools: Vec<ToolEntry>,
    /// Classes of workload.
    #[serde(default)]
    pub(super) agents: Vec<AgentEntry>,
    /// What every agent has, of whatever file.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "EveryoneEntry")]
    pub(super) everyone: Option<EveryoneEntry>,
    /// On whose behalf agents may act, and with which tools at most. Where any file has some, nobody
    /// else can be acted for.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "Vec<PrincipalEntry>")]
    pub(super) principals: Option<Vec<PrincipalEntry>>,
    /// Who may approve the use of tools that need it.
    #[serde(default)]
    pub(super) approvers: Vec<ApproverEntry>,
    /// Public keys that others of this policy name, as JSON Web Keys with a `kid`.
    #[serde(default)]
    #[schemars(schema_with = "schema::keys")]
    pub(super) keys: Vec<Spanned<PublicKey>>,
    /// Whose signatures under agent manifests count.
    #[serde(default)]
    pub(super) signers: Vec<SignerEntry>,
    /// Who may issue signed grants, and for what.
    #[serde(default)]
    #[schemars(schema_with = "schema::issuers")]
    pub(super) issuers: Vec<Spanned<IssuerEntry>>,
    /// How approvals are asked for; in one file only.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "ApprovalsEntry")]
    pub(super) approvals: Option<ApprovalsEntry>,
}

/// Somebody on whose behalf agents act.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PrincipalEntry {
    /// As grants name it.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// The tools that agents may use for it at most.
    #[schemars(with = "Vec<String>")]
    pub(super) tools: Vec<Spanned<String>>,
}

/// Somebody who may approve.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApproverEntry {
    /// As events name it.
    #[schemars(with = "String")]
    pub(super) name: Spanned<String>,
    /// The user id that it approves under, on this host.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::user_id")]
    pub(super) uid: Option<Spanned<String>>,
    /// The `kid` of the key that signs its answers through the webhook. One of both is needed.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "String")]
    pub(super) key: Option<Spanned<String>>,
}

/// A key that signs agent manifests.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SignerEntry {
    /// Its `kid`.
    #[schemars(with = "String")]
    pub(super) key: Spanned<String>,
    /// The agents whose manifests it may sign; those of every agent where it is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::tool_names")]
    pub(super) agents: Option<Spanned<Vec<Spanned<String>>>>,
}

/// How approvals are asked for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApprovalsEntry {
    /// How long a call waits for its approval, 1s to 1h; 5m where it is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::duration", extend("default" = "5m"))]
    pub(super) wait: Option<Spanned<String>>,
    /// Somebody is asked (`attended`, the default), or nobody is there and such calls are denied at
    /// once.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::attendance", extend("default" = "attended"))]
    pub(super) mode: Option<Spanned<String>>,
    /// Who is asked over HTTPS besides.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "WebhookEntry")]
    pub(super) webhook: Option<WebhookEntry>,
}

/// A web service that brings questions to approvers, and their signed answers back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookEntry {
    /// Where each question is posted to; `https` only.
    #[schemars(schema_with = "schema::webhook_url")]
    pub(super) url: Spanned<String>,
    /// PEM file of the only authorities that may vouch for the service; those of the host where it
    /// is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::absolute_path")]
    pub(super) ca: Option<Spanned<String>>,
    /// How long the service may take for one request, 1s to 1m; 10s where it is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::duration", extend("default" = "10s"))]
    pub(super) timeout: Option<Spanned<String>>,
    /// How often a request that failed is made again, 0 to 10; 3 where it is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::retries", extend("default" = 3))]
    pub(super) retries: Option<Spanned<String>>,
}

/// What every agent has.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EveryoneEntry {
    /// Tools that are approved for every agent and need no grant.
    #[schemars(schema_with = "schema::tool_names")]
    pub(super) standing: Spanned<Vec<Spanned<String>>>,
}

/// A named set of destinations: any of its addresses, on any of its ports, and its endpoints.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ToolEntry {
    /// Unique name.
    #[schemars(schema_with = "schema::name")]
    pub(super) name: Spanned<String>,
    /// Addresses: CIDRs without host bits, or single addresses. IPv6 CIDRs never cover IPv4, and
    /// cloud metadata addresses (169.254.169.254, fd00:ec2::254) must be named exactly.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) cidrs: Vec<Spanned<String>>,
    /// Host names, for people: they are not resolved yet, so their addresses go to `cidrs`.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) hosts: Vec<Spanned<String>>,
    /// Destinations that are no IP addresses: unix sockets by path or abstract name, vsock peers,
    /// netlink protocols, other address families.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::endpoints")]
    pub(super) endpoints: Option<Spanned<Vec<Spanned<String>>>>,
    /// Ports and ranges of ports; a tool with CIDRs needs them.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::ports")]
    pub(super) ports: Option<Spanned<Vec<Spanned<String>>>>,
    /// Transport protocol, or a list of them.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::protocol", extend("default" = "tcp"))]
    pub(super) protocol: Option<Spanned<OneOrMany>>,
    /// Addresses and TCP ports of this host at which agents may be called: `127.0.0.1:8080`,
    /// `[::1]:8000-8100`, `*:443`.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::listen")]
    pub(super) listen: Option<Spanned<Vec<Spanned<String>>>>,
    /// The only executables that may use it: names of the host's programs, paths, or digests.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::tool_names")]
    pub(super) via: Option<Spanned<Vec<Spanned<String>>>>,
    /// Whether each use needs an approver's yes.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::approval", extend("default" = "none"))]
    pub(super) approval: Option<Spanned<String>>,
}

/// A class of workload: what recognises its processes and what they may use.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentEntry {
    /// Unique name.
    #[schemars(schema_with = "schema::name")]
    pub(super) name: Spanned<String>,
    /// Who answers for it.
    #[schemars(with = "String")]
    pub(super) owner: Spanned<String>,
    /// What it is for.
    #[schemars(with = "String")]
    pub(super) purpose: Spanned<String>,
    /// Its SPIFFE ID. Where it is given, a signed manifest of that agent must be there, in a `*.json`
    /// file beside this one.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::spiffe_id")]
    pub(super) agent_id: Option<Spanned<String>>,
    /// Who says that a process is this agent: this host alone (the default), or a SPIFFE broker besides,
    /// by the name in `agent_id`.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::attestation", extend("default" = "local"))]
    pub(super) attestation: Option<Spanned<String>>,
    /// What recognises its processes: any one of the terms; a term is a list of selectors that
    /// must all hold.
    #[schemars(schema_with = "schema::selectors")]
    pub(super) selectors: Spanned<Vec<Spanned<Vec<Spanned<String>>>>>,
    /// The approved tools: the ceiling of every grant.
    #[schemars(with = "Vec<String>")]
    pub(super) tools: Vec<Spanned<String>>,
    /// Those of the approved tools that need no grant.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub(super) standing: Vec<Spanned<String>>,
    /// What becomes of a call that nothing covers: wait for a grant (the default), or be denied.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::on_miss", extend("default" = "stall"))]
    pub(super) on_miss: Option<Spanned<String>>,
    /// How long a call may wait for its decision, 0s to 10m; 5s where it is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::duration", extend("default" = "5s"))]
    pub(super) stall_limit: Option<Spanned<String>>,
    /// How a call waits.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "StallEntry")]
    pub(super) stall: Option<StallEntry>,
    /// Enforce denials (the default), or let them through and record them.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::mode", extend("default" = "enforce"))]
    pub(super) mode: Option<Spanned<String>>,
    /// `SO_MARK` of the agent's sockets, for firewalls and routing: a number, or hex in quotes.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::socket_mark")]
    pub(super) socket_mark: Option<Spanned<String>>,
    /// Which grants it may have.
    #[serde(default, deserialize_with = "present")]
    #[schemars(with = "GrantsEntry")]
    pub(super) grants: Option<GrantsEntry>,
}

/// Which grants an agent may have.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantsEntry {
    /// Whether root of this host may issue grants that nobody has signed.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::local_grants", extend("default" = "allow"))]
    pub(super) local: Option<Spanned<String>>,
    /// How long a signed grant may last, 1s to 24h; 15m where it is not given.
    #[serde(default, deserialize_with = "present")]
    #[schemars(schema_with = "schema::duration", extend("default" = "15m"))]
    pub(super) max_lifetime: Option<Spanned<String>>,
}

/// How a call waits for its decision.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct StallEntry {
    /// TCP: keep its packets back and let the process run on (`hold`, the default), or stop the
    /// calling process (`park`, where LSM programs are in force).
    #[schemars(schema_with = "schema::stall_tcp")]
    pub(super) tcp: Spanned<String>,
}

/// A scalar where one is enough, otherwise a list.
#[derive(Debug)]
pub(super) enum OneOrMany {
    /// A scalar.
    One(String),
    /// A list.
    Many(Vec<Spanned<String>>),
}

/// Only the version: read first, so that a file of a later version is not blamed for its keys.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: Option<Spanned<String>>,
}

/// Decodes one file.
pub(super) fn decode(text: &str, file: &Arc<str>) -> Result<Document, PolicyError> {
    let refuse = |error: Error| {
        let place = Place::in_file(file, error.location().unwrap_or(Location::UNKNOWN));
        PolicyError::new(place, problem(error))
    };
    let header: Header = serde_saphyr::from_str_with_options(text, options()).map_err(refuse)?;
    let Some(version) = header.api_version else {
        return Err(PolicyError::new(Place::at(file, 1, 1), Problem::ApiVersionMissing));
    };
    if version.value != API_VERSION {
        let place = Place::in_file(file, version.referenced);
        return Err(PolicyError::new(place, Problem::ApiVersionUnknown(quote(&version.value))));
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(refuse)
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_anchors: 0,
            max_aliases: 0,
            max_depth: DEPTH_LIMIT,
            max_nodes: NODE_LIMIT,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        reject_unsupported_tags: true,
        reject_tagged_field_names: true,
        ignore_binary_tag_for_string: true,
        with_snippet: false,
    }
}

/// The decoder's errors in our words.
#[expect(clippy::wildcard_enum_match_arm, reason = "foreign and open: the rest shares one form")]
fn problem(error: Error) -> Problem {
    let text = message(&error);
    match error {
        Error::Unexpected { expected: "sequence start", .. } => Problem::Shape("a list"),
        Error::Unexpected { expected: "mapping start", .. } => Problem::Shape("a mapping of keys"),
        Error::Unexpected { expected: "string scalar", .. } => Problem::Shape("a single value"),
        Error::SerdeUnknownField { field, expected, .. } => {
            Problem::UnknownKey { key: quote(&field), known: expected.join(", ") }
        }
        Error::SerdeMissingField { field, .. } => Problem::MissingKey(field),
        Error::DuplicateMappingKey { key, .. } => {
            Problem::DuplicateKey(quote(&key.unwrap_or_default()))
        }
        Error::NullIntoString { .. } => Problem::MissingValue,
        Error::MergeKeyNotAllowed { .. }
        | Error::UnknownAnchor { .. }
        | Error::Budget {
            breach: BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. },
            ..
        } => Problem::Anchor,
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => Problem::TooDeep,
        Error::UnsupportedTag { tag, .. } | Error::TaggedStructFieldName { tag, .. } => {
            Problem::Tag(quote(&tag))
        }
        Error::MultipleDocuments { .. } => Problem::SecondDocument,
        _ => Problem::Syntax(text),
    }
}

/// The decoder's message without its place.
fn message(error: &Error) -> String {
    let text = error.render();
    let place =
        error.location().map(|at| format!(" at line {}, column {}", at.line(), at.column()));
    let bare = place.and_then(|place| text.strip_suffix(place.as_str()).map(str::to_owned));
    bare.unwrap_or(text).replace('\n', " ")
}

/// A key that is there must have a value: `mode:` alone is a mistake, not the default.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ScalarOrList;

        impl<'de> Visitor<'de> for ScalarOrList {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a word or a list of words")
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(OneOrMany::One(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Self::Value, A::Error> {
                Deserialize::deserialize(SeqAccessDeserializer::new(items)).map(OneOrMany::Many)
            }
        }

        deserializer.deserialize_any(ScalarOrList)
    }
}
