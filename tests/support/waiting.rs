//! Waiting for what programs bring about.

use std::thread::sleep;
use std::time::{Duration, Instant};

/// Time for whatever a test waits for. A loaded machine takes long, and only a failure takes all of it.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until something is so.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        sleep(Duration::from_millis(10));
    }
}
