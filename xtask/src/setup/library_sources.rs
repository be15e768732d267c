//! The sources of Rust's core library, of exactly the version of the pinned toolchain.
//!
//! In: the toolchain. Out: `lib/rustlib/src/rust` below its sysroot. First asks rustup; where that
//! fails, takes Debian's package of the same version from a private package state made of the
//! machine's own sources. Never changes the machine's package sources.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::State;
use crate::{command, workspace::Workspace};

/// The Debian release whose packages follow Rust's newest versions.
const SUITE: &str = "trixie-backports";

/// Whether the sources are there.
pub(crate) fn state() -> Result<State> {
    let library = rustlib()?.join("src/rust/library/core/src/lib.rs");
    let present = library.is_file();
    Ok(if present { State::Present(library.display().to_string()) } else { State::Missing })
}

/// Gets them.
pub(crate) fn install(workspace: &Workspace) -> Result<()> {
    let mut rustup = Command::new("rustup");
    rustup.args(["component", "add", "rust-src"]).current_dir(&workspace.root);
    let Err(refused) = command::run_quietly("adding rust-src", &mut rustup) else {
        return Ok(());
    };
    println!("  rustup has no rust-src here ({}); taking Debian's", first_line(&refused));
    let version = rustc(&["--version"])?;
    let version = version.split_whitespace().nth(1).context("`rustc --version` has no version")?;
    from_debian(version, &workspace.target.join("setup"), &rustlib()?.join("src")).context(
        "where rustup's server and Debian's can't be reached, unpack the sources of the \
         toolchain's version to lib/rustlib/src/rust below `rustc --print sysroot`",
    )
}

/// Fetches Debian's package into `scratch` and puts its content below `destination`.
fn from_debian(version: &str, scratch: &Path, destination: &Path) -> Result<()> {
    let apt = PrivateApt::create(&scratch.join("apt"))?;
    command::run_quietly("reading package lists", apt.command("apt-get").arg("update"))?;
    let versions = command::capture(apt.command("apt-cache").args(["madison", "rust-src"]))?;
    let exact = exact_version(&versions, version)
        .with_context(|| format!("{SUITE} has no rust-src of version {version}"))?;
    let package = scratch.join("package");
    recreate(&package)?;
    let mut download = apt.command("apt-get");
    download.arg("download").arg(format!("rust-src={exact}")).current_dir(&package);
    command::run_quietly("downloading rust-src", &mut download)?;
    let file = only_entry(&package)?;

    let unpacked = destination.join(format!("debian-{version}"));
    recreate(&unpacked)?;
    command::run_quietly(
        "unpacking rust-src",
        Command::new("dpkg-deb").arg("--extract").arg(&file).arg(&unpacked),
    )?;
    let sources = unpacked.join(format!("usr/src/rustc-{version}"));
    if !sources.join("library/core").is_dir() {
        bail!("{} has no library/core; the package has another layout", sources.display());
    }
    let link = destination.join("rust");
    match fs::remove_file(&link) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("can't replace {}", link.display()));
        }
        Ok(()) | Err(_) => {}
    }
    symlink(&sources, &link).with_context(|| format!("can't link {}", link.display()))
}

/// A package state of its own: lists, cache and sources in one folder.
struct PrivateApt {
    directory: PathBuf,
}

impl PrivateApt {
    fn create(directory: &Path) -> Result<Self> {
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
                move_deb822(&text, codename.trim_matches('"'))
            } else {
                move_one_line(&text, codename.trim_matches('"'))
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

    fn command(&self, program: &str) -> Command {
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
fn move_one_line(text: &str, codename: &str) -> String {
    let mut moved = String::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with("deb ")) {
        let words: Vec<_> = line.split_whitespace().collect();
        let Some(suite) = words.iter().position(|word| *word == codename) else { continue };
        if !words.iter().skip(suite + 1).any(|component| *component == "main") {
            continue;
        }
        let head = words.iter().take(suite).copied().collect::<Vec<_>>().join(" ");
        moved.extend([&head, " ", SUITE, " main\n"]);
    }
    moved
}

/// Entries of the machine's release, in the form with one field per line, with the suite replaced.
fn move_deb822(text: &str, codename: &str) -> String {
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
                Some("suites") => moved.extend(["Suites: ", SUITE]),
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

/// The full version in the output of `apt-cache madison` that packages upstream's `version`.
fn exact_version(madison: &str, version: &str) -> Option<String> {
    let versions = madison.lines().filter_map(|line| line.split('|').nth(1)).map(str::trim);
    let upstream = |full: &str| {
        full.strip_prefix(version).is_some_and(|rest| rest.starts_with(['+', '-', '~']))
    };
    versions.filter(|full| upstream(full)).map(str::to_owned).next()
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

fn rustlib() -> Result<PathBuf> {
    Ok(PathBuf::from(rustc(&["--print", "sysroot"])?).join("lib/rustlib"))
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let folder = env!("CARGO_MANIFEST_DIR");
    command::capture(Command::new("rustc").args(arguments).current_dir(folder))
}

fn recreate(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("can't empty {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))
}

fn only_entry(folder: &Path) -> Result<PathBuf> {
    let mut entries = fs::read_dir(folder)?;
    let entry = entries.next().with_context(|| format!("{} is empty", folder.display()))?;
    Ok(entry?.path())
}

fn first_line(error: &anyhow::Error) -> String {
    error.to_string().lines().nth(1).unwrap_or("no reason given").trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_entry_of_the_release_moves_to_the_suite() {
        let text = "# comment\n\
                    deb [arch=amd64] http://mirror.example/debian bookworm main contrib\n\
                    deb http://mirror.example/debian bookworm-updates main\n\
                    deb http://vendor.example/apt stable main\n\
                    deb-src http://mirror.example/debian bookworm main\n";
        assert_eq!(
            move_one_line(text, "bookworm"),
            "deb [arch=amd64] http://mirror.example/debian trixie-backports main\n"
        );
    }

    #[test]
    fn field_entry_of_the_release_moves_to_the_suite() {
        let text = "Types: deb\n# comment\nURIs: http://mirror.example/debian\n\
                    Suites: bookworm bookworm-updates\nComponents: main\n\
                    Signed-By: /usr/share/keyrings/archive.gpg\n\n\
                    Types: deb\nURIs: http://mirror.example/security\n\
                    Suites: bookworm-security\nComponents: main\n";
        assert_eq!(
            move_deb822(text, "bookworm"),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: trixie-backports\n\
             Components: main\nSigned-By: /usr/share/keyrings/archive.gpg\n\n"
        );
    }

    #[test]
    fn only_the_exact_upstream_version_is_taken() {
        let madison = " rust-src | 1.96.0+dfsg1-1~bpo13+1 | somewhere\n \
                       rust-src | 1.95.0+dfsg1-1~bpo13+1 | somewhere\n";
        assert_eq!(exact_version(madison, "1.95.0").unwrap(), "1.95.0+dfsg1-1~bpo13+1");
        assert_eq!(exact_version(madison, "1.9"), None);
    }

    #[test]
    #[ignore = "needs a Debian mirror; run by hand"]
    fn debian_package_has_the_core_library() {
        let scratch = std::env::temp_dir().join(format!("xtask-sources-{}", std::process::id()));
        let outcome = from_debian("1.95.0", &scratch, &scratch.join("src"));
        let found = scratch.join("src/rust/library/core/src/lib.rs").is_file();
        fs::remove_dir_all(&scratch).unwrap();
        outcome.unwrap();
        assert!(found);
    }
}
