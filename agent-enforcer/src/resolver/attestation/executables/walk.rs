//! The walk from `/` down to the files that one glob after the other names.
//!
//! In: a glob. Out: files and problems, gathered in one [`Resolution`]; every directory is told of
//! before it is looked at. Components are walked one by one up to the first `**`; below that,
//! whole paths are compared.

use std::{
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use agent_enforcer_common::glob::matches;
use rustix::fs::{CWD, Mode, OFlags, openat};

use super::{GlobProblem, Interest, Limits, NamedExecutable, Resolution};
use crate::resolver::attestation::{
    image::Executable,
    procfs::{ProcDir, ProcError, ProcRoot},
};

/// Most symlinks on the way to one file (`MAXSYMLINKS` of the kernel).
const LINK_LIMIT: usize = 40;

/// See the module's header.
pub(super) struct Walk<'w> {
    root: ProcRoot,
    own: ProcDir,
    limits: Limits,
    visit: &'w mut dyn FnMut(&Path, Interest),
    found: Resolution,
    /// The glob at hand.
    glob: &'w str,
    position: usize,
    entries: usize,
    /// A limit was met, and that was said.
    full: bool,
    buffer: Vec<u8>,
}

impl<'w> Walk<'w> {
    /// Has found nothing yet.
    pub(super) fn new(
        limits: Limits,
        visit: &'w mut dyn FnMut(&Path, Interest),
    ) -> Result<Self, ProcError> {
        let root = ProcRoot::open()?;
        let own = root.own()?;
        Ok(Self {
            root,
            own,
            limits,
            visit,
            found: Resolution::default(),
            glob: "",
            position: 0,
            entries: 0,
            full: false,
            buffer: Vec::new(),
        })
    }

    /// What was found.
    pub(super) fn into_resolution(self) -> Resolution {
        self.found
    }

    /// Adds what a glob names.
    pub(super) fn resolve(&mut self, position: usize, glob: &'w str) {
        (self.glob, self.position, self.entries, self.full) = (glob, position, 0, false);
        let components = glob.strip_prefix('/').map(|rest| rest.split('/').collect::<Vec<_>>());
        let is_plain = |part: &&str| !["", ".", ".."].contains(part) && !part.contains('\0');
        let Some(components) = components.filter(|parts| parts.iter().all(is_plain)) else {
            self.problem(GlobProblem::NotAPath { glob: glob.to_owned() });
            return;
        };
        let before = self.found.executables.len() + self.found.problems.len();
        self.descend(Path::new("/"), &components, 0);
        if self.found.executables.len() + self.found.problems.len() == before {
            self.problem(GlobProblem::NoMatch { glob: glob.to_owned() });
        }
    }

    /// Looks for what is left of the glob below a directory. Each component is one look-up or one
    /// list; from a `**` on, everything below is listed and compared as a whole.
    fn descend(&mut self, directory: &Path, components: &[&str], depth: usize) {
        let Some((first, rest)) = components.split_first() else { return };
        if first.contains("**") {
            self.search(directory, &mut Vec::new(), depth);
            return;
        }
        if depth > self.limits.depth {
            self.too_deep(directory);
            return;
        }
        let names = if first.contains(['*', '?']) {
            let fits = |name: &OsStr| matches(first.as_bytes(), name.as_bytes());
            let interest = Interest::Glob((*first).to_owned());
            self.list(directory, interest).into_iter().filter(|name| fits(name)).collect()
        } else {
            (self.visit)(directory, Interest::Name((*first).into()));
            vec![OsString::from(first)]
        };
        for name in names {
            let path = directory.join(name);
            self.follow_links(&path);
            match fs::metadata(&path) {
                Ok(found) if rest.is_empty() && found.is_file() => self.add(path),
                Ok(found) if !rest.is_empty() && found.is_dir() => {
                    self.descend(&path, rest, depth + 1);
                }
                Ok(_) => {}
                Err(source) => self.unreadable(path, source),
            }
            if self.is_full() {
                return;
            }
        }
    }

    /// Everything below a directory. `above`: the directories on the way, so that a symlink to one
    /// of them does not lead round in a circle.
    fn search(&mut self, directory: &Path, above: &mut Vec<(u64, u64)>, depth: usize) {
        let here = match fs::metadata(directory) {
            Ok(found) => (found.dev(), found.ino()),
            Err(source) => return self.unreadable(directory.to_owned(), source),
        };
        if above.contains(&here) {
            return;
        }
        if depth > self.limits.depth {
            self.too_deep(directory);
            return;
        }
        above.push(here);
        for name in self.list(directory, Interest::Any) {
            let path = directory.join(name);
            self.follow_links(&path);
            match fs::metadata(&path) {
                Ok(found) if found.is_dir() => self.search(&path, above, depth + 1),
                Ok(found) if found.is_file() => {
                    if matches(self.glob.as_bytes(), path.as_os_str().as_bytes()) {
                        self.add(path);
                    }
                }
                Ok(_) => {}
                Err(source) => self.unreadable(path, source),
            }
            if self.is_full() {
                break;
            }
        }
        above.pop();
    }

    fn list(&mut self, directory: &Path, interest: Interest) -> Vec<OsString> {
        (self.visit)(directory, interest);
        let mut names = Vec::new();
        let list = fs::read_dir(directory).and_then(|entries| {
            for entry in entries {
                names.push(entry?.file_name());
                self.entries += 1;
                if self.entries > self.limits.entries {
                    break;
                }
            }
            Ok(())
        });
        if let Err(source) = list {
            self.unreadable(directory.to_owned(), source);
        }
        // In a fixed order, so that a limit always leaves out the same.
        names.sort_unstable();
        names
    }

    /// Tells of the directories that the symlinks of a path lead through.
    fn follow_links(&mut self, path: &Path) {
        let mut path = path.to_owned();
        for _ in 0..LINK_LIMIT {
            let Ok(target) = fs::read_link(&path) else { return };
            let Some(directory) = path.parent() else { return };
            path = directory.join(target);
            // Each name on the way to the target may change: `../a/b` is `..`, `a` and `b`.
            for step in path.ancestors() {
                if let (Some(above), Some(name)) = (step.parent(), step.file_name()) {
                    (self.visit)(above, Interest::Name(name.to_owned()));
                }
            }
        }
    }

    fn add(&mut self, path: PathBuf) {
        match self.examine(&path) {
            Ok(Some(executable)) => {
                if self.found.executables.len() >= self.limits.matches {
                    let (glob, limit) = (self.glob.to_owned(), self.limits.matches);
                    self.full = true;
                    self.problem(GlobProblem::TooManyMatches { glob, limit });
                } else {
                    self.found.executables.push(executable);
                }
            }
            Ok(None) => {}
            Err(source) => self.unreadable(path, source),
        }
    }

    /// `None`: not executable, or gone.
    fn examine(&mut self, path: &Path) -> io::Result<Option<NamedExecutable>> {
        let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let executable = Executable::new(&self.root, handle)?;
        if !executable.is_program() {
            return Ok(None);
        }
        if executable.open().and_then(|file| is_script(&file)).unwrap_or(false) {
            self.problem(GlobProblem::Script { path: path.to_owned() });
            return Ok(None);
        }
        let device = executable
            .kernel_device([&self.own], &mut self.buffer)
            .ok_or_else(|| io::Error::other("its mount is not in the daemon's mount namespace"))?;
        Ok(Some(NamedExecutable {
            glob: self.position,
            path: path.to_owned(),
            file: executable.path().clone(),
            inode: executable.stamp().inode,
            device,
        }))
    }

    /// Whether to stop looking, having said why.
    fn is_full(&mut self) -> bool {
        if !self.full && self.entries > self.limits.entries {
            self.full = true;
            let (glob, limit) = (self.glob.to_owned(), self.limits.entries);
            self.problem(GlobProblem::TooManyEntries { glob, limit });
        }
        self.full
    }

    fn too_deep(&mut self, path: &Path) {
        let (glob, path) = (self.glob.to_owned(), path.to_owned());
        self.problem(GlobProblem::TooDeep { glob, limit: self.limits.depth, path });
    }

    fn unreadable(&mut self, path: PathBuf, source: io::Error) {
        // Not there (any more), or a component that is no directory: names nothing.
        use io::ErrorKind::{NotADirectory, NotFound};
        if ![NotFound, NotADirectory].contains(&source.kind()) {
            self.problem(GlobProblem::Unreadable { path, source });
        }
    }

    fn problem(&mut self, problem: GlobProblem) {
        self.found.problems.push(problem);
    }
}

fn is_script(file: &fs::File) -> io::Result<bool> {
    let mut magic = [0; 2];
    Ok(file.read_at(&mut magic, 0)? == magic.len() && magic == *b"#!")
}
