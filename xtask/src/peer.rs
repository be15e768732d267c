//! The two ends of a call: servers that stand for tools, and a client that is an agent.
//!
//! In: addresses. Out: lines on standard output that the demo reads. Hidden verbs, run in the
//! demo's cgroups and network namespaces.

mod client;
mod serve;

use std::{io, net::SocketAddr};

use anyhow::Result;
use clap::{Args, Subcommand};

/// Options of the hidden verb `__serve`.
#[derive(Args)]
pub(crate) struct ServeOptions {
    /// Answer HTTP requests, and echo everything else
    #[arg(long)]
    tcp: Vec<SocketAddr>,
    /// Send every datagram back
    #[arg(long)]
    udp: Vec<SocketAddr>,
}

/// Options of the hidden verb `__client`.
#[derive(Args)]
pub(crate) struct ClientOptions {
    #[command(subcommand)]
    verb: ClientVerb,
}

#[derive(Subcommand)]
enum ClientVerb {
    /// One HTTP request
    Get {
        /// The server
        to: SocketAddr,
    },
    /// One connection that sends a byte and awaits its echo, again and again, until it breaks
    Flow {
        /// The server
        to: SocketAddr,
    },
    /// One HTTP request to each address that standard input names, for as long as it does
    Obey,
}

/// Serves until it is ended.
pub(crate) fn serve(options: ServeOptions) -> Result<()> {
    let ServeOptions { tcp, udp } = options;
    serve::run(&tcp, &udp)
}

/// Does one thing, tells how it went in one line, and succeeds whether it worked or not.
pub(crate) fn client(options: &ClientOptions) -> Result<()> {
    match options.verb {
        ClientVerb::Get { to } => client::get(to),
        ClientVerb::Flow { to } => client::flow(to)?,
        ClientVerb::Obey => client::obey()?,
    }
    Ok(())
}

/// The error's name as the C library has it, where it is one that enforcement causes.
fn error_name(error: &io::Error) -> String {
    let errno = rustix::io::Errno::from_io_error(error);
    let name = match errno {
        Some(rustix::io::Errno::ACCESS) => "EACCES",
        Some(rustix::io::Errno::CONNABORTED) => "ECONNABORTED",
        Some(rustix::io::Errno::CONNREFUSED) => "ECONNREFUSED",
        Some(rustix::io::Errno::CONNRESET) => "ECONNRESET",
        Some(rustix::io::Errno::PIPE) => "EPIPE",
        Some(rustix::io::Errno::TIMEDOUT) => "ETIMEDOUT",
        Some(rustix::io::Errno::AGAIN) => "EAGAIN",
        Some(rustix::io::Errno::INPROGRESS) => "silence",
        Some(_) | None => return error.to_string(),
    };
    name.to_owned()
}
