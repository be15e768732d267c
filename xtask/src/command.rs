//! Running other programs: shown before they run, and with an error that tells what went wrong.
//!
//! In: a prepared [`Command`]. Out: its output, or an error that names the command line and the
//! last words of the program. Never runs a shell, never hides a failure.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, IsTerminal},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// The command line as a person would type it.
pub(crate) fn describe(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(quote).collect::<Vec<_>>().join(" ")
}

/// Shows and runs it; its output goes to the terminal.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("  $ {}", describe(command));
    let status = command.status().with_context(|| cannot_start(command))?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(command));
    }
    Ok(())
}

/// Runs it quietly, with a spinner on a terminal; its output is shown only when it fails.
pub(crate) fn run_quietly(what: &str, command: &mut Command) -> Result<()> {
    println!("  $ {}", describe(command));
    let spinner = spinner(what);
    let outcome = capture(command);
    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    outcome.map(|_| ())
}

/// Runs it and returns what it wrote to standard output, without the last newline.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| cannot_start(command))?;
    if !output.status.success() {
        let mut words = String::from_utf8_lossy(&output.stderr).into_owned();
        if words.trim().is_empty() {
            words = String::from_utf8_lossy(&output.stdout).into_owned();
        }
        bail!("`{}` failed: {}\n{}", describe(command), output.status, last_lines(&words, 20));
    }
    let text = String::from_utf8(output.stdout)
        .with_context(|| format!("`{}` wrote something that is not UTF-8", describe(command)))?;
    Ok(text.trim_end().to_owned())
}

/// The program's path, looked up as a shell does, and where root's programs are.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path);
    directories
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// A command that runs as root: as it is for root, through sudo for everyone else.
pub(crate) fn as_root(program: &str) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    command
}

/// Runs this program again, as root.
pub(crate) fn again_as_root(arguments: Vec<OsString>) -> Result<()> {
    if find("sudo").is_none() {
        bail!("not root, and there is no sudo; run it as root");
    }
    let mut sudo = Command::new("sudo");
    sudo.arg(env::current_exe().context("can't find this program's own file")?).args(arguments);
    let status = sudo.status().with_context(|| cannot_start(&sudo))?;
    if !status.success() {
        bail!("`{}` failed: {status}", describe(&sudo));
    }
    Ok(())
}

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The last `count` lines.
pub(crate) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.trim_end().lines().collect();
    let skipped = lines.len().saturating_sub(count);
    lines.into_iter().skip(skipped).collect::<Vec<_>>().join("\n")
}

fn spinner(what: &str) -> Option<ProgressBar> {
    if !io::stderr().is_terminal() {
        return None;
    }
    let style = ProgressStyle::with_template("    {spinner} {msg} [{elapsed}]").ok()?;
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(what.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(120));
    Some(spinner)
}

fn cannot_start(command: &Command) -> String {
    format!(
        "`{}` can't be started; `cargo xtask setup` installs what is missing",
        describe(command)
    )
}

fn quote(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%[]".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_can_be_typed_again() {
        let mut command = Command::new("ip");
        command.args(["addr", "add", "192.0.2.1/24", "", "it's"]);
        assert_eq!(describe(&command), r"ip addr add 192.0.2.1/24 '' 'it'\''s'");
    }

    #[test]
    fn failure_names_the_command_and_its_last_words() {
        let error = capture(Command::new("ls").arg("/does/not/exist")).unwrap_err().to_string();
        assert!(error.contains("`ls /does/not/exist` failed"), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }

    #[test]
    fn missing_program_names_the_remedy() {
        let error = capture(&mut Command::new("no-such-program")).unwrap_err().to_string();
        assert!(error.contains("cargo xtask setup"), "{error}");
    }

    #[test]
    fn only_the_last_lines_are_kept() {
        assert_eq!(last_lines("a\nb\nc\n", 2), "b\nc");
        assert_eq!(last_lines("a", 2), "a");
    }
}
