//! An agent written in Rust: plain blocking sockets.
//!
//! In: a server. Out: one line when it is over, `ok 200 in 12 ms` or `failed EACCES in 3 ms`; a
//! flow also tells each echo, so that whoever reads can tell when it ended.

use std::{
    io::{self, BufRead, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};

use super::error_name;

/// How long connect() may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Silence that counts as the end of a flow.
const SILENCE_LIMIT: Duration = Duration::from_secs(3);
/// Pace of a flow.
const PACE: Duration = Duration::from_millis(20);

pub(super) fn get(to: SocketAddr) {
    let begin = Instant::now();
    let outcome = request(to);
    let millis = begin.elapsed().as_millis();
    match outcome {
        Ok(status) => println!("ok {status} in {millis} ms"),
        Err(error) => println!("failed {} in {millis} ms", error_name(&error)),
    }
}

pub(super) fn obey() -> Result<()> {
    for line in io::stdin().lock().lines() {
        get(line?.parse()?);
    }
    Ok(())
}

pub(super) fn flow(to: SocketAddr) -> Result<()> {
    let begin = Instant::now();
    let mut stream = match connect(to) {
        Ok(stream) => stream,
        Err(error) => {
            println!("failed {} in {} ms", error_name(&error), begin.elapsed().as_millis());
            return Ok(());
        }
    };
    stream.set_read_timeout(Some(SILENCE_LIMIT))?;
    let mut byte = [0];
    let error = loop {
        if let Err(error) = stream.write_all(b"x").and_then(|()| stream.read_exact(&mut byte)) {
            break error;
        }
        println!("echo");
        thread::sleep(PACE);
    };
    if error.kind() == io::ErrorKind::WouldBlock {
        println!("cut silence");
    } else {
        println!("cut {}", error_name(&error));
    }
    Ok(())
}

/// A blocking connect() that gives up some day (EINPROGRESS): with no answer at all, Linux would
/// try for two minutes.
fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    set_socket_timeout(&socket, Timeout::Send, Some(CONNECT_LIMIT))?;
    rustix::net::connect(&socket, &to)?;
    Ok(TcpStream::from(socket))
}

fn request(to: SocketAddr) -> io::Result<String> {
    let mut stream = connect(to)?;
    stream.write_all(format!("GET / HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer.split_whitespace().nth(1);
    status.map(str::to_owned).ok_or_else(|| io::Error::other("no HTTP answer"))
}
