//! The claims of a token, each in its own form, and signing them.
//!
//! In: JSON. Out: [`TokenClaims`], checked as they are read: RFC 7519 for the registered ones, RFC
//! 8693 for `act`, RFC 9396 for `authorization_details`. Names and dates mean nothing yet.

mod values;

use std::{iter, num::NonZeroU32};

use serde::{Deserialize, Serialize};

pub use values::{Audience, Instance, NumericDate, TokenId};

use super::{Action, LIMITS, TYPE};
use crate::{
    decision::Sha256Digest,
    resolver::text::{Name, Text},
    signing::{Compact, JwsError, SigningKey},
    strict_json,
};

/// Longest chain of actors.
const ACTOR_LIMIT: usize = 8;
/// Most entries of `authorization_details`.
const DETAIL_LIMIT: usize = 16;
/// Most tools or locations of an entry, as of a grant.
const ENTRY_LIMIT: usize = 256;

/// Principal, issuer, audience, task and reason: as long as in a grant.
pub type TokenText = Text<512>;
/// On whose behalf.
pub type Principal = TokenText;
/// A location as it is written.
pub type LocationText = Text<80>;

/// The claims of a token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenClaims {
    /// Who issues it.
    pub iss: TokenText,
    /// On whose behalf the agent acts.
    pub sub: Principal,
    /// Which agent acts.
    pub act: Actor,
    /// For which hosts it is.
    pub aud: Audience,
    /// Its id, never used for another token.
    pub jti: TokenId,
    /// The transaction that it belongs to.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn: Option<TokenId>,
    /// When it is issued.
    pub iat: NumericDate,
    /// From when on; from `iat` where it is not given.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<NumericDate>,
    /// Until when.
    pub exp: NumericDate,
    /// What it permits.
    pub authorization_details: Vec<Detail>,
    /// How many calls it admits.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_uses: Option<NonZeroU32>,
    /// The manifest that the agent must have.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<Sha256Digest>,
    /// The token that it was made of, and stays within.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_jti: Option<TokenId>,
    /// The one instance that may act.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Instance>,
    /// For which task.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<TokenText>,
    /// Why.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<TokenText>,
}

/// Who acts, and who acted before (RFC 8693 section 4.1): the outermost acts now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Actor {
    /// Name of an agent in the policy, or its SPIFFE ID.
    pub sub: Text<2048>,
    /// Who acted before.
    #[serde(default, deserialize_with = "strict_json::present")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub act: Option<Box<Self>>,
}

/// One thing that a token permits (RFC 9396): tools or locations, not both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detail {
    /// Of which type it is.
    #[serde(rename = "type")]
    pub kind: DetailKind,
    /// Tools of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tools: Vec<Name>,
    /// Destinations of tools of the policy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locations: Vec<LocationText>,
    /// What may be done with them.
    pub actions: Vec<Action>,
}

/// The one type of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DetailKind {
    /// Calls to the network.
    #[serde(rename = "network_egress")]
    NetworkEgress,
}

/// Why claims can't be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignTokenError {
    /// No host would take it.
    #[error("such a token is refused: {0}")]
    Refused(String),
    /// The key signs nothing.
    #[error(transparent)]
    Key(#[from] JwsError),
}

/// Signs claims.
pub fn sign_token(claims: &TokenClaims, key: &SigningKey) -> Result<String, SignTokenError> {
    claims.check().map_err(SignTokenError::Refused)?;
    let payload =
        serde_json::to_vec(claims).map_err(|error| SignTokenError::Refused(error.to_string()))?;
    let token = Compact::sign(&payload, key, TYPE)?;
    if token.len() > LIMITS.bytes {
        let problem = format!("it has {} bytes, more than {}", token.len(), LIMITS.bytes);
        return Err(SignTokenError::Refused(problem));
    }
    Ok(token)
}

impl TokenClaims {
    /// What no claim can tell alone.
    pub(super) fn check(&self) -> Result<(), String> {
        if self.act.former().count() >= ACTOR_LIMIT {
            return Err(format!("$.act: there are more than {ACTOR_LIMIT} actors; name the last"));
        }
        let details = &self.authorization_details;
        if !(1..=DETAIL_LIMIT).contains(&details.len()) {
            return Err(format!(
                "$.authorization_details: 1 to {DETAIL_LIMIT} entries are needed; there are {}",
                details.len()
            ));
        }
        for (place, detail) in details.iter().enumerate() {
            let at = |problem| format!("$.authorization_details[{place}]: {problem}");
            detail.check().map_err(at)?;
        }
        Ok(())
    }
}

impl Detail {
    fn check(&self) -> Result<(), String> {
        let Self { kind: _, tools, locations, actions } = self;
        if tools.is_empty() == locations.is_empty() {
            return Err("name `tools` or `locations`, and not both".to_owned());
        }
        if tools.len().max(locations.len()) > ENTRY_LIMIT {
            return Err(format!("there are more than {ENTRY_LIMIT}; issue several tokens"));
        }
        if actions.is_empty() {
            return Err("`actions` is empty; name `connect`, `listen` or both".to_owned());
        }
        if is_repeated(tools) || is_repeated(locations) || is_repeated(actions) {
            return Err("something stands twice in a list; keep one of it".to_owned());
        }
        Ok(())
    }
}

fn is_repeated<T: std::hash::Hash + Eq>(items: &[T]) -> bool {
    let different: std::collections::HashSet<_> = items.iter().collect();
    different.len() != items.len()
}

impl Actor {
    /// Who acted before, the last one first.
    pub(super) fn former(&self) -> impl Iterator<Item = &Self> {
        iter::successors(self.act.as_deref(), |actor| actor.act.as_deref())
    }
}
