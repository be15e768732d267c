//! Which code an image runs beside its executable: scripts of interpreters.
//!
//! In: execs as the kernel side saw them, executables whose digest is known, what the workers found.
//! Out: the image's [`Code`]. An image is judged when all of it is known: executable, path of the script,
//! content of the script, in this order. The first that can't be told ends the search as
//! [`Unverified`], which stays until the process executes something else.

use std::{
    collections::{HashMap, VecDeque},
    path::PathBuf,
};

use agent_enforcer_common::{id::ExecId, reason::Reason, record::ProcessFacts};

use super::{Engine, images::ImageStanding};
use crate::{
    decision::{Code, Process, Script, Unverified},
    resolver::{
        attestation::{
            Executable, FileStamp,
            digest::{DigestError, FileDigests, Hashed},
            exec::ExecFacts,
            interpreters,
            script::ScriptSearch,
            worker::{BusyReason, Found, Work},
        },
        manifest::Language,
    },
};

/// Execs that are remembered, some 700 bytes each at most.
const EXEC_LIMIT: usize = 8192;

/// What the workers look at, of an image.
#[derive(Debug)]
pub enum Sought {
    /// The content of its executable.
    Executable,
    /// Where its script is.
    Path,
    /// The content of its script.
    Script {
        /// Its path as the kernel names it.
        path: PathBuf,
        /// The version that was found.
        stamp: FileStamp,
    },
}

/// Execs as the kernel side saw them. The oldest make room; images that were forgotten and ask again
/// are unverified then.
#[derive(Debug, Default)]
pub(super) struct Execs {
    by_id: HashMap<ExecId, ExecFacts>,
    order: VecDeque<ExecId>,
}

impl Execs {
    /// Remembers one.
    pub(super) fn insert(&mut self, exec: ExecId, facts: ExecFacts) {
        if self.by_id.insert(exec, facts).is_none() {
            self.order.push_back(exec);
        }
        while self.order.len() > EXEC_LIMIT {
            if let Some(oldest) = self.order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// The exec of an image.
    pub(super) fn get(&self, exec: ExecId) -> Option<&ExecFacts> {
        self.by_id.get(&exec)
    }
}

impl Engine {
    /// What can be told of an image's code before its executable is read.
    pub(super) fn code_of(&self, exec: ExecId, executable: &Executable) -> Code {
        if executable.is_memfd() {
            return Code::Unverified(Unverified::Memfd);
        }
        // What was deleted long after its exec was replaced, as by an upgrade.
        if executable.is_deleted() && self.execs.get(exec).is_some() {
            return Code::Unverified(Unverified::DeletedExecutable);
        }
        Code::Own
    }

    /// The executable of an image is known: which script does it run?
    pub(super) fn look_for_script(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
    ) -> ImageStanding {
        let language = self.language_of(facts, &process);
        let (Code::Own, Some(language)) = (&process.code, language) else {
            return self.conclude(facts, process, None);
        };
        match self.search(facts, language) {
            Ok(search) => {
                let work = Work::Find(Box::new(search), facts.instance);
                self.have_done(facts, process, work, Sought::Path)
            }
            Err(why) => self.conclude_unverified(facts, process, why),
        }
    }

    /// What an image's executable interprets, by the manifest of its agent; where that does not say, by
    /// its name, for events.
    fn language_of(&self, facts: &ProcessFacts, process: &Process) -> Option<Language> {
        let listed = self
            .software_of(facts)
            .and_then(|software| software.find(process.sha256, process.fsverity))
            .and_then(|software| software.language);
        let by_name = || process.exe.as_deref().and_then(interpreters::language_of);
        listed.or_else(by_name)
    }

    fn search(&self, facts: &ProcessFacts, language: Language) -> Result<ScriptSearch, Unverified> {
        let seen = self.execs.get(facts.exec).ok_or(Unverified::ExecNotSeen)?;
        let path = interpreters::script_of(language, &seen.arguments)?;
        Ok(ScriptSearch { pid: facts.tgid, start_ns: facts.start_ns, seen: seen.clone(), path })
    }

    /// Has the workers do something for an image, which waits for it.
    pub(super) fn have_done(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        work: Work,
        subject: Sought,
    ) -> ImageStanding {
        let is_executable = matches!(subject, Sought::Executable);
        let Err(busy) = self.hashers.submit(work, (facts.exec, subject)) else {
            return self.remember(facts, process, ImageStanding::Hashing);
        };
        tracing::warn!(pid = facts.tgid, error = %busy.why, "a program is not hashed");
        match busy.why {
            BusyReason::DeviceStuck if !is_executable => {
                self.conclude_unverified(facts, process, Unverified::ScriptUnreadable)
            }
            BusyReason::DeviceStuck
            | BusyReason::QueueFull
            | BusyReason::NoThread
            | BusyReason::Closing => {
                let standing = ImageStanding::Unreadable(Reason::IdentityUnverified);
                self.remember(facts, process, standing)
            }
        }
    }

    /// What the workers found of an image.
    pub(super) fn on_found(
        &mut self,
        exec: ExecId,
        subject: Sought,
        result: Result<Found, DigestError>,
    ) {
        let Some(image) = self.images.get(&exec) else { return };
        let (mut process, facts) = ((*image.process).clone(), image.facts);
        let standing = match (subject, result) {
            (Sought::Executable, Ok(Found::Hashed(hashed))) => {
                self.digests.insert(&hashed);
                (process.sha256, process.fsverity) = (Some(hashed.digest), hashed.fsverity);
                self.look_for_script(&facts, process)
            }
            (Sought::Executable, Err(error)) => {
                tracing::warn!(pid = process.pid, exe = ?process.exe, %error, "an executable is not hashed");
                let standing = ImageStanding::Unreadable(Reason::IdentityUnverified);
                self.remember(&facts, process, standing)
            }
            (Sought::Path, Ok(Found::Script(Ok(file)))) => self.read_script(&facts, process, file),
            (Sought::Path, Ok(Found::Script(Err(why)))) => {
                self.conclude_unverified(&facts, process, why)
            }
            (Sought::Script { path, stamp }, Ok(Found::Hashed(hashed))) => {
                self.on_script_hashed(&facts, process, path, &stamp, &hashed)
            }
            (Sought::Path | Sought::Script { .. }, Err(error)) => {
                let why = unverified(&error);
                tracing::info!(pid = process.pid, %error, why = why.word(), "a script is not verified");
                self.conclude_unverified(&facts, process, why)
            }
            (Sought::Executable | Sought::Script { .. }, Ok(Found::Script(_)))
            | (Sought::Path, Ok(Found::Hashed(_))) => {
                tracing::error!(pid = process.pid, "a worker answered another question");
                return;
            }
        };
        if standing == ImageStanding::Hashing {
            return;
        }
        self.announce(&facts);
        self.decide_waiting(|key, _group| key.exec == exec);
    }

    fn read_script(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        file: Executable,
    ) -> ImageStanding {
        let (path, stamp) = (file.path().clone(), file.stamp());
        match self.digests.lookup(&stamp) {
            Some(digests) => self.conclude_script(facts, process, path, digests),
            None => {
                self.have_done(facts, process, Work::Hash(file), Sought::Script { path, stamp })
            }
        }
    }

    fn on_script_hashed(
        &mut self,
        facts: &ProcessFacts,
        process: Process,
        path: PathBuf,
        stamp: &FileStamp,
        hashed: &Hashed,
    ) -> ImageStanding {
        self.digests.insert(hashed);
        if hashed.stamp != *stamp {
            return self.conclude_unverified(facts, process, Unverified::ChangedAfterExec);
        }
        self.conclude_script(facts, process, path, hashed.digests())
    }

    fn conclude_script(
        &mut self,
        facts: &ProcessFacts,
        mut process: Process,
        path: PathBuf,
        digests: FileDigests,
    ) -> ImageStanding {
        let FileDigests { sha256, fsverity } = digests;
        process.code = Code::Script(Script { path, sha256, fsverity });
        self.conclude(facts, process, None)
    }

    fn conclude_unverified(
        &mut self,
        facts: &ProcessFacts,
        mut process: Process,
        why: Unverified,
    ) -> ImageStanding {
        process.code = Code::Unverified(why);
        self.conclude(facts, process, None)
    }
}

const fn unverified(error: &DigestError) -> Unverified {
    match error {
        DigestError::Changed => Unverified::ChangedAfterExec,
        DigestError::NotRegular => Unverified::NotAFile,
        DigestError::TooLarge { .. }
        | DigestError::Unreadable(_)
        | DigestError::TimedOut
        | DigestError::Cancelled => Unverified::ScriptUnreadable,
    }
}
