//! Debian packages of other releases than the machine's, unpacked and not installed.
//!
//! In: names of suites. Out: a package state of its own, made of the machine's own sources with
//! their suite replaced. Never changes the machine's package sources or installs anything.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command;

/// A package state of its own: lists, cache and sources in one folder.
pub(crate) struct PrivateApt {
    directory: PathBuf,
}

impl PrivateApt {
    /// Makes it, or finds it as an earlier run left it.
    pub(crate) fn create(directory: &Path, suites: &[&str]) -> Result<Self> {
        for folder in ["lists/partial", "archives/partial", "sources"] {
            let folder = directory.join(folder);
            fs::create_dir_all(&folder)
                .with_context(|| format!("can't create {}", folder.display()))?;
        }
        let release = fs::read_to_string("/etc/os-release").context("can't read os-release")?;
        let codename = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .context("this is no Debian: os-release names no VERSION_CODENAME")?;
        let mut found = false;
        for file in source_files()? {
            let text = fs::read_to_string(&file)
                .with_context(|| format!("can't read {}", file.display()))?;
            let deb822 = file.extension().is_some_and(|extension| extension == "sources");
            let moved = if deb822 {
                move_deb822(&text, codename.trim_matches('"'), suites)
            } else {
                move_one_line(&text, codename.trim_matches('"'), suites)
            };
            if let (false, Some(name)) = (moved.is_empty(), file.file_name()) {
                fs::write(directory.join("sources").join(name), moved)?;
                found = true;
            }
        }
        if !found {
            bail!("the machine's package sources have no entry for {codename}");
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Asks the mirror what there is.
    pub(crate) fn update(&self) -> Result<()> {
        command::run_quietly("reading package lists", self.command("apt-get").arg("update"))
    }

    /// Fetches packages (`NAME` or `NAME=VERSION`) and leaves what is in them, and nothing else,
    /// below `destination`.
    pub(crate) fn unpack(&self, packages: &[String], destination: &Path) -> Result<()> {
        let fetched = self.directory.join("fetched");
        recreate(&fetched)?;
        recreate(destination)?;
        let mut download = self.command("apt-get");
        download.arg("download").args(packages).current_dir(&fetched);
        command::run_quietly(&format!("downloading {}", packages.join(" ")), &mut download)?;
        for file in fs::read_dir(&fetched)? {
            let mut extract = Command::new("dpkg-deb");
            extract.arg("--extract").arg(file?.path()).arg(destination);
            command::run_quietly("unpacking", &mut extract)?;
        }
        fs::remove_dir_all(&fetched).with_context(|| format!("can't remove {}", fetched.display()))
    }

    /// A program of apt on this state.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        for (option, value) in [
            ("Dir::Etc::sourcelist", "/dev/null".to_owned()),
            ("Dir::Etc::sourceparts", self.path("sources")),
            ("Dir::State::lists", self.path("lists")),
            ("Dir::Cache::archives", self.path("archives")),
            ("Dir::Cache::pkgcache", String::new()),
            ("Dir::Cache::srcpkgcache", String::new()),
            ("APT::Sandbox::User", String::new()),
            ("APT::Get::List-Cleanup", "0".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            ("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false".to_owned()),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }

    fn path(&self, folder: &str) -> String {
        self.directory.join(folder).display().to_string()
    }
}

/// Entries of the machine's release, in the one-line form, with the suite replaced.
fn move_one_line(text: &str, codename: &str, suites: &[&str]) -> String {
    let mut moved = String::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with("deb ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(suite) = words.iter().position(|word| *word == codename) else { continue };
        if !words.iter().skip(suite + 1).any(|component| *component == "main") {
            continue;
        }
        let head = words.iter().take(suite).copied().collect::<Vec<_>>().join(" ");
        for suite in suites {
            moved.extend([&head, " ", *suite, " main\n"]);
        }
    }
    moved
}

/// Entries of the machine's release, in the form with one field per line, with the suite replaced.
fn move_deb822(text: &str, codename: &str, suites: &[&str]) -> String {
    let mut moved = String::new();
    let text: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
    for entry in text.split(|line| line.trim().is_empty()) {
        let field = |name: &str| {
            entry.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        let has = |name: &str, word: &str| {
            field(name).is_some_and(|value| value.split_whitespace().any(|each| each == word))
        };
        if !has("Types", "deb") || !has("Suites", codename) || !has("Components", "main") {
            continue;
        }
        for line in entry {
            match line.split_once(':').map(|(key, _)| key.to_ascii_lowercase()).as_deref() {
                Some("suites") => moved.extend(["Suites: ", &suites.join(" ")]),
                Some("components") => moved.push_str("Components: main"),
                Some("types") => moved.push_str("Types: deb"),
                Some(_) | None => moved.push_str(line),
            }
            moved.push('\n');
        }
        moved.push('\n');
    }
    moved
}

fn source_files() -> Result<Vec<PathBuf>> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = Path::new("/etc/apt/sources.list.d");
    if parts.is_dir() {
        for entry in fs::read_dir(parts).context("can't read the package sources")? {
            files.push(entry?.path());
        }
    }
    files.retain(|file| file.is_file());
    Ok(files)
}

fn recreate(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("can't empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_entry_of_the_release_moves_to_the_suites() {
        let text = "# comment\n\
                    deb [arch=amd64] http://mirror.example/debian bookworm main contrib\n\
                    deb http://mirror.example/debian bookworm-updates main\n\
                    deb http://vendor.example/apt stable main\n\
                    deb-src http://mirror.example/debian bookworm main\n";
        assert_eq!(
            move_one_line(text, "bookworm", &["trixie", "trixie-backports"]),
            "deb [arch=amd64] http://mirror.example/debian trixie main\n\
             deb [arch=amd64] http://mirror.example/debian trixie-backports main\n"
        );
    }

    #[test]
    fn field_entry_of_the_release_moves_to_the_suites() {
        let text = "Types: deb\n# comment\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\n\
                    Signed-By: /usr/share/keyrings/archive.gpg\n\n\
                    Types: deb\nURIs: http://mirror.example/security\n\
                    Suites: bookworm-security\nComponents: main\n";
        assert_eq!(
            move_deb822(text, "bookworm", &["trixie", "trixie-backports"]),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie trixie-backports\n\
             Components: main\nSigned-By: /usr/share/keyrings/archive.gpg\n\n"
        );
    }
}
