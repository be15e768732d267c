//! Python: event loops, passed descriptors, resolving.

use agent_enforcer_tests::{Op, TestHost};

use super::output_of;

fn python(host: &TestHost, script: &str) -> String {
    output_of(host, "waits", &["python3", "-c", script])
}

#[test]
fn d09_l11_sockets_pass_among_the_agents_processes() {
    let host = TestHost::start();
    let said = python(
        &host,
        r#"
import os, socket

def dial(host):
    try:
        return socket.create_connection((host, 7000))
    except OSError:
        return None

left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
if os.fork() == 0:
    assert dial("192.0.2.50") is None
    connection = dial("192.0.2.10")
    socket.send_fds(right, [b"x"], [connection.fileno()])
    os._exit(0)
_, status = os.wait()
assert status == 0
_, descriptors, _, _ = socket.recv_fds(left, 1, 1)
passed = socket.socket(fileno=descriptors[0])
passed.sendall(b"passed")
print(passed.recv(16).decode())

listener = socket.socket(socket.AF_UNIX)
listener.bind("\0agent-%d" % os.getpid())
listener.listen()
caller = socket.socket(socket.AF_UNIX)
caller.connect(listener.getsockname())
caller.sendall(b"own")
print(listener.accept()[0].recv(16).decode())
"#,
    );
    assert_eq!(said, "passed\nown\n");
    host.wait_event("the denial", |event| event.own("reason") == "no_tool");
    assert!(host.servers.at(host.at(50)).is_empty());
}

#[test]
fn l04_connecting_datagram_sockets_is_no_call() {
    let host = TestHost::start();
    let said = python(
        &host,
        r#"
import socket

for peer in [("192.0.2.50", 9), ("192.0.2.10", 65535), ("203.0.113.1", 53)]:
    candidate = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    candidate.connect(peer)
    print(candidate.getsockname()[0])
print(len(socket.getaddrinfo("192.0.2.10", 80, type=socket.SOCK_STREAM)))
"#,
    );
    assert_eq!(said, "192.0.2.1\n192.0.2.1\n192.0.2.1\n1\n");
    // A later event proves that earlier ones would be there.
    let mut agent = host.agent("strict");
    assert!(agent.run(Op::Dial { address: host.at(50) }).is_denied());
    host.wait_denied("no_tool", agent.pid());
    assert_eq!(host.calls("denied", "no_tool"), 1);
    assert_eq!(host.calls("stalled", "stalled"), 0);
}

#[test]
fn l07_event_loop_makes_a_hundred_connections() {
    let host = TestHost::start();
    let said = python(
        &host,
        r#"
import asyncio

async def echo(host, number):
    try:
        reader, writer = await asyncio.open_connection(host, 7000)
    except OSError:
        return 0
    data = b"%d" % number
    writer.write(data)
    await writer.drain()
    answer = await reader.read(16)
    writer.close()
    return int(answer == data)

async def main():
    calls = [echo("192.0.2.10", number) for number in range(100)]
    denied = [echo("192.0.2.50", number) for number in range(10)]
    print(sum(await asyncio.gather(*calls)), sum(await asyncio.gather(*denied)))

asyncio.run(main())
"#,
    );
    assert_eq!(said, "100 0\n");
    assert!(host.servers.at(host.at(50)).is_empty());
}
