use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink},
};

use super::*;
use crate::resolver::attestation::testing::kernel_encoding;

/// A tree of programs: every path given is an executable file.
fn tree(programs: &[&str]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for program in programs {
        install(&directory.path().join(program));
    }
    directory
}

fn install(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, b"\x7fELF").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Paths below the tree that a glob below the tree names, and the problems.
fn names(directory: &Path, glob: &str) -> (Vec<String>, Vec<GlobProblem>) {
    names_within(directory, glob, Limits::default())
}

fn names_within(directory: &Path, glob: &str, limits: Limits) -> (Vec<String>, Vec<GlobProblem>) {
    let glob = format!("{}/{glob}", directory.display());
    let Resolution { executables, problems } =
        resolve_watched(&[glob], limits, &mut |_, _| {}).unwrap();
    let below = |path: &PathBuf| path.strip_prefix(directory).unwrap().to_str().unwrap().to_owned();
    (executables.iter().map(|executable| below(&executable.path)).collect(), problems)
}

#[test]
fn globs_name_what_their_semantics_say() {
    let tree = tree(&["bin/agent", "bin/agent2", "bin/sub/agent", "v1/bin/agent", "v2/bin/agent"]);
    for (glob, expected) in [
        ("bin/agent", vec!["bin/agent"]),
        ("bin/agent*", vec!["bin/agent", "bin/agent2"]),
        ("bin/*", vec!["bin/agent", "bin/agent2"]),
        ("bin/agent?", vec!["bin/agent2"]),
        ("*/agent", vec!["bin/agent"]),
        ("v?/bin/agent", vec!["v1/bin/agent", "v2/bin/agent"]),
        ("bin/**", vec!["bin/agent", "bin/agent2", "bin/sub/agent"]),
        // Between two slashes there is at least one name, as in the kernel.
        ("**/bin/agent", vec!["v1/bin/agent", "v2/bin/agent"]),
        ("**agent2", vec!["bin/agent2"]),
        ("v**agent", vec!["v1/bin/agent", "v2/bin/agent"]),
    ] {
        let (mut found, problems) = names(tree.path(), glob);
        found.sort();
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(found, expected, "{glob}");
        assert!(problems.is_empty(), "{glob}: {problems:?}");
    }
}

#[test]
fn tells_the_numbers_that_the_kernel_will_see() {
    let tree = tree(&["agent"]);
    let path = tree.path().join("agent");
    let Resolution { executables, .. } =
        resolve(&["/no/such/program".to_owned(), path.display().to_string()]).unwrap();
    let metadata = fs::metadata(&path).unwrap();
    let expected = NamedExecutable {
        glob: 1,
        path: path.clone(),
        file: path,
        inode: metadata.ino(),
        device: kernel_encoding(metadata.dev()),
    };
    assert_eq!(executables, [expected]);
}

#[test]
fn what_a_symlink_points_to_counts() {
    let tree = tree(&["opt/v2/agent"]);
    let path = tree.path();
    fs::create_dir(path.join("bin")).unwrap();
    symlink("v2", path.join("opt/current")).unwrap();
    symlink("../opt/current/agent", path.join("bin/agent")).unwrap();
    symlink("agent", path.join("bin/alias")).unwrap();
    for glob in ["bin/agent", "bin/alias", "opt/current/agent", "opt/c*/agent", "**/current/agent"]
    {
        let glob = format!("{}/{glob}", path.display());
        let found = resolve(&[&glob]).unwrap().executables;
        assert_eq!(found.len(), 1, "{glob}");
        assert_eq!(found[0].file, path.join("opt/v2/agent"), "{glob}");
    }
}

#[test]
fn symlinks_that_lead_in_circles_end() {
    let tree = tree(&["a/b/agent"]);
    let path = tree.path();
    symlink("../..", path.join("a/b/up")).unwrap();
    symlink("self", path.join("a/self")).unwrap();
    let (found, problems) = names(path, "a/**/agent");
    assert_eq!(found, ["a/b/agent"]);
    assert!(matches!(problems.as_slice(), [GlobProblem::Unreadable { .. }]), "{problems:?}");
}

#[test]
fn files_that_nobody_may_execute_do_not_count() {
    let tree = tree(&["agent"]);
    let path = tree.path();
    fs::write(path.join("notes"), b"x").unwrap();
    fs::create_dir(path.join("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path.join("socket")).unwrap();
    assert_eq!(names(path, "*").0, ["agent"]);
    let (_, problems) = names(path, "notes");
    assert!(matches!(problems.as_slice(), [GlobProblem::NoMatch { .. }]), "{problems:?}");
    let (_, problems) = names(path, "directory");
    assert!(matches!(problems.as_slice(), [GlobProblem::NoMatch { .. }]), "{problems:?}");
}

#[test]
fn a_script_is_a_problem_because_its_interpreter_runs() {
    let tree = tree(&["agent", "script"]);
    fs::write(tree.path().join("script"), "#!/bin/sh\n").unwrap();
    let (found, problems) = names(tree.path(), "*");
    assert_eq!(found, ["agent"]);
    match problems.as_slice() {
        [GlobProblem::Script { path }] => assert_eq!(*path, tree.path().join("script")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_no_absolute_path_is_a_problem() {
    for glob in ["", "agent", "/", "/a//b", "/a/", "/a/./b", "/a/../b", "/a\0b"] {
        let found = resolve(&[glob]).unwrap();
        assert!(found.executables.is_empty());
        let problems = found.problems;
        assert!(matches!(problems.as_slice(), [GlobProblem::NotAPath { .. }]), "{glob}");
    }
}

#[test]
fn nothing_there_is_a_problem() {
    for glob in ["missing", "missing/*/agent", "agent/below", "**/missing"] {
        let tree = tree(&["agent"]);
        let (found, problems) = names(tree.path(), glob);
        assert!(found.is_empty());
        assert!(matches!(problems.as_slice(), [GlobProblem::NoMatch { .. }]), "{glob}");
    }
}

#[test]
fn each_limit_that_is_met_is_a_problem() {
    let tree = tree(&["a", "b", "c", "d1/d2/d3/agent"]);
    let limits = Limits::default();
    let (found, problems) = names_within(tree.path(), "?", Limits { matches: 2, ..limits });
    assert_eq!(found, ["a", "b"]);
    assert!(matches!(problems.as_slice(), [GlobProblem::TooManyMatches { limit: 2, .. }]));
    let (found, problems) = names_within(tree.path(), "**", Limits { entries: 2, ..limits });
    assert!(found.len() <= 3);
    assert!(matches!(problems.as_slice(), [GlobProblem::TooManyEntries { limit: 2, .. }]));
    let depth = tree.path().components().count();
    let limits = Limits { depth, ..limits };
    for glob in ["**/agent", "d1/d2/d3/agent"] {
        let (found, problems) = names_within(tree.path(), glob, limits);
        assert!(found.is_empty(), "{glob}");
        assert!(matches!(problems.as_slice(), [GlobProblem::TooDeep { .. }]), "{problems:?}");
    }
}

#[test]
fn every_directory_on_the_way_is_told_of_before() {
    let tree = tree(&["opt/v2/agent"]);
    let path = tree.path();
    fs::create_dir(path.join("bin")).unwrap();
    symlink("v2", path.join("opt/current")).unwrap();
    symlink("../opt/current/agent", path.join("bin/agent")).unwrap();
    let mut told = Vec::new();
    let glob = format!("{}/bin/agent", path.display());
    let mut visit = |directory: &Path, interest: Interest| {
        if let (Ok(directory), Interest::Name(name)) = (directory.canonicalize(), interest) {
            told.push(directory.join(name));
        }
    };
    resolve_watched(&[glob], Limits::default(), &mut visit).unwrap();
    for link in ["bin", "bin/agent", "opt", "opt/current", "opt/v2/agent"] {
        assert!(told.contains(&path.join(link)), "{link}: {told:?}");
    }
}
