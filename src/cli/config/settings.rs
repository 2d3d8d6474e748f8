//! The settings in force.
//!
//! Invariant: who prevails is decided in [`Settings::decide`] only: the command line, then the
//! environment, then the file, then what is built in. A setting knows where it is from.

use super::table::{Choices, Settings};
use crate::fetch::{Deadlines, PrefetchPolicy};

/// How a mount fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cli) struct MountSettings {
    /// How long programs wait.
    pub(in crate::cli) deadlines: Deadlines,
    /// What is fetched ahead.
    pub(in crate::cli) prefetch: PrefetchPolicy,
    /// Bytes that fetched contents may take; `None` for no bound.
    pub(in crate::cli) budget: Option<u64>,
    /// Whether programs may change profiles.
    pub(in crate::cli) writable_profiles: bool,
    /// Whether files can be opened by their handles.
    pub(in crate::cli) file_handles: bool,
}

impl Settings {
    /// Lets the first of `choices` that says something prevail; keys are added up.
    pub(in crate::cli) fn decide(choices: &[&Choices]) -> Self {
        let mut decided = Self::first(choices);
        let said = choices.iter().rev();
        let said = said.filter_map(|c| c.trusted_public_keys.as_ref());
        decided.trusted_public_keys.value = said.flat_map(|k| k.value.clone()).collect();
        decided
    }

    /// Those of a mount.
    pub(in crate::cli) fn mount(&self) -> MountSettings {
        MountSettings {
            deadlines: Deadlines {
                lookup: self.lookup_timeout.value,
                contents: self.contents_timeout.value,
                absent: self.absent_ttl.value,
                head_start: self.head_start.value,
            },
            prefetch: self.prefetch.value,
            budget: self.budget.value.map(|size| size.0),
            writable_profiles: self.writable_profiles.value,
            file_handles: self.file_handles.value,
        }
    }
}
