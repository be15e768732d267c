//! Where commands write, and how failures are told.
//!
//! In: results and failures. Out: text or JSON on the two streams, and an exit code. A reader
//! that has gone away (`| head`) is no failure.

use std::io::{self, BufRead, Write};

use serde::Serialize;

use super::{OutputFormat, text::printable_lines};
use crate::{api::ApiError, control::ControlError, hostile_text::json_escaped};

/// Exit codes; documented, stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed or refused, or a check found something wrong.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// The daemon can't be reached, or can't answer now.
    Unreachable = 3,
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// How tables look.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    /// With colours.
    pub colour: bool,
    /// Columns of the terminal; `None` wraps nothing.
    pub width: Option<u16>,
}

impl Style {
    /// For files, pipes and tests.
    pub const PLAIN: Self = Self { colour: false, width: None };
}

/// The streams of one command.
pub struct Console<'a> {
    /// Standard output.
    pub out: &'a mut dyn Write,
    /// Standard error.
    pub err: &'a mut dyn Write,
    /// Where a person can answer a question; `None` where nobody can.
    pub answers: Option<&'a mut dyn BufRead>,
    /// Tables or JSON.
    pub format: OutputFormat,
    /// How tables look.
    pub style: Style,
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(super) enum Failure {
    /// To be told, with what to do about it.
    Told { error: String, remedy: String, exit: Exit },
    /// Refused for a reason that has a word.
    Refused { word: &'static str, error: String, remedy: String },
    /// The output can't be written.
    Output(io::Error),
}

impl Failure {
    /// A failure with exit code 1.
    pub(super) fn failed(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Told { error: error.into(), remedy: remedy.into(), exit: Exit::Failed }
    }

    /// A failure with exit code 2.
    pub(super) fn usage(error: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Told { error: error.into(), remedy: remedy.into(), exit: Exit::Usage }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        let exit = match &error {
            ApiError::PermissionDenied { .. }
            | ApiError::NotPermitted { .. }
            | ApiError::OtherVersion
            | ApiError::AlreadyRunning { .. }
            | ApiError::PathTaken { .. }
            | ApiError::UnsafeDirectory { .. }
            | ApiError::Refused(
                ControlError::NotFound(_) | ControlError::Invalid(_) | ControlError::Internal(_),
            ) => Exit::Failed,
            ApiError::NoSocket { .. }
            | ApiError::NotListening { .. }
            | ApiError::NotASocket { .. }
            | ApiError::ForeignServer { .. }
            | ApiError::PathTooLong { .. }
            | ApiError::System { .. }
            | ApiError::TimedOut { .. }
            | ApiError::ConnectionLost { .. }
            | ApiError::Refused(ControlError::Unavailable(_)) => Exit::Unreachable,
        };
        Self::Told { error: error.problem(), remedy: error.remedy().to_owned(), exit }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

#[derive(Serialize)]
struct FailureDocument<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    error: &'a str,
    remedy: &'a str,
}

impl Console<'_> {
    /// Whether results are for programs.
    pub(super) fn is_json(&self) -> bool {
        self.format == OutputFormat::Json
    }

    /// Writes a result: its JSON document, or what `render` makes of it for people.
    pub(super) fn show<T: Serialize + ?Sized>(
        &mut self,
        result: &T,
        render: impl FnOnce(&T, Style) -> String,
    ) -> Result<Exit, Failure> {
        if self.is_json() {
            self.json(result)?;
        } else {
            let text = render(result, self.style);
            self.text(&text)?;
        }
        Ok(Exit::Done)
    }

    /// Writes one JSON document on a line of its own.
    pub(super) fn json<T: Serialize + ?Sized>(&mut self, document: &T) -> Result<(), Failure> {
        let text = serde_json::to_string(document).map_err(io::Error::other)?;
        self.line(&json_escaped(&text))
    }

    /// Writes text that is safe already.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        self.out.write_all(text.as_bytes())?;
        Ok(self.out.flush()?)
    }

    /// Writes a line that is safe already.
    pub(super) fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.out.write_all(line.as_bytes())?;
        self.out.write_all(b"\n")?;
        Ok(self.out.flush()?)
    }

    /// Writes a remark for people beside the output: not in JSON mode.
    pub(super) fn remark(&mut self, remark: &str) -> Result<(), Failure> {
        if !self.is_json() {
            writeln!(self.err, "{}", printable_lines(remark))?;
        }
        Ok(())
    }

    /// Asks a question; `None` where nobody can answer.
    pub(super) fn ask(&mut self, question: &str) -> Result<Option<String>, Failure> {
        let Some(answers) = &mut self.answers else { return Ok(None) };
        write!(self.err, "{question} ")?;
        self.err.flush()?;
        let mut answer = String::new();
        answers.read_line(&mut answer)?;
        Ok(Some(answer.trim().to_owned()))
    }

    /// Tells a failure and returns its exit code.
    pub(super) fn report(&mut self, failure: &Failure) -> Exit {
        match failure {
            Failure::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Failure::Output(error) => self.tell(
                &format!("the output could not be written: {error}"),
                "see that the disk has room",
                Exit::Failed,
            ),
            Failure::Told { error, remedy, exit } => self.tell(error, remedy, *exit),
            Failure::Refused { word, error, remedy } => {
                self.tell_reason(Some(word), error, remedy, Exit::Failed)
            }
        }
    }

    /// Tells a command line that can't be parsed; help and version are no failures.
    pub fn report_usage(&mut self, error: &clap::Error) -> Exit {
        let text = error.render();
        if !error.use_stderr() {
            // Nobody is left to tell if this fails.
            let _ = self.text(&text.to_string());
            return Exit::Done;
        }
        if self.is_json() {
            let text = text.to_string();
            let problem = text.trim_start_matches("error: ").split("\n\n").next().unwrap_or(&text);
            return self.tell(problem.trim(), "see `agent-enforcer --help`", Exit::Usage);
        }
        let text = if self.style.colour { text.ansi().to_string() } else { text.to_string() };
        let _ = self.err.write_all(text.as_bytes());
        Exit::Usage
    }

    /// Tells a failure of a command that is not run by [`super::execute`].
    pub fn report_error(&mut self, error: &str, remedy: &str) -> Exit {
        self.tell(error, remedy, Exit::Failed)
    }

    fn tell(&mut self, error: &str, remedy: &str, exit: Exit) -> Exit {
        self.tell_reason(None, error, remedy, exit)
    }

    fn tell_reason(&mut self, reason: Option<&str>, error: &str, remedy: &str, exit: Exit) -> Exit {
        let text = if self.is_json() {
            let document = serde_json::to_string(&FailureDocument { reason, error, remedy });
            format!("{}\n", json_escaped(&document.unwrap_or_default()))
        } else {
            let reason = reason.map(|word| format!("{word}: ")).unwrap_or_default();
            let (error, remedy) = (printable_lines(error), printable_lines(remedy));
            format!("error: {reason}{error}\n  help: {remedy}\n")
        };
        // Standard error is gone: the exit code says it all.
        let _ = self.err.write_all(text.as_bytes());
        exit
    }
}
