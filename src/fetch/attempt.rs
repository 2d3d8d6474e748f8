//! The attempt to have a path from one source: how far it has come, how long it waited for the source, and
//! when it is to end.
//!
//! Invariant: the progress of a path grows only with what one of its attempts had not had before, however
//! often an attempt begins anew.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::progress::Progress;
use crate::measure::Taken;
use crate::sync;

/// Bytes a second that a source owes to all its transfers together, each its part: curl and Nix give up
/// below 1 byte/s, for 300 s; here another source is only asked beside.
const LEAST_RATE: u64 = 64 << 10;
/// Time of waiting for the source over which that is measured.
const WINDOW: Duration = Duration::from_secs(5);
/// Time for the first byte, after which another source is asked beside.
pub(super) const FIRST_BYTE: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub(super) struct Attempt {
    progress: Arc<Progress>,
    ended: watch::Sender<bool>,
    /// How far into the file, as it is sent, it has come.
    sent: AtomicU64,
    /// How far into the NAR.
    unpacked: AtomicU64,
    waits: Mutex<Waits>,
    /// Of its decoder.
    memory: Mutex<Option<Taken>>,
}

/// Time for which an attempt has waited for its source.
#[derive(Debug, Default)]
struct Waits {
    before: Duration,
    since: Option<Instant>,
}

impl Attempt {
    /// One that adds to the progress of a path.
    pub(super) fn new(progress: &Arc<Progress>) -> Arc<Self> {
        Arc::new(Self {
            progress: progress.clone(),
            ended: watch::channel(false).0,
            sent: AtomicU64::new(0),
            unpacked: AtomicU64::new(0),
            waits: Mutex::default(),
            memory: Mutex::default(),
        })
    }

    /// It is not wanted any more.
    pub(super) fn end(&self) {
        self.ended.send_replace(true);
    }

    /// Whether it is not wanted any more; true as soon as that is so.
    pub(super) fn ended(&self) -> watch::Receiver<bool> {
        self.ended.subscribe()
    }

    /// An error once it is not wanted any more.
    pub(super) fn check_wanted(&self) -> io::Result<()> {
        match *self.ended.borrow() || self.progress.stopped() {
            true => Err(io::Error::other("stopped")),
            false => Ok(()),
        }
    }

    /// Notes that so many bytes were sent, with which it is so far.
    pub(super) fn note_sent(&self, bytes: u64, at: u64) {
        let fetched = &self.progress.fetched_bytes;
        fetched.fetch_add(bytes, Ordering::Relaxed);
        self.advance(&self.sent, at);
    }

    /// Notes how much of the NAR there is.
    pub(super) fn note_unpacked(&self, at: u64) {
        let done = &self.progress.nar_bytes_done;
        done.fetch_max(at, Ordering::Relaxed);
        self.advance(&self.unpacked, at);
    }

    fn advance(&self, part: &AtomicU64, at: u64) {
        let before = part.fetch_max(at, Ordering::Relaxed);
        let advanced = &self.progress.advanced;
        advanced.fetch_add(at.saturating_sub(before), Ordering::Relaxed);
    }

    /// Whether nothing was sent so far.
    fn is_unanswered(&self) -> bool {
        self.sent.load(Ordering::Relaxed) == 0
    }

    /// Grows with all that arrives; what comes out of a decoder counts, too.
    fn arrived(&self) -> u64 {
        self.sent.load(Ordering::Relaxed) + self.unpacked.load(Ordering::Relaxed)
    }

    /// Counts the time that `wait` takes as waiting for the source.
    pub(super) fn waiting<T>(&self, wait: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        sync::lock(&self.waits).since = Some(began);
        let done = wait();
        let mut waits = sync::lock(&self.waits);
        waits.since = None;
        waits.before += began.elapsed();
        done
    }

    /// Holds memory for its decoder, until it is given back.
    pub(super) fn hold(&self, memory: Taken) {
        *sync::lock(&self.memory) = Some(memory);
    }

    /// Gives the memory back; the decoder waits for it when it is to go on.
    pub(super) fn give_back(&self) {
        sync::lock(&self.memory).take();
    }

    /// Whether it has its memory; if so, those who wait for it learn that it goes on.
    pub(super) fn note_moved(&self) -> bool {
        let memory = sync::lock(&self.memory);
        memory.as_ref().map(Taken::note_moved).is_some()
    }

    /// Notes, while it waits for its turn, whether that has come nearer.
    pub(super) fn note_turn(&self, has_moved: bool) {
        let advanced = &self.progress.advanced;
        advanced.fetch_add(u64::from(has_moved), Ordering::Relaxed);
    }

    fn waited(&self) -> Duration {
        let waits = sync::lock(&self.waits);
        waits.before + waits.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// What is thought of an attempt, from its looks.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Time and bytes at the beginning of the window.
    from: (Duration, u64),
    is_slow: bool,
    /// Whether the last window was below the least rate even if the source had no other transfer, and nobody
    /// has asked since.
    had_little: bool,
}

impl Pace {
    /// Whether it had little since this was asked last.
    pub(super) fn had_little(&mut self) -> bool {
        std::mem::take(&mut self.had_little)
    }

    /// Whether the attempt gets less than the least rate, of which so many `transfers` have their parts.
    pub(super) fn is_slow(&mut self, attempt: &Attempt, transfers: usize) -> bool {
        self.look(attempt.waited(), attempt.arrived(), transfers)
    }

    /// Whether the first byte is late.
    pub(super) fn is_late(attempt: &Attempt) -> bool {
        attempt.is_unanswered() && attempt.waited() >= FIRST_BYTE
    }

    fn look(&mut self, waited: Duration, arrived: u64, transfers: usize) -> bool {
        let (time, bytes) = (waited - self.from.0, arrived - self.from.1);
        if time >= WINDOW {
            let owed = LEAST_RATE * time.as_millis() as u64 / 1000;
            self.had_little = bytes < owed;
            self.is_slow = bytes < owed / transfers.max(1) as u64;
            self.from = (waited, arrived);
        }
        self.is_slow
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_what_an_attempt_had_not_had_before() {
        let progress: Arc<Progress> = Arc::default();
        let advanced = || progress.advanced.load(Ordering::Relaxed);
        let (first, second) = (Attempt::new(&progress), Attempt::new(&progress));
        first.note_sent(10, 10);
        assert_eq!(advanced(), 10);
        // Begun anew.
        first.note_sent(10, 10);
        assert_eq!(advanced(), 10);
        first.note_sent(5, 15);
        assert_eq!(advanced(), 15);
        // From another source it is new.
        second.note_sent(4, 4);
        assert_eq!(advanced(), 19);
        // So is what comes out of the decoder without anything being sent.
        second.note_unpacked(1000);
        assert_eq!(advanced(), 1019);
        first.note_unpacked(500);
        let seen = progress.snapshot();
        assert_eq!((seen.fetched_bytes, seen.nar_bytes_done), (29, 1000));
    }

    #[test]
    fn a_transfer_is_slow_below_its_part_of_the_least_rate() {
        let seconds = Duration::from_secs;
        let mut pace = Pace::default();
        // Nothing is said before the time is over.
        assert!(!pace.look(WINDOW - seconds(1), 0, 1));
        assert!(!pace.had_little());
        assert!(pace.look(WINDOW, 0, 1));
        assert!(pace.had_little() && !pace.had_little());
        assert!(pace.look(WINDOW + seconds(1), 1 << 30, 1));
        // It has recovered.
        assert!(!pace.look(WINDOW * 2, 1 << 30, 1));
        assert!(pace.look(WINDOW * 3, (1 << 30) + 5, 1));
        let part = LEAST_RATE * WINDOW.as_secs() / 16;
        let mut pace = Pace::default();
        assert!(!pace.look(WINDOW, part, 16));
        assert!(pace.had_little());
        assert!(pace.look(WINDOW * 2, 2 * part - 1, 16));
        // Time that the state takes is not the source's.
        assert!(!Pace::default().look(Duration::ZERO, 0, 1));
    }

    #[test]
    fn a_first_byte_is_late_while_the_source_is_waited_for() {
        let attempt = Attempt::new(&Arc::default());
        assert!(!Pace::is_late(&attempt));
        sync::lock(&attempt.waits).before = FIRST_BYTE;
        assert!(Pace::is_late(&attempt));
        attempt.note_sent(1, 1);
        assert!(!Pace::is_late(&attempt));
        sync::lock(&attempt.waits).before = Duration::ZERO;
        attempt.waiting(|| assert!(sync::lock(&attempt.waits).since.is_some()));
        assert!(sync::lock(&attempt.waits).since.is_none());
    }
}
