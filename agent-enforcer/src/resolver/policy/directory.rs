//! From a directory to decoded policy files, Cedar policies and manifests.
//!
//! In: a path. Out: the files as written, in the order of their names, and what is wrong with the
//! others: `*.yaml` and `*.yml` are policies, `*.cedar` are permits and forbids beside them, `*.json` are
//! agent manifests. Sizes are checked before anything is read, kinds before anything is opened: a
//! pipe, a device or a file of 100 MB costs nothing. Never follows the directory downwards.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    document::{self, Document},
    error::{PolicyError, PolicyErrors, Problem},
    place::{Place, quote_path},
};
use crate::resolver::manifest::Manifest;

/// Largest policy file, bytes.
pub(super) const FILE_LIMIT: u64 = 1 << 20;
/// Largest sum of all policy files, bytes.
pub(super) const DIRECTORY_LIMIT: u64 = 8 << 20;

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A policy file as written.
#[derive(Debug)]
pub(super) struct Source {
    /// Its path, as messages show it.
    pub(super) file: Arc<str>,
    /// Its content.
    pub(super) document: Document,
}

/// A file of Cedar policies as written.
#[derive(Debug)]
pub(super) struct CedarFile {
    /// Its path, as messages show it.
    pub(super) file: Arc<str>,
    /// Its content.
    pub(super) text: Arc<str>,
}

/// An agent manifest as written.
#[derive(Debug)]
pub(super) struct ManifestFile {
    /// The whole file.
    pub(super) place: Place,
    /// Its content; nobody vouches for it yet.
    pub(super) manifest: Arc<Manifest>,
}

/// What a directory holds.
#[derive(Debug, Default)]
pub(super) struct Sources {
    pub(super) policies: Vec<Source>,
    pub(super) cedar: Vec<CedarFile>,
    pub(super) manifests: Vec<ManifestFile>,
}

/// Which kind of file it is, by its name.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Policy,
    Cedar,
    Manifest,
}

/// Reads every file of a directory. `Err` where there is nothing to check at all.
pub(super) fn read(dir: &Path) -> Result<(Sources, Vec<PolicyError>), PolicyErrors> {
    let paths = list(dir).map_err(|problem| PolicyError::new(Place::whole(dir), problem))?;
    let mut errors = Vec::new();
    let mut files = Vec::new();
    let mut total = 0_u64;
    for (path, kind) in paths {
        match checked_size(&path) {
            Ok(size) => {
                total = total.saturating_add(size);
                files.push((path, kind));
            }
            Err(problem) => errors.push(PolicyError::new(Place::whole(&path), problem)),
        }
    }
    if total > DIRECTORY_LIMIT {
        errors.push(PolicyError::new(Place::whole(dir), Problem::DirectoryTooLarge(total)));
        return Err(PolicyErrors::new(errors));
    }
    let mut sources = Sources::default();
    for (path, kind) in files {
        let read = match kind {
            Kind::Policy => decode(&path).map(|source| sources.policies.push(source)),
            Kind::Cedar => read_text(&path)
                .map(|(file, text)| sources.cedar.push(CedarFile { file, text: text.into() })),
            Kind::Manifest => decode_manifest(&path).map(|file| sources.manifests.push(file)),
        };
        errors.extend(read.err());
    }
    Ok((sources, errors))
}

/// Paths of the files, sorted by name.
fn list(dir: &Path) -> Result<Vec<(PathBuf, Kind)>, Problem> {
    let entries = fs::read_dir(dir).map_err(|error| {
        if error.kind() == io::ErrorKind::NotFound {
            Problem::DirectoryMissing
        } else if error.kind() == io::ErrorKind::NotADirectory {
            Problem::NotADirectory
        } else {
            Problem::DirectoryUnreadable(error)
        }
    })?;
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(Problem::DirectoryUnreadable)?.path();
        if let Some(kind) = kind(&path) {
            paths.push((path, kind));
        }
    }
    paths.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    let has_policy = paths.iter().any(|(_, kind)| *kind == Kind::Policy);
    if has_policy { Ok(paths) } else { Err(Problem::DirectoryEmpty) }
}

fn kind(path: &Path) -> Option<Kind> {
    if path.file_name()?.as_encoded_bytes().first() == Some(&b'.') {
        return None;
    }
    match path.extension()?.as_encoded_bytes() {
        b"yaml" | b"yml" => Some(Kind::Policy),
        b"cedar" => Some(Kind::Cedar),
        b"json" => Some(Kind::Manifest),
        _ => None,
    }
}

/// The size of a regular file that is not too large; links are followed.
fn checked_size(path: &Path) -> Result<u64, Problem> {
    check_metadata(&fs::metadata(path).map_err(Problem::FileUnreadable)?)
}

fn check_metadata(metadata: &Metadata) -> Result<u64, Problem> {
    if !metadata.is_file() {
        return Err(Problem::NotARegularFile);
    }
    if metadata.len() > FILE_LIMIT {
        return Err(Problem::FileTooLarge(metadata.len()));
    }
    Ok(metadata.len())
}

fn decode(path: &Path) -> Result<Source, PolicyError> {
    let (file, text) = read_text(path)?;
    let document = document::decode(&text, &file)?;
    Ok(Source { file, document })
}

/// Its path as messages show it, and its content.
fn read_text(path: &Path) -> Result<(Arc<str>, String), PolicyError> {
    let in_whole = |problem| PolicyError::new(Place::whole(path), problem);
    let bytes = read_bytes(path).map_err(in_whole)?;
    if bytes.starts_with(BYTE_ORDER_MARK) {
        return Err(in_whole(Problem::ByteOrderMark));
    }
    let file = quote_path(path);
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let (line, column) = position(error.as_bytes().get(..valid).unwrap_or_default());
        PolicyError::new(Place::at(&file, line, column), Problem::NotUtf8)
    })?;
    Ok((file, text))
}

fn decode_manifest(path: &Path) -> Result<ManifestFile, PolicyError> {
    let place = Place::whole(path);
    let in_whole = |problem| PolicyError::new(place.clone(), problem);
    let bytes = read_bytes(path).map_err(in_whole)?;
    let manifest = Manifest::parse(&bytes).map_err(|error| in_whole(Problem::Manifest(error)))?;
    Ok(ManifestFile { manifest: Arc::new(manifest), place })
}

/// Reads a file that may have been exchanged since it was checked, so checks it again.
fn read_bytes(path: &Path) -> Result<Vec<u8>, Problem> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file: File = OpenOptions::new()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(Problem::FileUnreadable)?;
    check_metadata(&file.metadata().map_err(Problem::FileUnreadable)?)?;
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT + 1).read_to_end(&mut bytes).map_err(Problem::FileUnreadable)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > FILE_LIMIT { Err(Problem::FileTooLarge(length)) } else { Ok(bytes) }
}

/// Line and column (in characters, from 1) of what follows `before`, which is valid UTF-8.
pub(super) fn position(before: &[u8]) -> (u32, u32) {
    let text = String::from_utf8_lossy(before);
    let line = text.matches('\n').count() + 1;
    let column = text.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (u32::try_from(line).unwrap_or(u32::MAX), u32::try_from(column).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::symlink, time::Instant};

    use super::*;
    use crate::resolver::policy::Policy;

    const MINIMAL: &str =
        "apiVersion: agent-enforcer/v1\ntools:\n  - {name: t, cidrs: [192.0.2.1], ports: [443]}\n";

    fn problems(dir: &Path) -> String {
        let prefix = format!("{}/", dir.display());
        Policy::load(dir).unwrap_err().to_string().replace(&prefix, "")
    }

    #[test]
    fn refuses_a_huge_file_without_reading_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = File::create(dir.path().join("huge.yaml")).unwrap();
        file.set_len(100 << 20).unwrap();
        let begun = Instant::now();
        assert_eq!(
            problems(dir.path()),
            "huge.yaml: the file has 104857600 bytes, more than 1048576; split it"
        );
        assert!(begun.elapsed().as_millis() < 100);
    }

    #[test]
    fn refuses_many_files_that_are_too_large_in_all() {
        let dir = tempfile::tempdir().unwrap();
        for number in 0..9 {
            let file = File::create(dir.path().join(format!("{number}.yaml"))).unwrap();
            file.set_len(FILE_LIMIT).unwrap();
        }
        assert!(problems(dir.path()).ends_with(
            "the policy files have 9437184 bytes in all, more than 8388608; remove some"
        ));
    }

    #[test]
    fn refuses_what_is_no_directory_of_policy_files() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        assert!(problems(&missing).contains("there is no such directory; create it"));
        assert!(problems(dir.path()).contains("the directory has no `*.yaml` or `*.yml` file"));
        let file = dir.path().join("file");
        fs::write(&file, MINIMAL).unwrap();
        assert!(problems(&file).contains("this is not a directory"));
        // Permissions don't stop root, a link to itself does.
        let circle = dir.path().join("circle");
        symlink(&circle, &circle).unwrap();
        assert!(problems(&circle).contains("the directory can't be read"));
    }

    #[test]
    fn refuses_pipes_directories_and_dangling_links() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a.yaml")).unwrap();
        rustix::fs::mkfifoat(
            rustix::fs::CWD,
            dir.path().join("b.yaml"),
            rustix::fs::Mode::from_raw_mode(0o600),
        )
        .unwrap();
        symlink("nowhere", dir.path().join("c.yml")).unwrap();
        let found = problems(dir.path());
        let lines: Vec<_> = found.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[0].starts_with("a.yaml: this is not a regular file"));
        assert!(lines[1].starts_with("b.yaml: this is not a regular file"));
        assert!(lines[2].starts_with("c.yml: the file can't be read"));
    }

    #[test]
    fn ignores_hidden_files_other_files_and_folders_below() {
        let dir = tempfile::tempdir().unwrap();
        let hidden = dir.path().join(".hidden.yaml");
        fs::write(&hidden, "not: [yaml").unwrap();
        fs::write(dir.path().join("notes.txt"), "not: [yaml").unwrap();
        fs::create_dir(dir.path().join("below")).unwrap();
        fs::write(dir.path().join("below/x.yaml"), "not: [yaml").unwrap();
        let target = dir.path().join("real");
        fs::write(&target, MINIMAL).unwrap();
        symlink(&target, dir.path().join("linked.yml")).unwrap();
        assert_eq!(Policy::load(dir.path()).unwrap().tools().len(), 1);
    }
}
