//! Between domain words and protocol messages.
//!
//! In and out: one of each. Structs are taken apart field by field, so that a field that is added
//! on one side and forgotten on the other does not compile. Answers always convert; questions are
//! checked for shape only, their meaning is judged by the domain.

/// Both conversions of a domain struct and its message. First the fields that are the same on both
/// sides; then those that are not: `field = message_field (way out, way in)`.
macro_rules! both_ways {
    ($domain:path, $message:path {
        $($same:ident),* $(; $($ours:ident = $theirs:ident ($out:expr, $back:expr)),*)? $(,)?
    }) => {
        impl From<$domain> for $message {
            fn from(ours: $domain) -> Self {
                let $domain { $($same,)* $($($ours,)*)? } = ours;
                Self { $($same,)* $($($theirs: $out($ours),)*)? }
            }
        }

        impl From<$message> for $domain {
            fn from(theirs: $message) -> Self {
                let $message { $($same,)* $($($theirs,)*)? } = theirs;
                Self { $($same,)* $($($ours: $back($theirs),)*)? }
            }
        }
    };
}

mod call;
mod grant;
mod policy;
mod state;

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use tonic::{Code, Status, metadata::AsciiMetadataValue};

use super::{MESSAGE_LIMIT, error::ApiError};
use crate::control::ControlError;

/// Metadata key of an error that the daemon gave itself, as against one of the transport.
const ERROR_KEY: &str = "agent-enforcer-error";

/// Texts by their names, from one kind of map to the other.
fn texts<T: FromIterator<(String, String)>>(
    texts: impl IntoIterator<Item = (String, String)>,
) -> T {
    texts.into_iter().collect()
}

/// ns since the epoch; what does not fit (before 1678, after 2262) becomes the nearest that does.
fn unix_ns(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

fn system_time(unix_ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(unix_ns.unsigned_abs());
    let time = if unix_ns < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(distance)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(distance)
    };
    time.unwrap_or(SystemTime::UNIX_EPOCH)
}

fn path_bytes(path: PathBuf) -> Vec<u8> {
    path.into_os_string().into_vec()
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn each<T: Into<U>, U, Out: FromIterator<U>>(all: impl IntoIterator<Item = T>) -> Out {
    all.into_iter().map(Into::into).collect()
}

fn optional<T: Into<U>, U>(one: Option<T>) -> Option<U> {
    one.map(Into::into)
}

/// An error of the domain on its way out; its message stays whole up to [`MESSAGE_LIMIT`].
pub(super) fn to_status(error: ControlError) -> Status {
    let (code, kind, message) = match error {
        ControlError::NotFound(message) => (Code::NotFound, "not_found", message),
        ControlError::Invalid(message) => (Code::InvalidArgument, "invalid", message),
        ControlError::Unavailable(message) => (Code::Unavailable, "unavailable", message),
        ControlError::Internal(message) => (Code::Internal, "internal", message),
    };
    let mut status = Status::new(code, shortened(message));
    status.metadata_mut().insert(ERROR_KEY, AsciiMetadataValue::from_static(kind));
    status
}

/// An error on its way in: the domain's own, or one of the transport.
pub(super) fn from_status(status: &Status, waited: Duration) -> ApiError {
    let message = status.message().to_owned();
    let kind = status.metadata().get(ERROR_KEY).and_then(|value| value.to_str().ok());
    match kind {
        Some("not_found") => return ApiError::Refused(ControlError::NotFound(message)),
        Some("invalid") => return ApiError::Refused(ControlError::Invalid(message)),
        Some("unavailable") => return ApiError::Refused(ControlError::Unavailable(message)),
        Some("internal") => return ApiError::Refused(ControlError::Internal(message)),
        Some(_) | None => {}
    }
    match status.code() {
        Code::PermissionDenied => ApiError::NotPermitted { message },
        Code::DeadlineExceeded => ApiError::TimedOut { after: waited },
        Code::Unimplemented => ApiError::OtherVersion,
        // The transport refuses a message before it is decoded.
        Code::OutOfRange => ApiError::Refused(ControlError::Invalid(message)),
        Code::Ok
        | Code::Cancelled
        | Code::Unknown
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss
        | Code::Unauthenticated => ApiError::ConnectionLost { detail: with_causes(status) },
    }
}

/// The message of a transport error and of everything below it, each once.
fn with_causes(status: &Status) -> String {
    let mut detail = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        let text = error.to_string();
        if !detail.contains(&text) {
            detail.push_str(": ");
            detail.push_str(&text);
        }
        cause = error.source();
    }
    detail
}

fn shortened(message: String) -> String {
    if message.len() <= MESSAGE_LIMIT {
        return message;
    }
    let (start, rest) = message.split_at(message.floor_char_boundary(MESSAGE_LIMIT));
    format!("{start}\n... and {} bytes more, see the daemon's log", rest.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn times_survive_the_wire(ns in any::<i64>()) {
            prop_assert_eq!(unix_ns(system_time(ns)), ns.max(-i64::MAX));
        }

        #[test]
        fn paths_survive_the_wire_even_when_they_are_not_text(bytes in any::<Vec<u8>>()) {
            prop_assert_eq!(path_bytes(path(bytes.clone())), bytes);
        }
    }

    #[test]
    fn domain_errors_survive_the_wire() {
        let message = "no grant \u{201c}g-9\u{201d}:\nsee `grant list`";
        for make in [
            ControlError::NotFound,
            ControlError::Invalid,
            ControlError::Unavailable,
            ControlError::Internal,
        ] {
            let error = make(message.to_owned());
            let back = from_status(&to_status(error.clone()), Duration::ZERO);
            assert_eq!(format!("{back:?}"), format!("Refused({error:?})"));
        }
    }

    #[test]
    fn transport_errors_are_not_taken_for_the_daemons() {
        let lost = from_status(&Status::unavailable("broken pipe"), Duration::ZERO);
        assert!(matches!(lost, ApiError::ConnectionLost { .. }));
        let slow = from_status(&Status::deadline_exceeded("late"), Duration::from_secs(9));
        assert!(matches!(slow, ApiError::TimedOut { after } if after.as_secs() == 9));
        let old = from_status(&Status::unimplemented(""), Duration::ZERO);
        assert!(matches!(old, ApiError::OtherVersion));
    }

    #[test]
    fn endless_messages_are_cut_at_a_character() {
        let cut = shortened("\u{e4}".repeat(MESSAGE_LIMIT));
        assert!(cut.len() < MESSAGE_LIMIT + 100);
        assert!(cut.ends_with("bytes more, see the daemon's log"));
    }
}
