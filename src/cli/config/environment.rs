//! What the environment chooses.

use std::ffi::OsString;

use super::origin::Origin;
use super::table::{ALL, Choices};
use crate::cli::outcome::Usage;

impl Choices {
    /// What the environment says, which `get` reads.
    pub(in crate::cli) fn of_environment(
        get: impl Fn(&str) -> Option<OsString>,
    ) -> anyhow::Result<Self> {
        let mut choices = Self::default();
        for described in ALL {
            if let Some(variable) = described.environment
                && let Some(text) = get(variable)
            {
                let taken = choices.take_text(described.name, &text, Origin::Environment(variable));
                taken.map_err(|e| Usage::error(format!("{variable}: {e}")))?;
            }
        }
        Ok(choices)
    }
}
