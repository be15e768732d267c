//! Which executables the policy's tools name in their `via`, by what they are now.
//!
//! In: the policy, what its paths lead to, an image as the kernel side recorded it. Out: the tools that
//! name its executable. Files are compared by inode, as selectors do: a program of the same name
//! elsewhere is another program.

use std::collections::HashMap;

use agent_enforcer_common::{id::ToolId, record::ProcessFacts};

use crate::{
    decision::Sha256Digest,
    resolver::{
        attestation::executables::{GlobProblem, NamedExecutable, Resolution},
        policy::{Policy, Via},
    },
};

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct ViaIndex {
    /// Globs in the order of their positions, with the tool that has each, and whether it must name
    /// something by itself.
    globs: Vec<(String, ToolId, MayBeMissing)>,
    digests: HashMap<Sha256Digest, Vec<ToolId>>,
    files: HashMap<(u64, u32), Vec<ToolId>>,
}

/// Whether a path may lead nowhere: a program's name stands for several, of which one is enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MayBeMissing {
    Yes,
    No,
}

impl ViaIndex {
    /// Of a policy; what its paths lead to comes with [`Self::set_files`].
    pub(super) fn new(policy: &Policy) -> Self {
        let mut index = Self::default();
        for tool in policy.tools() {
            for via in &tool.via {
                let missing = match via {
                    Via::Name(_) => MayBeMissing::Yes,
                    Via::Path(_) => MayBeMissing::No,
                    Via::Digest(digest) => {
                        index.digests.entry(*digest).or_default().push(tool.id);
                        continue;
                    }
                };
                let globs = via.globs().into_iter().map(|glob| (glob, tool.id, missing));
                index.globs.extend(globs);
            }
        }
        index
    }

    /// The globs to resolve and watch.
    pub(super) fn globs(&self) -> impl Iterator<Item = &str> {
        self.globs.iter().map(|(glob, ..)| glob.as_str())
    }

    /// What the globs lead to now; true where that has changed. `first`: the position of the first of
    /// them.
    pub(super) fn set_files(&mut self, resolution: &Resolution, first: usize) -> bool {
        let before = std::mem::take(&mut self.files);
        for NamedExecutable { glob, inode, device, path: _, file: _ } in &resolution.executables {
            let position = glob.checked_sub(first);
            let Some((_, tool, _)) = position.and_then(|at| self.globs.get(at)) else { continue };
            let tools = self.files.entry((*inode, *device)).or_default();
            if !tools.contains(tool) {
                tools.push(*tool);
            }
        }
        self.files != before
    }

    /// Whether a problem of a glob is none: a program that is not in this directory.
    pub(super) fn is_expected(&self, problem: &GlobProblem) -> bool {
        let GlobProblem::NoMatch { glob } = problem else { return false };
        self.globs.iter().any(|(known, _, missing)| known == glob && *missing == MayBeMissing::Yes)
    }

    /// The tools that name an image's executable.
    pub(super) fn tools_of(
        &self,
        facts: &ProcessFacts,
        sha256: Option<&Sha256Digest>,
    ) -> Vec<ToolId> {
        let by_file = self.files.get(&(facts.exe_inode, facts.exe_device)).into_iter().flatten();
        let by_digest = sha256.and_then(|digest| self.digests.get(digest)).into_iter().flatten();
        let mut tools: Vec<ToolId> = by_file.chain(by_digest).copied().collect();
        tools.sort_unstable();
        tools.dedup();
        tools
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::resolver::attestation::executables::resolve;

    fn facts(path: &std::path::Path) -> ProcessFacts {
        let found = resolve(&[path.to_str().unwrap()]).unwrap();
        let [NamedExecutable { inode, device, .. }] = found.executables[..] else {
            panic!("{found:?}")
        };
        ProcessFacts { exe_inode: inode, exe_device: device, ..ProcessFacts::default() }
    }

    #[test]
    fn executable_is_known_by_its_file_and_by_its_content_and_not_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        let programs = directory.path().join("bin");
        let elsewhere = directory.path().join("elsewhere");
        for place in [&programs, &elsewhere] {
            fs::create_dir(place).unwrap();
            fs::copy("/bin/true", place.join("git")).unwrap();
        }
        std::os::unix::fs::symlink(programs.join("git"), programs.join("other-name")).unwrap();
        let digest = "0f".repeat(32);
        let yaml = format!(
            "apiVersion: agent-enforcer/v1
tools:
  - {{name: a, cidrs: [192.0.2.1], ports: [1], via: [\"{0}/git\"]}}
  - {{name: b, cidrs: [192.0.2.2], ports: [1], via: [\"{0}/*\", \"sha256:{digest}\"]}}
  - {{name: c, cidrs: [192.0.2.3], ports: [1], via: [no-such-program]}}
",
            programs.display()
        );
        fs::write(directory.path().join("p.yaml"), yaml).unwrap();
        let policy = Policy::load(directory.path()).unwrap();
        let mut index = ViaIndex::new(&policy);
        // Some globs of others come first.
        let globs: Vec<_> = std::iter::once("/usr/bin/env").chain(index.globs()).collect();
        let resolution = resolve(&globs).unwrap();
        assert!(resolution.problems.iter().all(|problem| index.is_expected(problem)));
        assert!(index.set_files(&resolution, 1) && !index.set_files(&resolution, 1));
        let (a, b) = (ToolId::new(1), ToolId::new(2));
        for path in [programs.join("git"), programs.join("other-name")] {
            assert_eq!(index.tools_of(&facts(&path), None), [a, b], "{}", path.display());
        }
        let stranger = facts(&elsewhere.join("git"));
        assert_eq!(index.tools_of(&stranger, None), []);
        let known = Sha256Digest([0x0f; 32]);
        assert_eq!(index.tools_of(&stranger, Some(&known)), [b]);
    }
}
