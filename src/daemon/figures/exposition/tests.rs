//! The grammar of the format, line by line, and what must hold between lines.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::*;
use crate::fetch::{Activity, FetcherTimes, FlightReport, OutcomeReport};
use crate::fuse::{RequestCounts, RequestTimes};
use crate::measure::Latencies;
use crate::store::Stored;
use crate::substituter::TrafficSnapshot;

/// A sample: the name of its family with the suffix, labels, value.
type Sample = (String, Vec<(String, String)>, f64);

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Takes `{name="value",…}` off the beginning.
fn labels(text: &str) -> (Vec<(String, String)>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else {
        return (Vec::new(), text);
    };
    let mut labels = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "{text}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c} in {text}"),
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end..];
        match rest.as_bytes()[0] {
            b',' => rest = &rest[1..],
            b'}' => return (labels, &rest[1..]),
            _ => panic!("{text}"),
        }
    }
}

/// Checks every line; the samples in their order.
fn check(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'));
    let (mut families, mut series) = (HashSet::new(), HashSet::new());
    let (mut family, mut kind) = ("", "");
    let mut samples = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(is_name(name) && name.starts_with("narfs_"), "{line}");
            assert!(help.ends_with('.') && !help.contains("  "), "{line}");
            assert!(families.insert(name.to_owned()), "{line}");
            let of_kind = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
            (family, kind) = of_kind.split_once(' ').unwrap();
            assert_eq!(family, name);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let name_end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(name_end);
        let (labels, value) = labels(rest);
        assert!(
            series.insert(line.rsplit_once(' ').unwrap().0.to_owned()),
            "{line}"
        );
        match name.strip_prefix(family).unwrap() {
            "" => assert_ne!(kind, "histogram", "{line}"),
            "_bucket" | "_sum" | "_count" => assert_eq!(kind, "histogram", "{line}"),
            _ => panic!("{line}"),
        }
        let value: f64 = value.strip_prefix(' ').unwrap().parse().unwrap();
        assert!(value.is_finite(), "{line}");
        samples.push((name.to_owned(), labels, value));
    }
    samples
}

fn source(url: &str, requests: u64) -> SourceReport {
    SourceReport {
        url: url.to_owned(),
        state: SourceState::Answers,
        priority: Some(40),
        traffic: Some(TrafficSnapshot {
            requests,
            found: requests,
            clock_ahead_s: Some(-3),
            ..TrafficSnapshot::default()
        }),
    }
}

/// Figures with something in every place.
fn full() -> FiguresReport {
    let latencies = Latencies::default();
    for micros in [1, 5, 5000, 100_000_000] {
        latencies.add(std::time::Duration::from_micros(micros));
    }
    let times = latencies.snapshot();
    FiguresReport {
        version: "0.1.0".into(),
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
