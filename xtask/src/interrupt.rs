//! Ctrl-C and SIGTERM end a run in order: whatever waits fails, and every guard cleans up.
//!
//! In: signals. Out: an error from [`check`]. Never exits by itself.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, Ordering},
};

use anyhow::{Context, Result, bail};
use signal_hook::consts::{SIGINT, SIGTERM};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on an interrupt is noted; a second one ends the process at once.
pub(crate) fn watch() -> Result<()> {
    let noted = Arc::clone(INTERRUPTED.get_or_init(Arc::default));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&noted))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&noted)))
            .context("can't watch for interrupts")?;
    }
    Ok(())
}

/// An error once an interrupt was noted.
pub(crate) fn check() -> Result<()> {
    if INTERRUPTED.get().is_some_and(|noted| noted.load(Ordering::SeqCst)) {
        bail!("interrupted");
    }
    Ok(())
}
