//! OCSF objects that several classes share.
//!
//! In: facts of the domain. Out: objects that borrow them, under OCSF's names.

use std::{borrow::Cow, path::Path};

use serde::Serialize;

use crate::{
    decision::{Ancestor, Process, Sha256Digest},
    events::{clock::Moment, json::path_text},
};

pub(super) const PRODUCT: Product<'static> = Product {
    name: "agent-enforcer",
    vendor_name: "agent-enforcer",
    version: env!("CARGO_PKG_VERSION"),
};

#[derive(Serialize)]
pub(super) struct Product<'a> {
    pub(super) name: &'a str,
    pub(super) vendor_name: &'a str,
    pub(super) version: &'a str,
}

#[derive(Serialize)]
pub(super) struct Device<'a> {
    hostname: &'a str,
    /// Unknown: nobody told the daemon whether it guards a server or a laptop.
    type_id: u8,
    os: OperatingSystem,
}

#[derive(Serialize)]
struct OperatingSystem {
    name: &'static str,
    type_id: u16,
}

pub(super) fn device(host: &str) -> Device<'_> {
    Device { hostname: host, type_id: 0, os: OperatingSystem { name: "Linux", type_id: 200 } }
}

#[derive(Serialize)]
pub(super) struct User<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) type_id: Option<u8>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<Group>,
}

/// `user.type_id`: nobody told the daemon.
pub(super) const USER_UNKNOWN: u8 = 0;
/// `user.type_id`: a service.
pub(super) const USER_SERVICE: u8 = 4;

impl<'a> User<'a> {
    pub(super) fn named(name: &'a str, type_id: u8) -> Self {
        Self { name: Some(name), uid: None, type_id: Some(type_id), groups: Vec::new() }
    }
}

#[derive(Serialize)]
pub(super) struct Group {
    uid: String,
}

#[derive(Serialize)]
pub(super) struct Policy<'a> {
    pub(super) name: &'a str,
    #[serde(rename = "type")]
    pub(super) kind: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) uid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) version: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) is_applied: Option<bool>,
}

/// A process, with those it descends from.
#[derive(Serialize)]
pub(super) struct ProcessObject<'a> {
    pid: u32,
    /// Pid and start: unique until the host restarts, even where the pid is reused.
    uid: String,
    created_time: u64,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<File<'a>>,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parent_process: Option<ProcessEntity<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ancestry: Vec<ProcessEntity<'a>>,
}

#[derive(Serialize)]
struct File<'a> {
    path: Cow<'a, str>,
    name: Cow<'a, str>,
    type_id: u8,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hashes: Vec<Fingerprint>,
}

#[derive(Serialize)]
struct Fingerprint {
    algorithm_id: u8,
    algorithm: &'static str,
    value: String,
}

#[derive(Serialize)]
pub(super) struct ProcessEntity<'a> {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<Cow<'a, str>>,
}

const EXECUTABLE_FILE: u8 = 8;
const SHA256: u8 = 3;

/// The process, and which of its paths are percent-encoded as they are not UTF-8.
pub(super) fn process<'a>(
    process: &'a Process,
    moment: &Moment,
) -> (ProcessObject<'a>, Vec<String>) {
    let Process {
        pid,
        start_ns,
        exec: _,
        exe,
        sha256,
        fsverity: _,
        code,
        uid,
        gid,
        cgroup: _,
        unit: _,
        container: _,
        comm,
        ancestors,
        spiffe_id: _,
    } = process;
    let mut encoded = Vec::new();
    let file = exe.as_deref().map(|exe| {
        let (path, is_encoded) = path_text(exe);
        if is_encoded {
            encoded.push("process.file.path".to_owned());
        }
        let hashes = sha256.iter().map(|digest| Fingerprint {
            algorithm_id: SHA256,
            algorithm: "SHA-256",
            value: digest.to_string(),
        });
        let name = path_text(exe.file_name().map_or(exe, Path::new)).0;
        File { path, name, type_id: EXECUTABLE_FILE, hashes: hashes.collect() }
    });
    if code.script().is_some_and(|script| path_text(&script.path).1) {
        encoded.push("unmapped.agent_enforcer.script".to_owned());
    }
    let parent_process = parent(process);
    let ancestry = ancestors
        .iter()
        .enumerate()
        .map(|(position, ancestor)| {
            let (entity, is_encoded) = entity(ancestor);
            if is_encoded {
                encoded.push(format!("process.ancestry[{position}].path"));
            }
            entity
        })
        .collect();
    let object = ProcessObject {
        pid: *pid,
        uid: format!("{pid}-{start_ns}"),
        created_time: moment.epoch_ms(*start_ns),
        name: comm,
        file,
        user: User {
            name: None,
            uid: Some(uid.to_string()),
            type_id: None,
            groups: vec![Group { uid: gid.to_string() }],
        },
        parent_process,
        ancestry,
    };
    (object, encoded)
}

/// What OCSF has no place for: which code a process runs, and where.
#[derive(Serialize)]
pub(super) struct Software<'a> {
    script: Option<Cow<'a, str>>,
    script_sha256: Option<String>,
    /// Why nobody can vouch for its code.
    unverified: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fsverity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    script_fsverity: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container_runtime: Option<&'static str>,
}

/// Which code it runs, and where.
pub(super) fn software(process: &Process) -> Software<'_> {
    let script = process.code.script();
    let unverified = process.code.unverified();
    let fsverity = |digest: Sha256Digest| format!("sha256:{digest}");
    Software {
        script: script.map(|script| path_text(&script.path).0),
        script_sha256: script.map(|script| script.sha256.to_string()),
        unverified: (!unverified.is_empty()).then_some(unverified),
        fsverity: process.fsverity.map(fsverity),
        script_fsverity: script.and_then(|script| script.fsverity).map(fsverity),
        container: process.container.as_ref().map(|container| container.id.as_str()),
        container_runtime: process.container.as_ref().map(|container| container.runtime),
    }
}

/// The process that started it.
pub(super) fn parent(process: &Process) -> Option<ProcessEntity<'_>> {
    process.ancestors.first().map(|parent| entity(parent).0)
}

fn entity(ancestor: &Ancestor) -> (ProcessEntity<'_>, bool) {
    let Ancestor { pid, exe } = ancestor;
    let (path, is_encoded) = path_text(exe);
    (ProcessEntity { pid: *pid, path: (!path.is_empty()).then_some(path) }, is_encoded)
}
