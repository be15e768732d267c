//! How large one policy may be.
//!
//! In: the text of a file. Out: where a policy is too long or nested too deeply. Cedar reads, checks and
//! drops expressions by recursion, and who runs out of stack takes the daemon along: so this comes first,
//! and what passes is read on a thread with a stack for the worst of it.

use super::super::error::Problem;

/// Longest policy, bytes without strings and comments.
pub(in crate::resolver::policy) const POLICY_LIMIT: usize = 4096;
/// Deepest nesting of brackets.
pub(in crate::resolver::policy) const DEPTH_LIMIT: usize = 32;

/// The first problem, and its offset in bytes.
pub(super) fn check(text: &str) -> Result<(), (usize, Problem)> {
    let (mut length, mut depth, mut begin) = (0_usize, 0_usize, 0_usize);
    let mut bytes = text.bytes().enumerate().peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'"' => {
                while let Some((_, inside)) = bytes.next() {
                    match inside {
                        b'\\' => {
                            bytes.next();
                        }
                        b'"' => break,
                        _ => {}
                    }
                }
            }
            b'/' if bytes.peek().is_some_and(|(_, next)| *next == b'/') => {
                while bytes.next().is_some_and(|(_, inside)| inside != b'\n') {}
            }
            b';' => (length, depth, begin) = (0, 0, at + 1),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        length += 1;
        if depth > DEPTH_LIMIT {
            return Err((at, Problem::CedarTooDeep));
        }
        if length > POLICY_LIMIT {
            let blank = text.get(begin..).map_or(0, |rest| rest.len() - rest.trim_start().len());
            return Err((begin + blank, Problem::CedarTooLong));
        }
    }
    Ok(())
}
