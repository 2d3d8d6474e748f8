//! The settings: what command line, environment and configuration file choose, and what is in
//! force.

mod choices;
mod command;
mod decided;
mod file;
mod settings;
mod value;

pub(super) use choices::{Choices, Origin, Setting, is_daemon_option, is_mount_option};
pub(super) use command::Arguments;
pub(super) use decided::{Decided, Reading};
pub(super) use file::{Mistake, Value, found, table, whole};
pub(super) use settings::Settings;
pub(super) use value::memory_of;

#[cfg(test)]
mod tests;
