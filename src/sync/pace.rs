//! A rate at which something is done at most, however many ask for it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Turns that follow each other at a distance.
#[derive(Debug)]
pub struct Pace {
    every: Duration,
    next: Mutex<Option<Instant>>,
}

impl Pace {
    /// At most `per_second` turns a second.
    pub fn new(per_second: u32) -> Self {
        Self {
            every: Duration::from_secs(1) / per_second.max(1),
            next: Mutex::default(),
        }
    }

    /// Takes a turn, and says how long to wait for it; nothing, unless there were others just before.
    pub fn turn(&self) -> Duration {
        let now = Instant::now();
        let mut next = super::lock(&self.next);
        let turn = next.map_or(now, |next| next.max(now));
        *next = Some(turn + self.every);
        turn - now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_each_other_and_who_comes_alone_does_not_wait() {
        let pace = Pace::new(1);
        assert_eq!(pace.turn(), Duration::ZERO);
        let waits: Vec<_> = (0..5).map(|_| pace.turn()).collect();
        for (before, after) in waits.iter().zip(&waits[1..]) {
            // The second between two turns, less the time between the questions.
            assert!(*after <= *before + Duration::from_secs(1));
        }
        // As if that was long ago.
        *crate::sync::lock(&pace.next) = Instant::now().checked_sub(Duration::from_secs(9));
        assert_eq!(pace.turn(), Duration::ZERO);
    }
}
