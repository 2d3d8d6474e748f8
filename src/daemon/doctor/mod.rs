//! What could keep a daemon from working on this machine, looked at from outside.
//!
//! Invariants: nothing that is looked at is changed, unless it is asked to be mended and that is
//! safe; and whatever hangs is given up at a deadline, which is then what was seen.

mod host;
mod mounts;
mod sources;
mod state;

use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::source_request::SourceRequest;
use crate::nix::store_path::StoreDir;

/// A look that has seen nothing after this is given up. A source that cannot be reached is tried
/// for some five seconds before it says why.
const DEADLINE: Duration = Duration::from_secs(12);

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

    fn ok(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Ok, seen)
    }

    fn note(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Note, seen)
    }

    fn warning(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Warning, seen)
    }

    fn error(check: &str, seen: impl Into<String>) -> Self {
        Self::new(check, Verdict::Error, seen)
    }

    /// It is mended, so that it is no trouble any more.
    fn mended(mut self, how: &str) -> Self {
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

/// Looks at everything, at once.
pub fn examine(examination: &Examination) -> Vec<Finding> {
    let mut looks = Vec::new();
    let mut look = |name: &str, at: fn(&Examination) -> Vec<Finding>| {
        let examination = examination.clone();
        looks.push(Look::start(name, move || at(&examination)));
    };
    look("kernel", |_| vec![host::kernel()]);
    look("/dev/fuse", |e| vec![host::fuse_device(e.fix)]);
    look("privileges", |_| vec![host::privileges()]);
    look("fusermount3", |_| vec![host::fusermount()]);
    look("limits", |_| vec![host::limits()]);
    look("state", state::directory);
    look("disk", |e| vec![state::disk(&e.state)]);
    look("daemon", |e| mounts::daemon(&e.state));
    look("dead mounts", |e| vec![mounts::dead(e.fix)]);
    look("keys", |e| vec![sources::keys(&e.sources)]);
    let mut asked = Vec::new();
    for url in &examination.sources.from {
        let (url, examination) = (url.clone(), examination.clone());
        let name = format!("source {}", crate::substituter::redacted(&url));
        asked.push(Look::start(&name, move || {
            sources::source(&url, &examination)
        }));
    }
    let mut findings: Vec<_> = looks.into_iter().flat_map(Look::finish).collect();
    if asked.is_empty() {
        findings.push(sources::nobody());
    }
    findings.extend(asked.into_iter().flat_map(Look::finish));
    findings
}

/// A look at something, on a thread of its own.
struct Look {
    name: String,
    findings: mpsc::Receiver<Vec<Finding>>,
    since: std::time::Instant,
}

impl Look {
    fn start(name: &str, look: impl FnOnce() -> Vec<Finding> + Send + 'static) -> Self {
        let (sender, findings) = mpsc::channel();
        let thread = std::thread::Builder::new().name("narfs-doctor".into());
        // Where there is no thread, the channel ends at once.
        let _ = thread.spawn(move || sender.send(look()));
        Self {
            name: name.to_owned(),
            findings,
            since: std::time::Instant::now(),
        }
    }

    fn finish(self) -> Vec<Finding> {
        let left = DEADLINE.saturating_sub(self.since.elapsed());
        let seen = match self.findings.recv_timeout(left) {
            Ok(findings) => return findings,
            Err(mpsc::RecvTimeoutError::Timeout) => {
                format!("no answer within {} s", DEADLINE.as_secs())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => "it could not be looked at".to_owned(),
        };
        vec![Finding::error(&self.name, seen)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_or_cannot_be_looked_at_is_an_error() {
        let look = Look::start("x", || std::panic::resume_unwind(Box::new(())));
        let findings = look.finish();
        assert_eq!(findings[0].verdict, Verdict::Error);
        assert_eq!(findings[0].check, "x");
    }

    #[test]
    fn what_hangs_is_given_up() {
        let (_hold, hang) = mpsc::channel::<()>();
        let mut look = Look::start("x", move || {
            let _ = hang.recv();
            Vec::new()
        });
        // As if it had begun long ago.
        look.since -= DEADLINE;
        let findings = look.finish();
        assert!(findings[0].seen.contains("no answer within"));
    }
}
