//! Where in a policy something is, and how its text is shown.
//!
//! In: paths, locations and text from policy files. Out: `file:line:column`, and text that is
//! escaped and shortened before it reaches a terminal or a log.

use std::{fmt, path::Path, sync::Arc};

use serde_saphyr::Location;

/// Longest piece of a policy file that a message repeats, characters.
const QUOTE_LIMIT: usize = 80;

/// Where in a policy a problem is: a file or directory, and in a file its line and column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    file: Arc<str>,
    /// Line and column from 1, `None` for the whole file.
    position: Option<(u32, u32)>,
}

impl Place {
    /// A whole file or directory.
    pub(super) fn whole(path: &Path) -> Self {
        Self { file: quote_path(path), position: None }
    }

    /// What was rendered from the files; nothing in it is anybody's mistake but this program's.
    pub(super) fn rendered() -> Self {
        Self { file: "policy".into(), position: None }
    }

    /// A location in a file.
    pub(super) fn in_file(file: &Arc<str>, at: Location) -> Self {
        let short = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        let position = (at.line() != 0).then(|| (short(at.line()), short(at.column())));
        Self { file: Arc::clone(file), position }
    }

    /// A line and column (from 1) in a file.
    pub(super) fn at(file: &Arc<str>, line: u32, column: u32) -> Self {
        Self { file: Arc::clone(file), position: Some((line, column)) }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        self.position.map_or(Ok(()), |(line, column)| write!(f, ":{line}:{column}"))
    }
}

/// Text of a policy file as a message shows it: in backquotes, escaped, shortened.
pub(super) fn quote(text: &str) -> String {
    let mut quoted = String::from("`");
    quoted.extend(text.chars().take(QUOTE_LIMIT).flat_map(char::escape_debug));
    if text.chars().nth(QUOTE_LIMIT).is_some() {
        quoted.push_str("...");
    }
    quoted.push('`');
    quoted
}

/// A path as a message shows it.
pub(super) fn quote_path(path: &Path) -> Arc<str> {
    path.to_string_lossy().chars().flat_map(escape_control).collect::<String>().into()
}

fn escape_control(character: char) -> impl Iterator<Item = char> {
    let plain = (!character.is_control()).then_some(character);
    let escaped = character.is_control().then(|| character.escape_default());
    plain.into_iter().chain(escaped.into_iter().flatten())
}
