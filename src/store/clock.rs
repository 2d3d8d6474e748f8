//! The time, as records have it: since 1970. A clock from before counts as 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(super) fn since_1970() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or(Duration::ZERO)
}

pub(super) fn milliseconds() -> u64 {
    since_1970().as_millis() as u64
}

pub(super) fn seconds() -> u64 {
    since_1970().as_secs()
}
