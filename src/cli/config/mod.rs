//! The settings: what command line, environment and configuration file choose, and what is in
//! force.

mod command;
mod decided;
mod environment;
mod file;
mod origin;
mod settings;
mod table;
mod toml_value;
mod value;

pub(super) use command::Arguments;
pub(super) use decided::{Decided, Reading};
pub(super) use file::{Mistake, table};
pub(super) use origin::{Origin, Setting};
pub(super) use table::{Choices, Settings, is_daemon_option, is_mount_option};
pub(super) use toml_value::{Value, found, whole};
pub(super) use value::memory_of;

#[cfg(test)]
mod tests;
