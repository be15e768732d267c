//! The archive that a kernel unpacks as its first file system: cpio in its "new ASCII" form
//! (Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! In: files with their paths. Out: bytes. Directories come by themselves.

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// An archive in the making.
#[derive(Debug, Clone, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file that can be executed; the path has no leading `/`.
    pub(super) fn add(&mut self, path: &str, content: &[u8]) {
        self.directory(parent(path));
        self.entry(path, PROGRAM, content);
    }

    /// Adds an empty directory.
    pub(super) fn directory(&mut self, path: &str) {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        // The kernel makes no parents.
        self.directory(parent(path));
        self.entry(path, DIRECTORY, &[]);
    }

    /// The whole archive.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name = u32::try_from(path.len() + 1).unwrap_or(u32::MAX);
        // Inode, mode, uid, gid, links, mtime, size, device x 2, its device x 2, name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(path.bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.add("lib/a/one", b"1");
        archive.add("lib/a/two", b"22");
        let bytes = archive.finish();
        let text = String::from_utf8_lossy(&bytes);
        let at = |word: &str| text.find(word).unwrap();
        assert!(at("lib\0") < at("lib/a\0") && at("lib/a\0") < at("lib/a/one\0"));
        assert_eq!(text.matches("lib/a\0").count(), 1);
        assert_eq!(text.matches("070701").count(), 5);
    }

    #[test]
    fn every_entry_begins_at_a_multiple_of_four() {
        let mut archive = Archive::default();
        for length in 0..5 {
            archive.add(&"x".repeat(length + 1), &vec![b'y'; length]);
        }
        let bytes = archive.finish();
        let starts = bytes.windows(6).enumerate().filter(|(_, window)| *window == b"070701");
        assert!(starts.clone().count() == 6 && starts.clone().all(|(at, _)| at % 4 == 0));
    }
}
