//! What could keep a daemon from working on this machine, looked at from outside.
//!
//! Invariants: nothing that is looked at is changed, unless it is asked to be mended and that is
//! safe; and whatever hangs is given up at a deadline, which is then what was seen.

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

/// A look that has seen nothing after this is given up. A source that cannot be reached is tried
/// for some five seconds before it says why.
const DEADLINE: Duration = Duration::from_secs(12);

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
        move || control::status(&state, None).ok()
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
        // Where there is no thread, the channel ends at once.
        let _ = sync::spawn("narfs-doctor", move || sender.send(look()));
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
