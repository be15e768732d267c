//! Why a document is no manifest, each with its place and what to do about it.

use crate::{
    signing::{CanonicalError, JwsError, KeyId},
    strict_json::JsonError,
};

/// Why a document is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It can't be decoded.
    #[error("{0}")]
    Form(#[from] JsonError),
    /// A member says what it may not.
    #[error("{path}: {problem}")]
    Content {
        /// Like `$.software[2]`.
        path: String,
        /// What is wrong, and what to do about it.
        problem: ContentProblem,
    },
    /// It can't be brought into the form that is signed.
    #[error(transparent)]
    Canonical(#[from] CanonicalError),
    /// Nobody signed it.
    #[error("$.signatures: nobody has signed this manifest; `agent-enforcer manifest sign` does")]
    Unsigned,
    /// It can't be signed.
    #[error("the manifest can't be signed: {0}")]
    NotSigned(#[source] JwsError),
    /// It can't be written.
    #[error("the manifest can't be written ({0}); see that there is memory")]
    NotWritten(String),
}

/// What members say that they may not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentProblem {
    /// It ends before it begins.
    #[error("the manifest would end before `issued_at`; give a later moment")]
    NeverValid,
    /// A list that is too long.
    #[error("there are more than {0} entries; remove some")]
    TooMany(usize),
    /// An entry that stands twice.
    #[error("this stands twice in the list; keep one")]
    Twice,
    /// A selector term without selectors.
    #[error("a term needs at least one selector; add one, or remove the term")]
    EmptyTerm,
    /// Software without a digest.
    #[error("the software has neither `sha256` nor `fsverity`; add what `sha256sum FILE` shows")]
    NoDigest,
    /// An interpreter of an unknown language.
    #[error("an interpreter needs `language`; add python, shell, node, perl or ruby")]
    NoLanguage,
    /// A language of what is no interpreter.
    #[error("`language` is an interpreter's; remove it, or correct `kind`")]
    NeedlessLanguage,
    /// One digest of two pieces of software.
    #[error("another piece of software has the same digest; keep one of them")]
    SameDigest,
    /// A signature that can't be read.
    #[error("{0}")]
    Signature(JwsError),
    /// Two signatures of one key.
    #[error("key {0} signed twice; keep one of the signatures")]
    SignedTwice(KeyId),
}

impl ContentProblem {
    /// With the path of the member.
    pub(super) fn at(self, path: &str) -> ManifestError {
        ManifestError::Content { path: path.to_owned(), problem: self }
    }
}
