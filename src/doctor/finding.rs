//! What is looked at, and what was seen.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::command::SourceRequest;
use crate::nix::store_path::StoreDir;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, but not as well as it could, or not for long.
    Warning,
    /// It does not work.
    Error,
}

/// What was seen of one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was seen.
    pub seen: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub advice: Option<String>,
    /// Whether it was mended just now; what was seen is what was so before.
    #[serde(default)]
    pub fixed: bool,
}

impl Finding {
    /// Something and how it is.
    pub fn new(check: &str, verdict: Verdict, seen: impl Into<String>) -> Self {
        Self {
            check: check.to_owned(),
            verdict,
            seen: seen.into(),
            advice: None,
            fixed: false,
        }
    }

    /// With what to do about it.
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

    /// It is mended, so that it is no trouble any more.
    pub(super) fn mended(mut self, how: &str) -> Self {
        self.fixed = true;
        self.verdict = Verdict::Note;
        self.advice = None;
        self.seen = format!("{}; {how}", self.seen);
        self
    }
}

/// What is to be looked at.
#[derive(Clone, Debug)]
pub struct Examination {
    /// The state directory, absolute.
    pub state: PathBuf,
    /// The store directory that was named.
    pub store_dir: Option<StoreDir>,
    /// The sources that are in force.
    pub sources: SourceRequest,
    /// Mend what can safely be.
    pub fix: bool,
}
