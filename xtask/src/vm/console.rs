//! What a kernel says on its console when something is wrong with it.
//!
//! In: the console's text. Out: the lines that no healthy kernel writes, each once.

/// Beginnings of complaints, after the time stamp.
const COMPLAINTS: &[&str] = &[
    "BUG:",
    "WARNING:",
    "Oops",
    "Kernel panic",
    "general protection fault",
    "kernel BUG at",
    "INFO: task ",
    "INFO: rcu_",
    "rcu: INFO:",
    "watchdog: BUG:",
    "refcount_t:",
    "UBSAN:",
    "KASAN:",
    "stack segment:",
    "invalid opcode:",
    "double fault:",
    "unregister_netdevice: waiting for",
    "Out of memory",
];

/// Complaints in the order in which they were made.
pub(crate) fn complaints(console: &str) -> Vec<String> {
    let lines = console.lines().map(|line| without_stamp(line.trim_end()));
    lines
        .filter(|line| COMPLAINTS.iter().any(|complaint| line.starts_with(complaint)))
        .map(str::to_owned)
        .collect()
}

/// `[    3.141592] text`, perhaps with `[ T17]` or `[ C1]` after it.
fn without_stamp(line: &str) -> &str {
    let mut rest = line;
    while let Some((_, after)) = rest.strip_prefix('[').and_then(|inner| inner.split_once("] ")) {
        rest = after.trim_start();
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_and_oops_are_found_behind_their_stamps() {
        let console = "[    0.000000] Linux version 6.12\r\n\
            [   12.345678][ T812] WARNING: CPU: 1 PID: 812 at net/ipv4/tcp.c:1 f+0x1/0x2\r\n\
            [   12.345679] Modules linked in:\r\n\
            [   99.000000] Kernel panic - not syncing: Fatal exception\r\n";
        let found = complaints(console);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("WARNING: CPU: 1") && found[1].starts_with("Kernel panic"));
    }

    #[test]
    fn healthy_console_has_no_complaints() {
        let console = "[    0.1] Spectre V2 : WARNING: not at the beginning\n\
            [    1.0] x86/mm: Checked W+X mappings: passed, no W+X pages found.\n";
        assert!(complaints(console).is_empty());
    }
}
