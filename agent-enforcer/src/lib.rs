//! The daemon and the command line of `agent-enforcer`.
//!
//! One call from top to bottom: [`intake`] reads the kernel's question, [`resolver`] decides it,
//! [`verdicts`] writes the answer where the kernel finds it, [`events`] tells what happened.

pub mod api;
pub mod cli;
pub mod control;
pub mod daemon;
pub mod decision;
pub mod engine;
pub mod events;
pub mod guard;
pub mod host;
mod hostile_text;
pub mod intake;
pub mod kernel;
pub mod resolver;
mod rfc3339;
pub mod signing;
pub mod strict_json;
pub mod verdicts;
pub mod webhook;
