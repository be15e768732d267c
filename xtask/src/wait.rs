//! Waiting for a condition, with a deadline; nothing here waits for a fixed time.
//!
//! In: a question that is asked again and again. Out: its answer, or an error that names what was
//! waited for. An interrupt ends every wait.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use crate::interrupt;

/// Between two questions.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Asks `question` until it has an answer, at most for `limit`.
pub(crate) fn for_answer<T>(
    what: &str,
    limit: Duration,
    mut question: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        interrupt::check()?;
        if let Some(answer) = question()? {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("waited {limit:?} in vain for {what}");
        }
        thread::sleep(PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_with_the_first_answer() {
        let mut asked = 0;
        let answer = for_answer("a third question", Duration::from_secs(5), || {
            asked += 1;
            Ok((asked == 3).then_some(asked))
        });
        assert_eq!(answer.unwrap(), 3);
    }

    #[test]
    fn names_what_it_waited_for_in_vain() {
        let answer = for_answer("godot", Duration::ZERO, || Ok(None::<()>));
        assert_eq!(answer.unwrap_err().to_string(), "waited 0ns in vain for godot");
    }
}
