//! Measurements: latency histograms that many threads update without locks, and an [`Allowance`] of
//! memory that many share.
//!
//! Invariant: counts never decrease, and a [`Histogram`] is consistent: its buckets add up to the
//! number of measurements.

mod allowance;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use allowance::{Allowance, Taken};

/// First bound: the kernel and two context switches alone take up to this long.
const FIRST_MICROS: u64 = 4;
/// Number of bounds, each twice the previous one. The last is 67 seconds, more than programs wait:
/// their timeout is 30 seconds by default.
const BOUNDS: usize = 25;

/// The inclusive upper bounds of the buckets, in microseconds. Longer times are in one more bucket.
pub fn bounds_micros() -> impl Iterator<Item = u64> {
    (0..BOUNDS).map(|at| FIRST_MICROS << at)
}

/// A latency histogram that is updated concurrently.
#[derive(Debug, Default)]
pub struct Latencies {
    buckets: [AtomicU64; BOUNDS + 1],
    /// In nanoseconds, which suffices for 580 years.
    sum: AtomicU64,
}

/// [`Latencies`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// Counts per bucket: by the bounds of [`bounds_micros`], and one more.
    pub buckets: Vec<u64>,
    /// Sum of all times, in nanoseconds.
    pub sum_nanos: u64,
}

/// The bucket of a time: up to 4 µs, up to 8 µs, …
fn bucket(time: Duration) -> usize {
    // Rounded up, since bounds are inclusive.
    let micros = time.as_nanos().div_ceil(1000);
    let doubled = micros.div_ceil(u128::from(FIRST_MICROS)).max(1);
    let at = u128::BITS - (doubled - 1).leading_zeros();
    (at as usize).min(BOUNDS)
}

impl Latencies {
    /// Counts a time, by two atomic additions.
    pub fn add(&self, time: Duration) {
        self.buckets[bucket(time)].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> Histogram {
        let buckets = self.buckets.iter().map(|n| n.load(Ordering::Relaxed));
        Histogram {
            buckets: buckets.collect(),
            sum_nanos: self.sum.load(Ordering::Relaxed),
        }
    }
}

impl Histogram {
    /// Number of measurements.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The measurements after `before`; all of them if `before` is of another process.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let earlier = |at| before.buckets.get(at).copied().unwrap_or(0);
        let pairs = self.buckets.iter().enumerate();
        let less: Option<Vec<_>> = pairs.map(|(at, n)| n.checked_sub(earlier(at))).collect();
        match (less, self.sum_nanos.checked_sub(before.sum_nanos)) {
            (Some(buckets), Some(sum_nanos)) => Self { buckets, sum_nanos },
            _ => self.clone(),
        }
    }

    /// The quantile `part`, between 0 and 1, as far as the buckets resolve it; `None` without
    /// measurements. Times beyond the last bound count as that bound.
    pub fn quantile(&self, part: f64) -> Option<Duration> {
        let count = self.count();
        let rank = (part * count as f64).max(1.0);
        let (mut below, mut lower) = (0.0, 0);
        for (n, upper) in self.buckets.iter().zip(bounds_micros()) {
            let n = *n as f64;
            if n > 0.0 && below + n >= rank {
                // Times are assumed to be evenly spread over a bucket.
                let within = (upper - lower) as f64 * (rank - below) / n;
                let micros = lower as f64 + within;
                return Some(Duration::from_secs_f64(micros / 1e6));
            }
            (below, lower) = (below + n, upper);
        }
        (count > 0).then(|| Duration::from_micros(lower))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_the_bucket_below_it() {
        assert_eq!(bucket(Duration::ZERO), 0);
        for (at, bound) in bounds_micros().enumerate() {
            let bound = Duration::from_micros(bound);
            assert_eq!(bucket(bound - Duration::from_nanos(1)), at);
            assert_eq!(bucket(bound), at);
            assert_eq!(bucket(bound + Duration::from_nanos(1)), at + 1);
        }
        assert_eq!(bucket(Duration::MAX), BOUNDS);
        assert_eq!(bounds_micros().last(), Some(67_108_864));
    }

    #[test]
    fn threads_lose_nothing() {
        let latencies = Latencies::default();
        std::thread::scope(|scope| {
            for thread in 1..=4 {
                let latencies = &latencies;
                scope.spawn(move || {
                    for _ in 0..1000 {
                        latencies.add(Duration::from_millis(thread));
                    }
                });
            }
        });
        let histogram = latencies.snapshot();
        assert_eq!(histogram.count(), 4000);
        assert_eq!(histogram.sum_nanos, 10_000 * 1_000_000);
    }

    #[test]
    fn quantiles_lie_within_their_buckets() {
        let latencies = Latencies::default();
        assert_eq!(latencies.snapshot().quantile(0.5), None);
        for _ in 0..99 {
            latencies.add(Duration::from_micros(10));
        }
        latencies.add(Duration::from_secs(1));
        let before = latencies.snapshot();
        let micros = |h: &Histogram, part| h.quantile(part).unwrap().as_micros();
        assert!((8..=16).contains(&micros(&before, 0.5)));
        assert!((8..=16).contains(&micros(&before, 0.99)));
        assert!((524_288..=1_048_576).contains(&micros(&before, 1.0)));
        latencies.add(Duration::from_secs(100));
        let now = latencies.snapshot();
        assert_eq!(now.since(&before).count(), 1);
        assert_eq!(micros(&now.since(&before), 0.5), 67_108_864);
        // Another process starts from zero.
        assert_eq!(before.since(&now), before);
    }
}
