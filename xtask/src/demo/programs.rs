//! The agents of the demo: programs that nobody wrote for it, and two short Python ones.
//!
//! In: where to run and where to connect. Out: a running program whose lines can be awaited.

use std::{
    io::Write,
    process::{Child, ChildStdin, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{command, interrupt, lines::Lines};

/// How long any program may be silent.
const LIMIT: Duration = Duration::from_secs(20);

/// An event loop that ticks every 10 ms while one non-blocking connect is under way.
pub(super) const EVENT_LOOP: &str = r#"
import errno, selectors, socket, sys, time

selector = selectors.DefaultSelector()
sock = socket.socket()
sock.setblocking(False)
began = time.monotonic()
code = sock.connect_ex((sys.argv[1], int(sys.argv[2])))
took = (time.monotonic() - began) * 1000
print(f"connect returned {errno.errorcode.get(code, code)} after {took:.1f} ms", flush=True)
selector.register(sock, selectors.EVENT_WRITE)
ticks, longest, last = 0, 0.0, time.monotonic()
while True:
    ready = selector.select(0.01)
    now = time.monotonic()
    longest, last = max(longest, now - last), now
    if ready:
        break
    ticks += 1
    if ticks == 100:
        print("held for 100 ticks", flush=True)
code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
answer = errno.errorcode.get(code, str(code))
if code == 0:
    sock.setblocking(True)
    sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
    answer = sock.recv(100).split()[1].decode()
print(f"done {answer}, {ticks} ticks, longest pause {longest * 1000:.0f} ms", flush=True)
"#;

/// One datagram there and back; tries again while the decision is open (EAGAIN).
pub(super) const DATAGRAM: &str = r#"
import errno, select, socket, sys, time

host, port = sys.argv[1], int(sys.argv[2])
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
sock.setblocking(False)
end = time.monotonic() + 10
again = 0
while True:
    try:
        sock.sendto(b"ping", (host, port))
        answered = select.select([sock], [], [], 2)[0]
        answer = "done " + sock.recv(100).decode() if answered else "failed silence"
        break
    except BlockingIOError:
        again += 1
        if time.monotonic() > end:
            answer = "failed EAGAIN"
            break
        time.sleep(0.02)
    except OSError as error:
        answer = f"failed {errno.errorcode.get(error.errno, error.errno)}"
        break
print(f"{answer}, {again} times EAGAIN before", flush=True)
"#;

/// A program under way; ended when dropped.
pub(super) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines,
    seen: Vec<String>,
}

impl Program {
    /// Starts it; `shown` is what a person would type.
    pub(super) fn start(mut command: Command, shown: &str) -> Result<Self> {
        println!("   $ {shown}");
        let (reader, writer) = std::io::pipe().context("can't make a pipe")?;
        command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
        let mut child = command.spawn().with_context(|| format!("can't start `{shown}`"))?;
        drop(command);
        let input = child.stdin.take();
        Ok(Self { child, input, lines: Lines::of(reader), seen: Vec::new() })
    }

    /// Its process id: what was started became the program.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Tells it one line and awaits one in return; silence is an answer, too.
    pub(super) fn ask(&mut self, line: &str, limit: Duration) -> Result<String> {
        println!("   > {line}");
        let input = self.input.as_mut().context("its input is closed")?;
        writeln!(input, "{line}").context("it no longer reads")?;
        let answer = if let Ok(answer) = self.lines.next(limit) {
            answer.context("it ended without an answer")?
        } else {
            interrupt::check()?;
            format!("no answer within {limit:?}")
        };
        println!("   | {answer}");
        Ok(answer)
    }

    /// The next line that begins so; the lines before it are kept for `finish`.
    pub(super) fn await_line(&mut self, beginning: &str) -> Result<String> {
        loop {
            match self.next_line()? {
                Some(line) if line.starts_with(beginning) => return Ok(line),
                Some(_) => {}
                None => bail!("it ended without `{beginning}`:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// Waits for its end: its exit status (None: a signal ended it), and all it wrote.
    pub(super) fn finish(mut self) -> Result<(Option<i32>, String)> {
        drop(self.input.take());
        while self.next_line()?.is_some() {}
        let status = self.child.wait().context("can't wait for a program")?;
        let text = self.seen.join("\n");
        for line in text.lines().filter(|line| !line.starts_with("echo")) {
            println!("   | {line}");
        }
        Ok((status.code(), text))
    }

    fn next_line(&mut self) -> Result<Option<String>> {
        let line = self.lines.next(LIMIT).with_context(|| {
            format!(
                "it wrote:
{}",
                self.seen.join(
                    "
"
                )
            )
        })?;
        self.seen.extend(line.clone());
        Ok(line)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Nothing to do where it has ended already.
        let _ended = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Python itself: a version manager's wrapper would be a row of other programs first.
pub(super) fn python() -> String {
    let system = std::path::Path::new("/usr/bin/python3");
    let found = if system.is_file() { Some(system.to_owned()) } else { command::find("python3") };
    found.map_or_else(|| "python3".to_owned(), |path| path.display().to_string())
}
