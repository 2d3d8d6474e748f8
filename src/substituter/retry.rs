//! The retry policy of all requests to sources.
//!
//! Invariants: attempts and waits are bounded, whatever a server says; waits are random, so that
//! requests that failed together are not retried together; and a source that asks for a delay gets
//! it from all requests, not only from the one that was refused.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use crate::sync;

/// Attempts for one request without progress, including the first; as in Nix.
const MAX_ATTEMPTS: u32 = 5;
/// Average wait before the second attempt; doubled for each further one. As in Nix.
const FIRST_WAIT: Duration = Duration::from_millis(250);
/// Upper limit of the wait and of `Retry-After`, since programs are waiting.
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Bytes of a body that reset the count of attempts. A server that disconnects after every few
/// bytes is not worth a new connection for each of them.
pub(super) const PROGRESS: u64 = 64 << 10;

/// The attempts of one request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Retries {
    failures: u32,
}

impl Retries {
    /// Counts a failed attempt. Returns the wait before the next one; `None` if there were enough.
    pub fn failed(&mut self) -> Option<Duration> {
        self.failures += 1;
        (self.failures < MAX_ATTEMPTS).then(|| backoff(self.failures, random()))
    }

    /// Failed attempts since the last progress.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The last attempt made progress: the count starts again.
    pub(super) fn progressed(&mut self) {
        self.failures = 0;
    }
}

/// Between a half and one and a half of the exponential back-off after so many failures.
fn backoff(failures: u32, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(16);
    let wait = FIRST_WAIT.saturating_mul(1 << doublings).min(LONGEST_WAIT);
    (wait / 2 + part(wait, random)).min(LONGEST_WAIT)
}

/// Between a half and one and a half of a pause, so that those who failed together do not try again together.
pub fn spread(pause: Duration) -> Duration {
    pause / 2 + part(pause, random())
}

/// A random part of a duration of at most some hours.
fn part(whole: Duration, random: u64) -> Duration {
    let nanoseconds = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(random % nanoseconds.max(1))
}

/// Good enough to spread requests in time: the keys of a new hasher are random.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// Whether the server may answer differently later.
pub(super) fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 429) || (status >= 500 && !matches!(status, 501 | 505 | 511))
}

/// Parses `Retry-After`, in seconds or as a date. `date` is the clock of the server, if known: only
/// the difference counts.
pub(super) fn retry_after(value: &str, date: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let now = date.and_then(|d| httpdate::parse_http_date(d.trim()).ok());
    let now = now.unwrap_or_else(SystemTime::now);
    // A date in the past asks for nothing beyond the back-off.
    Some(until.duration_since(now).unwrap_or_default())
}

/// How much of a requested delay is honoured.
pub(super) fn honoured(requested: Duration) -> Duration {
    requested.min(LONGEST_WAIT)
}

/// A gate before all requests to one source, closed while the source asks for a delay.
#[derive(Debug, Default)]
pub(super) struct Gate {
    closed_until: Mutex<Option<Instant>>,
}

impl Gate {
    /// Delays all requests by as much as a server asks for.
    pub(super) fn close_for(&self, requested: Duration) {
        let until = Instant::now() + honoured(requested);
        let mut closed = self.lock();
        *closed = (*closed).max(Some(until));
    }

    /// Waits until the gate is open. Bounded: a server cannot delay a request for ever by repeated
    /// refusals of others.
    pub(super) async fn pass(&self) {
        let deadline = Instant::now() + LONGEST_WAIT;
        while let Some(until) = self.closed() {
            // Requests that waited together are spread again.
            let until = until.min(deadline) + part(FIRST_WAIT, random());
            tokio::time::sleep_until(until.into()).await;
            if until >= deadline {
                return;
            }
        }
    }

    /// When the gate opens, if it is closed.
    fn closed(&self) -> Option<Instant> {
        let mut closed = self.lock();
        *closed = closed.filter(|until| *until > Instant::now());
        *closed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        sync::lock(&self.closed_until)
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    fn seconds(n: u64) -> Option<Duration> {
        Some(Duration::from_secs(n))
    }

    #[test]
    fn waits_grow_are_spread_and_stay_bounded() {
        for failures in 1..40 {
            let (least, most) = (backoff(failures, 0), backoff(failures, u64::MAX));
            let middle = FIRST_WAIT * 2u32.saturating_pow(failures - 1).min(1 << 16);
            assert_eq!(least, middle.min(LONGEST_WAIT) / 2);
            assert!(
                most >= least && most <= LONGEST_WAIT,
                "{failures}: {most:?}"
            );
        }
        assert!((0..20).any(|_| backoff(1, random()) != backoff(1, random())));
    }

    #[test]
    fn a_request_is_tried_five_times_and_anew_after_progress() {
        let mut retries = Retries::default();
        let waits = std::iter::from_fn(|| retries.failed()).count();
        assert_eq!(waits, 4);
        assert_eq!(retries.failed(), None);
        retries.progressed();
        assert_eq!(retries.failures(), 0);
        assert!(retries.failed().is_some());
    }

    #[test]
    fn status_codes_are_final_or_not_as_in_nix() {
        let again = [408, 429, 500, 502, 503, 504, 520, 599];
        let not = [200, 302, 400, 401, 403, 404, 407, 410, 416, 501, 505, 511];
        assert!(again.into_iter().all(is_transient));
        assert!(!not.into_iter().any(is_transient));
    }

    #[test]
    fn retry_after_is_read_in_seconds() {
        assert_eq!(retry_after(" 7 ", None), seconds(7));
        assert_eq!(retry_after("0", None), seconds(0));
        let endless = retry_after("99999999999999999999999", None).unwrap();
        assert_eq!(honoured(endless), LONGEST_WAIT);
        for nonsense in ["", "-1", "soon", "1.5", "7 s"] {
            assert_eq!(retry_after(nonsense, None), None, "{nonsense}");
        }
    }

    #[test]
    fn retry_after_is_read_as_a_date_by_the_clock_of_the_server() {
        let date = "Wed, 21 Oct 2015 07:28:00 GMT";
        let clock = |d| retry_after(date, Some(d));
        assert_eq!(clock("Wed, 21 Oct 2015 07:27:45 GMT"), seconds(15));
        assert_eq!(clock("Wed, 21 Oct 2015 07:28:45 GMT"), seconds(0));
        assert_eq!(clock("Wednesday, 21-Oct-15 07:27:00 GMT"), seconds(60));
        // Without a clock of the server, ours is used.
        assert_eq!(retry_after(date, None), seconds(0));
        let now = SystemTime::now();
        let soon = httpdate::fmt_http_date(now + Duration::from_secs(20));
        let wait = retry_after(&soon, Some("what?")).unwrap();
        // Dates have whole seconds.
        let least = Duration::from_secs(19).saturating_sub(now.elapsed().unwrap());
        assert!(wait >= least && wait <= Duration::from_secs(20));
    }

    #[test]
    fn a_closed_gate_keeps_everyone_back_until_it_opens() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        let gate = Gate::default();
        let is_open = || {
            runtime.block_on(async {
                let pass = std::pin::pin!(gate.pass());
                let mut context = Context::from_waker(Waker::noop());
                pass.poll(&mut context).is_ready()
            })
        };
        assert!(is_open());
        gate.close_for(Duration::from_secs(20));
        assert!(!is_open());
        let gate = Gate::default();
        let closed = Instant::now();
        gate.close_for(Duration::from_millis(300));
        // A shorter delay does not open the gate earlier.
        gate.close_for(Duration::from_millis(1));
        runtime.block_on(gate.pass());
        assert!(closed.elapsed() >= Duration::from_millis(300));
        assert_eq!(gate.closed(), None);
        gate.close_for(Duration::MAX);
        assert!(gate.closed().unwrap() <= Instant::now() + LONGEST_WAIT);
    }
}
