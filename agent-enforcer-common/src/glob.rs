//! Globs over paths, compared one step at a time, so that a bounded kernel loop and a plain loop
//! in the daemon give the same answer.
//!
//! `?` is one byte but `/`; `*` any run without `/`; `**` any run. Everything else is itself.

/// What is behind the last byte of a pattern or a path; no path has it inside. Not an `Option`: half
/// of one is not initialised where there is nothing, and the verifier sees it copied.
pub const END: u8 = 0;

/// A comparison under way. Begin with `Default`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct GlobState {
    pattern: u32,
    text: u32,
    /// Pattern position behind the last `*` plus one; 0 is none.
    star: u32,
    /// Text position that the last `*` has eaten up to.
    star_text: u32,
    /// As `star`, of the last `**`.
    globstar: u32,
    /// As `star_text`, of the last `**`.
    globstar_text: u32,
}

/// What one step found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GlobStep {
    /// Not known yet: step again.
    Again,
    /// The text matches.
    Match,
    /// The text does not match.
    Mismatch,
}

impl GlobState {
    /// One step. `pattern_at` and `text_at` return the byte at a position, [`END`] from the end on.
    #[inline(always)]
    pub fn step(
        &mut self,
        pattern_at: impl Fn(u32) -> u8,
        text_at: impl Fn(u32) -> u8,
    ) -> GlobStep {
        let text = text_at(self.text);
        match pattern_at(self.pattern) {
            b'*' if pattern_at(self.pattern + 1) == b'*' => {
                self.pattern += 2;
                self.globstar = self.pattern + 1;
                self.globstar_text = self.text;
                self.star = 0;
                return GlobStep::Again;
            }
            b'*' => {
                self.pattern += 1;
                self.star = self.pattern + 1;
                self.star_text = self.text;
                return GlobStep::Again;
            }
            END if text == END => return GlobStep::Match,
            b'?' if text != b'/' && text != END => return self.advance(),
            wanted if wanted == text => return self.advance(),
            _ => {}
        }
        self.backtrack(text_at)
    }

    #[inline(always)]
    const fn advance(&mut self) -> GlobStep {
        self.pattern += 1;
        self.text += 1;
        GlobStep::Again
    }

    #[inline(always)]
    fn backtrack(&mut self, text_at: impl Fn(u32) -> u8) -> GlobStep {
        if self.star != 0 {
            let byte = text_at(self.star_text);
            if byte != b'/' && byte != END {
                self.star_text += 1;
                self.text = self.star_text;
                self.pattern = self.star - 1;
                return GlobStep::Again;
            }
        }
        if self.globstar != 0 && text_at(self.globstar_text) != END {
            self.globstar_text += 1;
            self.text = self.globstar_text;
            self.pattern = self.globstar - 1;
            self.star = 0;
            return GlobStep::Again;
        }
        GlobStep::Mismatch
    }
}

/// Whether `text` matches `pattern`.
#[cfg(feature = "user")]
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let mut state = GlobState::default();
    let at = |bytes: &[u8], position: u32| bytes.get(position as usize).copied().unwrap_or(END);
    loop {
        match state.step(|p| at(pattern, p), |t| at(text, t)) {
            GlobStep::Again => {}
            GlobStep::Match => return true,
            GlobStep::Mismatch => return false,
        }
    }
}

#[cfg(all(test, feature = "user"))]
mod tests {
    use super::*;

    #[test]
    fn stars_stop_at_slashes_and_globstars_do_not() {
        for (pattern, text, expected) in [
            ("/a/b", "/a/b", true),
            ("/a/b", "/a/bc", false),
            ("/a/*", "/a/b", true),
            ("/a/*", "/a/b/c", false),
            ("/a/**", "/a/b/c", true),
            ("/**/c", "/a/b/c", true),
            ("**/x*.service", "/a/b/x1.service", true),
            ("**/x*.service", "/a/x/y.service", false),
            ("/a?c", "/abc", true),
            ("/a?c", "/a/c", false),
            ("*", "", true),
            ("", "", true),
            ("", "a", false),
            ("/a*b*c", "/aXbYbZc", true),
            ("/**/a*/b", "/x/ay/z/a1/b", true),
            ("/**a", "/b/c", false),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}
