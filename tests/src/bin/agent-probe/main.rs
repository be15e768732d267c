//! A process that does what it is told: the agent, or the stranger, of a test.
//!
//! `launch CGROUP UID PROGRAM ARGS..` enters a cgroup, becomes a user and then a program;
//! `serve` reads requests from standard input; `once OP` does one thing. Answers are lines of JSON.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is the verdict of a test"
)]

mod calls;
mod lineage;
mod load;
mod ring;
mod serve;
mod storm;
mod tricks;

use std::{env, fs, os::unix::process::CommandExt as _, process::Command};

use agent_enforcer_tests::script::{Op, Request};

fn main() {
    let arguments: Vec<String> = env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words.as_slice() {
        ["launch", cgroup, uid, program, rest @ ..] => {
            fs::write(format!("{cgroup}/cgroup.procs"), "0").expect("a cgroup of the test");
            let mut command = Command::new(program);
            command.args(rest);
            if let Ok(uid) = uid.parse() {
                command.uid(uid).gid(uid);
            }
            panic!("{program}: {}", command.exec());
        }
        ["serve", sockets @ ..] => serve::serve(sockets),
        ["once", op] => {
            let op: Op = serde_json::from_str(op).expect("an op");
            serve::answer(&serve::Sockets::default(), Request { id: 0, aside: false, op });
        }
        _ => panic!("agent-probe launch|serve|once; only tests start it"),
    }
}
