//! A baseline: the ratios of an earlier run, kept in a file, which those of this run are compared with.
//!
//! Any file that `--json` wrote is one; of it only `ratios` and `machine` are read. What a ratio was is
//! its range over the rounds: what lies beyond the range of the baseline is better or worse, all else is not
//! known to differ.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};

use crate::report::{Section, Spread, table};

/// Where a file of `--json` has the ratios.
pub const RATIOS: &str = "ratios";

pub struct Baseline {
    shown: String,
    machine: String,
    suites: BTreeMap<String, Suite>,
}

struct Suite {
    /// The world that was measured.
    input: String,
    rows: BTreeMap<String, Spread>,
}

/// The ratios of a run, as a baseline has them.
pub fn ratios(sections: &[Section]) -> Value {
    let compared = sections.iter().filter(|section| !section.ratios.is_empty());
    let suites = compared.map(|section| {
        let rows: Map<_, _> = section
            .ratios
            .iter()
            .map(|ratio| (ratio.row.clone(), ratio.spread.data()))
            .collect();
        let suite = json!({ "input": section.input, "rows": rows });
        (section.name.to_owned(), suite)
    });
    Value::Object(suites.collect())
}

impl Baseline {
    pub fn read(file: &Path) -> Result<Self> {
        let shown = file.display().to_string();
        let text = fs::read(file).with_context(|| format!("cannot read the baseline {shown}"))?;
        let data: Value = serde_json::from_slice(&text)
            .with_context(|| format!("the baseline {shown} is no JSON"))?;
        let parsed = Self::parse(&data, &shown);
        parsed.with_context(|| {
            format!("{shown} is no baseline: give a file that --json wrote, or its `machine` and `{RATIOS}`")
        })
    }

    fn parse(data: &Value, shown: &str) -> Result<Self> {
        let suites = data[RATIOS].as_object().context("it has no `ratios`")?;
        let suites = suites.iter().map(|(name, suite)| {
            let rows = suite["rows"].as_object();
            let rows = rows.with_context(|| format!("the ratios of {name} have no `rows`"))?;
            let rows = rows.iter().map(|(row, ratio)| {
                let spread = Spread::parse(ratio);
                let spread =
                    spread.with_context(|| format!("{name}, {row}: {ratio} is no ratio"))?;
                Ok((row.clone(), spread))
            });
            let suite = Suite {
                input: suite["input"].as_str().unwrap_or_default().to_owned(),
                rows: rows.collect::<Result<_>>()?,
            };
            Ok((name.clone(), suite))
        });
        Ok(Self {
            shown: shown.to_owned(),
            machine: data["machine"].as_str().unwrap_or_default().to_owned(),
            suites: suites.collect::<Result<_>>()?,
        })
    }

    /// How the ratios of this run differ from these, as markdown.
    pub fn compare(&self, sections: &[Section]) -> String {
        let mut text = format!("### Compared with {}\n\n", self.shown);
        if !self.machine.is_empty() {
            text += &format!("The baseline: {}\n\n", self.machine);
        }
        let mut rows = vec![
            ["", "baseline", "now", "narfs is"]
                .map(String::from)
                .to_vec(),
        ];
        let mut other_worlds = Vec::new();
        for section in sections.iter().filter(|section| !section.ratios.is_empty()) {
            let Some(suite) = self.suites.get(section.name) else {
                text += &format!("The baseline has no {}.\n\n", section.name);
                continue;
            };
            if suite.input != section.input {
                other_worlds.push(format!(
                    "**Of another world**: {} of the baseline had {}, and now has {}.\n\n",
                    section.name, suite.input, section.input
                ));
            }
            rows.extend(suite.compare(section));
        }
        text += &other_worlds.concat();
        if rows.len() > 1 {
            text += &table(&rows);
            text += "\nA ratio is better or worse if all rounds were better or worse than all rounds of the \
                     baseline.\n";
        }
        text
    }
}

impl Suite {
    fn compare(&self, section: &Section) -> Vec<Vec<String>> {
        let row = |name: &str, was: Option<&Spread>, is: Option<&Spread>| {
            let shown =
                |ratio: Option<&Spread>| ratio.map_or("not measured".into(), Spread::to_string);
            let verdict = was.zip(is).map_or("", |(was, is)| verdict(was, is));
            vec![
                format!("{}: {name}", section.name),
                shown(was),
                shown(is),
                verdict.into(),
            ]
        };
        let now = section.ratios.iter();
        let mut rows: Vec<Vec<String>> = now
            .map(|ratio| row(&ratio.row, self.rows.get(&ratio.row), Some(&ratio.spread)))
            .collect();
        let gone = self
            .rows
            .iter()
            .filter(|(name, _)| section.ratios.iter().all(|ratio| ratio.row != **name));
        rows.extend(gone.map(|(name, was)| row(name, Some(was), None)));
        rows
    }
}

fn verdict(was: &Spread, is: &Spread) -> &'static str {
    if is.high < was.low {
        "better"
    } else if is.low > was.high {
        "**worse**"
    } else {
        "as before"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Ratio;

    fn section(ratios: &[(&str, [f64; 3])]) -> Section {
        let ratios = ratios.iter().map(|(row, [low, middle, high])| Ratio {
            row: (*row).to_owned(),
            spread: Spread {
                low: *low,
                middle: *middle,
                high: *high,
            },
        });
        Section {
            input: "46 store paths".into(),
            ratios: ratios.collect(),
            ..Section::new("reads")
        }
    }

    fn baseline(section: Section) -> Baseline {
        let data = json!({ "machine": "2 CPUs", RATIOS: ratios(&[section]) });
        Baseline::parse(&data, "baseline.json").unwrap()
    }

    #[test]
    fn what_lies_beyond_the_range_of_the_baseline_is_better_or_worse() {
        let was = baseline(section(&[
            ("find", [0.7, 0.8, 0.9]),
            ("stat", [0.7, 0.8, 0.9]),
            ("read", [0.7, 0.8, 0.9]),
            ("gone", [0.7, 0.8, 0.9]),
        ]));
        let now = section(&[
            ("find", [0.5, 0.6, 0.69]),
            ("stat", [0.91, 1.0, 1.1]),
            ("read", [0.85, 0.95, 1.2]),
            ("new", [1.0, 1.0, 1.0]),
        ]);
        let text = was.compare(&[now]);
        let line = |row: &str| {
            let found = text
                .lines()
                .find(|line| line.contains(&format!("reads: {row} ")));
            found.unwrap().to_owned()
        };
        assert!(line("find").contains("better |"), "{text}");
        assert!(line("stat").contains("**worse** |"), "{text}");
        assert!(line("read").contains("as before |"), "{text}");
        assert!(line("gone").contains("not measured") && line("new").contains("not measured"));
        assert!(text.contains("The baseline: 2 CPUs") && !text.contains("another world"));
    }

    #[test]
    fn another_world_and_another_suite_are_told() {
        let was = baseline(section(&[("find", [0.7, 0.8, 0.9])]));
        let other = Section {
            input: "370 store paths".into(),
            ..section(&[("find", [0.7, 0.8, 0.9])])
        };
        assert!(was.compare(&[other]).contains("another world"));
        let ingest = Section {
            ratios: section(&[("seconds", [0.7, 0.8, 0.9])]).ratios,
            ..Section::new("ingest")
        };
        assert!(was.compare(&[ingest]).contains("has no ingest"));
    }

    #[test]
    fn a_file_that_is_no_baseline_is_an_error_that_names_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("baseline.json");
        for (text, expected) in [
            ("", "is no JSON"),
            ("{}", "has no `ratios`"),
            (r#"{"ratios": {"reads": {}}}"#, "reads have no `rows`"),
            (
                r#"{"ratios": {"reads": {"rows": {"find": [1, 2]}}}}"#,
                "reads, find: [1,2] is no ratio",
            ),
        ] {
            fs::write(&file, text).unwrap();
            let error = format!("{:#}", Baseline::read(&file).err().unwrap());
            assert!(
                error.contains(expected) && error.contains("baseline.json"),
                "{error}"
            );
        }
        assert!(Baseline::read(&dir.path().join("absent")).is_err());
    }
}
