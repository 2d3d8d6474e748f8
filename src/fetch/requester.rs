//! The process that waits for a request, as the kernel names it.

/// SIGKILL in the masks of proc(5). A signal that ends the process is turned into it.
const KILL: u64 = 1 << (libc::SIGKILL - 1);

/// Who waits. A request that was taken holds its process, deaf to signals, until it is answered:
/// so whoever answers looks whether the process was killed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requester(Option<u32>);

impl Requester {
    /// The thread with this number in our namespace; 0 is one that cannot be seen from here.
    pub fn new(thread: u32) -> Self {
        Self((thread != 0).then_some(thread))
    }

    /// Whether it would end if it were let go.
    pub(super) fn is_killed(self) -> bool {
        let Some(thread) = self.0 else { return false };
        let status = std::fs::read_to_string(format!("/proc/{thread}/status"));
        status.is_ok_and(|s| kill_is_pending(&s))
    }
}

/// Reads `SigPnd` (the thread's) and `ShdPnd` (the process's) of a status file.
fn kill_is_pending(status: &str) -> bool {
    status.lines().any(|line| {
        let mask = line
            .strip_prefix("SigPnd:")
            .or_else(|| line.strip_prefix("ShdPnd:"));
        mask.and_then(|m| u64::from_str_radix(m.trim(), 16).ok())
            .is_some_and(|m| m & KILL != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pending_kill_counts() {
        let status = |own, shared| {
            format!("Name:\tcat\nSigPnd:\t{own:016x}\nShdPnd:\t{shared:016x}\nSigBlk:\t{KILL:x}\n")
        };
        assert!(kill_is_pending(&status(KILL, 0)));
        assert!(kill_is_pending(&status(2, KILL | 1)));
        assert!(!kill_is_pending(&status(2, 4)));
        assert!(!kill_is_pending("SigPnd:\tnonsense\n"));
        assert!(!Requester::new(std::process::id()).is_killed());
        assert!(!Requester::new(0).is_killed());
    }
}
