use std::{
    fs,
    path::Path,
    sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel},
};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::*;
use crate::resolver::attestation::{procfs::ProcRoot, testing::eventually};

type Results = Receiver<(u32, Result<Hashed, DigestError>)>;

const LONG_WAIT: Duration = Duration::from_secs(20);

fn executable(path: &Path) -> Work {
    let handle = openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap();
    Work::Hash(Executable::new(&ProcRoot::open().unwrap(), handle).unwrap())
}

fn start(limits: WorkerLimits, hasher: Box<Hasher>) -> (HashWorkers<u32>, Results) {
    let (sender, results) = channel();
    let deliver = move |context, result: Result<Found, DigestError>| {
        let digest = result.map(|found| match found {
            Found::Hashed(digest) => digest,
            Found::Script(_) => panic!("nothing was looked for"),
        });
        sender.send((context, digest)).unwrap();
    };
    (HashWorkers::start_with(limits, hasher, deliver).unwrap(), results)
}

fn patient() -> WorkerLimits {
    WorkerLimits { queue: 2, patience: LONG_WAIT }
}

fn impatient() -> WorkerLimits {
    WorkerLimits { queue: 8, patience: Duration::from_millis(50) }
}

/// A file system that answers when it is told to: files whose content begins with `!` wait.
fn hanging_hasher() -> (Box<Hasher>, Sender<()>) {
    let (open, gate) = channel::<()>();
    let gate = Mutex::new(gate);
    let hasher = move |file: &File, go_on: &dyn Fn(u64) -> bool| {
        use std::os::unix::fs::FileExt as _;
        let mut first = [0];
        file.read_at(&mut first, 0)?;
        if first == *b"!" {
            // Open for good when the other end is dropped.
            let _opened = gate.lock().unwrap().recv();
        }
        hash(file, go_on)
    };
    (Box::new(hasher), open)
}

/// A small file, or a sparse large one; on a disk, or on an anonymous device.
fn file_at(directory: &Path, content: &[u8], size: u64) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new_in(directory).unwrap();
    io::Write::write_all(&mut file, content).unwrap();
    file.as_file().set_len(size).unwrap();
    file
}

fn small(content: &[u8]) -> tempfile::NamedTempFile {
    file_at(&std::env::temp_dir(), content, content.len() as u64)
}

#[test]
fn delivers_each_digest_with_its_context() {
    let (workers, results) = start(WorkerLimits::default(), Box::new(hash));
    let file = small(b"abc");
    for context in 0..20 {
        workers.submit(executable(file.path()), context).unwrap();
    }
    for expected in 0..20 {
        let (context, hashed) = results.recv_timeout(LONG_WAIT).unwrap();
        assert_eq!(context, expected);
        assert!(hashed.unwrap().digest.to_string().starts_with("ba7816bf"));
    }
}

#[test]
fn a_large_file_does_not_hold_up_small_ones() {
    let (hasher, gate) = hanging_hasher();
    let (workers, results) = start(patient(), hasher);
    let large = file_at(&std::env::temp_dir(), b"!", QUICK_BYTES + 1);
    workers.submit(executable(large.path()), 1).unwrap();
    let quick = small(b"abc");
    workers.submit(executable(quick.path()), 2).unwrap();
    assert_eq!(results.recv_timeout(LONG_WAIT).unwrap().0, 2);
    drop(gate);
    assert_eq!(results.recv_timeout(LONG_WAIT).unwrap().0, 1);
}

#[test]
fn a_full_queue_gives_the_context_back() {
    let (hasher, gate) = hanging_hasher();
    let (workers, results) = start(patient(), hasher);
    let file = small(b"!");
    let mut taken = 0;
    let busy = loop {
        match workers.submit(executable(file.path()), taken) {
            Ok(()) => taken += 1,
            Err(busy) => break busy,
        }
    };
    // Two wait, and one is under way or will be soon.
    assert!((2..=3).contains(&taken), "{taken}");
    assert_eq!((busy.why, busy.context), (BusyReason::QueueFull, taken));
    drop(gate);
    for context in 0..taken {
        assert_eq!(results.recv_timeout(LONG_WAIT).unwrap().0, context);
    }
}

#[test]
fn a_file_system_that_hangs_is_written_off_and_refused_until_it_answers() {
    let (hasher, gate) = hanging_hasher();
    let (workers, results) = start(impatient(), hasher);
    // An anonymous device, as FUSE has.
    let hanging = file_at(Path::new("/dev/shm"), b"!", 1);
    workers.submit(executable(hanging.path()), 1).unwrap();
    let (context, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(context == 1 && matches!(result, Err(DigestError::TimedOut)), "{result:?}");
    let busy = workers.submit(executable(hanging.path()), 2).unwrap_err();
    assert_eq!((busy.why, busy.context), (BusyReason::DeviceStuck, 2));
    // A new thread serves everyone else.
    let other = small(b"abc");
    workers.submit(executable(other.path()), 3).unwrap();
    let (context, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(context == 3 && result.is_ok(), "{result:?}");
    drop(gate);
    eventually("the device is taken again", || {
        workers.submit(executable(hanging.path()), 4).is_ok()
    });
    let (context, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(context == 4 && result.is_ok(), "{result:?}");
}

#[test]
fn a_slow_trickle_counts_as_hanging() {
    let trickle = |_: &File, go_on: &dyn Fn(u64) -> bool| {
        let mut read = 0;
        while go_on(read) {
            read += 1;
            thread::yield_now();
        }
        Err(DigestError::Cancelled)
    };
    let (workers, results) = start(impatient(), Box::new(trickle));
    let file = small(b"abc");
    workers.submit(executable(file.path()), 1).unwrap();
    let (context, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(context == 1 && matches!(result, Err(DigestError::TimedOut)), "{result:?}");
}

#[test]
fn when_every_thread_hangs_the_lane_closes_and_opens_again() {
    let (hasher, gate) = hanging_hasher();
    let (workers, results) = start(impatient(), hasher);
    // On a disk, which is never refused as such.
    let hanging = small(b"!");
    let mut timed_out = 0;
    let refused = loop {
        match workers.submit(executable(hanging.path()), 1) {
            Ok(()) => {
                let (_, result) = results.recv_timeout(LONG_WAIT).unwrap();
                assert!(matches!(result, Err(DigestError::TimedOut)), "{result:?}");
                timed_out += 1;
            }
            Err(busy) => break busy.why,
        }
    };
    assert_eq!((refused, timed_out), (BusyReason::NoThread, STUCK_LIMIT + 1));
    drop(gate);
    let other = small(b"abc");
    eventually("a thread comes back", || workers.submit(executable(other.path()), 2).is_ok());
    let (context, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(context == 2 && result.is_ok(), "{result:?}");
}

#[test]
fn those_who_wait_behind_a_closed_lane_are_told() {
    let (hasher, _gate) = hanging_hasher();
    let (workers, results) = start(impatient(), hasher);
    let hanging = small(b"!");
    let waiting = u32::try_from(STUCK_LIMIT).unwrap() + 3;
    let mut sent = 0;
    eventually("all are taken", || {
        sent += u32::from(workers.submit(executable(hanging.path()), sent).is_ok());
        sent == waiting || workers.pool.state().threads[0] == 0
    });
    for _ in 0..sent {
        let (_, result) = results.recv_timeout(LONG_WAIT).unwrap();
        assert!(matches!(result, Err(DigestError::TimedOut)), "{result:?}");
    }
}

#[test]
fn stopping_answers_everyone() {
    let (hasher, gate) = hanging_hasher();
    let (workers, results) = start(patient(), hasher);
    let file = small(b"!");
    for context in 0..2 {
        workers.submit(executable(file.path()), context).unwrap();
    }
    thread::scope(|scope| {
        scope.spawn(|| drop(workers));
        // Closing is told by the answer to whoever waits; then what is under way may end.
        let (context, result) = results.recv_timeout(LONG_WAIT).unwrap();
        assert!(matches!(result, Err(DigestError::Cancelled)), "{context} {result:?}");
        drop(gate);
        assert!(results.recv_timeout(LONG_WAIT).is_ok());
    });
    assert_eq!(results.recv_timeout(LONG_WAIT).unwrap_err(), RecvTimeoutError::Disconnected);
}

#[test]
fn stopping_does_not_wait_for_a_thread_that_hangs() {
    let (hasher, gate) = hanging_hasher();
    let (workers, results) = start(impatient(), hasher);
    let file = small(b"!");
    workers.submit(executable(file.path()), 1).unwrap();
    drop(workers);
    let (_, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(matches!(result, Err(DigestError::TimedOut | DigestError::Cancelled)), "{result:?}");
    drop(gate);
}

#[test]
fn an_executable_that_cannot_be_opened_says_so() {
    let (workers, results) = start(patient(), Box::new(hash));
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    workers.submit(executable(&socket), 1).unwrap();
    let (_, result) = results.recv_timeout(LONG_WAIT).unwrap();
    assert!(matches!(result, Err(DigestError::Unreadable(_))), "{result:?}");
    fs::remove_file(socket).unwrap();
}
