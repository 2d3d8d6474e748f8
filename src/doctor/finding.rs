//! Findings of `narfs doctor`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::command::SourceRequest;
use crate::nix::store_path::StoreDir;

/// Severity of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    Note,
    /// It works, but not optimally, or not for long.
    Warning,
    Error,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    pub check: String,
    pub verdict: Verdict,
    /// What the check found.
    pub seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub advice: Option<String>,
    /// Whether `--fix` has repaired it; `seen` is the state before.
    #[serde(default)]
    pub fixed: bool,
}

impl Finding {
    pub fn new(check: &str, verdict: Verdict, seen: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            seen: seen.into(),
            advice: None,
            fixed: false,
        }
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.advice = Some(advice.into());
        self
    }

    pub(super) fn ok(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, seen)
    }

    pub(super) fn note(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, seen)
    }

    pub(super) fn warning(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, seen)
    }

    pub(super) fn error(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Error, seen)
    }

    /// Marks the finding as repaired.
    pub(super) fn fixed(mut self, how: &str) -> Self {
        self.fixed = true;
        self.verdict = Verdict::Note;
        self.advice = None;
        self.seen = format!("{}; {how}", self.seen);
        self
    }
}

#[derive(Clone, Debug)]
pub struct Examination {
    /// The state directory, absolute.
    pub state: PathBuf,
    /// The store directory given by the user, if any.
    pub store_dir: Option<StoreDir>,
    /// The configured sources.
    pub sources: SourceRequest,
    /// Repair what can be repaired safely.
    pub fix: bool,
}
