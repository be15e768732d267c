//! Where an earlier run left off.
//!
//! In: an events file. Out: the last sequence in it, and whether its last line is torn. Reads
//! from the end, no more than it must, and changes nothing.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use serde::Deserialize;

/// Bytes looked at first; four times as many each time no event is found in them.
const FIRST_LOOK: u64 = 256 << 10;
/// Bytes looked at in all.
const LAST_LOOK: u64 = 64 << 20;

/// The last line has no newline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum TornLine {
    /// It has one, or there is no line.
    #[default]
    None,
    /// But it is a whole event.
    Whole,
    /// And it is part of one.
    Broken,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// 0 where no event was found.
    pub(super) last_sequence: u64,
    pub(super) torn: TornLine,
}

pub(super) fn read(file: &File) -> io::Result<Tail> {
    let size = file.metadata()?.len();
    let mut look = FIRST_LOOK;
    loop {
        let length = look.min(size);
        let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, size - length)?;
        let (sequence, torn) = scan(&bytes);
        if sequence.is_some() || length == size {
            return Ok(Tail { last_sequence: sequence.unwrap_or(0), torn });
        }
        if length >= LAST_LOOK {
            return Err(io::Error::other("its last 64 MiB hold no event"));
        }
        look *= 4;
    }
}

fn scan(bytes: &[u8]) -> (Option<u64>, TornLine) {
    let mut lines = bytes.rsplit(|&byte| byte == b'\n');
    // What stands behind the last newline: nothing, unless it is torn.
    let last = lines.next().unwrap_or_default();
    let (sequence, torn) = match (last.is_empty(), parse(last)) {
        (true, _) => (None, TornLine::None),
        (false, Some(sequence)) => (Some(sequence), TornLine::Whole),
        (false, None) => (torn_sequence(last), TornLine::Broken),
    };
    (sequence.or_else(|| lines.find_map(sequence_of)), torn)
}

fn sequence_of(line: &[u8]) -> Option<u64> {
    parse(line).or_else(|| torn_sequence(line))
}

fn parse(line: &[u8]) -> Option<u64> {
    #[derive(Deserialize)]
    struct Line {
        metadata: Metadata,
    }
    #[derive(Deserialize)]
    struct Metadata {
        sequence: u64,
    }
    serde_json::from_slice::<Line>(line).ok().map(|line| line.metadata.sequence)
}

/// The number in a torn line. No string in an event can look like this, as its quotes are
/// escaped; the number counts only when the character behind it shows that it is whole.
fn torn_sequence(line: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"metadata\":{\"sequence\":";
    let start = line.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let rest = line.get(start..)?;
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(rest.get(..end)?).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn tail_of(content: &[u8]) -> Tail {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        read(&file).unwrap()
    }

    fn tail(last_sequence: u64, torn: TornLine) -> Tail {
        Tail { last_sequence, torn }
    }

    #[test]
    fn finds_where_an_earlier_run_left_off() {
        const ONE: &str = "{\"metadata\":{\"sequence\":7,\"uid\":\"x\"}}\n";
        for (name, content, expected) in [
            ("empty", String::new(), tail(0, TornLine::None)),
            ("whole", ONE.to_owned(), tail(7, TornLine::None)),
            ("no newline", ONE.trim_end().to_owned(), tail(7, TornLine::Whole)),
            ("torn before the number", format!("{ONE}{{\"time\":1,"), tail(7, TornLine::Broken)),
            (
                "torn in the number",
                format!("{ONE}{{\"time\":1,\"metadata\":{{\"sequence\":8"),
                tail(7, TornLine::Broken),
            ),
            (
                "torn behind the number",
                format!("{ONE}{{\"time\":1,\"metadata\":{{\"sequence\":8,"),
                tail(8, TornLine::Broken),
            ),
            (
                "torn long ago",
                "{\"metadata\":{\"sequence\":9,\n".to_owned(),
                tail(9, TornLine::None),
            ),
            ("blank lines", format!("{ONE}\n\n"), tail(7, TornLine::None)),
            ("foreign lines", format!("{ONE}# note\n"), tail(7, TornLine::None)),
            ("nothing of ours", "hello\n".to_owned(), tail(0, TornLine::None)),
        ] {
            assert_eq!(tail_of(content.as_bytes()), expected, "{name}");
        }
    }

    #[test]
    fn looks_further_back_when_the_end_holds_no_event() {
        let mut content = b"{\"metadata\":{\"sequence\":7}}\n".to_vec();
        content.extend(std::iter::repeat_n(b'x', 3 << 20));
        content.push(b'\n');
        assert_eq!(tail_of(&content), tail(7, TornLine::None));
    }

    #[test]
    fn an_endless_foreign_file_is_an_error() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(LAST_LOOK + 1).unwrap();
        assert_eq!(read(&file).unwrap_err().to_string(), "its last 64 MiB hold no event");
    }
}
