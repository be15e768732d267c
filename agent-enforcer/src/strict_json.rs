//! JSON from outside, read so that no two readers can take it for different things.
//!
//! In: bytes. Out: the typed document and the same as a tree, or the one place where it is wrong:
//! path, line and column. Refused: what is too large (before it is decoded), nested too deep, not
//! UTF-8, has a member twice or one that the type does not know, or a number that not every reader
//! carries. The parser is serde_json's; this adds what JSON itself leaves open (RFC 7493).

mod path;

use std::{
    fmt::{self, Display},
    marker::PhantomData,
    str::FromStr,
};

use serde::{
    Deserializer,
    de::{DeserializeOwned, DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};

use crate::hostile_text::json_escaped;

/// Largest integer that every JSON reader carries exactly, 2^53 - 1 (RFC 7493 section 2.2).
pub const LARGEST_INTEGER: u64 = (1 << 53) - 1;
/// Longest problem that is told, characters: parts of it are from the document.
const PROBLEM_LIMIT: usize = 300;

/// How much a document may be.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of text.
    pub bytes: usize,
    /// Levels of objects and lists.
    pub depth: usize,
}

/// A decoded document.
#[derive(Clone, Debug)]
pub struct Decoded<T> {
    /// As its type.
    pub typed: T,
    /// As JSON, with every member that stands in the text.
    pub tree: Value,
}

/// What is wrong with a document, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path} (line {line}, column {column}): {problem}")]
pub struct JsonError {
    /// Like `$.software[2].sha256`; `$` is the document.
    pub path: String,
    /// From 1.
    pub line: usize,
    /// From 1, in bytes.
    pub column: usize,
    /// What is wrong, and what to do about it; safe for terminals and logs.
    pub problem: String,
}

/// Decodes a document. A type refuses unknown members with `#[serde(deny_unknown_fields)]`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8], limits: Limits) -> Result<Decoded<T>, JsonError> {
    let text = text_of(bytes, limits)?;
    let tree = tree_of(text, limits)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let typed = T::deserialize(&mut reader).map_err(|error| located(text, &error))?;
    Ok(Decoded { typed, tree })
}

/// Decodes a document whose members are known to its reader alone.
pub fn tree(bytes: &[u8], limits: Limits) -> Result<Value, JsonError> {
    tree_of(text_of(bytes, limits)?, limits)
}

fn text_of(bytes: &[u8], limits: Limits) -> Result<&str, JsonError> {
    if bytes.len() > limits.bytes {
        let problem = format!("the document has {} bytes, more than {}", bytes.len(), limits.bytes);
        return Err(JsonError { path: "$".to_owned(), line: 1, column: 1, problem });
    }
    std::str::from_utf8(bytes).map_err(|error| {
        let sound = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let sound = std::str::from_utf8(sound).unwrap_or_default();
        let problem = "this byte is not UTF-8; save the document as UTF-8".to_owned();
        JsonError { problem, ..place(sound, sound.len()) }
    })
}

fn tree_of(text: &str, limits: Limits) -> Result<Value, JsonError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let seed = Tree { levels: limits.depth };
    seed.deserialize(&mut reader)
        .and_then(|tree| reader.end().map(|()| tree))
        .map_err(|error| located(text, &error))
}

/// Any value, with the rules that hold for every document.
struct Tree {
    /// Levels that may follow.
    levels: usize,
}

impl Tree {
    fn below<E: serde::de::Error>(&self) -> Result<usize, E> {
        let problem = "this is nested deeper than such a document is; remove the inner levels";
        self.levels.checked_sub(1).ok_or_else(|| E::custom(problem))
    }
}

impl<'de> DeserializeSeed<'de> for Tree {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Tree {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        if value > LARGEST_INTEGER { Err(too_large()) } else { Ok(value.into()) }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > LARGEST_INTEGER { Err(too_large()) } else { Ok(value.into()) }
    }

    #[expect(clippy::cast_precision_loss, reason = "2^53 - 1 is exact in an f64")]
    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        // Integers that no u64 holds come here too.
        let small = value.abs() <= LARGEST_INTEGER as f64;
        Number::from_f64(value).filter(|_| small).map(Value::Number).ok_or_else(too_large)
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let levels = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Tree { levels })? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let levels = self.below()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                let problem = format!("member `{name}` stands twice in one object; keep one");
                return Err(A::Error::custom(problem));
            }
            let value = members.next_value_seed(Tree { levels })?;
            object.insert(name, value);
        }
        Ok(object.into())
    }
}

fn too_large<E: serde::de::Error>() -> E {
    E::custom(
        "this number is beyond 2^53 - 1, which not every JSON reader carries; write a smaller one",
    )
}

/// Reads a string as a type that has its own form. The error names the place of the string.
pub(crate) fn text<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr,
    T::Err: Display,
{
    struct Text<T>(PhantomData<T>);

    impl<T: FromStr> Visitor<'_> for Text<T>
    where
        T::Err: Display,
    {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            // Here, not by the caller: serde_json adds the place to errors of visitors only.
            text.parse().map_err(E::custom)
        }
    }

    deserializer.deserialize_str(Text(PhantomData))
}

/// A member that is there has a value: `null` is not the same as nothing.
pub(crate) fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: Deserializer<'de>,
    T: serde::Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

fn located(text: &str, error: &serde_json::Error) -> JsonError {
    let start = match error.line() {
        0 | 1 => 0,
        line => text.match_indices('\n').nth(line - 2).map_or(0, |(at, _)| at + 1),
    };
    let whole = error.to_string();
    let suffix = format!(" at line {} column {}", error.line(), error.column());
    let problem = in_our_words(whole.strip_suffix(suffix.as_str()).unwrap_or(&whole));
    JsonError { problem: shown(&problem), ..place(text, start + error.column()) }
}

/// The place of an offset, bytes.
fn place(text: &str, offset: usize) -> JsonError {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    JsonError {
        path: shown(&path::at(text, offset)),
        line: before.split(|byte| *byte == b'\n').count(),
        column: (before.len() - line_start).max(1),
        problem: String::new(),
    }
}

/// serde's words, with what to do about it.
fn in_our_words(problem: &str) -> String {
    if let Some(rest) = problem.strip_prefix("unknown field ") {
        let (name, known) = rest.split_once(", expected ").unwrap_or((rest, ""));
        let known = known.strip_prefix("one of ").unwrap_or(known);
        return format!("member {name} is not known; the members here are {known}");
    }
    if let Some(name) = problem.strip_prefix("missing field ") {
        return format!("member {name} is missing; add it");
    }
    problem.to_owned()
}

/// Text of a document as an error shows it.
fn shown(text: &str) -> String {
    let safe = json_escaped(text);
    match safe.char_indices().nth(PROBLEM_LIMIT) {
        Some((end, _)) => format!("{}...", safe.get(..end).unwrap_or_default()),
        None => safe.into_owned(),
    }
}

#[cfg(test)]
mod tests;
