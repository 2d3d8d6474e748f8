//! Diagnosis of problems of a daemon on this machine, from outside.
//!
//! Invariants: no check changes anything, unless a repair was requested and is safe; and a check
//! that hangs is given up at a deadline, which is then the finding.

mod finding;
mod host;
mod mounts;
mod sources;
mod state;

use std::sync::mpsc;
use std::time::Duration;

use crate::control;
use crate::sync;
pub use finding::{Examination, Finding, Verdict};

/// Timeout of a check. An unreachable source is retried for some five seconds before it reports
/// why.
const TIMEOUT: Duration = Duration::from_secs(12);

/// Runs all checks in parallel.
pub fn examine(examination: &Examination) -> Vec<Finding> {
    let mut looks = Vec::new();
    let mut look = |name: &str, at: fn(&Examination) -> Vec<Finding>| {
        let examination = examination.clone();
        looks.push(Check::start(name, move || at(&examination)));
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
    // The daemon reports the sources to check.
    let daemon = Check::start("daemon", {
        let state = examination.state.clone();
        move || control::status(&state, None).ok()
    });
    let (serving, mut findings) = match daemon.finish() {
        Ok(serving) => (serving, Vec::new()),
        Err(finding) => (None, vec![finding]),
    };
    findings.extend(mounts::daemon(&examination.state, serving.as_ref()));
    let in_use = serving.map(|status| status.activity.sources);
    let source_to_check = sources::sources_to_check(&examination.sources.from, in_use.as_deref());
    if let Some(no_sources) = sources::no_sources(&source_to_check, in_use.as_deref()) {
        findings.push(no_sources);
    }
    looks.extend(source_to_check.into_iter().map(|source_to_check| {
        let examination = examination.clone();
        Check::start(&source_to_check.check(), move || {
            sources::source(&source_to_check, &examination)
        })
    }));
    for look in looks {
        findings.extend(look.finish().unwrap_or_else(|silent| vec![silent]));
    }
    findings
}

/// A check on its own thread.
struct Check<T = Vec<Finding>> {
    name: String,
    seen: mpsc::Receiver<T>,
    since: std::time::Instant,
}

impl<T: Send + 'static> Check<T> {
    fn start(name: &str, look: impl FnOnce() -> T + Send + 'static) -> Self {
        let (sender, seen) = mpsc::channel();
        // Without a thread, the channel closes at once.
        let _ = sync::spawn("narfs-doctor", move || sender.send(look()));
        Self {
            name: name.to_owned(),
            seen,
            since: std::time::Instant::now(),
        }
    }

    /// The result of the check, or a finding that there is none.
    fn finish(self) -> Result<T, Finding> {
        let left = TIMEOUT.saturating_sub(self.since.elapsed());
        let seen = match self.seen.recv_timeout(left) {
            Ok(seen) => return Ok(seen),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                format!("no answer within {} s", TIMEOUT.as_secs())
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => "the check failed".to_owned(),
        };
        Err(Finding::error(&self.name, seen))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_panics_or_cannot_be_looked_at_is_an_error() {
        let look = Check::<()>::start("x", || std::panic::resume_unwind(Box::new(())));
        let finding = look.finish().unwrap_err();
        assert_eq!(finding.verdict, Verdict::Error);
        assert_eq!(finding.check, "x");
    }

    #[test]
    fn what_hangs_is_given_up() {
        let (_hold, hang) = mpsc::channel::<()>();
        let mut look = Check::start("x", move || {
            let _ = hang.recv();
        });
        // As if it had started long ago.
        look.since -= TIMEOUT;
        let finding = look.finish().unwrap_err();
        assert!(finding.seen.contains("no answer within"));
    }
}
