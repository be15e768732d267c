//! Command lines: every verb is understood, and what makes no sense is refused with code 2.

use super::*;

fn parsed(line: &str) -> Command {
    try_parsed(line).unwrap_or_else(|error| panic!("{line}: {error}"))
}

fn try_parsed(line: &str) -> Result<Command, clap::Error> {
    parse(std::iter::once("agent-enforcer").chain(line.split_whitespace()).map(OsString::from))
}

fn run_args(line: &str) -> RunArgs {
    let Command::Run(args) = parsed(line) else { panic!("{line} is not run") };
    args
}

#[test]
fn definition_is_consistent() {
    use clap::CommandFactory;
    Cli::command().debug_assert();
}

#[test]
fn understands_every_verb() {
    for line in [
        "status",
        "agents",
        "policy check /tmp/policy",
        "policy show",
        "policy reload",
        "grant issue --agent a --tool t --on-behalf-of p --task x",
        "grant issue --instance i-1a2b --tool t --tool u --on-behalf-of p --task x --for 2h \
         --not-before 2030-01-31T12:00:00Z --max-uses 3 --reason r",
        "grant list",
        "grant revoke g-42 --reason r",
        "grant token --key k --issuer i --agent a --tool t --on-behalf-of p --audience h",
        "grant token --key k --kid x --issuer i --agent spiffe://e.org/a --tool t,u --location 192.0.2.1:443 \
         --action connect,listen --on-behalf-of p --audience h --audience g --for 5m --max-uses 2 \
         --parent j --manifest 0000000000000000000000000000000000000000000000000000000000000000 \
         --instance i-5 --txn x --task t --reason r --not-before 2030-01-31T12:00:00Z",
        "manifest new --name a --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p \
         --valid-for 90d",
        "manifest new --name a --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p \
         --environment e --model p n 1 --tool t --tool u --software a=/bin/a \
         --software p=/bin/p:interpreter:python --selector unix:uid:7,unix:path:/a --valid-for 90d \
         --version 2 --record-id urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e --lifecycle revoked \
         --out f",
        "manifest sign f --key k --kid x --out g",
        "manifest verify f --keys a b c",
        "manifest show f",
        "key new --out f",
        "key new --out f --alg ES256 --kid x",
        "key show f --kid x",
        "events",
        "events --follow --count 10",
        "pending",
        "explain --pid 1 --to 192.0.2.1:53/udp",
        "doctor",
        "doctor --bpffs /bpf --cgroup-root /cgroup",
        "detach --reason r --yes",
        "detach --reason r",
        "status --output json --runtime-dir /tmp/run",
        "--runtime-dir /tmp/run --output table status",
    ] {
        assert!(matches!(parsed(line), Command::Ask(_)), "{line}");
    }
}

#[test]
fn refuses_what_makes_no_sense() {
    for line in [
        "",
        "frobnicate",
        "status extra",
        "status --output yaml",
        "policy",
        "policy check",
        "grant issue --tool t --on-behalf-of p --task x",
        "grant issue --agent a --instance i-1 --tool t --on-behalf-of p --task x",
        "grant issue --agent a --on-behalf-of p --task x",
        "grant issue --agent a --tool t --task x",
        "grant issue --agent a --tool t --on-behalf-of p",
        "grant issue --agent a --tool t --on-behalf-of p --task x --for 0s",
        "grant issue --agent a --tool t --on-behalf-of p --task x --max-uses 0",
        "grant issue --agent a --tool t --on-behalf-of p --task x --not-before soon",
        "grant issue --instance 1a2b --tool t --on-behalf-of p --task x",
        "grant revoke g-42",
        "grant token --key k --issuer i --agent a --on-behalf-of p --audience h",
        "grant token --key k --issuer i --agent a --tool t --on-behalf-of p",
        "grant token --key k --issuer i --agent a --tool T --on-behalf-of p --audience h",
        "grant token --key k --issuer i --agent a --tool t --on-behalf-of p --audience h --max-uses 0",
        "grant token --key k --issuer i --agent a --tool t --on-behalf-of p --audience h --action bind",
        "manifest",
        "manifest new --name a --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p",
        "manifest new --name A --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p --valid-for 1d",
        "manifest new --name a --agent-id spiffe://e.org --owner o --sponsor s --purpose p --valid-for 1d",
        "manifest new --name a --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p \
         --valid-for 1d --version 0",
        "manifest new --name a --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p \
         --valid-for 1d --model p n",
        "manifest new --name a --agent-id spiffe://e.org/a --owner o --sponsor s --purpose p \
         --valid-for 1d --software p=/bin/p:interpreter",
        "manifest sign f",
        "manifest verify f",
        "manifest verify f --keys",
        "manifest show",
        "key",
        "key new",
        "key new --out f --alg RS256",
        "key new --out f --kid \u{e9}",
        "grant revoke 42 --reason r",
        "events --count many",
        "explain --pid 1",
        "explain --pid 0 --to 192.0.2.1:53",
        "explain --pid 1 --to example.com:53",
        "detach --yes",
        "run --max-processes 10",
        "run --max-verdicts 10",
        "run --ring-bytes 100000",
        "run --wait-turns 2000000",
        "run --max-pending 0",
        "run --max-pending 10 --max-pending-per-instance 11",
        "run --requests-per-second 0",
        "run --syslog /dev/log",
        "run --log xml",
    ] {
        let error = try_parsed(line).map(drop).expect_err(line);
        assert_eq!(error.exit_code(), 2, "{line}: {error}");
    }
}

#[test]
fn daemon_has_sensible_defaults() {
    let args = run_args("run");
    for (path, expected) in [
        (&args.runtime_dir, "/run/agent-enforcer"),
        (&args.policy, "/etc/agent-enforcer/policy"),
        (&args.state_dir, "/var/lib/agent-enforcer"),
        (&args.events, "/var/log/agent-enforcer/events.jsonl"),
        (&args.bpffs, "/sys/fs/bpf"),
    ] {
        assert_eq!(path, Path::new(expected));
    }
    assert_eq!((args.cgroup_root, args.log), (None, LogFormat::Text));
    assert!(args.syslog.is_empty());
}

#[test]
fn daemon_takes_every_option() {
    let args = run_args(
        "run --policy /p --state-dir /s --runtime-dir /r --events /e --syslog unix:/dev/log \
         --syslog tcp:siem:601 --bpffs /b --cgroup-root /c --max-processes 1024 --max-verdicts 2048 \
         --ring-bytes 65536 --wait-turns 0 --max-pending 7 --max-pending-per-instance 3 \
         --requests-per-second 9 --log journald",
    );
    assert_eq!(args.runtime_dir, Path::new("/r"));
    let syslog: Vec<String> = args.syslog.iter().map(ToString::to_string).collect();
    assert_eq!(syslog, ["unix:/dev/log", "tcp:siem:601"]);
    assert_eq!(args.cgroup_root.as_deref(), Some(Path::new("/c")));
    assert_eq!((args.max_processes, args.max_verdicts, args.ring_bytes), (1024, 2048, 65_536));
    assert_eq!((args.wait_turns, args.max_pending, args.max_pending_per_instance), (0, 7, 3));
    assert_eq!((args.requests_per_second, args.log), (9, LogFormat::Journald));
}

#[test]
fn finds_wanted_output_where_the_rest_is_wrong() {
    let wanted = |line: &str| {
        wanted_output(&line.split_whitespace().map(OsString::from).collect::<Vec<_>>())
    };
    assert_eq!(wanted("x --output json frob"), OutputFormat::Json);
    assert_eq!(wanted("x frob --output=json"), OutputFormat::Json);
    assert_eq!(wanted("x frob --output table json"), OutputFormat::Table);
}

#[test]
fn documentation_names_every_verb_and_option() {
    use clap::CommandFactory;
    const DOCUMENT: &str = include_str!("../../../docs/cli.md");
    fn check(command: &clap::Command) {
        assert!(DOCUMENT.contains(command.get_name()), "{} is not documented", command.get_name());
        for option in command.get_arguments().filter_map(clap::Arg::get_long) {
            let option = format!("--{option}");
            assert!(DOCUMENT.contains(&option), "{option} of {}", command.get_name());
        }
        command.get_subcommands().for_each(check);
    }
    check(&Cli::command());
    for check in crate::host::checks(&crate::host::CheckTargets {
        bpffs: "/sys/fs/bpf".into(),
        cgroup_root: None,
    }) {
        assert!(DOCUMENT.contains(&format!("`{}`", check.name)), "{}", check.name);
    }
}
