//! curl, git, strace.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
};

use agent_enforcer_tests::{
    Servers, TestHost,
    wait::{SOON, wait_until},
};

use super::{output_of, run};

const WEB: &str = "192.0.2.10:8080";
const OTHER: &str = "192.0.2.50:8080";

/// A web server of the rest of the world; it is killed when dropped.
struct Web(Child);

impl Web {
    /// Serves a directory at [`WEB`].
    fn serve(host: &TestHost, directory: &Path) -> Self {
        let mut python = Command::new("python3");
        python.args(["-m", "http.server", "8080", "--bind", "192.0.2.10", "--directory"]);
        python.arg(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let web = Self(host.network.remote.inside(|| python.spawn()).expect("python3"));
        let address: SocketAddr = WEB.parse().expect("an address");
        wait_until("the web server listens", SOON, || {
            host.network.remote.inside(|| TcpStream::connect(address).is_ok())
        });
        web
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn l01_curl_falls_back_from_a_denied_address_at_once() {
    let host = TestHost::start();
    fs::write(host.directory().join("hello"), "good morning").expect("an own directory");
    let _web = Web::serve(&host, host.directory());
    let denied: SocketAddr = "[2001:db8::50]:8080".parse().expect("an address");
    let other = Servers::start(&host.network.remote, &[denied]);
    let addresses = "web.test:8080:[2001:db8::50],192.0.2.10";
    let url = "http://web.test:8080/hello";
    let curl = ["curl", "--silent", "--show-error", "--fail", "--max-time", "20", "--resolve"];
    let both = [&curl[..], &[addresses, url]].concat();
    assert_eq!(output_of(&host, "waits", &both), "good morning");
    assert!(other.arrivals().is_empty());
    let only_denied = [&curl[..], &["web.test:8080:[2001:db8::50]", url]].concat();
    let refused = run(&host, "waits", &only_denied);
    // "Couldn't connect": not the code of a time-out.
    assert_eq!(refused.status.code(), Some(7), "{refused:?}");
    host.wait_event("the denial", |event| event.own("reason") == "no_tool");
}

/// Runs git, outside of every agent.
fn git(arguments: &[&str]) {
    let mut git = Command::new("git");
    git.env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    let output = git.args(arguments).output().expect("git");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

#[test]
fn l10_git_clones_over_http() {
    let host = TestHost::start();
    let path = |name: &str| host.directory().join(name).display().to_string();
    let (source, bare) = (path("source"), path("source.git"));
    git(&["init", "--quiet", &source]);
    fs::write(format!("{source}/file"), "content").expect("an own directory");
    git(&["-C", &source, "add", "file"]);
    let who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"];
    git(&[&["-C", &source], &who[..], &["commit", "--quiet", "--message=first"]].concat());
    git(&["clone", "--quiet", "--bare", &source, &bare]);
    git(&["-C", &bare, "update-server-info"]);
    let _web = Web::serve(&host, host.directory());
    let clone = path("clone");
    output_of(
        &host,
        "waits",
        &["git", "clone", "--quiet", &format!("http://{WEB}/source.git"), &clone],
    );
    assert_eq!(fs::read_to_string(format!("{clone}/file")).expect("a clone"), "content");
    let elsewhere = format!("http://{OTHER}/source.git");
    let refused = run(&host, "waits", &["git", "clone", "--quiet", &elsewhere, &path("other")]);
    assert!(!refused.status.success());
    host.wait_event("the denial", |event| event.own("reason") == "no_tool");
}

#[test]
fn l14_strace_traces_the_agents_child() {
    let host = TestHost::start();
    fs::write(host.directory().join("hello"), "good morning").expect("an own directory");
    let _web = Web::serve(&host, host.directory());
    let log = host.directory().join("strace.log").display().to_string();
    let traced = |address: &str| {
        let url = format!("http://{address}/hello");
        let strace = ["strace", "-f", "-o", &log, "-e", "trace=network", "curl", "--silent", &url];
        let output = run(&host, "waits", &strace);
        let said = fs::read_to_string(&log).expect("what strace saw");
        assert!(!said.contains("ERESTART"), "{said}");
        (String::from_utf8_lossy(&output.stdout).into_owned(), said)
    };
    let (body, said) = traced(WEB);
    assert_eq!(body, "good morning");
    assert!(said.contains("connect("), "{said}");
    let (body, _) = traced(OTHER);
    assert!(body.is_empty(), "{body}");
    host.wait_event("the denial", |event| event.own("reason") == "no_tool");
}
