//! Who is this process? Everything that is read about a process, its executable and its cgroup.
//!
//! In: the facts that the kernel side recorded, and /proc. Out: [`crate::decision::Process`], the
//! executable as an open handle, digests, the running processes at start-up, the files behind path
//! globs, the sockets behind paths. The subjects are hostile and know this code: a pid is bound to its start time before
//! anything is believed, the executable is compared with the kernel's record, a file is opened for
//! reading only on worker threads. Nothing here decides anything or writes to the kernel.

pub mod adopt;
pub mod attestor;
pub mod broker;
pub mod called_path;
pub mod cgroups;
pub mod digest;
pub mod exec;
pub mod executables;
pub mod interpreters;
pub mod process;
pub mod scan;
pub mod script;
pub mod socket_files;
pub mod sockets;
pub mod stopped;
pub mod watcher;
pub mod worker;

mod bound;
mod container;
mod fsverity;
mod image;
mod procfs;

pub use image::{Executable, FileStamp, KernelInodes};
pub use procfs::{ProcError, START_TICK_NS, same_start};

#[cfg(test)]
mod testing;
