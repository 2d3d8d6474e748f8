//! The exposition, checked against the grammar of the format.

use std::collections::{BTreeMap, HashMap};

use self::grammar::check;
use super::*;
use crate::fetch::{Activity, FetcherTimes, FlightReport, OutcomeReport};
use crate::fuse::{RequestCounts, RequestTimes};
use crate::measure::Latencies;
use crate::store::Stored;
use crate::substituter::TrafficSnapshot;

#[path = "../../../tests/support/exposition.rs"]
mod grammar;

fn source(url: &str, requests: u64) -> SourceReport {
    SourceReport {
        url: url.to_owned(),
        state: SourceState::Answers,
        optional: false,
        priority: Some(40),
        traffic: Some(TrafficSnapshot {
            requests,
            found: requests,
            clock_ahead_s: Some(-3),
            ..TrafficSnapshot::default()
        }),
    }
}

/// A report in which every field is set.
fn full() -> FiguresReport {
    let latencies = Latencies::default();
    for micros in [1, 5, 5000, 100_000_000] {
        latencies.add(std::time::Duration::from_micros(micros));
    }
    let times = latencies.snapshot();
    FiguresReport {
        version: "0.2.0".into(),
        restarts: Some(2),
        requests: RequestCounts {
            requests: BTreeMap::from([("lookup".into(), 4), ("read".into(), 4)]),
            total: 8,
            forgets: 1,
        },
        times: RequestTimes {
            operations: BTreeMap::from([
                ("lookup".into(), times.clone()),
                ("read".into(), times.clone()),
            ]),
            waiting: 1,
            served_bytes: 4096,
        },
        activity: Activity {
            sources: vec![
                source("http://a/?x=\"\\\n", 3),
                source("http://b", 1),
                source("http://b", 2),
            ],
            fetches: vec![FlightReport {
                path: "x".into(),
                contents: true,
                urgent: true,
                waiting: 2,
                seconds: 0.5,
                progress: Default::default(),
            }],
            ..Activity::default()
        },
        fetcher: FetcherTimes {
            outcomes: vec![OutcomeReport {
                kind: "root".into(),
                purpose: "ahead".into(),
                result: "ok".into(),
                count: 1,
            }],
            times: vec![("root".into(), times.clone())],
            sources: vec![
                ("http://b".into(), times.clone()),
                ("http://b".into(), times),
            ],
        },
        stored: Some(Stored::default()),
        budget: Some(1),
        disk_free_bytes: Some(1),
        ..FiguresReport::default()
    }
}

#[test]
fn every_line_is_of_the_grammar_and_no_series_is_there_twice() {
    check(&FiguresReport::default().exposition());
    let samples = check(&full().exposition());
    let find = |name: &str, label: &str| {
        let found = samples.iter().find(|(n, labels, _)| {
            n == name && (label.is_empty() || labels.iter().any(|(_, value)| value == label))
        });
        found.unwrap_or_else(|| panic!("{name} {label}")).2
    };
    assert_eq!(find("narfs_restarts_total", ""), 2.0);
    assert_eq!(find("narfs_fuse_requests_total", "lookup"), 4.0);
    assert_eq!(find("narfs_source_up", "http://a/?x=\"\\\n"), 1.0);
    assert_eq!(find("narfs_source_clock_ahead_seconds", "http://b"), -3.0);
    assert_eq!(find("narfs_fetch_waiters", ""), 2.0);
}

#[test]
fn the_buckets_of_a_histogram_add_up_to_its_count() {
    let samples = check(&full().exposition());
    let mut buckets: HashMap<_, Vec<(f64, f64)>> = HashMap::new();
    for (name, labels, value) in &samples {
        if let Some(family) = name.strip_suffix("_bucket") {
            let (bound, labels) = labels.split_last().unwrap();
            assert_eq!(bound.0, "le");
            let bound = bound.1.replace("+Inf", "inf").parse().unwrap();
            let of_one = buckets.entry((family.to_owned(), labels.to_vec()));
            of_one.or_default().push((bound, *value));
        }
    }
    assert_eq!(buckets.len(), 4);
    for ((family, labels), buckets) in buckets {
        let rises = |w: &[(f64, f64)]| w[0].0 < w[1].0 && w[0].1 <= w[1].1;
        assert!(buckets.windows(2).all(rises), "{family}");
        let last = buckets.last().unwrap();
        assert_eq!(*last, (f64::INFINITY, 4.0));
        let find = |suffix: &str| {
            let name = format!("{family}{suffix}");
            samples
                .iter()
                .find(|s| s.0 == name && s.1 == labels)
                .unwrap()
                .2
        };
        assert_eq!(find("_count"), last.1);
        assert_eq!(find("_sum"), 100.005_006);
    }
}
