//! Numbers for people: medians, ratios, markdown tables, the machine that they were measured on.

use std::fmt;
use std::fs;

use serde_json::{Value, json};

use crate::image;
use crate::narfs::Narfs;
use crate::nix::Nix;
use crate::work::Work;

/// What a benchmark found.
pub struct Section {
    pub name: &'static str,
    pub markdown: String,
    /// Every sample and setting.
    pub data: Value,
    /// The world that was measured: ratios of other ones differ.
    pub input: String,
    /// What narfs needs as a part of what it is compared with, to be compared with a baseline.
    pub ratios: Vec<Ratio>,
    /// An SVG.
    pub chart: Option<String>,
}

impl Section {
    /// One with nothing in it.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            markdown: String::new(),
            data: Value::Null,
            input: String::new(),
            ratios: Vec::new(),
            chart: None,
        }
    }
}

/// A row of a table as a ratio; less is better.
pub struct Ratio {
    pub row: String,
    pub spread: Spread,
}

/// The smallest, middle and largest value of all rounds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Spread {
    pub low: f64,
    pub middle: f64,
    pub high: f64,
}

impl Spread {
    /// None of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let ordered = values.iter().copied();
        Some(Self {
            low: ordered.clone().reduce(f64::min)?,
            middle: median(ordered.clone()),
            high: ordered.reduce(f64::max)?,
        })
    }

    /// Of values to others, those of the same round to each other; None where a round has no ratio.
    pub fn of_ratios(ours: &[f64], theirs: &[f64]) -> Option<Self> {
        let rounds = ours.iter().zip(theirs);
        let ratios: Vec<f64> = rounds.map(|(ours, theirs)| ours / theirs).collect();
        let complete = ours.len() == theirs.len() && ratios.iter().all(|ratio| ratio.is_finite());
        Self::of(&ratios).filter(|_| complete)
    }

    /// As JSON has it, with more digits than count.
    pub fn data(&self) -> Value {
        let rounded = |value: f64| (value * 1e4).round() / 1e4;
        json!([self.low, self.middle, self.high].map(rounded))
    }

    /// What [`Self::data`] made.
    pub fn parse(data: &Value) -> Option<Self> {
        match data.as_array()?.as_slice() {
            [low, middle, high] => Some(Self {
                low: low.as_f64()?,
                middle: middle.as_f64()?,
                high: high.as_f64()?,
            }),
            _ => None,
        }
    }
}

/// As a ratio.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { low, middle, high } = self;
        write!(f, "{middle:.2} × ({low:.2}–{high:.2})")
    }
}

pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => f64::midpoint(values[n / 2 - 1], values[n / 2]),
    }
}

/// How far values lie from their median, at most, as a part of it.
pub fn spread(values: impl IntoIterator<Item = f64>) -> f64 {
    let values: Vec<f64> = values.into_iter().collect();
    let middle = median(values.iter().copied());
    values
        .iter()
        .map(|value| (value / middle - 1.0).abs())
        .fold(0.0, f64::max)
}

/// Megabytes of 10^6 bytes.
#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
pub fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// A markdown table whose columns line up; all but the first are numbers.
pub fn table(rows: &[Vec<String>]) -> String {
    let Some(head) = rows.first() else {
        return String::new();
    };
    let widths: Vec<usize> = (0..head.len())
        .map(|i| {
            rows.iter()
                .map(|row| row[i].chars().count())
                .max()
                .unwrap_or(0)
                .max(3)
        })
        .collect();
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let padded = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).enumerate();
        line(
            cells
                .map(|(column, (cell, &width))| match column {
                    0 => format!("{cell:<width$}"),
                    _ => format!("{cell:>width$}"),
                })
                .collect(),
        )
    };
    let rule = line(
        widths
            .iter()
            .enumerate()
            .map(|(column, width)| "-".repeat(width - 1) + if column == 0 { "-" } else { ":" })
            .collect(),
    );
    let mut lines: Vec<String> = rows.iter().map(padded).collect();
    lines.insert(1, rule);
    lines.concat()
}

/// One line on the machine and the programs.
pub fn machine(work: &Work, narfs: &Narfs, nix: Option<&Nix>) -> String {
    let uname = rustix::system::uname();
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok())
        .map_or_else(String::new, |kib| {
            format!(", {} GiB of memory", kib.div_ceil(1 << 20))
        });
    let mut programs = vec![narfs.version.clone()];
    programs.extend(nix.map(|nix| nix.version.clone()));
    programs.extend(image::versions());
    format!(
        "Measured on {cpus} CPUs{memory}, Linux {}, {}, with {}.",
        uname.release().to_string_lossy(),
        work.filesystem()
            .unwrap_or_else(|| "an unknown file system".into()),
        programs.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_of_values_is_the_middle_of_two() {
        assert!((median([4.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        assert!(median([]).is_nan());
        assert!((spread([2.0, 1.5, 2.2]) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn ratios_are_those_of_rounds_and_outlast_json() {
        let ratios = Spread::of_ratios(&[1.0, 4.0, 3.0], &[2.0, 4.0, 2.0]).unwrap();
        assert_eq!(ratios.to_string(), "1.00 × (0.50–1.50)");
        assert_eq!(Spread::parse(&ratios.data()), Some(ratios));
        assert_eq!(Spread::parse(&json!([1.0, 2.0])), None);
        assert_eq!(Spread::parse(&json!([1.0, 2.0, "3"])), None);
        assert_eq!(Spread::of_ratios(&[], &[]), None);
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
        assert_eq!(Spread::of_ratios(&[1.0], &[1.0, 1.0]), None);
    }

    #[test]
    fn a_table_lines_up() {
        let rows = [["", "MB"], ["narfs", "398.0"]].map(|row| row.map(String::from).to_vec());
        assert_eq!(
            table(&rows),
            "|       |    MB |\n| ----- | ----: |\n| narfs | 398.0 |\n"
        );
    }
}
