//! What was measured, for people and for programs.

use serde_json::{Value, json};

use super::{Contender, Course, Program, Sample, Way};
use crate::nix;
use crate::report::{Ratio, Section, Spread, mb, median, spread, table};
use crate::server::Sent;

const NAME: &str = "on-demand";

/// Processes for each CPU. The runs themselves make some one.
const BUSY: f64 = 1.5;

pub(super) fn not_measured(reason: &str) -> Section {
    Section {
        markdown: format!("### On demand\n\nNot measured: {reason}.\n"),
        data: json!({ "not_measured": reason }),
        ..Section::new(NAME)
    }
}

pub(super) fn section(
    courses: &[Course],
    program: &Program,
    traced: usize,
    rounds: u32,
    dropped: bool,
) -> Section {
    Section {
        markdown: markdown(courses, program, traced, rounds, dropped),
        data: data(courses, program, traced, dropped),
        input: format!(
            "{} store paths, {:.0} MB of NARs",
            program.closure.len(),
            mb(program.nar_bytes)
        ),
        ratios: courses.iter().flat_map(ratios).collect(),
        ..Section::new(NAME)
    }
}

impl Contender {
    fn median(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(of))
    }
}

#[expect(clippy::cast_precision_loss, reason = "few requests, few CPUs")]
fn count(number: usize) -> f64 {
    number as f64
}

/// Seconds of each way to those of `nix copy`.
fn ratios(course: &Course) -> Vec<Ratio> {
    let seconds = |contender: &Contender| -> Vec<f64> {
        contender.samples.iter().map(|s| s.seconds).collect()
    };
    let (nix, ways): (Vec<_>, Vec<_>) = course
        .contenders
        .iter()
        .partition(|contender| contender.way.is_nix());
    let copy = nix.iter().find(|c| c.way == Way::NixCopy);
    let ratio = |ours: &Contender| {
        Some(Ratio {
            row: format!("{}, {}", course.name, ours.way.name()),
            spread: Spread::of_ratios(&seconds(ours), &seconds(copy?))?,
        })
    };
    ways.into_iter().filter_map(ratio).collect()
}

/// A row for each way, with ratios to `nix copy`.
fn course_table(course: &Course) -> String {
    let of_nix = |ours: &Contender, of: &dyn Fn(&Sample) -> f64| {
        let nix = course.contenders.iter().find(|c| c.way == Way::NixCopy);
        match nix {
            Some(nix) if ours.way != Way::NixCopy => {
                format!("{:.2} ×", ours.median(of) / nix.median(of))
            }
            _ => String::new(),
        }
    };
    let head = [
        course.name.as_str(),
        "seconds",
        "of nix copy",
        "before it starts",
        "MB sent",
        "of nix copy",
        "MB in the end",
        "requests",
        "NARs",
    ];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for contender in &course.contenders {
        let seconds = |s: &Sample| s.seconds;
        let sent = |s: &Sample| mb(s.sent.bytes);
        rows.push(vec![
            contender.way.name().to_owned(),
            format!("{:.2}", contender.median(seconds)),
            of_nix(contender, &seconds),
            format!("{:.2}", contender.median(|s| s.start_seconds)),
            format!("{:.1}", contender.median(sent)),
            of_nix(contender, &sent),
            format!("{:.1}", contender.median(|s| mb(s.sent_in_all.bytes))),
            format!("{:.0}", contender.median(|s| count(s.sent_in_all.requests))),
            format!("{:.0}", contender.median(|s| count(s.sent_in_all.nars))),
        ]);
    }
    table(&rows)
}

fn samples(courses: &[Course]) -> impl Iterator<Item = &Sample> {
    let contenders = courses.iter().flat_map(|course| &course.contenders);
    contenders.flat_map(|contender| &contender.samples)
}

fn markdown(
    courses: &[Course],
    program: &Program,
    traced: usize,
    rounds: u32,
    dropped: bool,
) -> String {
    let tables: Vec<String> = courses.iter().map(course_table).collect();
    let contenders = || courses.iter().flat_map(|course| &course.contenders);
    let missing = if contenders().any(|c| c.way == Way::NixCopy) {
        String::new()
    } else {
        format!("\nNot measured: nix copy: {}.\n", nix::ABSENT)
    };
    let widest = |course: &Course| {
        let spreads = course
            .contenders
            .iter()
            .map(|c| spread(c.samples.iter().map(|s| s.seconds)));
        format!(
            "{:.0} % ({})",
            spreads.fold(0.0, f64::max) * 100.0,
            course.name
        )
    };
    let how = match rounds {
        1 => "One round".to_owned(),
        _ => format!(
            "Medians of {rounds} interleaved rounds, which lie within {} of them in seconds",
            courses.iter().map(widest).collect::<Vec<_>>().join(" and ")
        ),
    };
    let load = median(samples(courses).map(|s| s.load));
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let quiet = if load > BUSY * count(cpus) {
        ": **too much for the seconds to count; repeat this on a quiet machine**"
    } else {
        ""
    };
    let cold = if dropped {
        "the kernel's caches were dropped before each"
    } else {
        "the kernel's caches could not be dropped here"
    };
    let second = samples(courses)
        .filter_map(|s| s.second_fuse_requests)
        .max()
        .map_or(String::new(), |n| {
            format!(" and the kernel asked the daemon {n} times at most")
        });
    format!(
        "### On demand: {} from nothing, {} store paths with {:.0} MB of NARs behind HTTP\n\n{}{missing}\n\
         {how}; {cold} (programs and what the server sends are read back in), and the load of the machine \
         was {load:.1}{quiet}. The clock starts with an empty store or state, before `nix copy` or `narfs \
         mount`, and stops when the program has ended; nothing is synced. MB of 10^6 bytes and requests are \
         counted at the server, heads included: when the program had ended, and in the end, when nothing \
         more was fetched. narfs counted the same bytes of NARs in each run; a second run of the program \
         asked the server for nothing{second}. The trace names {traced} paths. The slow link is a proxy on \
         loopback: what goes one way shares one line, in turns, and arrives half a round trip later; a new \
         connection takes a round trip; nothing is lost, and TCP's slow start is not there.\n",
        Program::shown(),
        program.closure.len(),
        mb(program.nar_bytes),
        tables.join("\n"),
    )
}

fn data(courses: &[Course], program: &Program, traced: usize, dropped: bool) -> Value {
    let courses: serde_json::Map<_, _> = courses
        .iter()
        .map(|course| {
            let contenders: serde_json::Map<_, _> = course
                .contenders
                .iter()
                .map(|contender| {
                    let samples: Vec<_> = contender.samples.iter().map(sample).collect();
                    (contender.way.name().to_owned(), samples.into())
                })
                .collect();
            (course.name.clone(), contenders.into())
        })
        .collect();
    json!({
        "program": Program::shown(),
        "path": program.path,
        "paths": program.closure.len(),
        "nar_bytes": program.nar_bytes,
        "traced_paths": traced,
        "page_cache_dropped": dropped,
        "networks": courses,
    })
}

fn sample(s: &Sample) -> Value {
    let sent = |sent: &Sent| {
        json!({
            "requests": sent.requests,
            "nars": sent.nars,
            "bytes": sent.bytes,
            "nar_bytes": sent.nar_bytes,
        })
    };
    let since = |time: std::time::Instant| time.duration_since(s.began).as_secs_f64();
    let transfers: Vec<Value> = s
        .transfers
        .iter()
        .map(|t| {
            json!([
                since(t.started),
                t.ended.map(since),
                t.head_bytes + t.body_bytes,
                t.path
            ])
        })
        .collect();
    json!({
        "start_seconds": s.start_seconds,
        "seconds": s.seconds,
        "sent": sent(&s.sent),
        "sent_in_all": sent(&s.sent_in_all),
        "local_paths": s.paths,
        "second_run_fuse_requests": s.second_fuse_requests,
        "load": s.load,
        "requests_from_to_bytes_path": transfers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn contender(way: Way, seconds: f64, bytes: u64) -> Contender {
        let sent = Sent {
            requests: 3,
            nars: 1,
            bytes,
            nar_bytes: bytes,
        };
        let sample = Sample {
            start_seconds: 0.1,
            seconds,
            sent,
            sent_in_all: sent,
            transfers: Vec::new(),
            began: Instant::now(),
            paths: 1,
            second_fuse_requests: None,
            load: 0.0,
        };
        Contender {
            way,
            samples: vec![sample],
        }
    }

    #[test]
    fn ratios_are_to_nix_copy_over_the_same_network() {
        let course = Course {
            name: "loopback".into(),
            server: ([127, 0, 0, 1], 1).into(),
            contenders: vec![
                contender(Way::NixCopy, 4.0, 40_000_000),
                contender(Way::OnDemand, 1.0, 30_000_000),
            ],
        };
        let table = course_table(&course);
        let ours = table.lines().last().unwrap();
        assert!(ours.contains("0.25 ×") && ours.contains("0.75 ×"), "{ours}");
    }
}
