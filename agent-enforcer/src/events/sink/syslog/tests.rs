//! Against sockets of the test's own; `rsyslog_tests` has the real receiver.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixDatagram, UnixListener},
};

use tempfile::TempDir;

use super::*;
use crate::events::{EventClass, schema::Severity, testing::eventually};

const DEADLINE: Duration = Duration::from_secs(20);

fn record(text: &str) -> Record {
    Record {
        line: text.into(),
        severity: Severity::Low,
        word: "no_grant",
        class: EventClass::Denied,
        count: 3,
        time_ms: 0,
        agent: None,
        sequence: Some(1),
    }
}

fn start(target: &str) -> (SyslogSink, Arc<Counters>) {
    let counters = Arc::new(Counters::default());
    let target = target.parse().unwrap();
    let sink = SyslogSink::start(target, SyslogFacility::default(), "host", Arc::clone(&counters));
    (sink.unwrap(), counters)
}

fn accept(listener: &TcpListener) -> BufReader<TcpStream> {
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    BufReader::new(stream)
}

/// One message with octet counting.
fn read_counted(stream: &mut BufReader<TcpStream>) -> String {
    let mut length = Vec::new();
    stream.read_until(b' ', &mut length).unwrap();
    let length = std::str::from_utf8(&length).unwrap().trim_end().parse().unwrap();
    let mut message = vec![0; length];
    stream.read_exact(&mut message).unwrap();
    String::from_utf8(message).unwrap()
}

fn later() -> Instant {
    Instant::now() + DEADLINE
}

#[test]
fn tcp_messages_are_counted_in_octets() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (sink, counters) = start(&format!("tcp:{}", listener.local_addr().unwrap()));
    sink.offer(&record("{\"n\":1}"));
    sink.offer(&record("{\"n\":\"\u{fc}\"}"));
    let mut stream = accept(&listener);
    assert!(read_counted(&mut stream).ends_with("] {\"n\":1}"));
    assert!(read_counted(&mut stream).ends_with("] {\"n\":\"\u{fc}\"}"));
    sink.shutdown(later());
    assert_eq!(counters.syslog_sent.load(Relaxed), 2);
    assert_eq!(counters.lost_syslog.total(), 0);
}

#[test]
fn tcp_receiver_that_comes_back_gets_the_next_message() {
    let listener = TcpListener::bind("[::1]:0").unwrap();
    let (sink, counters) = start(&format!("tcp:{}", listener.local_addr().unwrap()));
    sink.offer(&record("{\"n\":1}"));
    let mut stream = accept(&listener);
    read_counted(&mut stream);
    drop(stream);
    sink.offer(&record("{\"n\":2}"));
    let mut stream = accept(&listener);
    assert!(read_counted(&mut stream).ends_with("{\"n\":2}"));
    sink.shutdown(later());
    assert_eq!(counters.syslog_sent.load(Relaxed), 2);
}

#[test]
fn udp_and_unix_datagrams_hold_one_message_each() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let unix = UnixDatagram::bind(&path).unwrap();
    unix.set_read_timeout(Some(DEADLINE)).unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    let (to_unix, _) = start(&format!("unix:{}", path.display()));
    let (to_udp, _) = start(&format!("udp:{}", udp.local_addr().unwrap()));
    to_unix.offer(&record("{\"n\":1}"));
    to_udp.offer(&record("{\"n\":1}"));
    let (mut from_unix, mut from_udp) = ([0; 1000], [0; 1000]);
    let unix_length = unix.recv(&mut from_unix).unwrap();
    let udp_length = udp.recv(&mut from_udp).unwrap();
    assert_eq!(from_unix[..unix_length], from_udp[..udp_length]);
    assert!(from_udp[..udp_length].starts_with(b"<85>1 1970-01-01T00:00:00.000Z host "));
}

#[test]
fn unix_stream_messages_end_in_a_newline() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    let listener = UnixListener::bind(&path).unwrap();
    let (sink, _) = start(&format!("unix:{}", path.display()));
    sink.offer(&record("{\"n\":1}"));
    sink.offer(&record("{\"n\":2}"));
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut lines = BufReader::new(stream).lines();
    assert!(lines.next().unwrap().unwrap().ends_with("{\"n\":1}"));
    assert!(lines.next().unwrap().unwrap().ends_with("{\"n\":2}"));
}

#[test]
fn message_too_large_for_a_datagram_is_lost_and_the_next_is_sent() {
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    udp.set_read_timeout(Some(DEADLINE)).unwrap();
    let (sink, counters) = start(&format!("udp:{}", udp.local_addr().unwrap()));
    sink.offer(&record(&"x".repeat(70_000)));
    sink.offer(&record("{\"n\":2}"));
    let mut message = [0; 1000];
    let length = udp.recv(&mut message).unwrap();
    assert!(message[..length].ends_with(b"{\"n\":2}"));
    sink.shutdown(later());
    assert_eq!(counters.lost_syslog.take().collect::<Vec<_>>(), [(EventClass::Denied, 3)]);
    assert_eq!(counters.syslog_sent.load(Relaxed), 1);
}

#[test]
fn receiver_that_is_away_blocks_nobody_and_losses_are_exact() {
    let dir = TempDir::new().unwrap();
    let (sink, counters) = start(&format!("unix:{}", dir.path().join("none").display()));
    sink.offer(&record("{}"));
    eventually("the first attempt", || counters.syslog_errors.load(Relaxed) != 0);
    // One is being tried, so that the queue holds its whole length on top.
    let extra = 10;
    for _ in 0..QUEUE + extra {
        sink.offer(&record("{}"));
    }
    assert_eq!(counters.lost_syslog.total(), 3 * extra as u64);
    sink.shutdown(later());
    assert_eq!(counters.lost_syslog.total(), 3 * (QUEUE + extra + 1) as u64);
    assert_eq!(counters.syslog_sent.load(Relaxed), 0);
}

#[test]
fn shutdown_does_not_wait_for_a_receiver_beyond_its_deadline() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("log");
    // Nobody reads: each message waits its full time limit.
    let _unread = UnixDatagram::bind(&path).unwrap();
    let (sink, counters) = start(&format!("unix:{}", path.display()));
    for _ in 0..2000 {
        sink.offer(&record("{}"));
    }
    eventually("a message that is not taken", || counters.syslog_errors.load(Relaxed) != 0);
    let begin = Instant::now();
    sink.shutdown(begin);
    assert!(begin.elapsed() < Duration::from_secs(1));
}
