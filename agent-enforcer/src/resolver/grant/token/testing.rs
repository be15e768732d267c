//! A host, an issuer and tokens for tests.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use agent_enforcer_common::id::InstanceId;
use serde_json::{Value, json};

use super::{
    Actions, DEFAULT_CEILING, Issuer, Issuers, Location, ParentGrant, SKEW, Scope, ScopedLocation,
    TYPE, TokenAgent, TokenContext, TokenRefusal, TokenWorld, ToolStanding, VerifiedToken,
    verify_token,
};
use crate::{
    decision::Sha256Digest,
    signing::{Compact, KeySet, SigningKey, testing::ed25519},
};

/// The second at which tests take place.
pub(super) const NOW: u64 = 1_900_000_000;

/// A host with two agents and four tools; `coder` may use all of them but `secret`.
#[derive(Default)]
pub(super) struct World {
    pub(super) seen: HashSet<String>,
    pub(super) parents: HashMap<String, ParentGrant>,
}

/// What the tools of that host have.
const TOOLS: [(&str, &str); 5] = [
    ("code-host", "198.51.100.0/24:443/tcp"),
    ("code-host-shell", "198.51.100.0/24:22/tcp"),
    ("mail", "192.0.2.25:25-465/tcp"),
    ("mail", "[2001:db8::25]:25-465/tcp"),
    ("secret", "203.0.113.1:1/udp"),
];

impl TokenWorld for World {
    fn agent(&self, actor: &str) -> Option<TokenAgent> {
        let name = match actor {
            "coder" | "spiffe://example.org/agent/coder" => "coder",
            "idle" => "idle",
            _ => return None,
        };
        let manifest = (name == "coder").then_some(Sha256Digest([0x77; 32]));
        Some(TokenAgent { name: name.into(), ceiling: DEFAULT_CEILING, manifest })
    }

    fn tool(&self, agent: &str, tool: &str) -> ToolStanding {
        if !TOOLS.iter().any(|(name, _)| *name == tool) {
            ToolStanding::Unknown
        } else if agent == "coder" && tool != "secret" {
            ToolStanding::Approved
        } else {
            ToolStanding::NotApproved
        }
    }

    fn runs(&self, agent: &str, instance: InstanceId) -> bool {
        agent == "coder" && instance.get() != 0xdead
    }

    fn tool_of(&self, location: &Location) -> Option<Arc<str>> {
        let holds = |has: &str| {
            let has: Location = has.parse().unwrap();
            let filled = Location {
                ports: location.ports.or(has.ports),
                protocol: location.protocol.or(has.protocol),
                ..*location
            };
            has.covers(&filled)
        };
        let mut found = TOOLS.iter().filter(|(_, has)| holds(has)).map(|(name, _)| *name);
        let tool = found.next()?;
        found.next().is_none().then(|| tool.into())
    }

    fn was_seen(&self, jti: &str) -> bool {
        self.seen.contains(jti)
    }

    fn parent(&self, jti: &str) -> Option<ParentGrant> {
        self.parents.get(jti).cloned()
    }
}

/// Issuers, their keys, and the host.
pub(super) struct Stage {
    pub(super) key: SigningKey,
    pub(super) issuers: Issuers,
    pub(super) world: World,
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with_key(ed25519("k1"))
    }

    pub(super) fn with_key(key: SigningKey) -> Self {
        let issuers = Issuers::new(vec![issuer("https://issuer.example", &key)]).unwrap();
        Self { key, issuers, world: World::default() }
    }

    /// Signs whatever it is given, as its type.
    pub(super) fn sign(&self, claims: &Value) -> String {
        Compact::sign(claims.to_string().as_bytes(), &self.key, TYPE).unwrap()
    }

    pub(super) fn verify(&self, token: &str) -> Result<VerifiedToken, TokenRefusal> {
        verify_token(token, &self.context())
    }

    pub(super) fn judge(&self, claims: &Value) -> Result<VerifiedToken, TokenRefusal> {
        self.verify(&self.sign(claims))
    }

    pub(super) fn context(&self) -> TokenContext<'_> {
        let Self { key: _, issuers, world } = self;
        TokenContext { issuers, audience: "host-7", now: moment(NOW), skew: SKEW, world }
    }
}

/// An issuer that speaks for every agent and tool but `secret`'s.
pub(super) fn issuer(name: &str, key: &SigningKey) -> Issuer {
    let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
    Issuer {
        name: name.into(),
        keys: KeySet::new([key.public().clone()]).unwrap(),
        agents: names(&["coder", "idle"]),
        tools: names(&["code-host", "mail", "secret"]),
        must_attenuate: false,
    }
}

/// The claims of a sound token.
pub(super) fn claims() -> Value {
    json!({
        "iss": "https://issuer.example",
        "sub": "ada@example.com",
        "act": { "sub": "spiffe://example.org/agent/coder" },
        "aud": "host-7",
        "jti": "t-1",
        "iat": NOW,
        "exp": NOW + 600,
        "authorization_details": [
            { "type": "network_egress", "tools": ["code-host"], "actions": ["connect"] },
        ],
    })
}

/// The same, changed.
pub(super) fn changed(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = claims();
    change(&mut claims);
    claims
}

/// A second as a moment.
pub(super) fn moment(second: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(second)
}

/// A live grant of the token `parent`: ten calls of `code-host`, and a part of `mail`.
pub(super) fn parent() -> ParentGrant {
    let connect = Actions { connect: true, listen: false };
    ParentGrant {
        principal: "ada@example.com".into(),
        agent: "coder".into(),
        instance: None,
        scope: Scope {
            tools: [("code-host".into(), connect)].into(),
            locations: vec![ScopedLocation {
                location: "192.0.2.25:25-100/tcp".parse().unwrap(),
                tool: "mail".into(),
                actions: Actions { connect: true, listen: true },
            }],
        },
        not_before: moment(NOW - 60),
        expires: moment(NOW + 700),
        uses_left: None,
        is_live: true,
    }
}
