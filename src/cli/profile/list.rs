//! Output of the contents of a profile.

use std::collections::BTreeMap;

use anyhow::Context;
use jiff::tz::TimeZone;

use crate::cli::log;
use crate::cli::output::{print_json, println};
use crate::command::{GenerationReport, ProfileDiffReport, ProfileReport};
use crate::nix::store_path::StorePath;
use crate::profile::{Generation, GenerationNumber, Generations};

/// Prints the packages of a profile in the format of `nix profile list`.
pub(super) fn show(r: &ProfileReport) -> anyhow::Result<()> {
    if !r.environment {
        return println(&format!("{} (set, not installed)", r.path));
    }
    let mut elements: Vec<_> = r.elements.iter().collect();
    elements.sort_by_key(|(_, element)| element.index);
    for (position, (name, element)) in elements.into_iter().enumerate() {
        if position > 0 {
            println("")?;
        }
        println(&format!("Index:              {}", element.index))?;
        println(&format!("Name:               {name}"))?;
        let optional = [
            ("Flake attribute:   ", &element.attr_path),
            ("Original flake URL:", &element.original_url),
            ("Locked flake URL:  ", &element.url),
        ];
        for (label, value) in optional {
            if let Some(value) = value {
                println(&format!("{label} {value}"))?;
            }
        }
        let inactive = if element.active { "" } else { " (inactive)" };
        println(&format!(
            "Priority:           {}{inactive}",
            element.priority
        ))?;
        let paths = element.store_paths.join(" ");
        println(&format!("Store paths:        {paths}"))?;
    }
    Ok(())
}

/// Prints the generations in the format of `nix-env --list-generations`.
pub(super) fn show_history(reports: &[GenerationReport]) -> anyhow::Result<()> {
    let mut list = BTreeMap::new();
    for report in reports {
        let base = report.path.rsplit('/').next().unwrap_or_default();
        let target = StorePath::parse_base_name(base.as_bytes())
            .with_context(|| format!("the daemon sent an invalid store path {:?}", report.path))?;
        let created = report.created;
        list.insert(
            GenerationNumber(report.generation),
            Generation { target, created },
        );
    }
    let current = reports.iter().find(|report| report.current);
    let current = current.map(|report| GenerationNumber(report.generation));
    for line in Generations::from_parts(current, list).lines(&TimeZone::system()) {
        println(&line)?;
    }
    Ok(())
}

/// Prints the difference of two generations in the format of `nix profile diff-closures`.
pub(super) fn show_diff(r: &ProfileDiffReport, json: bool) -> anyhow::Result<()> {
    if json {
        print_json(r)?;
    } else {
        println(&format!("Version {} → {}:", r.from, r.to))?;
        for change in &r.packages {
            println(&format!("  {change}"))?;
        }
    }
    if let Some(first) = r.unknown.first() {
        let count = r.unknown.len();
        log::warn(&format!(
            "neither the state nor the sources know {count} paths, such as \
             {first}; they are not compared"
        ));
    }
    Ok(())
}
