//! The command line from end to end: arguments in, text and exit codes out.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead, Write},
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Output},
};

use agent_enforcer::{
    cli::{self, Command, Console, Exit, Offline, OutputFormat, PolicySummary, Style},
    control::ControlError,
};
use serde_json::Value;

use crate::fake_control::{DEADLINE, Daemon, need_root, open_up, private_directory};

const NOBODY: u32 = 65534;

pub(crate) struct Answer {
    pub(crate) exit: Exit,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    pub(crate) fn failure(&self) -> (String, String) {
        let document: Value = serde_json::from_str(&self.err).expect(&self.err);
        let text = |key: &str| document[key].as_str().expect(key).to_owned();
        (text("error"), text("remedy"))
    }
}

const OFFLINE: Offline = Offline {
    check_policy: |directory| {
        if directory == Path::new("/good") {
            Ok(PolicySummary { agents: 2, tools: 3 })
        } else {
            Err("a.yaml:1:1: no \u{1b} here; remove it\nb.yaml:2:2: worse; remove it".to_owned())
        }
    },
    detach: |bpffs, reason| {
        if bpffs == Path::new("/bpf") {
            Ok(vec![format!("/bpf/agent-enforcer ({reason})")])
        } else {
            Err("no pin could be removed".to_owned())
        }
    },
};

pub(crate) async fn ask_with(directory: &Path, answers: Option<&str>, line: &[&str]) -> Answer {
    let arguments = ["agent-enforcer", "--runtime-dir"]
        .into_iter()
        .map(OsString::from)
        .chain([directory.into()])
        .chain(line.iter().map(OsString::from));
    let Command::Ask(request) = cli::parse(arguments).unwrap() else { panic!("{line:?}") };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut answers = answers.map(str::as_bytes);
    let mut console = Console {
        out: &mut out,
        err: &mut err,
        answers: answers.as_mut().map(|answers| -> &mut dyn BufRead { answers }),
        format: request.output(),
        style: Style::PLAIN,
    };
    let exit = cli::execute(request, OFFLINE, &mut console).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Answer { exit, out: text(out), err: text(err) }
}

async fn ask(directory: &Path, line: &str) -> Answer {
    ask_with(directory, None, &line.split_whitespace().collect::<Vec<_>>()).await
}

const ISSUE: &str =
    "grant issue --agent coder --tool git --on-behalf-of ada --task T-1 --for 1h --max-uses 2";

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_speaks_json() {
    need_root();
    let daemon = Daemon::start();
    daemon.control.recent.lock().unwrap().push(r#"{"message":"m"}"#.to_owned());
    daemon.control.release.notify_one();
    let at = daemon.directory.path();
    for (line, pointer, expected) in [
        ("status", "/started", "2001-09-09T01:46:40.123Z"),
        ("status", "/plane", "cgroup"),
        ("agents", "/0/instances/0/id", "i-1a2b"),
        ("agents", "/0/instances/0/exe", "/tmp/\u{fffd}\u{1b}[31mevil"),
        ("agents", "/0/ended_instances/0/ended", "2001-09-09T01:46:41.123Z"),
        ("agents --ghosts", "/0/ghosts/0/word", "unused"),
        ("agents coder", "/last_action/reason", "no_grant"),
        ("agents coder", "/grants/latest/0", "g-20"),
        ("policy show", "/directory", "/etc/agent-enforcer/policy"),
        ("policy reload", "/yaml", "apiVersion: agent-enforcer/v1\ntools: []\n"),
        (ISSUE, "/id", "g-1"),
        ("grant list", "/0/principal", "ada"),
        ("grant revoke g-1 --reason r", "/state", "revoked"),
        ("pending", "/0/destination", "192.0.2.1:443/tcp"),
        ("explain --pid 1 --to 192.0.2.1:53/udp", "/destination", "192.0.2.1:53/17"),
        ("events", "/message", "m"),
        ("detach --reason r --yes", "/by", "daemon"),
    ] {
        let answer = ask(at, &format!("{line} --output json")).await;
        assert_eq!((answer.exit, answer.err.as_str()), (Exit::Done, ""), "{line}");
        assert_eq!(answer.out.lines().count(), 1, "{line}");
        assert_eq!(
            answer.json().pointer(pointer).and_then(Value::as_str),
            Some(expected),
            "{line}"
        );
        assert!(!answer.out.trim_end().contains(char::is_control), "{line}: {:?}", answer.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_verb_speaks_to_people() {
    need_root();
    let daemon = Daemon::start();
    daemon.control.recent.lock().unwrap().push(r#"{"message":"\u001b[2Jm"}"#.to_owned());
    daemon.control.release.notify_one();
    let at = daemon.directory.path();
    for (line, expected) in [
        ("grant list", "grant issue --help"),
        ("status", "generation"),
        ("status", "no problems"),
        ("agents", "i-1a2b"),
        ("agents", "5 allowed, 6 denied, 7 audited"),
        ("agents --ghosts", "cdcdcdcdcdcd"),
        ("agents coder", "x\\u{1b}[2J\\u{9b}1m\\u{202e}\\u{7}y"),
        ("agents coder", "1 live, 300 ever, 44 of them forgotten"),
        ("agents coder", "g-20, g-19, and 18 before"),
        ("policy show", "apiVersion: agent-enforcer/v1\n"),
        ("policy reload", "generation 3"),
        (ISSUE, "g-1 issued: coder may use git for ada; ends in"),
        ("grant list", "0 of 2"),
        ("grant revoke g-1 --reason r", "g-1 revoked"),
        ("pending", "\\u{1b}[31mevil"),
        ("explain --pid 1 --to 192.0.2.1:53/udp", "what to do: name the destination"),
        ("events", "\\u{1b}[2Jm"),
        ("detach --reason r --yes", "enforcement has ended"),
    ] {
        let answer = ask(at, line).await;
        assert_eq!((answer.exit, answer.err.as_str()), (Exit::Done, ""), "{line}");
        assert!(answer.out.contains(expected), "{line}: {}", answer.out);
        let hostile = |character: char| character != '\n' && character.is_control();
        assert!(!answer.out.contains(hostile), "{line}: {:?}", answer.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_the_daemon_exit_with_1() {
    need_root();
    let daemon = Daemon::start();
    let at = daemon.directory.path();
    let answer = ask(at, "grant revoke g-9 --reason r").await;
    assert_eq!((answer.exit, answer.out.as_str()), (Exit::Failed, ""));
    assert!(answer.err.starts_with("error: there is no grant g-9\n  help: "), "{}", answer.err);

    let invalid = ControlError::Invalid("a.yaml:1:1: bad\nb.yaml:2:2: \u{1b}worse".to_owned());
    *daemon.control.reload_error.lock().unwrap() = Some(invalid);
    let answer = ask(at, "policy reload --output json").await;
    assert_eq!((answer.exit, answer.out.as_str()), (Exit::Failed, ""));
    let (error, remedy) = answer.failure();
    assert_eq!(error, "a.yaml:1:1: bad\nb.yaml:2:2: \u{1b}worse");
    assert!(!remedy.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_daemon_exits_with_3_for_every_verb_that_needs_it() {
    let empty = private_directory();
    for line in [
        "status",
        "agents",
        "policy show",
        "policy reload",
        ISSUE,
        "grant list",
        "grant revoke g-1 --reason r",
        "events",
        "pending",
        "explain --pid 1 --to 192.0.2.1:53",
    ] {
        let answer = ask(empty.path(), &format!("{line} --output json")).await;
        assert_eq!((answer.exit, answer.out.as_str()), (Exit::Unreachable, ""), "{line}");
        let (error, remedy) = answer.failure();
        assert!(error.contains("no control socket") && remedy.contains("systemctl"), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn follower_exits_with_3_when_the_daemon_stops() {
    need_root();
    let mut daemon = Daemon::start();
    daemon.control.live.send("never seen: nobody follows yet".to_owned()).unwrap_err();
    let directory = daemon.directory.path().to_owned();
    let follower = ask(&directory, "events --follow");
    let stop = async {
        let limit = tokio::time::Instant::now() + DEADLINE;
        while daemon.control.live.receiver_count() == 0 {
            assert!(tokio::time::Instant::now() < limit, "the follower came");
            tokio::task::yield_now().await;
        }
        daemon.ask_to_stop();
    };
    let (answer, ()) = tokio::join!(follower, stop);
    assert_eq!(answer.exit, Exit::Unreachable, "{}", answer.err);
    assert!(answer.err.contains("stopping"), "{}", answer.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_check_needs_no_daemon_and_tells_every_error() {
    let empty = private_directory();
    let good = ask(empty.path(), "policy check /good").await;
    assert_eq!(good.exit, Exit::Done);
    assert!(good.out.contains("2 agents, 3 tools"), "{}", good.out);
    let good = ask(empty.path(), "policy check /good --output json").await.json();
    assert_eq!((&good["valid"], &good["agents"]), (&Value::Bool(true), &Value::from(2)));

    let bad = ask(empty.path(), "policy check /bad").await;
    assert_eq!(bad.exit, Exit::Failed);
    assert_eq!(bad.out, "a.yaml:1:1: no \\u{1b} here; remove it\nb.yaml:2:2: worse; remove it\n");
    assert!(bad.err.contains("/bad is not valid"), "{}", bad.err);
    let bad = ask(empty.path(), "policy check /bad --output json").await;
    assert_eq!((bad.exit, bad.err.as_str()), (Exit::Failed, ""));
    assert_eq!(bad.json()["errors"].as_array().map(Vec::len), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_needs_a_yes() {
    need_root();
    let daemon = Daemon::start();
    let at = daemon.directory.path();
    let line = ["detach", "--reason", "end of trial"];
    let nobody = ask_with(at, None, &line).await;
    assert_eq!(nobody.exit, Exit::Usage);
    assert!(nobody.err.contains("--yes"), "{}", nobody.err);
    for no in ["no\n", "", "YES\n", "yes please\n"] {
        assert_eq!(ask_with(at, Some(no), &line).await.exit, Exit::Failed, "{no:?}");
    }
    assert_eq!(*daemon.control.detached.lock().unwrap(), None);
    assert_eq!(ask_with(at, Some("yes\n"), &line).await.exit, Exit::Done);
    assert_eq!(daemon.control.detached.lock().unwrap().as_deref(), Some("end of trial"));
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_without_a_daemon_removes_what_it_left() {
    let empty = private_directory();
    let done = ask(empty.path(), "detach --yes --reason r --bpffs /bpf --output json").await;
    assert_eq!(done.exit, Exit::Done, "{}", done.err);
    assert_eq!(done.json()["by"], "command");
    assert_eq!(done.json()["removed"][0], "/bpf/agent-enforcer (r)");
    let failed = ask(empty.path(), "detach --yes --reason r --bpffs /other").await;
    assert_eq!(failed.exit, Exit::Failed);
    assert!(failed.err.contains("no pin could be removed"), "{}", failed.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn detach_leaves_pins_alone_where_something_else_is_wrong() {
    let directory = private_directory();
    fs::write(directory.path().join("control.sock"), "").unwrap();
    let answer = ask(directory.path(), "detach --yes --reason r --bpffs /bpf").await;
    assert_eq!(answer.exit, Exit::Unreachable);
    assert!(answer.err.contains("is not a socket"), "{}", answer.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_tells_host_and_daemon() {
    need_root();
    let daemon = Daemon::start();
    let at = daemon.directory.path();
    let report = |answer: &Answer, name: &str| {
        let checks = answer.json()["checks"].as_array().unwrap().clone();
        checks.into_iter().find(|check| check["name"] == name)
    };
    let healthy = ask(at, "doctor --output json").await;
    assert_eq!(report(&healthy, "daemon").unwrap()["level"], "ok");
    assert_eq!(report(&healthy, "daemon_problem"), None);

    daemon.control.problems.lock().unwrap().push("egress is not attached".to_owned());
    let ill = ask(at, "doctor --output json").await;
    assert_eq!((ill.exit, &ill.json()["ok"]), (Exit::Failed, &Value::Bool(false)));
    assert_eq!(report(&ill, "daemon_problem").unwrap()["found"], "egress is not attached");

    let empty = private_directory();
    let absent = ask(empty.path(), "doctor --bpffs /nonexistent").await;
    assert_eq!(absent.exit, Exit::Failed);
    for expected in ["RESULT", "mount -t bpf", "no control socket", "systemctl status"] {
        assert!(absent.out.contains(expected), "{}", absent.out);
    }
}

struct Gone;

impl Write for Gone {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_goes_away_is_no_failure() {
    let mut err = Vec::new();
    let mut console = Console {
        out: &mut Gone,
        err: &mut err,
        answers: None,
        format: OutputFormat::Table,
        style: Style::PLAIN,
    };
    let arguments = ["agent-enforcer", "policy", "check", "/good"].map(OsString::from);
    let Command::Ask(request) = cli::parse(arguments).unwrap() else { panic!("not a question") };
    assert_eq!(cli::execute(request, OFFLINE, &mut console).await, Exit::Done);
    assert!(err.is_empty());
}

/// The binary itself, as some user, from a directory that this user can reach.
fn binary(uid: u32, arguments: &[&str]) -> Output {
    let directory = private_directory();
    open_up(directory.path(), 0o755);
    let program = directory.path().join("agent-enforcer");
    // By another process: a file that is open for writing here, or in a child that another test
    // has just forked, can't be executed.
    let copied = process::Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_agent-enforcer"))
        .arg(&program)
        .status();
    assert!(copied.unwrap().success());
    process::Command::new(program)
        .args(arguments)
        .stdin(process::Stdio::null())
        .uid(uid)
        .gid(uid)
        .current_dir("/")
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn unprivileged_user_is_told_to_be_root() {
    need_root();
    let daemon = Daemon::start();
    let directory = daemon.directory.path().to_owned();
    let at = directory.to_str().unwrap();
    let line = ["--runtime-dir", at, "--output", "json", "status"];
    let failure = |output: &Output| {
        assert_eq!(output.status.code(), Some(1));
        let document: Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(document["remedy"], "run this command as root");
        document["error"].as_str().unwrap().to_owned()
    };
    let closed = failure(&binary(NOBODY, &line));
    assert!(closed.starts_with("no permission to use the control socket"), "{closed}");

    // Even where the files were opened to everybody, the daemon asks the kernel who it is.
    open_up(&directory, 0o755);
    open_up(&daemon.socket(), 0o666);
    let open = failure(&binary(NOBODY, &line));
    assert!(open.contains("this is user 65534"), "{open}");
    assert_eq!(binary(0, &line).status.code(), Some(0));
}

#[test]
fn binary_exits_as_documented() {
    need_root();
    let empty = private_directory();
    let at = empty.path().to_str().unwrap();
    for (arguments, code) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["grant", "issue", "--help"], 0),
        (&["--runtime-dir", at, "status"], 3),
        (&["--runtime-dir", at, "detach", "--reason", "r"], 2),
        (&["frobnicate"], 2),
        (&[], 2),
    ] {
        assert_eq!(binary(0, arguments).status.code(), Some(code), "{arguments:?}");
    }
    let help = String::from_utf8(binary(0, &["--help"]).stdout).unwrap();
    assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{help}");
}

#[test]
fn wrong_command_line_is_told_in_json_too() {
    need_root();
    let output = binary(0, &["--output", "json", "explain", "--pid", "1", "--to", "example.com:1"]);
    assert_eq!(output.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&output.stderr).unwrap();
    assert!(document["error"].as_str().unwrap().contains("names are not looked up"));
    assert_eq!(document["remedy"], "see `agent-enforcer --help`");
}
