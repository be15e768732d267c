//! `manifest new`: a manifest from the command line, with the digests of its software.

use std::{
    fs::File,
    num::NonZeroU64,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use clap::Args;

use super::{super::file, SignedView, wrong};
use crate::{
    cli::console::{Console, Exit, Failure},
    resolver::{
        attestation::digest,
        manifest::{
            Document, Environment, Language, Lifecycle, Manifest, Model, Owner, Purpose, RecordId,
            Schema, SelectorText, Software, SoftwareKind, SoftwareName, Timestamp,
        },
        spiffe::SpiffeId,
        text::{Name, Text},
    },
    signing::random,
};

/// Longest validity.
const LONGEST: Duration = Duration::from_hours(24 * 3660);

/// Put a manifest together, with the digests of its software. Sign it with `manifest sign`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  agent-enforcer manifest new --name coding-agent --agent-id spiffe://example.org/agent/coder \\
      --owner platform-team@example.com --sponsor ada@example.com --purpose 'works on tickets' \\
      --tool code-host --software coder=/opt/coder/bin/coder \\
      --software python3=/usr/bin/python3.11:interpreter:python --valid-for 90d --out coder.json")]
pub(in crate::cli) struct NewArgs {
    /// The agent in the policy.
    #[arg(long, value_name = "NAME")]
    name: Name,
    /// The agent, the same on every host: a SPIFFE ID.
    #[arg(long, value_name = "SPIFFE-ID")]
    agent_id: SpiffeId,
    /// Who answers for it.
    #[arg(long, value_name = "WHO")]
    owner: Owner,
    /// Who answers for its being there.
    #[arg(long, value_name = "WHO")]
    sponsor: Owner,
    /// What it is for.
    #[arg(long, value_name = "TEXT")]
    purpose: Purpose,
    /// Where it is meant to run.
    #[arg(long, value_name = "TEXT")]
    environment: Option<Environment>,
    /// What it thinks with.
    #[arg(long, num_args = 3, value_names = ["PROVIDER", "NAME", "VERSION"])]
    model: Vec<Text<200>>,
    /// A tool of the policy that it is meant for; can be given more than once.
    #[arg(long = "tool", value_name = "NAME", value_delimiter = ',')]
    tools: Vec<Name>,
    /// A file that it may execute: `executable` (where nothing is said), `interpreter` with its
    /// language, or `script`; can be given more than once.
    #[arg(long, value_name = "NAME=PATH[:KIND[:LANGUAGE]]", value_parser = software)]
    software: Vec<SoftwareFile>,
    /// What recognises its processes: one term, selectors separated by commas; can be given more
    /// than once.
    #[arg(long = "selector", value_name = "TERM", value_parser = term)]
    selectors: Vec<Term>,
    /// How long it counts from now on: `90d`, `12h`.
    #[arg(long, value_name = "DURATION", value_parser = validity)]
    valid_for: Duration,
    /// Counts up with each change of the record.
    #[arg(long, value_name = "N", default_value = "1")]
    version: NonZeroU64,
    /// The record that this is a new version of [default: a new one].
    #[arg(long, value_name = "URN")]
    record_id: Option<RecordId>,
    /// `active`, `suspended` or `revoked`.
    #[arg(long, value_name = "WORD", default_value = "active", value_parser = lifecycle)]
    lifecycle: Lifecycle,
    /// Where it goes: a new file [default: standard output].
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Clone, Debug)]
struct SoftwareFile {
    name: SoftwareName,
    path: PathBuf,
    kind: SoftwareKind,
    language: Option<Language>,
}

/// The selectors of one term.
#[derive(Clone, Debug)]
struct Term(Vec<SelectorText>);

pub(super) fn new(args: NewArgs, console: &mut Console<'_>) -> Result<Exit, Failure> {
    let out = args.out.clone();
    let document = document(args, SystemTime::now())?;
    let shown = out.clone().unwrap_or_else(|| "the manifest".into());
    let manifest = Manifest::new(&document).map_err(|error| wrong(&shown, &error))?;
    let text = manifest.to_json().map_err(|error| wrong(&shown, &error))?;
    let Some(out) = out else {
        // Its strings are plain text: nothing else is in a manifest.
        console.text(&text)?;
        return Ok(Exit::Done);
    };
    file::create(&out, text.as_bytes())?;
    console.show(&SignedView::new(&out, &manifest), |view, _| view.line("signed by"))
}

fn document(args: NewArgs, now: SystemTime) -> Result<Document, Failure> {
    let NewArgs {
        name,
        agent_id,
        owner,
        sponsor,
        purpose,
        environment,
        model,
        tools,
        software,
        selectors,
        valid_for,
        version,
        record_id,
        lifecycle,
        out: _,
    } = args;
    let record_id = record_id.map_or_else(new_record_id, Ok)?;
    let model = match <[_; 3]>::try_from(model) {
        Ok([provider, name, version]) => Some(Model { provider, name, version }),
        Err(_not_given) => None,
    };
    Ok(Document {
        schema: Schema,
        record_id,
        version,
        agent_id,
        name,
        owner,
        sponsor,
        purpose,
        environment,
        model,
        software: software.into_iter().map(hashed).collect::<Result<_, _>>()?,
        tools,
        selectors: selectors.into_iter().map(|Term(selectors)| selectors).collect(),
        lifecycle,
        issued_at: now.into(),
        valid_until: now.checked_add(valid_for).map(Timestamp::from).ok_or_else(|| {
            Failure::usage("the manifest would last too long", "give a shorter `--valid-for`")
        })?,
        signatures: Vec::new(),
    })
}

fn new_record_id() -> Result<RecordId, Failure> {
    random().map(RecordId::of_random).map_err(|error| {
        Failure::failed(error.to_string(), "see that the system has started completely")
    })
}

fn hashed(file: SoftwareFile) -> Result<Software, Failure> {
    let SoftwareFile { name, path, kind, language } = file;
    let fault = |error: String| {
        let error = format!("{} can't be hashed: {error}", path.display());
        Failure::failed(error, "name a program file that this user may read")
    };
    let opened = File::open(&path).map_err(|error| fault(error.to_string()))?;
    let hashed = digest::hash(&opened, &|_read| true).map_err(|error| fault(error.to_string()))?;
    Ok(Software { name, kind, sha256: Some(hashed.digest), fsverity: None, language })
}

/// The words are at the end: a path may have colons.
fn software(text: &str) -> Result<SoftwareFile, String> {
    const FORM: &str = "write NAME=PATH, NAME=PATH:script or NAME=PATH:interpreter:python";
    let (name, rest) = text.split_once('=').ok_or(FORM)?;
    let name = name.parse().map_err(|error| format!("{error}; {FORM}"))?;
    let (rest, language) = split_word(rest, Language::ALL, Language::word);
    let (path, kind) = split_word(rest, SoftwareKind::ALL, SoftwareKind::word);
    let kind = kind.unwrap_or(SoftwareKind::Executable);
    if (kind == SoftwareKind::Interpreter) != language.is_some() {
        return Err(format!("an interpreter has a language, and nothing else has; {FORM}"));
    }
    if path.is_empty() {
        return Err(FORM.to_owned());
    }
    Ok(SoftwareFile { name, path: path.into(), kind, language })
}

fn split_word<T: Copy, const N: usize>(
    text: &str,
    choices: [T; N],
    word: impl Fn(T) -> &'static str,
) -> (&str, Option<T>) {
    let found = text.rsplit_once(':').and_then(|(rest, last)| {
        let choice = choices.into_iter().find(|choice| word(*choice) == last)?;
        Some((rest, Some(choice)))
    });
    found.unwrap_or((text, None))
}

fn term(text: &str) -> Result<Term, String> {
    let selectors: Result<_, _> = text.split(',').map(str::parse).collect();
    selectors.map(Term).map_err(|error: crate::resolver::text::TextError| error.to_string())
}

fn lifecycle(text: &str) -> Result<Lifecycle, String> {
    Lifecycle::ALL
        .into_iter()
        .find(|lifecycle| lifecycle.word() == text)
        .ok_or_else(|| "use active, suspended or revoked".to_owned())
}

fn validity(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 90d or 12h"))?;
    if (Duration::from_secs(1)..=LONGEST).contains(&duration) {
        Ok(duration)
    } else {
        Err("a manifest counts from 1s to ten years".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn software_is_a_name_a_path_and_words_at_the_end() {
        for (text, path, kind, language) in [
            ("a=/bin/a", "/bin/a", SoftwareKind::Executable, None),
            ("a=/bin/a:b", "/bin/a:b", SoftwareKind::Executable, None),
            ("a=/bin/a=b:executable", "/bin/a=b", SoftwareKind::Executable, None),
            ("a=/bin/a:script", "/bin/a", SoftwareKind::Script, None),
            ("a=/x:interpreter:ruby", "/x", SoftwareKind::Interpreter, Some(Language::Ruby)),
        ] {
            let file = software(text).unwrap();
            assert_eq!(file.path, PathBuf::from(path), "{text}");
            assert_eq!((file.kind, file.language), (kind, language), "{text}");
        }
        for bad in [
            "",
            "a",
            "a=",
            "=/bin/a",
            "a=:script",
            "a=/x:interpreter",
            "a=/x:script:ruby",
            "a=/x:ruby",
        ] {
            software(bad).unwrap_err();
        }
    }

    #[test]
    fn terms_and_durations_have_their_forms() {
        assert_eq!(term("unix:uid:7,unix:path:/a").unwrap().0.len(), 2);
        for bad in ["", "a,,b", "a\n"] {
            term(bad).unwrap_err();
        }
        assert_eq!(validity("90d"), Ok(Duration::from_hours(24 * 90)));
        for bad in ["0s", "90", "100y"] {
            validity(bad).unwrap_err();
        }
    }
}
