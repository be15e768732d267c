//! The one binary: `agent-enforcer run` is the daemon, everything else is its command line.

use std::{
    env,
    ffi::OsString,
    io::{self, BufRead, IsTerminal},
    path::Path,
    process::ExitCode,
};

use agent_enforcer::{
    cli::{self, Command, Console, Exit, Offline, OutputFormat, PolicySummary, Request, Style},
    daemon,
    resolver::policy::Policy,
};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().collect();
    let wanted = cli::wanted_output(&arguments);
    match cli::parse(arguments) {
        Err(error) => on_console(wanted, |console| console.report_usage(&error)),
        Ok(Command::Run(args)) => match daemon::run(args) {
            Ok(()) => Exit::Done,
            Err(error) => on_console(wanted, |console| {
                console.report_error(&format!("{error:#}"), "see `agent-enforcer doctor`")
            }),
        },
        Ok(Command::Ask(request)) => ask(request),
    }
    .into()
}

fn ask(request: Request) -> Exit {
    on_console(request.output(), |console| {
        // One worker beside this thread: it answers the daemon's keepalives while a slow reader
        // of the output holds this one up.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        match runtime {
            Ok(runtime) => runtime.block_on(cli::execute(request, OFFLINE, console)),
            Err(error) => console.report_error(
                &format!("no thread could be started: {error}"),
                "see the process limit of this user (`ulimit -u`)",
            ),
        }
    })
}

fn on_console(format: OutputFormat, work: impl FnOnce(&mut Console<'_>) -> Exit) -> Exit {
    let mut input = io::stdin().is_terminal().then(|| io::stdin().lock());
    let mut console = Console {
        out: &mut io::stdout().lock(),
        err: &mut io::stderr(),
        answers: input.as_mut().map(|input| -> &mut dyn BufRead { input }),
        format,
        style: style(),
    };
    work(&mut console)
}

/// Colours on a terminal only, and not where NO_COLOR has a value (no-color.org).
fn style() -> Style {
    if !io::stdout().is_terminal() {
        return Style::PLAIN;
    }
    let refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let width = rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col);
    Style { colour: !refused, width: width.filter(|columns| *columns > 0) }
}

const OFFLINE: Offline = Offline { check_policy, detach: detach_offline };

fn check_policy(directory: &Path) -> Result<PolicySummary, String> {
    let policy = Policy::load(directory).map_err(|errors| errors.to_string())?;
    Ok(PolicySummary { agents: policy.agents().len(), tools: policy.tools().len() })
}

fn detach_offline(bpffs: &Path, reason: &str) -> Result<Vec<String>, String> {
    daemon::detach_offline(bpffs, reason).map_err(|error| format!("{error:#}"))
}
