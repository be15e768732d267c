//! Path globs of the policy -> the files that they name now, as the kernel recognises them.
//!
//! In: globs (`agent_enforcer_common::glob`: `?` and `*` stay in one component, `**` does not).
//! Out: inode and kernel device of each executable regular file whose path matches, and every
//! directory on the way, so that [`super::watcher`] can tell when the answer may have changed.
//! Paths are walked as execve walks them: what a symlink points to counts. A file that is missed
//! is a program that is not recognised, so every limit that was met is a [`GlobProblem`], never
//! silence. May block on the file systems walked: not for the intake thread.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use agent_enforcer_common::glob::matches;

use self::walk::Walk;
use super::procfs::ProcError;

mod walk;

/// How much is looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Files that all globs together may name.
    matches: usize,
    /// Directory entries that one glob may look at.
    entries: usize,
    /// Depth of the deepest directory.
    depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { matches: 4096, entries: 200_000, depth: 40 }
    }
}

/// A file that a glob names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedExecutable {
    /// Which glob, by its position.
    pub glob: usize,
    /// The path that matched.
    pub path: PathBuf,
    /// The file itself, symlinks followed.
    pub file: PathBuf,
    /// Inode number.
    pub inode: u64,
    /// Kernel device number (`super_block.s_dev`).
    pub device: u32,
}

/// What all globs name.
#[derive(Debug, Default)]
pub struct Resolution {
    /// The files; one that several paths lead to is there for each.
    pub executables: Vec<NamedExecutable>,
    /// What could not be resolved as written.
    pub problems: Vec<GlobProblem>,
}

/// Why a glob may name less than its author thinks.
#[derive(Debug, thiserror::Error)]
pub enum GlobProblem {
    /// Not a path pattern.
    #[error(
        "`{glob}` is not an absolute path in its shortest form; begin it with `/` and leave out \
             `.`, `..`, `//` and a `/` at the end"
    )]
    NotAPath {
        /// The glob.
        glob: String,
    },
    /// It names nothing now.
    #[error("`{glob}` names no executable file; install the program or correct the path")]
    NoMatch {
        /// The glob.
        glob: String,
    },
    /// It names a script, and the kernel executes the script's interpreter.
    #[error("`{}` is a script, its process runs the interpreter; select it by cgroup or user", path.display())]
    Script {
        /// The script.
        path: PathBuf,
    },
    /// Too many files.
    #[error(
        "`{glob}` and the globs before it name more than {limit} files, the rest is left out; \
         make it narrower"
    )]
    TooManyMatches {
        /// The glob.
        glob: String,
        /// How many are named at most.
        limit: usize,
    },
    /// Too much to look through.
    #[error(
        "`{glob}` looks through more than {limit} directory entries, the rest is left out; \
         make it narrower"
    )]
    TooManyEntries {
        /// The glob.
        glob: String,
        /// How many are looked at.
        limit: usize,
    },
    /// Too deep.
    #[error(
        "`{glob}` leads deeper than {limit} directories at {}, which is left out; make it narrower",
        path.display()
    )]
    TooDeep {
        /// The glob.
        glob: String,
        /// How deep is looked.
        limit: usize,
        /// Where.
        path: PathBuf,
    },
    /// A directory can't be watched.
    #[error("changes in {} are not noticed: {source}; raise fs.inotify.max_user_watches", path.display())]
    Unwatched {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or directory can't be looked at.
    #[error("cannot look at {}: {source}; the daemon must be able to read it", path.display())]
    Unreadable {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Resolves globs. Fails only if /proc is not usable.
pub fn resolve<G: AsRef<str>>(globs: &[G]) -> Result<Resolution, ProcError> {
    resolve_watched(globs, Limits::default(), &mut |_, _| {})
}

/// Which entries of a directory can change the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// One name.
    Name(OsString),
    /// The names that match a glob without `**`.
    Glob(String),
    /// Every name.
    Any,
}

impl Interest {
    /// Whether a name is of interest.
    pub(super) fn covers(&self, name: &OsStr) -> bool {
        match self {
            Self::Name(wanted) => wanted == name,
            Self::Glob(glob) => matches(glob.as_bytes(), name.as_bytes()),
            Self::Any => true,
        }
    }
}

/// As [`resolve`]; `visit` is called with each directory *before* it is looked at.
pub(super) fn resolve_watched<G: AsRef<str>>(
    globs: &[G],
    limits: Limits,
    visit: &mut dyn FnMut(&Path, Interest),
) -> Result<Resolution, ProcError> {
    let mut walk = Walk::new(limits, visit)?;
    for (position, glob) in globs.iter().enumerate() {
        walk.resolve(position, glob.as_ref());
    }
    Ok(walk.into_resolution())
}

#[cfg(test)]
mod tests;
