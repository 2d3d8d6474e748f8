//! How to fetch on demand.

use std::path::PathBuf;
use std::time::Duration;

use super::source::Trust;

/// How long whoever waits is let wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Deadlines {
    /// For a lookup in the store directory.
    pub lookup: Duration,
    /// For contents, without any of them arriving.
    pub contents: Duration,
    /// How long it is remembered that no source has a path.
    pub absent: Duration,
    /// Head start of a source, before the next one is asked as well.
    #[serde(default = "head_start")]
    pub head_start: Duration,
}

/// Enough for a source that is well to answer alone, and hardly noticed where it is not.
fn head_start() -> Duration {
    Duration::from_millis(200)
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            lookup: Duration::from_secs(10),
            contents: Duration::from_secs(30),
            absent: Duration::from_secs(10),
            head_start: head_start(),
        }
    }
}

/// What is fetched before anything asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PrefetchPolicy {
    #[default]
    None,
    /// Whatever a path refers to, once something looks inside that path.
    Closure,
}

impl PrefetchPolicy {
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Closure => "closure",
        }
    }
}

/// How to fetch on demand.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    pub urls: Vec<String>,
    pub trust: Trust,
    /// The file with names and passwords for servers; `None` for the usual ones.
    pub netrc: Option<PathBuf>,
    /// How long requests wait.
    pub deadlines: Deadlines,
    /// What is fetched ahead.
    pub prefetch: PrefetchPolicy,
}
