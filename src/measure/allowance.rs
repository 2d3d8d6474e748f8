//! A budget of memory shared by short-lived buffers.
//!
//! Invariant: what is taken is returned when its [`Taken`] is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A budget of bytes, shared by all holders.
#[derive(Debug)]
pub struct Allowance {
    left: AtomicU64,
}

/// A share of an [`Allowance`].
#[derive(Debug)]
pub struct Taken {
    from: Arc<Allowance>,
    bytes: u64,
}

impl Allowance {
    pub fn new(total: u64) -> Arc<Self> {
        let left = AtomicU64::new(total);
        Arc::new(Self { left })
    }

    /// Takes a share, if enough is left.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Taken> {
        let take = |left: u64| left.checked_sub(bytes);
        let order = Ordering::Relaxed;
        self.left.fetch_update(order, order, take).ok()?;
        let from = self.clone();
        Some(Taken { from, bytes })
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let allowance = Allowance::new(100);
        let first = allowance.take(60).unwrap();
        assert!(allowance.take(60).is_none());
        let second = allowance.take(40).unwrap();
        assert!(allowance.take(1).is_none());
        drop(first);
        assert!(allowance.take(60).is_some());
        drop(second);
        assert!(allowance.take(101).is_none());
        assert!(allowance.take(100).is_some());
    }
}
