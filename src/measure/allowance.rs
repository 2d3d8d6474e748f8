//! A budget of memory shared by short-lived buffers.
//!
//! Invariants: what is taken is returned when its [`Taken`] is dropped; more than there is at all is given to
//! one who waited until nobody else had anything, so that one can always go on; and nobody who waits is
//! overtaken.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Interval between looks of who waits whether it is still wanted.
const LOOK: Duration = Duration::from_millis(200);

/// A budget of bytes, shared by all holders.
#[derive(Debug)]
pub struct Allowance {
    total: u64,
    /// What one alone may have.
    most: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    /// Numbers of those who wait, in their order.
    waiting: VecDeque<u64>,
    next: u64,
    /// Grows whenever a holder has come further.
    moved: u64,
}

/// A share of an [`Allowance`].
#[derive(Debug)]
pub struct Taken {
    from: Arc<Allowance>,
    bytes: u64,
}

impl Allowance {
    /// So many bytes for all together, and at `most` so many for one alone.
    pub fn new(total: u64, most: u64) -> Arc<Self> {
        Arc::new(Self {
            total,
            most,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    /// What one alone may have.
    pub fn most(&self) -> u64 {
        self.most
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Numbers alone, which are right between any two statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fits(&self, state: &State, bytes: u64) -> bool {
        state.taken == 0 || bytes <= self.total.saturating_sub(state.taken)
    }

    fn taken(self: &Arc<Self>, state: &mut State, bytes: u64) -> Taken {
        state.taken += bytes;
        let from = self.clone();
        Taken { from, bytes }
    }

    /// Takes a share, if enough is left and nobody waits.
    pub fn take(self: &Arc<Self>, bytes: u64) -> Option<Taken> {
        let mut state = self.state();
        let is_there =
            state.waiting.is_empty() && bytes <= self.total - state.taken.min(self.total);
        is_there.then(|| self.taken(&mut state, bytes))
    }

    /// Takes a share as soon as it is there. Blocks; calls `still` now and then, with whether somebody who
    /// has a share has come further meanwhile, and gives up with its error.
    ///
    /// # Errors
    /// That of `still`.
    pub fn wait<E>(
        self: &Arc<Self>,
        bytes: u64,
        mut still: impl FnMut(bool) -> Result<(), E>,
    ) -> Result<Taken, E> {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        state.waiting.push_back(number);
        let mut seen = state.moved;
        loop {
            if state.waiting.front() == Some(&number) && self.fits(&state, bytes) {
                break;
            }
            let waited = self.changed.wait_timeout(state, LOOK);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let has_moved = state.moved != seen;
            seen = state.moved;
            drop(state);
            let wanted = still(has_moved);
            state = self.state();
            if let Err(error) = wanted {
                self.leave(&mut state, number);
                return Err(error);
            }
        }
        self.leave(&mut state, number);
        Ok(self.taken(&mut state, bytes))
    }

    fn leave(&self, state: &mut State, number: u64) {
        state.waiting.retain(|waiting| *waiting != number);
        self.changed.notify_all();
    }

    /// Whether somebody waits for a share.
    pub fn is_wanted(&self) -> bool {
        !self.state().waiting.is_empty()
    }
}

impl Taken {
    /// Notes that its holder has come further.
    pub fn note_moved(&self) {
        self.from.state().moved += 1;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.from.state().taken -= self.bytes;
        self.from.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn what_is_given_back_can_be_taken_again() {
        let allowance = Allowance::new(100, 1000);
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

    #[test]
    fn those_who_wait_get_their_shares_and_never_more_than_there_is_but_for_one_alone() {
        let allowance = Allowance::new(100, 1000);
        let now = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for n in 0..24 {
                let bytes = [30, 100, 250][n % 3];
                let (allowance, now) = (&allowance, &now);
                scope.spawn(move || {
                    for _ in 0..20 {
                        let taken = allowance.wait(bytes, |_| Ok::<_, ()>(())).unwrap();
                        let together = now.fetch_add(bytes, Ordering::SeqCst) + bytes;
                        assert!(together <= 100 || together == bytes, "{together}");
                        std::thread::yield_now();
                        now.fetch_sub(bytes, Ordering::SeqCst);
                        drop(taken);
                    }
                });
            }
        });
        assert!(!allowance.is_wanted());
        assert!(allowance.take(100).is_some());
    }

    #[test]
    fn who_waits_is_not_overtaken_sees_others_come_further_and_can_give_up() {
        let allowance = Allowance::new(100, 1000);
        let held = allowance.take(10).unwrap();
        let (mut looks, mut moves) = (0, 0);
        let error = allowance.wait(1000, |has_moved| {
            assert!(allowance.is_wanted());
            assert!(allowance.take(1).is_none());
            held.note_moved();
            looks += 1;
            moves += usize::from(has_moved);
            if moves < 2 { Ok(()) } else { Err("enough") }
        });
        assert_eq!(error.unwrap_err(), "enough");
        assert!(looks >= 2);
        assert!(!allowance.is_wanted());
        assert!(allowance.take(90).is_some());
        drop(held);
        assert!(allowance.wait(1000, |_| Err("at once")).is_ok());
    }
}
