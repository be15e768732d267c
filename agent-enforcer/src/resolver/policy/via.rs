//! The executables by which alone a tool may be used, as people write them.
//!
//! In: `git`, `/usr/lib/git-core/*` or `sha256:DIGEST`. Out: a [`Via`]. A path means the files that
//! it leads to, by inode, as in selectors; a bare name is that program where the host's own package
//! manager puts it, never what an agent's `PATH` finds.

use std::sync::Arc;

use super::{error::Problem, place::quote, selector::executable};
use crate::decision::{NotADigest, Sha256Digest};

/// Where a program without a path is looked for.
const DIRECTORIES: [&str; 4] = ["/usr/bin", "/usr/local/bin", "/usr/sbin", "/usr/local/sbin"];
/// Longest bare name, bytes.
const NAME_LIMIT: usize = 255;

/// Executables, by what they are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// A program of the host, by its name.
    Name(Arc<str>),
    /// The files that a glob of paths names.
    Path(Arc<str>),
    /// Whatever has this content.
    Digest(Sha256Digest),
}

impl Via {
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(hex) = text.strip_prefix("sha256:") {
            return hex
                .parse()
                .map(Self::Digest)
                .map_err(|NotADigest| Problem::BadDigest(quote(hex)));
        }
        if text.starts_with('/') {
            return executable(text).map(Self::Path);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._+-".contains(c);
        let is_name = (1..=NAME_LIMIT).contains(&text.len()) && text.chars().all(plain);
        if !is_name || text.starts_with(['.', '-']) {
            return Err(Problem::BadVia(quote(text)));
        }
        Ok(Self::Name(text.into()))
    }

    /// The globs of paths that it stands for; none of a digest.
    pub fn globs(&self) -> Vec<String> {
        match self {
            Self::Name(name) => {
                DIRECTORIES.iter().map(|directory| format!("{directory}/{name}")).collect()
            }
            Self::Path(glob) => vec![glob.to_string()],
            Self::Digest(_) => Vec::new(),
        }
    }
}

impl std::fmt::Display for Via {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Name(text) | Self::Path(text) => f.write_str(text),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_shown() {
        let digest = format!("sha256:{}", "0f".repeat(32));
        for text in ["git", "python3.11", "g++", "/usr/lib/git-core/*", digest.as_str()] {
            assert_eq!(Via::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn name_is_a_program_of_the_host_and_of_nobody_else() {
        let globs = Via::parse("git").unwrap().globs();
        assert_eq!(globs.len(), DIRECTORIES.len());
        assert!(globs.iter().all(|glob| glob.ends_with("/git") && glob.starts_with("/usr/")));
    }

    #[test]
    fn refuses_what_names_no_executable() {
        for text in
            ["", ".", "..", "-c", "a/b", "./git", "git*", "sha256:00", "a b", "/a/../b", "/**"]
        {
            assert!(Via::parse(text).is_err(), "{text}");
        }
    }
}
