//! The settings: what command line, environment and configuration file choose, and what is in
//! force.

mod command;
mod decided;
mod description;
mod environment;
mod example;
mod file;
mod flags;
mod mount_options;
mod nix_conf;
mod origin;
mod settings;
mod shown;
mod table;
mod toml_value;
mod value;

pub(super) use command::Arguments;
pub(super) use decided::{Decided, Reading, log_format};
pub(super) use description::{COPYING, EVERY, FETCHING, LISTING, Place, SERVING};
pub(super) use example::{FILE, MOUNT};
pub(super) use file::{Mistake, table};
pub(super) use flags::Flags;
pub(super) use mount_options::{is_daemon_option, is_mount_option, mount_options, named_options};
pub(super) use origin::{Origin, Setting};
pub(super) use table::{Choices, Settings};
pub(super) use toml_value::{Value, found, whole};

#[cfg(test)]
mod tests;
