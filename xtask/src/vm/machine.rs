//! One virtual machine in software emulation.
//!
//! In: a kernel and its first file system. Out: what the job inside writes, line by line, and what
//! the kernel wrote on its console. The machine ends with this value, whatever happens.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};

use super::kernels::Kernel;
use crate::{command, lines::Lines};

const QEMU: &str = "qemu-system-x86_64";
/// Everything that can be emulated, but for `cmpxchg16b`: QEMU 7.2 leaves junk in the flags after it,
/// and a kernel that is interrupted just then dies. Page tables of five levels only cost time, and so
/// do "enhanced" copies: emulation makes them byte by byte, which doubles what the verifier takes.
const PROCESSOR: &str = "max,cx16=off,la57=off,erms=off";
/// An oops ends the machine. Whether the timer ticks is not asked: on a busy host a tick comes too late
/// for the kernel, which then dies. The emulated time stamp counters agree, although the kernel has no way
/// to know; every other clock is a device. Nothing hostile shares the machine, so that it goes without
/// what only costs time: code at random addresses is translated again for each process. The verifier
/// alone may keep a processor for a minute, which is no lock-up. Without `cmpxchg16b` BPF gets memory
/// from 7.x on only out of caches that are checked (mm/slub.c `kmalloc_nolock`).
const COMMAND_LINE: &str = "oops=panic panic=-1 tsc=reliable no_timer_check norandmaps mitigations=off \
                            init_on_alloc=0 watchdog_thresh=60 slab_debug=F,kmalloc-*";
/// Below warnings nothing is worth its time on a serial line.
const CONSOLE: &str = "console=ttyS0 loglevel=5";
/// With a person at the console.
const QUIET: &str = "console=ttyS0 quiet loglevel=3 INTERACTIVE=1";

/// A running machine. The first serial line is the kernel's, the second the job's.
pub(crate) struct Machine {
    child: Child,
    lines: Lines,
    console: PathBuf,
}

impl Machine {
    /// Boots.
    pub(crate) fn boot(kernel: &Kernel, initramfs: &Path, console: &Path) -> Result<Self> {
        let mut qemu = qemu(kernel, initramfs, CONSOLE);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.args(["-serial", "stdio"]).stdin(Stdio::null()).stdout(Stdio::piped());
        println!("  $ {}", command::describe(&qemu));
        let mut child = qemu.spawn().context("QEMU can't be started")?;
        let stdout = child.stdout.take().context("QEMU has no output")?;
        Ok(Self { child, lines: Lines::of(stdout), console: console.to_owned() })
    }

    /// The next line of the job; `None` when the machine is off.
    pub(crate) fn next(&self, limit: Duration) -> Result<Option<String>> {
        let line = self.lines.next(limit)?;
        Ok(line.map(|line| line.trim_end_matches('\r').to_owned()))
    }

    /// What the kernel wrote so far.
    pub(crate) fn console(&self) -> String {
        fs::read(&self.console)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(error) = ended {
            eprintln!("can't end QEMU (pid {}): {error}", self.child.id());
        }
    }
}

/// Boots with this terminal as the machine's, until it is off.
pub(crate) fn interactive(kernel: &Kernel, initramfs: &Path) -> Result<()> {
    let mut qemu = qemu(kernel, initramfs, QUIET);
    qemu.args(["-serial", "mon:stdio"]);
    command::run(&mut qemu)
}

fn qemu(kernel: &Kernel, initramfs: &Path, console: &str) -> Command {
    let mut qemu = Command::new(QEMU);
    qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    qemu.args(["-accel", "tcg,thread=multi", "-cpu", PROCESSOR, "-smp", "2", "-m", "3072"]);
    qemu.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(initramfs);
    qemu.arg("-append").arg(format!("{console} {COMMAND_LINE}"));
    qemu
}
