//! Whether a source answers: one state machine for each.
//!
//! Invariants: a source is opened once, and counts as away only if it has not answered anything since the
//! question that failed; whatever it answers ends that; while it is away, pauses between probes grow.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::error::FetchError;
use crate::substituter;

/// Pause before the first probe of a source that is away; doubled for each further one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between probes.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// What is known of a source.
#[derive(Clone, Debug)]
pub(super) enum State {
    /// Nothing was needed of it so far.
    NotAsked,
    /// It is asked what it is.
    Opening {
        since: Instant,
    },
    Answers,
    /// It did not answer a question, and is asked whether it is there.
    Doubted {
        since: Instant,
        error: Arc<FetchError>,
    },
    /// It does not answer, and is probed from time to time.
    Away {
        since: Instant,
        error: Arc<FetchError>,
    },
}

/// The state of a source, and what decides over the next one.
#[derive(Debug)]
pub(super) struct Condition {
    pub(super) state: State,
    /// The last time that it answered anything.
    answered: Option<Instant>,
    /// Changes whenever a task begins to look after it: only the last one goes on.
    turn: u64,
    /// Probes that have failed in a row.
    failed: u32,
}

impl Condition {
    fn new() -> Self {
        Self {
            state: State::NotAsked,
            answered: None,
            turn: 0,
            failed: 0,
        }
    }

    /// The turn in which the caller has to open it, if nobody has.
    fn open(&mut self, now: Instant) -> Option<u64> {
        if !matches!(self.state, State::NotAsked) {
            return None;
        }
        self.state = State::Opening { since: now };
        self.turn += 1;
        Some(self.turn)
    }

    /// It has answered. Returns whether its state has changed.
    fn note_answer(&mut self, now: Instant) -> bool {
        self.answered = Some(now);
        self.failed = 0;
        let changes = !matches!(self.state, State::Answers);
        self.state = State::Answers;
        changes
    }

    /// It has not answered a question of the time `asked`. Returns the turn in which the caller has to ask
    /// whether it is there: something else may have been wrong with that question.
    fn note_silence(
        &mut self,
        asked: Instant,
        now: Instant,
        error: &Arc<FetchError>,
    ) -> Option<u64> {
        let has_answered = self.answered.is_some_and(|answered| answered >= asked);
        if has_answered || !matches!(self.state, State::Answers) {
            return None;
        }
        let (since, error) = (now, error.clone());
        self.state = State::Doubted { since, error };
        self.turn += 1;
        Some(self.turn)
    }

    /// It could not be opened, or has not answered a probe. Returns the pause before the next probe, or
    /// `None` if another turn has begun or ended meanwhile.
    fn note_failed_probe(
        &mut self,
        turn: u64,
        now: Instant,
        error: &Arc<FetchError>,
    ) -> Option<Duration> {
        if self.is_over(turn) {
            return None;
        }
        let since = match self.state {
            State::Opening { since } | State::Doubted { since, .. } | State::Away { since, .. } => {
                since
            }
            State::NotAsked | State::Answers => now,
        };
        let error = error.clone();
        self.state = State::Away { since, error };
        let pause = FIRST_PAUSE.saturating_mul(1 << self.failed.min(16));
        self.failed += 1;
        Some(pause.min(LONGEST_PAUSE))
    }

    fn is_over(&self, turn: u64) -> bool {
        self.turn != turn || matches!(self.state, State::Answers)
    }
}

/// Who is told that a source is away.
#[derive(Clone, Copy, Debug)]
pub(super) enum Told {
    /// The command, whose report names it where something is missing for that.
    Command,
    /// The log.
    Log,
    /// The log, once for all that is not found.
    LogOfOptional,
}

/// The condition of a source, shared by all who use it.
#[derive(Debug)]
pub(super) struct Health {
    /// The URL as it may be shown.
    shown: String,
    /// Who is told that it is away.
    told: Told,
    condition: watch::Sender<Condition>,
    /// Whether the log says that it is away.
    is_logged: AtomicBool,
}

impl Health {
    pub(super) fn new(shown: &str, told: Told) -> Self {
        Self {
            shown: shown.to_owned(),
            told,
            condition: watch::Sender::new(Condition::new()),
            is_logged: AtomicBool::new(false),
        }
    }

    pub(super) fn state(&self) -> State {
        self.condition.borrow().state.clone()
    }

    /// The turn in which the caller has to open it, if nobody has.
    pub(super) fn open(&self) -> Option<u64> {
        if !matches!(self.condition.borrow().state, State::NotAsked) {
            return None;
        }
        self.change(|condition| condition.open(Instant::now()))
    }

    /// Notes that it has answered.
    pub(super) fn answered(&self) {
        let now = Instant::now();
        self.condition.send_if_modified(|c| c.note_answer(now));
        if self.is_logged.load(Ordering::Relaxed) && self.is_logged.swap(false, Ordering::Relaxed) {
            tracing::info!(source = self.shown, "a source answers again");
        }
    }

    /// Notes that a question of the time `asked` was not answered. Returns the turn in which the caller has
    /// to ask whether it is there.
    pub(super) fn silent(&self, asked: Instant, error: &Arc<FetchError>) -> Option<u64> {
        self.change(|condition| condition.note_silence(asked, Instant::now(), error))
    }

    /// Notes that it could not be opened, or has not answered a probe. Returns the pause before the next
    /// probe, of which a part is random, or `None` if that is not for the caller any more.
    pub(super) fn failed_probe(&self, turn: u64, error: &Arc<FetchError>) -> Option<Duration> {
        if self.condition.borrow().is_over(turn) {
            return None;
        }
        // Before those who wait are told.
        self.log_away(error);
        let pause = self.change(|c| c.note_failed_probe(turn, Instant::now(), error))?;
        Some(substituter::spread(pause))
    }

    /// Logs that it is away, once until it answers.
    pub(super) fn log_away(&self, error: &FetchError) {
        if self.is_logged.swap(true, Ordering::Relaxed) {
            return;
        }
        let source = &self.shown;
        match self.told {
            Told::Command => tracing::info!(source, "a source is away: {error}"),
            Told::Log => tracing::warn!(source, "a source is away: {error}"),
            Told::LogOfOptional => tracing::warn!(
                source,
                "an optional source cannot be reached, and what only it has is not found: {error}"
            ),
        }
    }

    /// Returns after a pause, or at once when the turn is over; whether it goes on.
    pub(super) async fn pause(&self, turn: u64, pause: Duration) -> bool {
        let mut condition = self.condition.subscribe();
        let over = condition.wait_for(|condition| condition.is_over(turn));
        tokio::time::timeout(pause, over).await.is_err()
    }

    /// Waits until it has been opened or looked for, at most for so long.
    pub(super) async fn settled(&self, patience: Duration) {
        let mut condition = self.condition.subscribe();
        let settled =
            condition.wait_for(|c| matches!(c.state, State::Answers | State::Away { .. }));
        // The caller looks at the state, whatever it is by then.
        let _ = tokio::time::timeout(patience, settled).await;
    }

    fn change<T>(&self, change: impl FnOnce(&mut Condition) -> Option<T>) -> Option<T> {
        let mut done = None;
        self.condition.send_if_modified(|condition| {
            done = change(condition);
            done.is_some()
        });
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error() -> Arc<FetchError> {
        Arc::new(FetchError::Stopped)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_source_is_opened_once_and_probed_with_growing_pauses_until_it_answers() {
        let (mut condition, start) = (Condition::new(), Instant::now());
        let turn = condition.open(start).unwrap();
        assert_eq!(condition.open(start + SECOND), None);
        let mut now = start + 10 * SECOND;
        let mut pauses = Vec::new();
        for _ in 0..9 {
            let pause = condition.note_failed_probe(turn, now, &error()).unwrap();
            pauses.push(pause.as_secs());
            now += pause;
            // Since it was first asked.
            assert!(matches!(condition.state, State::Away { since, .. } if since == start));
            assert_eq!(condition.open(now), None);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert!(condition.note_answer(now));
        assert!(matches!(condition.state, State::Answers));
        // The probe that was on its way meanwhile says nothing.
        assert_eq!(condition.note_failed_probe(turn, now, &error()), None);
        assert!(matches!(condition.state, State::Answers));
    }

    #[test]
    fn only_a_source_that_has_answered_nothing_since_the_question_is_doubted() {
        let (mut condition, start) = (Condition::new(), Instant::now());
        condition.open(start);
        condition.note_answer(start);
        let asked = start + SECOND;
        // Another question was answered meanwhile.
        assert!(!condition.note_answer(asked + SECOND));
        assert_eq!(
            condition.note_silence(asked, asked + 2 * SECOND, &error()),
            None
        );
        assert!(matches!(condition.state, State::Answers));
        let asked = start + 10 * SECOND;
        let turn = condition.note_silence(asked, asked + SECOND, &error());
        let turn = turn.unwrap();
        assert!(matches!(condition.state, State::Doubted { .. }));
        // Others that failed with it begin no second look.
        assert_eq!(
            condition.note_silence(asked, asked + SECOND, &error()),
            None
        );
        // It was there: the next failure is looked at anew, with the shortest pause again.
        assert!(condition.note_answer(asked + 2 * SECOND));
        let asked = start + 20 * SECOND;
        let next = condition.note_silence(asked, asked + SECOND, &error());
        assert_ne!(next.unwrap(), turn);
        let pause = condition.note_failed_probe(next.unwrap(), asked + 2 * SECOND, &error());
        assert_eq!(pause, Some(FIRST_PAUSE));
    }
}
