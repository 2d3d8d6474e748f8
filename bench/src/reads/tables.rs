//! What was measured, for people and for programs.

use serde_json::{Map, Value, json};

use super::rows::{Contents, FAULTS, PICKED, READS, Row, SMALL};
use super::{Contender, Measured, NARFS, NATIVE, PASSES, Sample};
use crate::chart;
use crate::program::Program;
use crate::report::{Ratio, Section, Spread, mb, table};

const NAME: &str = "reads";

/// Processes for each CPU. The runs themselves make some one.
const BUSY: f64 = 1.5;

pub(super) fn not_measured(reason: &str) -> Section {
    Section {
        markdown: format!("### Reads\n\nNot measured: {reason}.\n"),
        data: json!({ "not_measured": reason }),
        ..Section::new(NAME)
    }
}

pub(super) fn section(measured: &Measured) -> Section {
    Section {
        markdown: markdown(measured),
        data: data(measured),
        input: measured.input.clone(),
        ratios: ratios(measured),
        chart: Some(drawn(measured)),
        ..Section::new(NAME)
    }
}

impl Measured {
    fn seconds(&self, contender: usize, line: usize) -> Vec<f64> {
        let samples = &self.contenders[contender].samples[line];
        samples.iter().map(|sample| sample.seconds).collect()
    }

    /// Of the rounds, each to the native copy in the same round.
    fn ratio(&self, contender: usize, line: usize) -> Option<Spread> {
        Spread::of_ratios(&self.seconds(contender, line), &self.seconds(NATIVE, line))
    }

    /// All but the native copy, narfs first.
    fn others(&self) -> impl Iterator<Item = (usize, &Contender)> {
        let measured = self.contenders.iter().enumerate().skip(NARFS);
        measured.filter(|(_, contender)| contender.base.is_ok())
    }
}

/// Requests of the kernel in a round, all operations together; the middle one of the rounds.
fn requests(samples: &[Sample]) -> Option<Spread> {
    let counts = samples.iter().filter_map(|sample| sample.requests.as_ref());
    let counts: Vec<f64> = counts
        .map(|by_operation| count(by_operation.values().sum()))
        .collect();
    Spread::of(&counts)
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 requests")]
fn count(requests: u64) -> f64 {
    requests as f64
}

fn ratios(measured: &Measured) -> Vec<Ratio> {
    let lines = measured.lines.iter().enumerate();
    lines
        .filter_map(|(i, line)| {
            let spread = measured.ratio(NARFS, i)?;
            Some(Ratio {
                row: line.name(),
                spread,
            })
        })
        .collect()
}

fn drawn(measured: &Measured) -> String {
    let names: Vec<&str> = measured
        .others()
        .map(|(_, contender)| contender.name.as_str())
        .collect();
    let groups: Vec<(String, Vec<Option<Spread>>)> = measured
        .lines
        .iter()
        .enumerate()
        .map(|(i, line)| {
            let bars = measured
                .others()
                .map(|(contender, _)| measured.ratio(contender, i));
            (line.name(), bars.collect())
        })
        .collect();
    let title = format!(
        "Seconds of reads, as a part of those of the {}",
        measured.contenders[NATIVE].name
    );
    chart::bars(&title, &names, &groups)
}

fn milliseconds(spread: Option<Spread>) -> String {
    spread.map_or("not measured".into(), |spread| {
        let decimals = match spread.middle * 1e3 {
            ms if ms < 10.0 => 2,
            ms if ms < 100.0 => 1,
            _ => 0,
        };
        let ms = |seconds: f64| format!("{:.decimals$}", seconds * 1e3);
        format!(
            "{} ({}–{})",
            ms(spread.middle),
            ms(spread.low),
            ms(spread.high)
        )
    })
}

fn cells(measured: &Measured, line: usize) -> Vec<String> {
    let seconds = |contender| milliseconds(Spread::of(&measured.seconds(contender, line)));
    let asked = requests(&measured.contenders[NARFS].samples[line]);
    let mut cells = vec![
        measured.lines[line].name(),
        seconds(NATIVE),
        seconds(NARFS),
        asked.map_or(String::new(), |asked| match asked {
            Spread { low, high, .. } if low < high => {
                format!("{:.0} ({low:.0}–{high:.0})", asked.middle)
            }
            _ => format!("{:.0}", asked.middle),
        }),
    ];
    cells.extend(measured.others().map(|(contender, _)| {
        let ratio = measured.ratio(contender, line);
        ratio.map_or("not measured".into(), |ratio| ratio.to_string())
    }));
    cells
}

fn markdown(measured: &Measured) -> String {
    let native = &measured.contenders[NATIVE].name;
    let mut head = vec![
        String::new(),
        format!("{native}: ms"),
        "narfs: ms".into(),
        "requests".into(),
    ];
    head.extend(
        measured
            .others()
            .map(|(_, contender)| format!("{} is", contender.name)),
    );
    let rows = (0..measured.lines.len()).map(|line| cells(measured, line));
    let table = table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
    format!(
        "### Reads: {}\n\n{table}{}\n{}",
        measured.input,
        missing(measured),
        conditions(measured)
    )
}

/// Who is missing, and why.
fn missing(measured: &Measured) -> String {
    let peers = measured.contenders.iter().filter_map(|contender| {
        let reason = contender.base.as_ref().err()?;
        Some(format!("\nNot measured: {}: {reason}.\n", contender.name))
    });
    let mut lines: Vec<String> = peers.collect();
    if measured.program.is_none() {
        lines.push(format!(
            "\nNot measured: {}: the binary cache has no python3 that can import json, ssl and sqlite3.\n",
            Row::Python.name()
        ));
    }
    lines.concat()
}

fn conditions(measured: &Measured) -> String {
    let native = &measured.contenders[NATIVE].name;
    let how = match measured.rounds {
        1 => "One round".to_owned(),
        rounds => format!(
            "Medians (smallest–largest) of {rounds} interleaved rounds, every other one in the reverse order"
        ),
    };
    let cold = if measured.dropped {
        "Cold: the kernel's page cache, entries and inodes are dropped; before that, images and narfs \
         are mounted anew, narfs with another daemon"
    } else {
        "The kernel's caches could **not** be dropped here: what is called cold is only mounted anew"
    };
    let cpus = u32::try_from(std::thread::available_parallelism().map_or(1, usize::from));
    let quiet = if measured.load > BUSY * cpus.map_or(1.0, f64::from) {
        ": **too much for the seconds to count; repeat this on a quiet machine**"
    } else {
        ""
    };
    let kept: Vec<String> = measured
        .contenders
        .iter()
        .filter(|contender| contender.base.is_ok())
        .map(|contender| format!("{} {:.0}", contender.name, mb(contender.disk_bytes)))
        .collect();
    let foreign = match native.as_str() {
        "ext4 copy" => "",
        _ => " **The native copy does not lie on ext4.**",
    };
    format!(
        "{how}. A ratio is that of the seconds of a round to those of the {native} in the same round; \
         below 1 is faster.{foreign} The load of the machine was {:.1}{quiet}. {cold}. Warm: the median \
         of {PASSES} passes, after one that nobody counts. Requests are those of the kernel to the \
         daemon in a round, of all {PASSES} passes where warm, without FORGET and INTERRUPT. All saw the \
         same names, sizes and bytes.\n\n\
         {}\n\n\
         What is random is the same for all in a round, and in every run. The images lie beside the copy \
         and the state, on loop devices. MB on disk: {}.\n",
        measured.load,
        legend(&measured.contents),
        kept.join(", ")
    )
}

/// What the rows are.
fn legend(contents: &Contents) -> String {
    let [cold_reads, warm_reads] = READS;
    let [cold_faults, warm_faults] = FAULTS;
    let large = contents.large.file_name().unwrap_or_default();
    format!(
        "`find` lists every name; stat, open and close, and readlink take up to {PICKED} random entries, \
         files and links. Small files are {} of those of up to {} KiB, neighbours from a random one on, \
         each opened and read. Everything is each file of the store, by threads that take a store path \
         after the other. The rest is done with {}, {:.1} MB: sequential reads of 128 KiB, {cold_reads} \
         random reads (warm {warm_reads}), and a byte of {cold_faults} random pages of a new mapping \
         (warm {warm_faults}). Python start is `{}`, its store at /nix.",
        contents.small.len().min(PICKED),
        SMALL >> 10,
        large.to_string_lossy(),
        mb(contents.large_bytes),
        Program::shown(),
    )
}

fn data(measured: &Measured) -> Value {
    let sample = |sample: &Sample| {
        let mut data = json!({
            "seconds": sample.seconds,
            "things": sample.seen.things,
            "bytes": sample.seen.bytes,
        });
        if let Some(requests) = &sample.requests {
            data["requests"] = json!(requests);
        }
        data
    };
    let contender = |contender: &Contender| match &contender.base {
        Err(reason) => json!({ "not_measured": reason }),
        Ok(_) => {
            let lines = measured.lines.iter().zip(&contender.samples);
            let lines: Map<_, _> = lines
                .map(|(line, samples)| (line.name(), samples.iter().map(sample).collect()))
                .collect();
            json!({ "disk_bytes": contender.disk_bytes, "rows": lines })
        }
    };
    let contenders: Map<_, _> = measured
        .contenders
        .iter()
        .map(|each| (each.name.clone(), contender(each)))
        .collect();
    let ratios: Map<_, _> = measured
        .others()
        .map(|(i, each)| (each.name.clone(), of_lines(measured, i)))
        .collect();
    json!({
        "page_cache_dropped": measured.dropped,
        "load": measured.load,
        "passes_of_a_warm_row": PASSES,
        "large_file": measured.contents.large,
        "large_file_bytes": measured.contents.large_bytes,
        "contenders": contenders,
        "ratios_to": measured.contenders[NATIVE].name,
        "ratios": ratios,
    })
}

/// The ratios of a contender.
fn of_lines(measured: &Measured, contender: usize) -> Value {
    let lines = measured.lines.iter().enumerate();
    let ratios =
        lines.filter_map(|(i, line)| Some((line.name(), measured.ratio(contender, i)?.data())));
    Value::Object(ratios.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reads::rows::Seen;
    use crate::reads::{Line, since};
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    fn contender(name: &str, seconds: [f64; 3], requests: Option<u64>) -> Contender {
        let mut contender = Contender::new(name.to_owned(), 5_000_000, Ok(PathBuf::from("/x")));
        for samples in contender.samples.iter_mut().take(2) {
            samples.extend(seconds.map(|seconds| Sample {
                seconds,
                seen: Seen::default(),
                requests: requests.map(|count| BTreeMap::from([("lookup".to_owned(), count)])),
            }));
        }
        contender
    }

    fn measured() -> Measured {
        let missing = Contender::new("EROFS zstd".into(), 0, Err("no mkfs.erofs".into()));
        Measured {
            lines: Line::all(),
            contenders: vec![
                contender("ext4 copy", [2.0, 4.0, 2.0], None),
                contender("narfs", [1.0, 2.0, 2.0], Some(17)),
                missing,
                contender("squashfs zstd", [6.0, 8.0, 4.0], None),
            ],
            contents: Contents::default(),
            program: None,
            rounds: 3,
            dropped: true,
            load: 0.5,
            input: "46 store paths".into(),
        }
    }

    #[test]
    fn a_row_has_seconds_requests_and_ratios_of_rounds() {
        let section = section(&measured());
        let line = section
            .markdown
            .lines()
            .find(|line| line.starts_with("| cold find"));
        let cells: Vec<&str> = line.unwrap().split('|').map(str::trim).collect();
        let expected = [
            "cold find",
            "2000 (2000–4000)",
            "2000 (1000–2000)",
            "17",
            "0.50 × (0.50–1.00)",
            "2.00 × (2.00–3.00)",
        ];
        assert_eq!(cells[1..7], expected);
        assert!(
            section
                .markdown
                .contains("Not measured: EROFS zstd: no mkfs.erofs.")
        );
        assert!(section.markdown.contains("Not measured: python start"));
        assert!(!section.markdown.contains("NaN"));
    }

    #[test]
    fn programs_get_every_sample_and_the_baseline_the_ratios_of_narfs() {
        let section = section(&measured());
        let narfs = &section.data["contenders"]["narfs"]["rows"]["cold find"];
        assert_eq!(narfs[0]["requests"]["lookup"], 17);
        assert_eq!(narfs.as_array().map(Vec::len), Some(3));
        assert_eq!(
            section.data["contenders"]["EROFS zstd"]["not_measured"],
            "no mkfs.erofs"
        );
        assert_eq!(
            section.data["ratios"]["squashfs zstd"]["cold find"],
            json!([2.0, 2.0, 3.0])
        );
        let rows: Vec<&str> = section
            .ratios
            .iter()
            .map(|ratio| ratio.row.as_str())
            .collect();
        assert_eq!(rows, ["cold find", "cold random stat"]);
        assert!(
            section
                .chart
                .is_some_and(|chart| chart.contains("squashfs zstd"))
        );
    }

    #[test]
    fn only_what_was_asked_since_counts() {
        let counts = |list: &[(&str, u64)]| -> BTreeMap<String, u64> {
            list.iter()
                .map(|(name, count)| ((*name).to_owned(), *count))
                .collect()
        };
        let before = counts(&[("lookup", 4), ("open", 1)]);
        let now = counts(&[("lookup", 9), ("open", 1), ("read", 3)]);
        assert_eq!(since(&before, now), counts(&[("lookup", 5), ("read", 3)]));
    }
}
