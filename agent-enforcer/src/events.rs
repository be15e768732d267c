//! Decisions become events.
