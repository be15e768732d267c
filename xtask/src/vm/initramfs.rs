//! The first and only file system of a machine.
//!
//! In: programs of this host, and a kernel's modules. Out: a file that the kernel unpacks. Programs
//! bring the shared libraries that `ldd` names; debug information stays here.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{archive::Archive, kernels::Kernel, modules};
use crate::command;

const INIT: &str = include_str!("guest/init.sh");
/// Programs that busybox has none of, or not with the options that tests use; its shell takes its own
/// wherever others are.
const PROGRAMS: [&str; 5] = ["bash", "ip", "setpriv", "setsid", "sh"];

/// What every machine of a run has, whatever its kernel.
#[derive(Debug)]
pub(crate) struct Payload {
    archive: Archive,
    libraries: BTreeSet<PathBuf>,
    /// Where programs lose their debug information.
    scratch: PathBuf,
}

impl Payload {
    /// A machine that runs `job`, a script of busybox's shell, and is off afterwards.
    pub(crate) fn new(job: &str, scratch: PathBuf) -> Result<Self> {
        fs::create_dir_all(&scratch)
            .with_context(|| format!("can't create {}", scratch.display()))?;
        let mut payload = Self { archive: Archive::default(), libraries: BTreeSet::new(), scratch };
        for directory in ["proc", "sys", "dev", "tmp", "run", "modules"] {
            payload.archive.directory(directory);
        }
        payload.file("init", INIT.as_bytes());
        payload.file("job", job.as_bytes());
        for name in ["busybox"].iter().chain(&PROGRAMS) {
            let path = command::find(name)
                .with_context(|| format!("no `{name}`; `cargo xtask setup` installs it"))?;
            payload.installed(&path, &format!("bin/{name}"))?;
        }
        Ok(payload)
    }

    /// Adds a file; the path has no leading `/`.
    pub(crate) fn file(&mut self, path: &str, content: &[u8]) {
        self.archive.add(path, content);
    }

    /// Adds a program that was built here.
    pub(crate) fn built(&mut self, program: &Path, path: &str) -> Result<()> {
        let small = self.scratch.join(path.replace('/', "-"));
        command::capture(Command::new("strip").arg("-o").arg(&small).arg(program))?;
        self.installed(&small, path)
    }

    fn installed(&mut self, program: &Path, path: &str) -> Result<()> {
        self.archive.add(path, &read(program)?);
        for library in libraries(program)? {
            if self.libraries.insert(library.clone()) {
                let content = read(&library)?;
                let path = library.to_string_lossy();
                self.archive.add(path.trim_start_matches('/'), &content);
            }
        }
        Ok(())
    }

    /// Writes it with the modules of a kernel.
    pub(super) fn write(&self, kernel: &Kernel, to: &Path) -> Result<()> {
        let mut archive = self.archive.clone();
        for (number, module) in modules::in_order(&kernel.modules)?.iter().enumerate() {
            let name = module.file_name().map_or_else(String::new, |name| {
                format!("modules/{number:02}-{}", name.to_string_lossy())
            });
            archive.add(&name, &read(module)?);
        }
        fs::write(to, archive.finish()).with_context(|| format!("can't write {}", to.display()))
    }
}

/// Where the program's shared libraries are; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output().context("can't run ldd")?;
    paths(&String::from_utf8_lossy(&output.stdout))
        .with_context(|| format!("{} can't run elsewhere", program.display()))
}

fn paths(ldd: &str) -> Result<Vec<PathBuf>> {
    if let Some(missing) = ldd.lines().find(|line| line.contains("not found")) {
        bail!("a library is missing: {}", missing.trim());
    }
    let words =
        ldd.lines().filter_map(|line| line.split_whitespace().find(|it| it.starts_with('/')));
    Ok(words.map(PathBuf::from).collect())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("can't read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_those_with_a_path() {
        let ldd = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f10)\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(paths(ldd).unwrap(), expected.map(PathBuf::from));
    }

    #[test]
    fn static_program_has_no_libraries_and_a_missing_one_is_named() {
        assert!(paths("\tnot a dynamic executable\n").unwrap().is_empty());
        let error = paths("\tlibx.so => not found\n").unwrap_err().to_string();
        assert!(error.contains("libx.so"), "{error}");
    }
}
