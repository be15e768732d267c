//! The container on a cgroup path.
//!
//! In: a cgroup path. Out: which runtime made the container, and its id. The first component that is
//! one counts: what lies below was named by whoever is inside. Names of cgroups are given by whoever
//! may make them, so this is evidence and never an identity; no runtime is asked.

use crate::decision::Container;

/// Digits of an id.
const ID_DIGITS: usize = 64;

/// How runtimes call the cgroups of containers: `PREFIX ID SUFFIX`.
const PATTERNS: [(&str, &str, &str); 6] = [
    ("docker", "docker-", ".scope"),
    ("containerd", "cri-containerd-", ".scope"),
    ("cri-o", "crio-", ".scope"),
    ("podman", "libpod-", ".scope"),
    ("podman", "libpod-", ""),
    ("containerd", "nerdctl-", ".scope"),
];

/// Cgroups in which a component that is only an id is a container of this runtime.
const PARENTS: [(&str, &str); 3] =
    [("docker", "docker"), ("kubernetes", "kubepods"), ("kubernetes", "kubepods.slice")];

/// The container.
pub(super) fn container_of(cgroup: &str) -> Option<Container> {
    let mut parent = None;
    for component in cgroup.split('/') {
        if is_id(component)
            && let Some(runtime) = parent
        {
            return Some(Container { runtime, id: component.to_owned() });
        }
        for (runtime, prefix, suffix) in PATTERNS {
            let id = component.strip_prefix(prefix).and_then(|rest| rest.strip_suffix(suffix));
            if let Some(id) = id.filter(|id| is_id(id)) {
                return Some(Container { runtime, id: id.to_owned() });
            }
        }
        if let Some((runtime, _)) = PARENTS.iter().find(|(_, name)| *name == component) {
            parent = Some(*runtime);
        }
    }
    None
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_are_known_by_their_cgroups() {
        let id = "0a".repeat(32);
        for (path, runtime) in [
            ("/system.slice/docker-ID.scope", "docker"),
            ("/docker/ID", "docker"),
            ("/docker/ID/system.slice/docker-ff.scope", "docker"),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podX.slice/cri-containerd-ID.scope",
                "containerd",
            ),
            ("/kubepods.slice/kubepods-podX.slice/crio-ID.scope/container", "cri-o"),
            ("/kubepods/besteffort/podX/ID", "kubernetes"),
            ("/machine.slice/libpod-ID.scope/container", "podman"),
            ("/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope", "podman"),
        ] {
            let found = container_of(&path.replace("ID", &id));
            assert_eq!(found, Some(Container { runtime, id: id.clone() }), "{path}");
        }
        for path in
            ["", "/", "/docker", "/ID", "/docker/IDa", "/a/docker-.scope", "/x/crio-AB.scope"]
        {
            assert_eq!(container_of(&path.replace("ID", &id)), None, "{path}");
        }
    }
}
