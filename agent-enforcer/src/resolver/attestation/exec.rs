//! What the kernel saw of a program at its exec, as plain values.
//!
//! In: the record of an exec. Out: [`ExecFacts`]: the program's arguments, and where its paths began.
//! The text is the process's own choice, of any bytes; where it was cut off, nothing is made up.

use agent_enforcer_common::record::{ExecRecord, ExecView};

use crate::decision::Unverified;

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecFacts {
    /// When, ns of `CLOCK_BOOTTIME`.
    pub time_ns: u64,
    /// What it was started with.
    pub arguments: Arguments,
    /// The working directory.
    pub directory: Place,
    /// The root directory.
    pub root: Place,
    /// Number of the mount namespace.
    pub mounts: u32,
    /// Whether the mounts belong to the initial user namespace: then only who may mount there can
    /// change them.
    pub mounts_are_hosts: bool,
}

/// A directory as the kernel side tells it apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Inode number; 0 where it could not be read.
    pub inode: u64,
    /// Kernel device number.
    pub device: u32,
}

/// The arguments of a program, its name first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arguments {
    /// Those that are whole, one behind the other, each with a zero behind it.
    text: Box<[u8]>,
    /// How many there are in all.
    count: usize,
}

impl ExecFacts {
    /// Of a record.
    pub fn of(record: &ExecRecord) -> Self {
        let ExecView {
            directory_inode,
            root_inode,
            directory_device,
            root_device,
            mounts,
            mounts_level,
            arguments,
            text_length,
            text,
        } = &record.view;
        let length = usize::try_from(*text_length).unwrap_or_default();
        Self {
            time_ns: record.header.time_ns,
            arguments: Arguments::read(text.get(..length).unwrap_or_default(), *arguments),
            directory: Place { inode: *directory_inode, device: *directory_device },
            root: Place { inode: *root_inode, device: *root_device },
            mounts: *mounts,
            mounts_are_hosts: *mounts != 0 && *mounts_level == 0,
        }
    }
}

impl Arguments {
    /// `count` arguments at the beginning of a text that may be cut off, or go on behind them.
    fn read(text: &[u8], count: u32) -> Self {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == 0);
        let end = ends.take(count).last().map_or(0, |(place, _)| place + 1);
        Self { text: text.get(..end).unwrap_or_default().into(), count }
    }

    /// Each argument; the first that was cut off is an error, and the last item.
    pub fn iter(&self) -> impl Iterator<Item = Result<&[u8], Unverified>> {
        let mut whole = self.text.split_inclusive(|&byte| byte == 0);
        let mut left = self.count;
        std::iter::from_fn(move || {
            left = left.checked_sub(1)?;
            if let Some((_zero, argument)) = whole.next().and_then(<[u8]>::split_last) {
                return Some(Ok(argument));
            }
            left = 0;
            Some(Err(Unverified::ArgumentsUnknown))
        })
    }

    /// All of a list.
    #[cfg(test)]
    pub(super) fn all(arguments: &[Vec<u8>]) -> Self {
        let count = arguments.len();
        let mut text = arguments.join(&0);
        text.push(0);
        Self { text: text.into(), count }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arguments_end_with_their_count_and_are_not_made_up() {
        let of = |text: &'static [u8], count| {
            let arguments = Arguments::read(text, count);
            arguments.iter().map(|found| found.map(<[u8]>::to_vec)).collect::<Vec<_>>()
        };
        let cut = Err(Unverified::ArgumentsUnknown);
        assert_eq!(of(b"a\0\0HOME=/\0", 2), [Ok(b"a".to_vec()), Ok(vec![])]);
        assert_eq!(of(b"a\0bc", 2), [Ok(b"a".to_vec()), cut.clone()]);
        assert_eq!(of(b"a\0bc", 900), [Ok(b"a".to_vec()), cut.clone()]);
        assert_eq!(of(b"", 1), [cut]);
        assert_eq!(of(b"a\0", 0), []);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in proptest::collection::vec(any::<u8>(), 0..64), count in any::<u32>()) {
            let arguments = Arguments::read(&text, count);
            let whole = arguments.iter().flatten().count();
            prop_assert!(whole < text.split(|&byte| byte == 0).count());
            prop_assert!(arguments.iter().take(70).count() <= text.len() + 1);
        }
    }
}
