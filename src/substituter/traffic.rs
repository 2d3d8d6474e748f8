//! Counters of the requests to a source, from which its health is shown.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::measure::{Histogram, Latencies};
use crate::sync;

/// Weight of the last response in the average latency is one part in this many, as in TCP.
const AVERAGE_WEIGHT: u64 = 8;

/// Counters of one source. Times are in microseconds.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    found: AtomicU64,
    absent: AtomicU64,
    retries: AtomicU64,
    failures: AtomicU64,
    abandoned: AtomicU64,
    received_bytes: AtomicU64,
    /// Latency of the last response plus one; 0 before the first one.
    latency_last: AtomicU64,
    /// The moving average plus one; 0 before the first response.
    latency_average: AtomicU64,
    latencies: Latencies,
    /// Clock of the source minus the local clock, in seconds.
    clock_ahead: AtomicI64,
    /// Whether the source has sent a date.
    record_date: AtomicU64,
    last_failure: Mutex<Option<LastFailure>>,
}

/// [`Traffic`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficSnapshot {
    /// Requested files, each counted once, however many attempts it took.
    pub requests: u64,
    /// Of these, files that the source had.
    #[serde(default)]
    pub found: u64,
    /// Files that the source does not have.
    #[serde(default)]
    pub absent: u64,
    /// Retries and resumed transfers.
    pub retries: u64,
    /// Requests that failed for good. An absent file is not a failure.
    pub failures: u64,
    /// Requests that were dropped before their end, for example at a deadline.
    pub abandoned: u64,
    /// Bytes of response bodies.
    pub received_bytes: u64,
    /// Latency of the last response header, in microseconds; `None` before the first one.
    pub latency_last_us: Option<u64>,
    /// The moving average of the latency.
    pub latency_average_us: Option<u64>,
    /// Clock of the source minus the local clock, in seconds, if the source sends dates.
    #[serde(default)]
    pub clock_ahead_s: Option<i64>,
    /// The last request that failed for good.
    pub last_failure: Option<LastFailure>,
}

/// A failure, for display.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// The error, with passwords hidden.
    pub text: String,
    /// When, in seconds since 1970.
    pub time: u64,
}

impl Traffic {
    pub fn snapshot(&self) -> TrafficSnapshot {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        TrafficSnapshot {
            requests: get(&self.requests),
            found: get(&self.found),
            absent: get(&self.absent),
            retries: get(&self.retries),
            failures: get(&self.failures),
            abandoned: get(&self.abandoned),
            received_bytes: get(&self.received_bytes),
            latency_last_us: get(&self.latency_last).checked_sub(1),
            latency_average_us: get(&self.latency_average).checked_sub(1),
            clock_ahead_s: (get(&self.record_date) > 0)
                .then(|| self.clock_ahead.load(Ordering::Relaxed)),
            last_failure: self.last_failure().clone(),
        }
    }

    /// Latencies of the response headers.
    pub fn latencies(&self) -> Histogram {
        self.latencies.snapshot()
    }

    /// Records that the source sent `date`, `age` seconds ago. Some proxies update the date and
    /// some do not: the value nearer to our clock is used.
    pub(super) fn record_date(&self, date: SystemTime, age: u64) {
        let seconds = |time: SystemTime| match time.duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            Err(_) => 0,
        };
        let ahead = seconds(date).saturating_sub(seconds(SystemTime::now()));
        let aged = ahead.saturating_add(i64::try_from(age).unwrap_or(0));
        let ahead = if aged.unsigned_abs() < ahead.unsigned_abs() {
            aged
        } else {
            ahead
        };
        self.clock_ahead.store(ahead, Ordering::Relaxed);
        self.record_date.store(1, Ordering::Relaxed);
    }

    /// Counts a request, which ends with the returned value.
    pub(super) fn request(self: &Arc<Self>) -> Request {
        self.requests.fetch_add(1, Ordering::Relaxed);
        Request {
            traffic: self.clone(),
            over: false,
        }
    }

    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes
            .fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Records the arrival of a response header.
    pub(super) fn answered(&self, after: Duration) {
        self.latencies.add(after);
        let now = u64::try_from(after.as_micros()).unwrap_or(u64::MAX / AVERAGE_WEIGHT);
        self.latency_last.store(now + 1, Ordering::Relaxed);
        let average = |stored: u64| {
            Some(
                1 + match stored.checked_sub(1) {
                    None => now,
                    Some(old) => (old * (AVERAGE_WEIGHT - 1)).saturating_add(now) / AVERAGE_WEIGHT,
                },
            )
        };
        // The closure always returns a value, so the update cannot fail.
        let _ = self
            .latency_average
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, average);
    }

    fn last_failure(&self) -> std::sync::MutexGuard<'_, Option<LastFailure>> {
        sync::lock(&self.last_failure)
    }
}

/// A request in progress. Dropped before its end, it counts as abandoned.
#[derive(Debug)]
pub(super) struct Request {
    traffic: Arc<Traffic>,
    over: bool,
}

impl Request {
    /// The file was received.
    pub(super) fn succeeded(mut self) {
        self.over = true;
        self.traffic.found.fetch_add(1, Ordering::Relaxed);
    }

    /// The source does not have the file.
    pub(super) fn absent(mut self) {
        self.over = true;
        self.traffic.absent.fetch_add(1, Ordering::Relaxed);
    }

    /// The request failed for good.
    pub(super) fn failed(mut self, error: &dyn std::error::Error) {
        self.over = true;
        self.traffic.failures.fetch_add(1, Ordering::Relaxed);
        let mut text = error.to_string();
        if let Some(source) = error.source() {
            text = format!("{text}: {source}");
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let time = since.unwrap_or_default().as_secs();
        *self.traffic.last_failure() = Some(LastFailure { text, time });
    }

    /// Ends the request with its outcome; `None` means that the file is absent.
    pub(super) fn end_found<T, E: std::error::Error>(self, outcome: &Result<Option<T>, E>) {
        match outcome {
            Ok(None) => self.absent(),
            outcome => self.end(outcome),
        }
    }

    /// Ends the request with its outcome.
    pub(super) fn end<T, E: std::error::Error>(self, outcome: &Result<T, E>) {
        match outcome {
            Ok(_) => self.succeeded(),
            Err(e) => self.failed(e),
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if !self.over {
            self.traffic.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_ends_in_one_way() {
        let traffic = Arc::new(Traffic::default());
        assert_eq!(traffic.snapshot(), TrafficSnapshot::default());
        traffic.request().succeeded();
        traffic.request().end_found::<(), std::io::Error>(&Ok(None));
        traffic.request().failed(&std::io::Error::other("no luck"));
        drop(traffic.request());
        traffic.retried();
        traffic.received(7);
        let now = traffic.snapshot();
        let counts = (now.requests, now.failures, now.abandoned, now.retries);
        assert_eq!(counts, (4, 1, 1, 1));
        assert_eq!((now.found, now.absent), (1, 1));
        assert_eq!(now.received_bytes, 7);
        let failure = now.last_failure.as_ref().unwrap();
        assert_eq!(failure.text, "no luck");
        assert!(failure.time > 1_600_000_000);
        let json = serde_json::to_string(&now).unwrap();
        assert_eq!(serde_json::from_str::<TrafficSnapshot>(&json).unwrap(), now);
    }

    #[test]
    fn a_clock_is_judged_by_the_date_that_is_nearer() {
        let traffic = Traffic::default();
        let ahead = || traffic.snapshot().clock_ahead_s;
        assert_eq!(ahead(), None);
        let hour = Duration::from_secs(3600);
        let near = |is: i64, wanted: i64| (is - wanted).abs() <= 2;
        traffic.record_date(SystemTime::now() + hour, 0);
        assert!(near(ahead().unwrap(), 3600));
        // A cached response, and one whose date was updated by a proxy.
        traffic.record_date(SystemTime::now() - hour, 3600);
        assert!(near(ahead().unwrap(), 0));
        traffic.record_date(SystemTime::now(), 3600);
        assert!(near(ahead().unwrap(), 0));
        traffic.record_date(UNIX_EPOCH, 0);
        assert!(ahead().unwrap() < -1_600_000_000);
    }

    #[test]
    fn the_average_latency_follows_slowly() {
        let traffic = Traffic::default();
        let latencies = || {
            let now = traffic.snapshot();
            (now.latency_last_us, now.latency_average_us)
        };
        assert_eq!(latencies(), (None, None));
        traffic.answered(Duration::ZERO);
        assert_eq!(latencies(), (Some(0), Some(0)));
        traffic.answered(Duration::from_micros(800));
        assert_eq!(latencies(), (Some(800), Some(100)));
        traffic.answered(Duration::MAX);
        assert!(traffic.snapshot().latency_average_us.is_some());
        assert_eq!(traffic.latencies().count(), 3);
    }
}
