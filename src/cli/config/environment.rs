//! What the environment chooses.

use std::ffi::OsString;
use std::path::PathBuf;

use super::origin::{Origin, Setting};
use super::table::Choices;
use super::value;
use crate::cli::outcome::Usage;

impl Choices {
    /// What the environment says, which `get` reads.
    pub(in crate::cli) fn of_environment(
        get: impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Self> {
        let from = |name: &'static str| Origin::Environment(name);
        let mut choices = Self::default();
        if let Some(state) = get("NARFS_STATE") {
            choices.state = Some(Setting {
                value: directory(&state, "NARFS_STATE")?,
                origin: from("NARFS_STATE"),
            });
        }
        if let Some(memory) = get("NARFS_MEMORY") {
            let text = memory.to_string_lossy();
            choices.memory = Some(Setting {
                value: value::memory_of(&text)
                    .map_err(|e| Usage::error(format!("NARFS_MEMORY: {e}")))?,
                origin: from("NARFS_MEMORY"),
            });
        }
        Ok(choices)
    }
}

pub(in crate::cli) fn directory(value: &OsString, name: &str) -> anyhow::Result<PathBuf> {
    if value.is_empty() {
        return Err(Usage::error(format!(
            "{name} is empty; give a path, or unset it"
        )));
    }
    Ok(std::path::absolute(value)?)
}
