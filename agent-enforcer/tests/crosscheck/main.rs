//! Our signatures and canonical JSON against other people's: what we sign holds there, what they
//! sign holds here, and what was changed holds nowhere. `cargo xtask setup` makes their environment.

#[cfg(test)]
mod canonical_json;
#[cfg(test)]
mod documents;
#[cfg(test)]
mod other;
