//! Answers that come signed: what an approver's key says about one question.
//!
//! In: a compact JWS of at most 8 KiB, what this host calls itself, and who may sign. Out: a
//! [`SignedAnswer`], or one [`AnswerRefusal`]. Pure. Questions, in order: has it the form, is it of
//! this type, is its key an approver's, does its signature hold; and only then: is it for this host and
//! this moment? Which question it answers, and whether that is open, is the engine's to compare: the
//! nonce was made for one question and told to nobody before, so that no answer counts twice.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::Verdict;
use crate::{
    decision::Sha256Digest,
    resolver::{
        grant::token::{Audience, NumericDate, SKEW, TokenId},
        text::Text,
    },
    signing::{Compact, JwsError, KeyId, PublicKey},
    strict_json::{self, JsonError, Limits},
};

/// Largest answer, and how deep its claims are nested.
const LIMITS: Limits = Limits { bytes: 8 << 10, depth: 4 };
/// What `typ` of the header says.
pub const TYPE: &str = "agent-approval+jwt";

/// An answer that its approver's key signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedAnswer {
    /// The key.
    pub kid: KeyId,
    /// The answer's own id.
    pub jti: String,
    /// The question, `a-0123456789abcdef`.
    pub question: String,
    /// Digest of what was shown.
    pub digest: Sha256Digest,
    /// What the question was posted with.
    pub nonce: String,
    /// Yes or no.
    pub verdict: Verdict,
    /// For how long.
    pub lifetime: Duration,
    /// For every destination of the tool.
    pub whole_tool: bool,
}

/// Why an answer is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerRefusal {
    /// Not a signed text, or one that does not hold.
    #[error(transparent)]
    Signature(#[from] JwsError),
    /// Something else that was signed.
    #[error("`typ` of the header must be {TYPE}: another document says nothing about a question")]
    WrongType,
    /// No approver's key.
    #[error(
        "key {0} is no approver's; name it as `key` under `approvers`, and define it under `keys`"
    )]
    NoApprover(KeyId),
    /// Not these claims.
    #[error("{0}")]
    Claims(#[from] JsonError),
    /// Another host's.
    #[error("`aud` does not name this host; sign for the audience that the question names")]
    WrongAudience,
    /// Not yet.
    #[error("`iat` is in the future; set the clocks")]
    IssuedInFuture,
    /// Not any more.
    #[error("the answer has expired; sign it with a later `exp`")]
    Expired,
}

/// The claims, all of them needed but `scope`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims {
    jti: TokenId,
    iat: NumericDate,
    exp: NumericDate,
    aud: Audience,
    question: Text<32>,
    digest: Sha256Digest,
    nonce: TokenId,
    decision: Decision,
    /// Seconds.
    #[serde(rename = "for")]
    lifetime: u32,
    #[serde(default)]
    scope: ScopeWord,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Decision {
    Approve,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ScopeWord {
    #[default]
    Destination,
    Tool,
}

/// Verifies an answer. `key_of`: the key of a name, if it is an approver's.
pub fn verify_answer<'k>(
    text: &str,
    audience: &str,
    now: SystemTime,
    key_of: impl FnOnce(&KeyId) -> Option<&'k PublicKey>,
) -> Result<SignedAnswer, AnswerRefusal> {
    let signed = Compact::parse(text, LIMITS.bytes)?;
    if !signed.header().is_type(TYPE) {
        return Err(AnswerRefusal::WrongType);
    }
    let kid = signed.header().kid().clone();
    let key = key_of(&kid).ok_or_else(|| AnswerRefusal::NoApprover(kid.clone()))?;
    let payload = signed.verify(key)?;
    let Claims { jti, iat, exp, aud, question, digest, nonce, decision, lifetime, scope } =
        strict_json::decode::<Claims>(payload, LIMITS)?.typed;
    if !aud.names(audience) {
        return Err(AnswerRefusal::WrongAudience);
    }
    if iat.moment().duration_since(now).is_ok_and(|ahead| ahead > SKEW) {
        return Err(AnswerRefusal::IssuedInFuture);
    }
    if now >= exp.moment() {
        return Err(AnswerRefusal::Expired);
    }
    Ok(SignedAnswer {
        kid,
        jti: jti.to_string(),
        question: question.to_string(),
        digest,
        nonce: nonce.to_string(),
        verdict: match decision {
            Decision::Approve => Verdict::Approved,
            Decision::Deny => Verdict::Denied,
        },
        lifetime: Duration::from_secs(lifetime.into()),
        whole_tool: scope == ScopeWord::Tool,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::signing::{SigningKey, testing};

    const NOW: u64 = 1_800_000_000;

    fn claims() -> Value {
        json!({
            "jti": "1", "iat": NOW, "exp": NOW + 60, "aud": "host-1",
            "question": "a-0123456789abcdef", "digest": "ab".repeat(32), "nonce": "n",
            "decision": "approve", "for": 600, "scope": "tool",
        })
    }

    fn verify(text: &str, key: &SigningKey) -> Result<SignedAnswer, AnswerRefusal> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(NOW);
        verify_answer(text, "host-1", now, |kid| Some(key.public()).filter(|key| key.kid() == kid))
    }

    fn sign(claims: &Value, key: &SigningKey) -> String {
        Compact::sign(claims.to_string().as_bytes(), key, TYPE).unwrap()
    }

    #[test]
    fn answer_of_an_approvers_key_holds() {
        for key in [testing::ed25519("desk"), testing::p256("desk")] {
            let answer = verify(&sign(&claims(), &key), &key).unwrap();
            assert_eq!((answer.verdict, answer.whole_tool), (Verdict::Approved, true));
            assert_eq!(answer.lifetime, Duration::from_mins(10));
            let mut brief = claims();
            brief["decision"] = json!("deny");
            brief.as_object_mut().unwrap().remove("scope");
            brief["aud"] = json!(["host-2", "host-1"]);
            let answer = verify(&sign(&brief, &key), &key).unwrap();
            assert_eq!((answer.verdict, answer.whole_tool), (Verdict::Denied, false));
        }
    }

    #[test]
    fn what_is_signed_otherwise_is_refused() {
        let key = testing::ed25519("desk");
        let text = sign(&claims(), &key);
        let other = testing::ed25519("desk");
        let refused = verify(&sign(&claims(), &other), &key);
        assert!(matches!(refused, Err(AnswerRefusal::Signature(JwsError::BadSignature(_)))));
        let stranger = testing::ed25519("stranger");
        let refused = verify(&sign(&claims(), &stranger), &key);
        assert!(matches!(refused, Err(AnswerRefusal::NoApprover(_))), "{refused:?}");
        let token = Compact::sign(claims().to_string().as_bytes(), &key, "agent-grant+jwt");
        assert_eq!(verify(&token.unwrap(), &key), Err(AnswerRefusal::WrongType));
        for bad in ["", "a.b.c", "yes", &text[1..], &text[..text.len() - 4], &"x".repeat(9000)] {
            assert!(matches!(verify(bad, &key), Err(AnswerRefusal::Signature(_))), "{bad}");
        }
        // What it says was changed: the part in the middle.
        let (head, rest) = text.split_once('.').unwrap();
        let (_, signature) = rest.split_once('.').unwrap();
        let mut changed = claims();
        changed["for"] = json!(86_400);
        let changed = sign(&changed, &other);
        let payload = changed.split('.').nth(1).unwrap();
        let forged = format!("{head}.{payload}.{signature}");
        assert!(matches!(verify(&forged, &key), Err(AnswerRefusal::Signature(_))));
    }

    #[test]
    fn claims_are_for_this_host_and_moment_and_every_one_is_needed() {
        let key = testing::ed25519("desk");
        let with = |name: &str, value: Value| {
            let mut claims = claims();
            claims[name] = value;
            verify(&sign(&claims, &key), &key)
        };
        assert_eq!(with("aud", json!("host-2")), Err(AnswerRefusal::WrongAudience));
        assert_eq!(with("exp", json!(NOW)), Err(AnswerRefusal::Expired));
        assert_eq!(with("iat", json!(NOW + 61)), Err(AnswerRefusal::IssuedInFuture));
        assert!(with("iat", json!(NOW + 60)).is_ok(), "clocks differ");
        for (name, value) in [
            ("decision", json!("maybe")),
            ("scope", json!("host")),
            ("for", json!(-1)),
            ("for", json!("10m")),
            ("digest", json!("ab")),
            ("extra", json!(1)),
        ] {
            let refused = with(name, value);
            assert!(matches!(refused, Err(AnswerRefusal::Claims(_))), "{name}: {refused:?}");
        }
        for name in claims().as_object().unwrap().keys().filter(|name| *name != "scope") {
            let mut fewer = claims();
            fewer.as_object_mut().unwrap().remove(name);
            let refused = verify(&sign(&fewer, &key), &key);
            assert!(matches!(refused, Err(AnswerRefusal::Claims(_))), "{name}: {refused:?}");
        }
    }
}
