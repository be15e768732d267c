//! The daemon and the command line of `agent-enforcer`.
//!
//! One call from top to bottom: [`intake`] reads the kernel's question, [`resolver`] decides it,
//! [`verdicts`] writes the answer where the kernel finds it, [`events`] tells what happened.

pub mod api;
pub mod cli;
pub mod control;
pub mod decision;
pub mod events;
pub mod host;
pub mod resolver;
