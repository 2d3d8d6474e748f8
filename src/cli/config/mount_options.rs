//! The settings that `mount -o` takes.

use std::ffi::OsStr;

use super::description::Description;
use super::origin::Origin;
use super::table::{ALL, Choices, Settings};

/// The setting that an option chooses, and the text that it chooses. One that is true or false is true where
/// its name stands alone, as with the options of mount(8).
fn chosen(option: &str) -> Option<(&'static Description, &str)> {
    let (name, text) = match option.split_once('=') {
        Some((name, text)) => (name, Some(text)),
        None => (option, None),
    };
    let of_mounts = |described: &&&Description| described.is_mount_option();
    let described = ALL.iter().filter(of_mounts).find(|d| d.name == name)?;
    let may_lack = described.value.is_empty() || described.is_optional;
    let text = text.or_else(|| may_lack.then_some("true"))?;
    Some((described, text))
}

/// Whether an option of `mount -o` is a setting.
pub(in crate::cli) fn is_mount_option(option: &str) -> bool {
    chosen(option).is_some()
}

/// Whether it is one of the daemon and not of each mount.
pub(in crate::cli) fn is_daemon_option(option: &str) -> bool {
    chosen(option).is_some_and(|(described, _)| !described.of_each_mount)
}

/// The options that are settings, of each mount or of the daemon: with what stands for the value, and with
/// what `--help` says of them.
pub(in crate::cli) fn mount_options(of_each_mount: bool) -> Vec<(String, String)> {
    let defaults = Settings::first(&[]);
    let entries = defaults.entries().into_iter();
    let entries = entries.filter(|entry| {
        let described = entry.description;
        described.is_mount_option() && described.of_each_mount == of_each_mount
    });
    entries
        .map(|e| (e.description.option(), e.help()))
        .collect()
}

/// Their names, for an error.
pub(in crate::cli) fn named_options(of_each_mount: bool) -> String {
    let options = mount_options(of_each_mount).into_iter();
    options
        .map(|(option, _)| option)
        .collect::<Vec<_>>()
        .join(", ")
}

impl Choices {
    /// Takes an option of `mount -o`, if it is a setting.
    ///
    /// # Errors
    /// A value that the option cannot have, as a text.
    pub(in crate::cli) fn take_mount_option(&mut self, option: &str) -> Result<(), String> {
        let Some((described, text)) = chosen(option) else {
            return Ok(());
        };
        let taken = self.take_text(described.name, OsStr::new(text), Origin::Flag);
        taken.map_err(|e| format!("{}: {e}", described.name))
    }
}
