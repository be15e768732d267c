//! What an operator has: the control API and the command line, against a daemon without a kernel.

#[cfg(test)]
mod command_line;
#[cfg(test)]
mod control_api;
#[cfg(test)]
mod fake_control;
#[cfg(test)]
mod signed_documents;
