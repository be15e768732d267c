//! What the daemon and its kernel programs do when something is wrong: with the command line, the
//! host, the disk, the tables, or the daemon itself.

mod attempt;
mod disk;
mod files;
mod full;
mod privileges;
mod silence;
mod startup;
