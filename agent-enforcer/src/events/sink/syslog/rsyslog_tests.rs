//! Against a real rsyslogd: its own configuration, sockets and files, all of the test.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
};

use tempfile::TempDir;

use super::*;
use crate::events::{
    clock::Moment,
    fold::Folded,
    schema::Schema,
    testing::{TestClock, call, eventually},
};

const DEADLINE: Duration = Duration::from_secs(20);

/// A running rsyslogd that forwards what it has parsed, field by field, to the test.
struct Rsyslog {
    daemon: Child,
    dir: TempDir,
    tcp: u16,
    udp: u16,
    parsed: TcpListener,
}

impl Rsyslog {
    /// Starts it and waits until it listens everywhere.
    fn start() -> Self {
        let rsyslog = Self::begin(free_tcp_port());
        eventually("rsyslogd takes TCP connections", || {
            TcpStream::connect(("127.0.0.1", rsyslog.tcp)).is_ok()
        });
        let bound = format!("0100007F:{:04X}", rsyslog.udp);
        eventually("rsyslogd takes datagrams", || {
            fs::read_to_string("/proc/net/udp").unwrap().contains(&bound)
        });
        eventually("rsyslogd has made its socket", || rsyslog.socket().exists());
        rsyslog
    }

    fn begin(tcp: u16) -> Self {
        let dir = TempDir::new().unwrap();
        let parsed = TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = dir.path().join("rsyslog.conf");
        fs::write(&config, configuration(dir.path(), tcp, udp, &parsed)).unwrap();
        let daemon = Command::new("rsyslogd")
            .args(["-n", "-f"])
            .arg(&config)
            .arg("-i")
            .arg(dir.path().join("pid"))
            .stdin(Stdio::null())
            .spawn()
            .expect("rsyslogd must be installed: apt-get install rsyslog");
        Self { daemon, dir, tcp, udp, parsed }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.dir.path().join("log")
    }

    /// The first message, as rsyslogd has understood it.
    fn parsed_line(&self) -> String {
        let (stream, _) = self.parsed.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        BufReader::new(stream).lines().next().unwrap().unwrap()
    }
}

impl Drop for Rsyslog {
    fn drop(&mut self) {
        self.daemon.kill().unwrap();
        self.daemon.wait().unwrap();
    }
}

fn free_tcp_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn configuration(dir: &Path, tcp: u16, udp: u16, parsed: &TcpListener) -> String {
    let dir = dir.display();
    let parsed = parsed.local_addr().unwrap().port();
    format!(
        r#"
        global(workDirectory="{dir}" maxMessageSize="64k")
        module(load="imtcp") module(load="imudp") module(load="imuxsock" SysSock.Use="off")
        input(type="imtcp" address="127.0.0.1" port="{tcp}")
        input(type="imudp" address="127.0.0.1" port="{udp}")
        input(type="imuxsock" socket="{dir}/log" useSpecialParser="off" parseHostname="on")
        template(name="fields" type="string"
          string="%pri-text%|%hostname%|%app-name%|%procid%|%msgid%|%structured-data%|%msg%\n")
        if $app-name == "agent-enforcer" then
          action(type="omfwd" target="127.0.0.1" port="{parsed}" protocol="tcp" template="fields")
        "#
    )
}

/// A real event, with everything in it that could break a line.
fn hostile_record() -> Record {
    let mut call = call();
    let process = Arc::make_mut(&mut call.process);
    process.comm = "a\n<0>\u{1b}[2J\0\u{2028}\u{202e}\"\\]".to_owned();
    let folded = Folded {
        count: 1,
        first_ns: call.time_ns,
        last_ns: call.time_ns,
        stalled_ns: 0,
        pids: vec![call.process.pid],
        more_pids: false,
        call: Box::new(call),
    };
    let moment = Moment::now(&TestClock::new(5_000_000_000, 1_700_000_000_000));
    Schema::new("web-1".to_owned()).call(&folded, &moment, Some(7)).unwrap()
}

fn arrives_whole(target: &str, rsyslog: &Rsyslog) {
    let counters = Arc::new(Counters::default());
    let facility = "local3".parse().unwrap();
    let sink = SyslogSink::start(target.parse().unwrap(), facility, "web-1", Arc::clone(&counters))
        .unwrap();
    let record = hostile_record();
    sink.offer(&record);
    let line = rsyslog.parsed_line();
    let expected = format!(
        "local3.notice|web-1|agent-enforcer|{}|grant_expired|[agentEnforcer@32473 \
         agent=\"deploy-bot\" outcome=\"denied\" reason=\"grant_expired\" sequence=\"7\"]|{}",
        std::process::id(),
        record.line
    );
    assert_eq!(line, expected);
    sink.shutdown(Instant::now() + DEADLINE);
    assert_eq!(counters.syslog_sent.load(Relaxed), 1);
}

#[test]
#[ignore = "needs rsyslogd (apt-get install rsyslog); run with `--ignored`"]
fn rsyslog_understands_events_over_tcp() {
    let rsyslog = Rsyslog::start();
    arrives_whole(&format!("tcp:127.0.0.1:{}", rsyslog.tcp), &rsyslog);
}

#[test]
#[ignore = "needs rsyslogd (apt-get install rsyslog); run with `--ignored`"]
fn rsyslog_understands_events_over_udp() {
    let rsyslog = Rsyslog::start();
    arrives_whole(&format!("udp:127.0.0.1:{}", rsyslog.udp), &rsyslog);
}

#[test]
#[ignore = "needs rsyslogd (apt-get install rsyslog); run with `--ignored`"]
fn rsyslog_understands_events_over_a_unix_socket() {
    let rsyslog = Rsyslog::start();
    arrives_whole(&format!("unix:{}", rsyslog.socket().display()), &rsyslog);
}

#[test]
#[ignore = "needs rsyslogd (apt-get install rsyslog); run with `--ignored`"]
fn rsyslog_that_comes_late_gets_the_events_that_waited() {
    let port = free_tcp_port();
    let counters = Arc::new(Counters::default());
    let target = format!("tcp:127.0.0.1:{port}").parse().unwrap();
    let sink = SyslogSink::start(target, SyslogFacility::default(), "web-1", Arc::clone(&counters))
        .unwrap();
    for _ in 0..100 {
        sink.offer(&hostile_record());
    }
    eventually("a failed attempt", || counters.syslog_errors.load(Relaxed) != 0);
    let rsyslog = Rsyslog::begin(port);
    let (stream, _) = rsyslog.parsed.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let lines: Vec<_> = BufReader::new(stream).lines().take(100).map(Result::unwrap).collect();
    assert_eq!(lines.len(), 100);
    sink.shutdown(Instant::now() + DEADLINE);
    assert_eq!(counters.syslog_sent.load(Relaxed), 100);
    assert_eq!(counters.lost_syslog.total(), 0);
}
