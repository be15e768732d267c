//! Which member of a JSON document an offset is in.
//!
//! In: a document that is sound up to the offset. Out: its path, like `$.software[2].sha256`. For
//! messages only: of a text that is no JSON the path is any, but it always ends.

use std::fmt::Write as _;

/// Longest name that is repeated whole, bytes.
const NAME_LIMIT: usize = 64;

/// An object or list that is open.
enum Level<'a> {
    /// The member whose name was read last; `None` where a name comes next.
    Object(Option<&'a str>),
    /// The place in the list, from 0.
    List(usize),
}

/// The path of what ends at, or goes on at, `offset` bytes.
pub(super) fn at(text: &str, offset: usize) -> String {
    let mut levels: Vec<Level<'_>> = Vec::new();
    let mut rest = text.as_bytes().iter().enumerate().take(offset);
    while let Some((start, byte)) = rest.next() {
        match byte {
            b'{' => levels.push(Level::Object(None)),
            b'[' => levels.push(Level::List(0)),
            b'}' | b']' => {
                levels.pop();
            }
            b',' => match levels.last_mut() {
                Some(Level::Object(name)) => *name = None,
                Some(Level::List(place)) => *place += 1,
                None => {}
            },
            b'"' => {
                let end = string_end(&mut rest).unwrap_or(offset);
                if let Some(Level::Object(name @ None)) = levels.last_mut() {
                    *name = text.get(start + 1..end);
                }
            }
            _ => {}
        }
    }
    render(&levels)
}

/// Reads a string to its closing quote; the offset of that.
fn string_end<'a>(rest: &mut impl Iterator<Item = (usize, &'a u8)>) -> Option<usize> {
    while let Some((at, byte)) = rest.next() {
        match byte {
            b'"' => return Some(at),
            b'\\' => {
                rest.next();
            }
            _ => {}
        }
    }
    None
}

fn render(levels: &[Level<'_>]) -> String {
    let mut path = String::from("$");
    for level in levels {
        // Writing to a string does not fail.
        let _ = match level {
            Level::Object(None) => Ok(()),
            Level::Object(Some(name)) if is_plain(name) => write!(path, ".{name}"),
            Level::Object(Some(name)) => {
                let end = name.floor_char_boundary(NAME_LIMIT);
                write!(path, "[\"{}\"]", name.get(..end).unwrap_or_default())
            }
            Level::List(place) => write!(path, "[{place}]"),
        };
    }
    path
}

fn is_plain(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=NAME_LIMIT).contains(&name.len()) && name.bytes().all(plain)
}
