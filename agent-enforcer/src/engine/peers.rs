//! Unix sockets that the kernel side has numbered: what each number stands for, and which of them the
//! policy names.
//!
//! In: records of the kernel side, its table where a record is missing, and what paths of the policy
//! lead to now. Out: the endpoint of the policy that a number stands for, and how people know it. A
//! number is of one inode (or abstract name) for ever. Bounded: what is forgotten here is read from
//! the kernel side's table again.
//!
//! An abstract name is the policy's in the daemon's network namespace only, which is the host's: in
//! another one, whoever made that namespace decides who has which name there.

use std::{
    borrow::Cow,
    collections::{HashMap, VecDeque},
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use agent_enforcer_common::{
    destination::{Destination, PeerFamily},
    peer::{
        FoundSocket, NAMELESS_PEER, NumberedPeer, PathRecord, PathState, PeerRecord,
        UNIX_NAME_WORDS, UNKNOWN_PEER, UnixPeer,
    },
};

use super::{Engine, SURVEY, nanoseconds};
use crate::{
    decision::PeerName,
    events::path_text,
    resolver::{
        attestation::{
            ProcError,
            called_path::{CalledPaths, ThreadId},
            socket_files::{FileId, SocketFiles},
        },
        policy::{Endpoint, Policy, Tool, family_word},
    },
};

/// Peers that are remembered, as many as the kernel side's table has.
const PEER_LIMIT: usize = 16_384;

/// Why peers can't be told apart.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// The daemon's own socket.
    #[error("cannot look at the control socket {path}: {source}; start the daemon again")]
    Control {
        /// Where it should be.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// The network namespace.
    #[error("cannot tell the daemon's network namespace: {0}; Linux 5.14 or newer is needed")]
    Netns(#[source] io::Error),
    /// /proc.
    #[error(transparent)]
    Proc(#[from] ProcError),
}

/// What a number stands for.
#[derive(Debug)]
struct Known {
    peer: UnixPeer,
    /// What its server called it; empty where that is not known. Evidence only.
    path: Box<[u8]>,
    /// What the policy called it when it was last looked for.
    named: Option<Endpoint>,
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Peers {
    files: SocketFiles,
    called: CalledPaths,
    own: Vec<FileId>,
    netns_cookie: u64,
    known: HashMap<u64, Known>,
    /// Every number of `known` once, the oldest first.
    order: VecDeque<u64>,
}

impl Peers {
    /// Knows none yet. `own`: the daemon's own sockets, which are nobody's tool.
    pub(super) fn new(own: &[PathBuf], netns_cookie: u64) -> Result<Self, PeerError> {
        let files = SocketFiles::new()?;
        let identify = |path: &PathBuf| {
            let failed = |source| PeerError::Control { path: path.display().to_string(), source };
            files.identify(path).map_err(failed)
        };
        let own = own.iter().map(identify).collect::<Result<_, _>>()?;
        let (known, order) = (HashMap::new(), VecDeque::new());
        Ok(Self { files, called: CalledPaths::new()?, own, netns_cookie, known, order })
    }

    /// The kernel side tells of a peer.
    pub(super) fn learn_record(&mut self, record: &PeerRecord) {
        let PeerRecord { header: _, named, path_length, _pad: _, path } = record;
        let bytes = bytes(path, *path_length);
        // Unlike an abstract name, a path ends with the first zero byte, which the kernel counts.
        let path = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        self.learn(named, path);
    }

    /// A peer from the kernel side's table, which has no paths.
    pub(super) fn learn_entry(&mut self, named: &NumberedPeer) {
        if !self.known.contains_key(&named.number) {
            self.learn(named, &[]);
        }
    }

    fn learn(&mut self, named: &NumberedPeer, path: &[u8]) {
        let NumberedPeer { peer, number } = *named;
        let known = Known { peer, path: path.into(), named: None };
        if self.known.insert(number, known).is_none() {
            self.order.push_back(number);
        }
        while self.order.len() > PEER_LIMIT
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    /// Whether a destination is a unix socket of which nothing is known.
    pub(super) fn is_unknown(&self, destination: &Destination) -> bool {
        let [_, number] = destination.numbers();
        let is_numbered = is_unix(destination) && ![NAMELESS_PEER, UNKNOWN_PEER].contains(&number);
        is_numbered && !self.known.contains_key(&number)
    }

    fn of(&self, destination: &Destination) -> Option<&Known> {
        let [_, number] = destination.numbers();
        if is_unix(destination) { self.known.get(&number) } else { None }
    }

    /// Looks again which endpoint of the policy a unix socket is now.
    pub(super) fn locate(&mut self, policy: &Policy, destination: &Destination) {
        let Some(peer) = self.of(destination).map(|known| known.peer) else { return };
        let named = self.endpoint(policy, &peer);
        let [_, number] = destination.numbers();
        if let Some(known) = self.known.get_mut(&number) {
            known.named = named;
        }
    }

    fn endpoint(&self, policy: &Policy, peer: &UnixPeer) -> Option<Endpoint> {
        if let Some(socket) = file_id(peer) {
            let mut paths = policy.socket_paths().map(|(path, _)| path);
            let path = paths.find(|path| self.files.leads_to(Path::new(&***path), socket))?;
            return Some(Endpoint::UnixPath(path.clone()));
        }
        if peer.netns_cookie != self.netns_cookie {
            return None;
        }
        let name = bytes(&peer.name, peer.length);
        let name = Endpoint::UnixAbstract(str::from_utf8(&name).ok()?.into());
        policy.tool_with(&name).is_some().then_some(name)
    }

    /// The tool that a destination belongs to; of a unix socket, when it was last looked for.
    pub(super) fn tool<'p>(
        &self,
        policy: &'p Policy,
        destination: &Destination,
    ) -> Option<&'p Tool> {
        match self.of(destination) {
            Some(known) => policy.tool_with(known.named.as_ref()?),
            None => policy.tool_at(destination),
        }
    }

    /// The tool of a path or name that somebody asks about, whether or not anybody has called it.
    pub(super) fn tool_of_endpoint<'p>(
        &self,
        policy: &'p Policy,
        endpoint: &Endpoint,
    ) -> Option<&'p Tool> {
        if let Some(tool) = policy.tool_with(endpoint) {
            return Some(tool);
        }
        let socket = self.socket_at(endpoint)?;
        let (_, tool) = policy
            .socket_paths()
            .find(|(path, _)| self.files.leads_to(Path::new(&***path), socket))?;
        Some(tool)
    }

    /// Whether a destination is one of the daemon's own sockets.
    pub(super) fn is_control(&self, destination: &Destination) -> bool {
        let file = self.of(destination).and_then(|known| file_id(&known.peer));
        file.is_some_and(|file| self.own.contains(&file))
    }

    /// As [`Self::is_control`], of a path.
    pub(super) fn is_control_at(&self, endpoint: &Endpoint) -> bool {
        self.socket_at(endpoint).is_some_and(|file| self.own.contains(&file))
    }

    fn socket_at(&self, endpoint: &Endpoint) -> Option<FileId> {
        match endpoint {
            Endpoint::UnixPath(path) => self.files.look_at(Path::new(&**path)),
            Endpoint::UnixAbstract(_)
            | Endpoint::Vsock { .. }
            | Endpoint::Netlink(_)
            | Endpoint::Family(_) => None,
        }
    }

    /// Whether a peer could be made again without anybody being able to tell: its file system keeps no
    /// generations of inodes.
    pub(super) fn is_ambiguous(&self, destination: &Destination) -> bool {
        self.of(destination)
            .is_some_and(|known| known.peer.inode != 0 && known.peer.generation == 0)
    }

    /// How people know a destination that is no IP address.
    pub(super) fn name(&self, destination: &Destination) -> Option<PeerName> {
        let plain = |name| PeerName { name, detail: None, percent_encoded: false };
        match PeerFamily::from_raw(destination.family()) {
            Some(PeerFamily::Ip | PeerFamily::Listen) => None,
            Some(PeerFamily::Unix) => Some(match self.of(destination) {
                Some(known) => unix_name(known),
                None => plain(match destination.numbers() {
                    [_, NAMELESS_PEER] => "unix:nameless".to_owned(),
                    [_, UNKNOWN_PEER] => "unix:?".to_owned(),
                    _ => destination.to_string(),
                }),
            }),
            Some(PeerFamily::Netlink | PeerFamily::Socket) => {
                let shown = destination.to_string();
                let kind = shown.split(':').next().unwrap_or_default();
                let word = family_word(destination).map(|word| format!("{kind}:{word}"));
                Some(plain(word.unwrap_or(shown)))
            }
            Some(PeerFamily::Vsock) | None => Some(plain(destination.to_string())),
        }
    }
}

impl Engine {
    /// A hook asks where a path leads that a thread has called; it waits.
    pub(super) fn on_path(&mut self, record: &PathRecord) {
        let PathRecord { header: _, token, tgid, tid, path_length, _pad: _, path } = *record;
        let path = bytes(&path, path_length);
        let path = path.split(|byte| *byte == 0).next().unwrap_or_default();
        let thread = ThreadId { tgid, tid };
        let (state, found) = match self.peers.called.look_at(thread, path) {
            Ok(Some(found)) => (PathState::Socket, found),
            Ok(None) => (PathState::Nothing, FileId::default()),
            Err(error) => {
                let path = path_text(Path::new(OsStr::from_bytes(path))).0;
                tracing::debug!(%path, tgid, tid, %error, "a path can't be followed");
                (PathState::Unknown, FileId::default())
            }
        };
        self.answer_path(token, state, found);
    }

    /// Answers a hook that waits.
    pub(super) fn answer_path(&mut self, token: u64, state: PathState, file: FileId) {
        let FileId { inode, device } = file;
        let found = FoundSocket { token, inode, device, state: state as u32 };
        if let Err(error) = self.processes.found.insert(token, found, 0) {
            tracing::warn!(%error, "where a path leads could not be written; the call is to be made again");
        }
    }

    /// Reads the kernel side's table of unix sockets, as not every record need have come.
    pub(super) fn read_peers(&mut self) {
        let peers = &mut self.peers;
        // Whoever makes the kernel side forget elements makes the search begin anew.
        for entry in self.processes.peers.iter().take(2 * PEER_LIMIT) {
            match entry {
                Ok((_, named)) => peers.learn_entry(&named),
                Err(error) => {
                    tracing::warn!(%error, "the table of unix sockets could not be read whole");
                    break;
                }
            }
        }
    }

    /// Makes sure that a destination is known, as far as that can be.
    pub(super) fn know_peer(&mut self, destination: &Destination) {
        let now_ns = self.clock.now_ns();
        if self.peers.is_unknown(destination) && now_ns >= self.next_peers_ns {
            self.next_peers_ns = now_ns + nanoseconds(SURVEY);
            self.read_peers();
        }
    }

    /// The tool that a destination belongs to.
    pub(super) fn tool_at(&self, destination: &Destination) -> Option<&Tool> {
        self.peers.tool(&self.policy, destination)
    }
}

fn is_unix(destination: &Destination) -> bool {
    destination.family() == PeerFamily::Unix as u8
}

/// `None` for an abstract name.
fn file_id(peer: &UnixPeer) -> Option<FileId> {
    let UnixPeer { inode, device, .. } = *peer;
    (inode != 0).then_some(FileId { inode, device })
}

fn unix_name(known: &Known) -> PeerName {
    let Known { peer, path, named } = known;
    let mut percent_encoded = false;
    let mut text = |bytes: &[u8]| {
        let (text, encoded) = path_text(Path::new(OsStr::from_bytes(bytes)));
        percent_encoded |= encoded;
        Cow::into_owned(text)
    };
    let own_name = match file_id(peer) {
        None => format!("unix:@{}", text(&bytes(&peer.name, peer.length))),
        Some(_) if path.is_empty() => "unix:?".to_owned(),
        Some(_) => format!("unix:{}", text(path)),
    };
    let detail = match file_id(peer) {
        None => format!("netns {}", peer.netns_cookie),
        Some(FileId { inode, device }) => {
            format!("inode {inode} on {}:{}", device >> 20, device & 0xf_ffff)
        }
    };
    // What the policy calls it nobody can have made up.
    match named {
        Some(endpoint) => {
            PeerName { name: endpoint.to_string(), detail: Some(detail), percent_encoded: false }
        }
        None => PeerName { name: own_name, detail: Some(detail), percent_encoded },
    }
}

/// The first bytes of what the kernel side keeps in words.
fn bytes(words: &[u64; UNIX_NAME_WORDS], length: u32) -> Vec<u8> {
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    words.iter().flat_map(|word| word.to_ne_bytes()).take(length).collect()
}

#[cfg(test)]
mod tests;
