//! Which script an interpreter runs, by the arguments that the kernel saw it start with.
//!
//! In: a language, and arguments. Out: the path of the script as it was named, or why nobody can tell
//! which code it is ([`Unverified`]). What is not in the tables below is never guessed at: an option
//! that is not known may load code, or take what looks like the script for its value.
//! The environment can name code as well (`PYTHONPATH`, `BASH_ENV`, `NODE_OPTIONS`, `LD_PRELOAD`); it is
//! not looked at.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use super::exec::Arguments;
use crate::{decision::Unverified, resolver::manifest::Language};

/// What an option does.
#[derive(Clone, Copy)]
enum Meaning {
    /// Nothing that matters here.
    Flag,
    /// That, and it has a value: what follows it, or the next argument.
    Valued,
    /// There is code that is not the script.
    Code(Unverified),
}

use Meaning::{Code, Flag, Valued};
use Unverified::{InlineCode, LoadsCode, Module, StartupFiles, StdinCode};

/// How an interpreter reads its arguments.
struct Grammar {
    language: Language,
    /// How its executable may be called; digits, dots and dashes may follow.
    names: &'static [&'static str],
    /// Letters behind a dash, several at once.
    short: &'static [(&'static str, Meaning)],
    /// Words behind two dashes.
    long: &'static [(&'static str, Meaning)],
    /// Operands that are commands of the interpreter and no scripts.
    commands: &'static [&'static str],
    /// How the values of letters are found.
    values: Values,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Values {
    /// The rest of the argument, or the next one where there is none.
    Attached,
    /// The next argument, always; and a plus begins letters as a dash does.
    Shell,
}

/// CPython 3.13 `Python/getopt.c`, bash 5.2 `shell.c`, dash 0.5 `options.c`, node 22, perl 5.40 perlrun(1),
/// ruby 3.3 ruby(1).
const GRAMMARS: [Grammar; 5] = [
    Grammar {
        language: Language::Python,
        names: &["python", "pypy"],
        short: &[
            ("bBdEIOPqsSuv", Flag),
            ("c", Code(InlineCode)),
            ("m", Code(Module)),
            ("i", Code(StdinCode)),
            ("WX", Code(LoadsCode)),
        ],
        long: &[],
        commands: &[],
        values: Values::Attached,
    },
    Grammar {
        language: Language::Shell,
        names: &["bash", "dash", "sh", "ash", "ksh", "zsh"],
        short: &[
            ("abefhkmnptuvxBCEHPT", Flag),
            ("oO", Valued),
            ("c", Code(InlineCode)),
            ("s", Code(StdinCode)),
            ("il", Code(StartupFiles)),
        ],
        long: &[
            ("norc", Flag),
            ("noprofile", Flag),
            ("posix", Flag),
            ("verbose", Flag),
            ("login", Code(StartupFiles)),
            ("rcfile", Code(LoadsCode)),
            ("init-file", Code(LoadsCode)),
        ],
        commands: &[],
        values: Values::Shell,
    },
    Grammar {
        language: Language::Node,
        names: &["node", "nodejs"],
        short: &[("ep", Code(InlineCode)), ("i", Code(StdinCode)), ("rC", Code(LoadsCode))],
        long: &[
            ("enable-source-maps", Flag),
            ("no-warnings", Flag),
            ("no-deprecation", Flag),
            ("trace-warnings", Flag),
            ("max-old-space-size", Flag),
            ("eval", Code(InlineCode)),
            ("print", Code(InlineCode)),
            ("require", Code(LoadsCode)),
            ("import", Code(LoadsCode)),
            ("loader", Code(LoadsCode)),
            ("experimental-loader", Code(LoadsCode)),
            ("env-file", Code(LoadsCode)),
        ],
        commands: &["inspect", "debug"],
        values: Values::Attached,
    },
    Grammar {
        language: Language::Perl,
        names: &["perl"],
        short: &[("twTUWX", Flag), ("eE", Code(InlineCode)), ("mMId", Code(LoadsCode))],
        long: &[],
        commands: &[],
        values: Values::Attached,
    },
    Grammar {
        language: Language::Ruby,
        names: &["ruby"],
        short: &[("vwU", Flag), ("e", Code(InlineCode)), ("rI", Code(LoadsCode))],
        long: &[],
        commands: &[],
        values: Values::Attached,
    },
];

/// What an executable interprets, by its name: for people, never for a decision.
pub fn language_of(executable: &Path) -> Option<Language> {
    let name = executable.file_name()?.to_str()?;
    let name = name.trim_end_matches(|end: char| end.is_ascii_digit() || ".-".contains(end));
    GRAMMARS.iter().find(|grammar| grammar.names.contains(&name)).map(|grammar| grammar.language)
}

/// The script, as it was named: relative to the working directory of that moment.
pub fn script_of(language: Language, arguments: &Arguments) -> Result<PathBuf, Unverified> {
    let grammar = GRAMMARS.iter().find(|grammar| grammar.language == language);
    let Some(grammar) = grammar else { return Err(Unverified::UnknownOption) };
    let mut rest = arguments.iter();
    let Some(name) = rest.next().transpose()? else { return Err(Unverified::ArgumentsUnknown) };
    if grammar.values == Values::Shell && name.starts_with(b"-") {
        // A login shell.
        return Err(StartupFiles);
    }
    let script = loop {
        // Whatever it reads where it is told nothing.
        let Some(argument) = rest.next().transpose()? else { return Err(StdinCode) };
        let values = match argument {
            b"-" => return Err(StdinCode),
            b"--" => match rest.next().transpose()? {
                Some(operand) => break operand,
                None => return Err(StdinCode),
            },
            [b'-', b'-', long @ ..] => grammar.long(long)?,
            [b'-', short @ ..] => grammar.short(short)?,
            [b'+', short @ ..] if grammar.values == Values::Shell => grammar.short(short)?,
            operand => break operand,
        };
        for _ in 0..values {
            if rest.next().transpose()?.is_none() {
                return Err(Unverified::UnknownOption);
            }
        }
    };
    if script.is_empty() || grammar.commands.iter().any(|command| command.as_bytes() == script) {
        return Err(Unverified::UnknownOption);
    }
    Ok(PathBuf::from(OsString::from_vec(script.to_vec())))
}

impl Grammar {
    /// How many arguments behind a word are its values.
    fn long(&self, word: &[u8]) -> Result<usize, Unverified> {
        let mut parts = word.splitn(2, |&byte| byte == b'=');
        let name = parts.next().unwrap_or_default();
        let found = self.long.iter().find(|(known, _)| known.as_bytes() == name);
        match found.map(|(_, meaning)| *meaning) {
            Some(Flag) => Ok(0),
            Some(Valued) => Ok(usize::from(parts.next().is_none())),
            Some(Code(why)) => Err(why),
            None => Err(Unverified::UnknownOption),
        }
    }

    /// How many arguments behind letters are their values.
    fn short(&self, letters: &[u8]) -> Result<usize, Unverified> {
        let mut values = 0;
        for (place, letter) in letters.iter().enumerate() {
            let found = self.short.iter().find(|(known, _)| known.as_bytes().contains(letter));
            match found.map(|(_, meaning)| *meaning) {
                Some(Flag) => {}
                Some(Valued) if self.values == Values::Shell => values += 1,
                Some(Valued) => return Ok(usize::from(place + 1 == letters.len())),
                Some(Code(why)) => return Err(why),
                None => return Err(Unverified::UnknownOption),
            }
        }
        Ok(values)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(language: Language, line: &str) -> Result<String, &'static str> {
        let line: Vec<_> = line.split(' ').map(|word| word.as_bytes().to_vec()).collect();
        script_of(language, &Arguments::all(&line))
            .map(|path| path.to_string_lossy().into_owned())
            .map_err(Unverified::word)
    }

    #[test]
    fn script_is_the_first_operand_whatever_follows_it() {
        for (language, line, script) in [
            (Language::Python, "python3 x.py -c y", "x.py"),
            (Language::Python, "python3 -uB /opt/x.py -", "/opt/x.py"),
            (Language::Python, "python3 -I -- -c", "-c"),
            (Language::Shell, "bash -euo pipefail x.sh -c y", "x.sh"),
            (Language::Shell, "sh +x -oe noglob x", "x"),
            (Language::Shell, "bash --norc --noprofile ./x.sh", "./x.sh"),
            (Language::Node, "node --max-old-space-size=99 x.js --eval y", "x.js"),
            (Language::Perl, "perl -wT x.pl", "x.pl"),
            (Language::Ruby, "ruby -w x.rb", "x.rb"),
        ] {
            assert_eq!(of(language, line), Ok(script.to_owned()), "{line}");
        }
    }

    #[test]
    fn code_that_is_no_script_is_named() {
        for (language, line, word) in [
            (Language::Python, "python3 -c x", "inline_code"),
            (Language::Python, "python3 -Bc x", "inline_code"),
            (Language::Python, "python3 -cx", "inline_code"),
            (Language::Python, "python3 -m http.server", "module"),
            (Language::Python, "python3", "stdin_code"),
            (Language::Python, "python3 - x.py", "stdin_code"),
            (Language::Python, "python3 -i x.py", "stdin_code"),
            (Language::Python, "python3 -X presite=y x.py", "loads_code"),
            (Language::Python, "python3 -Wx x.py", "loads_code"),
            (Language::Python, "python3 --frozen x.py", "unknown_option"),
            (Language::Python, "python3 -Z x.py", "unknown_option"),
            (Language::Python, "python3 --", "stdin_code"),
            (Language::Shell, "bash -ec x", "inline_code"),
            (Language::Shell, "bash -s x", "stdin_code"),
            (Language::Shell, "-bash x.sh", "startup_files"),
            (Language::Shell, "bash --login x.sh", "startup_files"),
            (Language::Shell, "bash --rcfile y x.sh", "loads_code"),
            (Language::Shell, "bash -o", "unknown_option"),
            (Language::Node, "node -e x", "inline_code"),
            (Language::Node, "node --eval=x", "inline_code"),
            (Language::Node, "node -r ./y x.js", "loads_code"),
            (Language::Node, "node --import=./y x.js", "loads_code"),
            (Language::Node, "node inspect x.js", "unknown_option"),
            (Language::Perl, "perl -we x", "inline_code"),
            (Language::Perl, "perl -Mx x.pl", "loads_code"),
            (Language::Ruby, "ruby -rx x.rb", "loads_code"),
            (Language::Ruby, "ruby -C / x.rb", "unknown_option"),
        ] {
            assert_eq!(of(language, line), Err(word), "{line}");
        }
    }

    #[test]
    fn an_interpreter_is_known_by_its_name() {
        let language = |name: &str| language_of(Path::new(name));
        assert_eq!(language("/usr/bin/python3.11"), Some(Language::Python));
        assert_eq!(language("/bin/dash"), Some(Language::Shell));
        assert_eq!(language("/usr/bin/git"), None);
        assert_eq!(language("/usr/bin/bashful"), None);
    }

    #[test]
    fn documentation_names_the_words() {
        let documentation = include_str!("../../../../docs/manifests.md");
        for why in Unverified::ALL {
            let word = format!("`{}`", why.word());
            assert!(
                documentation.lines().any(|line| line.starts_with('|') && line.contains(&word)),
                "{word}"
            );
        }
    }

    proptest! {
        #[test]
        fn the_script_is_always_one_of_the_arguments(
            words in proptest::collection::vec("[-+]{0,2}[a-zA-Z=]{0,3}", 0..8),
        ) {
            let bytes: Vec<_> = words.iter().map(|word| word.as_bytes().to_vec()).collect();
            for grammar in &GRAMMARS {
                if let Ok(path) = script_of(grammar.language, &Arguments::all(&bytes)) {
                    let path = path.to_string_lossy().into_owned();
                    prop_assert!(words.iter().skip(1).any(|word| *word == path));
                }
            }
        }
    }
}
