//! Ctrl-C and SIGTERM end a run in order: whatever waits fails, and every guard cleans up.
//!
//! In: signals. Out: an error from [`check`], until cleaning up has begun. Never exits by itself.

use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

static INTERRUPTED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);
static CLEANING_UP: AtomicBool = AtomicBool::new(false);

/// From now on interrupts are noted. A second one changes nothing: cleaning up takes a few
/// seconds at most, and half of it would leave enforcement behind.
pub(crate) fn watch() -> Result<()> {
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&INTERRUPTED))
            .context("can't watch for interrupts")?;
    }
    Ok(())
}

/// From now on an interrupt is no error any more: what waits is cleaning up.
pub(crate) fn cleaning_up() {
    CLEANING_UP.store(true, Ordering::SeqCst);
}

/// An error once an interrupt was noted.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::SeqCst) && !CLEANING_UP.load(Ordering::SeqCst) {
        bail!("interrupted");
    }
    Ok(())
}
