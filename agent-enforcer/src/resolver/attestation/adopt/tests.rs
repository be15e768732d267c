use std::{collections::BTreeSet, process::Command};

use super::*;
use crate::resolver::attestation::{scan::ScannedImage, testing::Running};

/// Marks one process and whatever descends from it; calls `before_marking` in the gap between
/// being seen and being marked.
struct Family<F> {
    root: u32,
    marked: BTreeSet<u32>,
    forgotten: BTreeSet<u32>,
    before_marking: F,
}

impl<F: FnMut(&ScannedProcess)> Family<F> {
    fn new(root: u32, before_marking: F) -> Self {
        Self { root, marked: BTreeSet::new(), forgotten: BTreeSet::new(), before_marking }
    }
}

impl<F: FnMut(&ScannedProcess)> Judge for Family<F> {
    type Mark = &'static str;

    fn judge(
        &mut self,
        process: &ScannedProcess,
        parent: Option<&&'static str>,
    ) -> Judgement<&'static str> {
        if process.pid != self.root && parent.is_none() {
            return Judgement::NoAgent;
        }
        (self.before_marking)(process);
        self.marked.insert(process.pid);
        Judgement::Marked("agent")
    }

    fn forget(&mut self, process: &ScannedProcess, _mark: &&'static str) {
        self.forgotten.insert(process.pid);
    }

    fn unreadable(&mut self, error: &ScanError) {
        panic!("{error}");
    }
}

fn pids(adoption: &Adoption<&'static str>) -> BTreeSet<u32> {
    adoption.marked.iter().map(|(process, _)| process.pid).collect()
}

/// A shell that forks a sleeping child for each line, and says its pid. They end with it.
fn forker() -> Running {
    let script = "while read -r _; do tail --pid=$$ -f /dev/null & echo $!; done";
    Running::start(Command::new("sh").args(["-c", script]))
}

fn fork_one(forker: &mut Running) -> u32 {
    forker.write_line("fork");
    forker.read_line().trim().parse().unwrap()
}

#[test]
fn a_child_forked_between_seeing_and_marking_is_found() {
    let mut shell = forker();
    let early = fork_one(&mut shell);
    let root = shell.pid();
    let mut late = None;
    let mut family = Family::new(root, |process: &ScannedProcess| {
        if process.pid == root {
            late = Some(fork_one(&mut shell));
        }
    });
    let adoption = adopt(&mut Scanner::new().unwrap(), &mut family).unwrap();
    let late = late.unwrap();
    assert_eq!(pids(&adoption), BTreeSet::from([root, early, late]));
    assert!(adoption.passes >= 3);
}

#[test]
fn a_process_that_ends_before_it_is_marked_is_forgotten() {
    let child = Running::start(Command::new("sleep").arg("600"));
    let root = child.pid();
    let mut ended = Some(child);
    // Dropping kills it and waits for its end.
    let mut family = Family::new(root, |_: &ScannedProcess| drop(ended.take()));
    let adoption = adopt(&mut Scanner::new().unwrap(), &mut family).unwrap();
    assert_eq!(adoption.marked.len(), 0);
    assert_eq!(family.forgotten, BTreeSet::from([root]));
}

#[test]
fn endless_new_processes_are_an_error() {
    let mut shell = forker();
    let root = shell.pid();
    // No kernel hook here: each pass finds the child that the last one did not see.
    let mut family = Family::new(root, |_: &ScannedProcess| {
        fork_one(&mut shell);
    });
    let error = adopt(&mut Scanner::new().unwrap(), &mut family).unwrap_err();
    assert!(matches!(error, AdoptError::NeverSettled), "{error}");
}

#[test]
fn what_the_kernel_marked_does_not_keep_adoption_going() {
    struct Kernel(BTreeSet<u32>, u32);
    impl Judge for Kernel {
        type Mark = ();
        fn judge(&mut self, process: &ScannedProcess, parent: Option<&()>) -> Judgement<()> {
            if process.pid != self.1 && parent.is_none() {
                return Judgement::NoAgent;
            }
            self.0.insert(process.pid);
            Judgement::MarkedByKernel(())
        }
        fn forget(&mut self, _process: &ScannedProcess, _mark: &()) {}
        fn unreadable(&mut self, error: &ScanError) {
            panic!("{error}");
        }
    }
    let mut shell = forker();
    let child = fork_one(&mut shell);
    let mut kernel = Kernel(BTreeSet::new(), shell.pid());
    let adoption = adopt(&mut Scanner::new().unwrap(), &mut kernel).unwrap();
    assert_eq!((adoption.passes, adoption.marked.len()), (1, 2));
    assert_eq!(kernel.0, BTreeSet::from([shell.pid(), child]));
}

#[test]
fn a_fork_storm_is_adopted_whole() {
    // Three generations, each process of which says its pid and lives on.
    let grow = "echo $$; if [ $1 -gt 0 ]; then for i in 1 2 3 4 5 6 7; do \
                sh -c \"$0\" \"$0\" $(($1-1)) & done; fi; read -r _ <&3";
    let root_script = "exec 3<&0; exec sh -c \"$0\" \"$0\" 3";
    let mut storm = Running::start(Command::new("sh").args(["-c", root_script, grow]));
    let mut scanner = Scanner::new().unwrap();
    let root = storm.pid();
    let expected = 1 + 7 + 49 + 343;
    let mut family = Family::new(root, |_: &ScannedProcess| {});
    let mut during = 0;
    std::thread::scope(|scope| {
        let counting = scope.spawn(|| {
            let mut said = BTreeSet::new();
            while said.len() < expected {
                said.insert(storm.read_line().trim().parse::<u32>().unwrap());
            }
            said
        });
        // Adopted again and again while it grows, and once when all are there.
        loop {
            let complete = counting.is_finished();
            let adoption = adopt(&mut scanner, &mut family).unwrap();
            if complete {
                assert!(pids(&adoption).is_superset(&counting.join().unwrap()));
                break;
            }
            during += 1;
        }
    });
    assert!(during > 0);
}

#[test]
fn parents_are_judged_before_their_children_even_in_a_circle() {
    let process = |pid, parent| ScannedProcess {
        pid,
        start_ns: 0,
        parent,
        uid: 0,
        gid: 0,
        cgroup: String::new(),
        comm: String::new(),
        image: ScannedImage::None,
    };
    let processes = [(2, 9), (9, 5), (5, 0), (7, 7), (20, 21), (21, 20), (30, 99)];
    let ordered: Vec<u32> =
        parents_first(processes.into_iter().map(|(pid, parent)| process(pid, parent)).collect())
            .into_iter()
            .map(|process| process.pid)
            .collect();
    let position = |pid| ordered.iter().position(|&found| found == pid).unwrap();
    assert!(position(5) < position(9) && position(9) < position(2));
    assert_eq!(ordered.len(), 7);
}
