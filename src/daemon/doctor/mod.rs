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

use super::control;
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
    look("dead mounts", |e| vec![mounts::dead(e.fix)]);
    look("keys", |e| vec![sources::keys(&e.sources)]);
    // The daemon says which sources there are to look at.
    let daemon = Look::start("daemon", {
        let state = examination.state.clone();
        move || control::status(&state).ok()
    });
    let (serving, mut findings) = match daemon.finish() {
        Ok(serving) => (serving, Vec::new()),
        Err(finding) => (None, vec![finding]),
    };
    findings.extend(mounts::daemon(&examination.state, serving.as_ref()));
    let in_use = serving.map(|status| status.activity.sources);
    let asked = sources::to_ask(&examination.sources.from, in_use.as_deref());
    if let Some(nobody) = sources::nobody(&asked, in_use.as_deref()) {
        findings.push(nobody);
    }
    looks.extend(asked.into_iter().map(|asked| {
        let examination = examination.clone();
        Look::start(&asked.check(), move || {
            sources::source(&asked, &examination)
        })
    }));
    for look in looks {
        findings.extend(look.finish().unwrap_or_else(|silent| vec![silent]));
    }
    findings
}

/// A look at something, on a thread of its own.
struct Look<T = Vec<Finding>> {
    name: String,
    seen: mpsc::Receiver<T>,
    since: std::time::Instant,
}

impl<T: Send + 'static> Look<T> {
    fn start(name: &str, look: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, seen) = mpsc::channel();
        let thread = std::thread::Builder::new().name("narfs-doctor".into());
        // Where there is no thread, the channel ends at once.
        let _ = thread.spawn(move || sender.send(look()));
        Self {
            name: name.to_owned(),
            seen,
            since: std::time::Instant::now(),
        }
    }

    /// What was seen, or that nothing was.
    fn finish(self) -> Result<T, Finding> {
        let left = DEADLINE.saturating_sub(self.since.elapsed());
        let seen = match self.seen.recv_timeout(left) {
            Ok(seen) => return Ok(seen),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                format!("no answer within {} s", DEADLINE.as_secs())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => "it could not be looked at".to_owned(),
        };
        Err(Finding::error(&self.name, seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_or_cannot_be_looked_at_is_an_error() {
        let look = Look::<()>::start("x", || std::panic::resume_unwind(Box::new(())));
        let finding = look.finish().unwrap_err();
        assert_eq!(finding.verdict, Verdict::Error);
        assert_eq!(finding.check, "x");
    }

    #[test]
    fn what_hangs_is_given_up() {
        let (_hold, hang) = mpsc::channel::<()>();
        let mut look = Look::start("x", move || {
            let _ = hang.recv();
        });
        // As if it had begun long ago.
        look.since -= DEADLINE;
        let finding = look.finish().unwrap_err();
        assert!(finding.seen.contains("no answer within"));
    }
}
