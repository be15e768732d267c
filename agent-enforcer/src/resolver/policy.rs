//! Written by its issue.
