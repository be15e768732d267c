//! Small servers: HTTP and echo over TCP, echo over UDP.
//!
//! In: addresses. Out: `ready` once all of them are bound. A connection that begins with `GET `
//! gets one HTTP answer; any other gets its bytes back.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\nConnection: close\r\n\r\nhello\n";

pub(super) fn run(tcp: &[SocketAddr], udp: &[SocketAddr]) -> Result<()> {
    let mut servers = Vec::new();
    for address in tcp {
        let listener =
            TcpListener::bind(address).with_context(|| format!("can't listen on {address}"))?;
        servers.push(thread::spawn(move || accept(&listener)));
    }
    for address in udp {
        let socket = UdpSocket::bind(address).with_context(|| format!("can't bind {address}"))?;
        servers.push(thread::spawn(move || echo_datagrams(&socket)));
    }
    println!("ready");
    for server in servers {
        if let Ok(error) = server.join() {
            return Err(error).context("a server ended");
        }
    }
    Ok(())
}

fn accept(listener: &TcpListener) -> io::Error {
    loop {
        match listener.accept() {
            // A client that breaks off is its own affair.
            Ok((stream, _)) => drop(thread::spawn(move || converse(stream))),
            Err(error) => return error,
        }
    }
}

fn converse(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let length = stream.read(&mut buffer)?;
        let received = buffer.get(..length).unwrap_or_default();
        if received.is_empty() {
            return Ok(());
        }
        if received.starts_with(b"GET ") {
            return stream.write_all(ANSWER);
        }
        stream.write_all(received)?;
    }
}

fn echo_datagrams(socket: &UdpSocket) -> io::Error {
    let mut buffer = [0; 2048];
    loop {
        let echoed = socket.recv_from(&mut buffer).and_then(|(length, peer)| {
            socket.send_to(buffer.get(..length).unwrap_or_default(), peer)
        });
        if let Err(error) = echoed {
            return error;
        }
    }
}
