//! Bytes of the ring -> records. The bytes come from the kernel programs, but perhaps of another
//! version: nothing is believed before kind and size agree.

use agent_enforcer_common::{
    peer::{PathRecord, PeerRecord, UNIX_NAME_BYTES},
    record::{
        ARGUMENT_BYTES, CallRecord, ExecRecord, Guard, GuardRecord, Hook, ProcessRecord,
        RecordHeader, RecordKind,
    },
};
use aya::Pod;

/// A record of the kernel side.
#[derive(Debug, Clone, Copy)]
pub enum Record {
    /// A question, see `RecordKind::Request`.
    Request(CallRecord, Hook),
    /// See `RecordKind::Denied`.
    Denied(CallRecord, Hook),
    /// See `RecordKind::Allowed`.
    Allowed(CallRecord, Hook),
    /// See `RecordKind::Audited`.
    Audited(CallRecord, Hook),
    /// See `RecordKind::FlowDenied`.
    FlowDenied(CallRecord, Hook),
    /// See `RecordKind::Classified`.
    Classified(ExecRecord),
    /// See `RecordKind::Joined`.
    Joined(ProcessRecord),
    /// See `RecordKind::Executed`.
    Executed(ExecRecord),
    /// See `RecordKind::InstanceEnded`.
    InstanceEnded(ProcessRecord),
    /// See `RecordKind::TableFull`.
    TableFull(ProcessRecord),
    /// See `RecordKind::Peer`.
    Peer(PeerRecord),
    /// See `RecordKind::Path`.
    Path(PathRecord),
    /// See `RecordKind::Guarded`.
    Guarded(GuardRecord, Guard),
}

/// A record that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Shorter than its kind.
    #[error(
        "a record of {found} bytes, {needed} are needed; restart the daemon to replace the kernel programs"
    )]
    Short {
        /// Bytes there are.
        found: usize,
        /// Bytes the kind has.
        needed: usize,
    },
    /// A kind of another version.
    #[error("a record of unknown kind {0}; restart the daemon to replace the kernel programs")]
    Kind(u32),
    /// The size in the header is not that of the kind.
    #[error(
        "a record of kind {kind} says it has {found} bytes; restart the daemon to replace the kernel programs"
    )]
    Size {
        /// Its kind.
        kind: u32,
        /// What it says.
        found: u32,
    },
    /// A hook of another version.
    #[error("a record of unknown hook {0}; restart the daemon to replace the kernel programs")]
    Hook(u8),
    /// A name that is longer than its room.
    #[error(
        "a record of a name of {0} bytes, at most {UNIX_NAME_BYTES} fit; restart the daemon to replace the kernel programs"
    )]
    Name(u32),
    /// Arguments that are longer than their room.
    #[error(
        "a record of {0} bytes of arguments, at most {ARGUMENT_BYTES} fit; restart the daemon to replace the kernel programs"
    )]
    Arguments(u32),
    /// A guard of another version.
    #[error("a record of unknown guard {0}; restart the daemon to replace the kernel programs")]
    Guard(u32),
}

/// Reads one record.
pub fn decode(bytes: &[u8]) -> Result<Record, DecodeError> {
    let header: RecordHeader = read(bytes)?;
    let kind = RecordKind::from_raw(header.kind).ok_or(DecodeError::Kind(header.kind))?;
    Ok(match kind {
        RecordKind::Request => call(bytes, &header, Record::Request)?,
        RecordKind::Denied => call(bytes, &header, Record::Denied)?,
        RecordKind::Allowed => call(bytes, &header, Record::Allowed)?,
        RecordKind::Audited => call(bytes, &header, Record::Audited)?,
        RecordKind::FlowDenied => call(bytes, &header, Record::FlowDenied)?,
        RecordKind::Classified => Record::Classified(exec(bytes, &header)?),
        RecordKind::Joined => Record::Joined(whole(bytes, &header)?),
        RecordKind::Executed => Record::Executed(exec(bytes, &header)?),
        RecordKind::InstanceEnded => Record::InstanceEnded(whole(bytes, &header)?),
        RecordKind::Peer => Record::Peer(peer(bytes, &header)?),
        RecordKind::Path => Record::Path(path(bytes, &header)?),
        RecordKind::Guarded => guarded(bytes, &header)?,
        RecordKind::TableFull => Record::TableFull(whole::<ProcessRecord>(bytes, &header)?),
    })
}

fn call(
    bytes: &[u8],
    header: &RecordHeader,
    make: fn(CallRecord, Hook) -> Record,
) -> Result<Record, DecodeError> {
    let record: CallRecord = whole(bytes, header)?;
    let hook = Hook::from_raw(record.hook).ok_or(DecodeError::Hook(record.hook))?;
    Ok(make(record, hook))
}

fn peer(bytes: &[u8], header: &RecordHeader) -> Result<PeerRecord, DecodeError> {
    let record: PeerRecord = whole(bytes, header)?;
    fits(record.path_length)?;
    fits(record.named.peer.length)?;
    Ok(record)
}

fn path(bytes: &[u8], header: &RecordHeader) -> Result<PathRecord, DecodeError> {
    let record: PathRecord = whole(bytes, header)?;
    fits(record.path_length)?;
    Ok(record)
}

/// Whether there is room for a name of this length.
fn fits(length: u32) -> Result<(), DecodeError> {
    let fits = usize::try_from(length).is_ok_and(|bytes| bytes <= UNIX_NAME_BYTES);
    if fits { Ok(()) } else { Err(DecodeError::Name(length)) }
}

fn exec(bytes: &[u8], header: &RecordHeader) -> Result<ExecRecord, DecodeError> {
    let record: ExecRecord = whole(bytes, header)?;
    let length = record.view.text_length;
    if usize::try_from(length).is_ok_and(|length| length <= ARGUMENT_BYTES) {
        Ok(record)
    } else {
        Err(DecodeError::Arguments(length))
    }
}

fn guarded(bytes: &[u8], header: &RecordHeader) -> Result<Record, DecodeError> {
    let record: GuardRecord = whole(bytes, header)?;
    let guard = Guard::from_raw(record.guard).ok_or(DecodeError::Guard(record.guard))?;
    Ok(Record::Guarded(record, guard))
}

fn whole<T: Pod>(bytes: &[u8], header: &RecordHeader) -> Result<T, DecodeError> {
    if header.size as usize != size_of::<T>() {
        return Err(DecodeError::Size { kind: header.kind, found: header.size });
    }
    read(bytes)
}

fn read<T: Pod>(bytes: &[u8]) -> Result<T, DecodeError> {
    let needed = size_of::<T>();
    let short = DecodeError::Short { found: bytes.len(), needed };
    let bytes = bytes.get(..needed).ok_or(short)?;
    // SAFETY: as many bytes as `T` has, and any bytes are a `T` (`Pod`).
    Ok(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

#[cfg(test)]
#[expect(clippy::cast_possible_truncation, reason = "records are small")]
mod tests {
    use agent_enforcer_common::{peer::UnixPeer, record::ExecView};
    use proptest::prelude::*;

    use super::*;

    fn process(kind: u32, size: u32) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<ProcessRecord>()];
        bytes[..4].copy_from_slice(&kind.to_ne_bytes());
        bytes[4..8].copy_from_slice(&size.to_ne_bytes());
        bytes
    }

    #[test]
    fn reads_a_whole_record() {
        let bytes = process(RecordKind::Joined as u32, size_of::<ProcessRecord>() as u32);
        assert!(matches!(decode(&bytes), Ok(Record::Joined(_))));
    }

    #[test]
    fn reads_a_guard_record_and_refuses_an_unknown_guard() {
        let mut bytes = vec![0; size_of::<GuardRecord>()];
        bytes[..4].copy_from_slice(&(RecordKind::Guarded as u32).to_ne_bytes());
        bytes[4..8].copy_from_slice(&(size_of::<GuardRecord>() as u32).to_ne_bytes());
        assert!(matches!(decode(&bytes), Err(DecodeError::Guard(0))));
        let guard = std::mem::offset_of!(GuardRecord, guard);
        bytes[guard..guard + 4].copy_from_slice(&(Guard::Signal as u32).to_ne_bytes());
        bytes[guard + 4..guard + 8].copy_from_slice(&77_u32.to_ne_bytes());
        let decoded = decode(&bytes);
        let Ok(Record::Guarded(record, Guard::Signal)) = decoded else { panic!("{decoded:?}") };
        assert_eq!(record.target_tgid, 77);
        assert!(matches!(decode(&bytes[..100]), Err(DecodeError::Short { found: 100, .. })));
    }

    #[test]
    fn refuses_what_is_no_record() {
        assert!(matches!(decode(&[]), Err(DecodeError::Short { found: 0, .. })));
        assert!(matches!(decode(&process(99, 96)), Err(DecodeError::Kind(99))));
        let kind = RecordKind::Joined as u32;
        assert!(matches!(decode(&process(kind, 95)), Err(DecodeError::Size { found: 95, .. })));
        let cut = &process(kind, 96)[..90];
        assert!(matches!(decode(cut), Err(DecodeError::Short { found: 90, .. })));
        let mut call = vec![0; size_of::<CallRecord>()];
        call[..4].copy_from_slice(&(RecordKind::Request as u32).to_ne_bytes());
        call[4..8].copy_from_slice(&(size_of::<CallRecord>() as u32).to_ne_bytes());
        assert!(matches!(decode(&call), Err(DecodeError::Hook(0))));
    }

    #[test]
    fn reads_an_exec_whose_arguments_fit() {
        let record = |length: u32| {
            let mut bytes = vec![0; size_of::<ExecRecord>()];
            bytes[..4].copy_from_slice(&(RecordKind::Executed as u32).to_ne_bytes());
            bytes[4..8].copy_from_slice(&(size_of::<ExecRecord>() as u32).to_ne_bytes());
            let at = std::mem::offset_of!(ExecRecord, view)
                + std::mem::offset_of!(ExecView, text_length);
            bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
            decode(&bytes)
        };
        assert!(matches!(record(512), Ok(Record::Executed(exec)) if exec.view.text_length == 512));
        assert!(matches!(record(513), Err(DecodeError::Arguments(513))));
        assert!(matches!(record(u32::MAX), Err(DecodeError::Arguments(u32::MAX))));
        let kind = RecordKind::Executed as u32;
        assert!(matches!(decode(&process(kind, 96)), Err(DecodeError::Size { found: 96, .. })));
    }

    #[test]
    fn reads_a_peer_whose_names_fit() {
        let record = |path_length: u32, name_length: u32| {
            let mut bytes = vec![0; size_of::<PeerRecord>()];
            let mut put = |at: usize, value: u32| {
                bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
            };
            put(0, RecordKind::Peer as u32);
            put(4, size_of::<PeerRecord>() as u32);
            put(std::mem::offset_of!(PeerRecord, path_length), path_length);
            let name = std::mem::offset_of!(UnixPeer, length);
            put(std::mem::offset_of!(PeerRecord, named) + name, name_length);
            decode(&bytes)
        };
        assert!(matches!(record(112, 0), Ok(Record::Peer(peer)) if peer.path_length == 112));
        assert!(matches!(record(0, 112), Ok(Record::Peer(peer)) if peer.named.peer.length == 112));
        assert!(matches!(record(113, 0), Err(DecodeError::Name(113))));
        assert!(matches!(record(0, u32::MAX), Err(DecodeError::Name(u32::MAX))));
        let kind = RecordKind::Peer as u32;
        assert!(matches!(decode(&process(kind, 96)), Err(DecodeError::Size { found: 96, .. })));
    }

    #[test]
    fn reads_a_path_that_fits() {
        let record = |length: u32| {
            let mut bytes = vec![0; size_of::<PathRecord>()];
            bytes[..4].copy_from_slice(&(RecordKind::Path as u32).to_ne_bytes());
            bytes[4..8].copy_from_slice(&(size_of::<PathRecord>() as u32).to_ne_bytes());
            let at = std::mem::offset_of!(PathRecord, path_length);
            bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
            decode(&bytes)
        };
        assert!(matches!(record(108), Ok(Record::Path(path)) if path.path_length == 108));
        assert!(matches!(record(113), Err(DecodeError::Name(113))));
    }

    proptest! {
        #[test]
        fn never_fails_otherwise(bytes in proptest::collection::vec(any::<u8>(), 0..700)) {
            let _ = decode(&bytes);
        }
    }
}
