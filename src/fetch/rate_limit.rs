//! Log lines that would come by the thousand: one now and then, with the number of those left out.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync;

/// Lets one through in each stretch of time.
#[derive(Debug)]
pub(super) struct RateLimit {
    every: Duration,
    last: Mutex<(Option<Instant>, u64)>,
}

impl RateLimit {
    pub(super) fn new(every: Duration) -> Self {
        Self {
            every,
            last: Mutex::default(),
        }
    }

    /// Whether to say it now, and how often it was not said since the last time.
    pub(super) fn say(&self) -> Option<u64> {
        let mut last = sync::lock(&self.last);
        let (when, unsaid) = &mut *last;
        if when.is_some_and(|w| w.elapsed() < self.every) {
            *unsaid += 1;
            return None;
        }
        *when = Some(Instant::now());
        Some(std::mem::take(unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_counted() {
        let every = Duration::from_secs(600);
        let limit = RateLimit::new(every);
        assert_eq!(limit.say(), Some(0));
        assert_eq!((limit.say(), limit.say()), (None, None));
        // As if that was long ago.
        sync::lock(&limit.last).0 = Instant::now().checked_sub(every);
        assert_eq!(limit.say(), Some(2));
        assert_eq!(limit.say(), None);
    }
}
