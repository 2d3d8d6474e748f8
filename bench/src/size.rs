//! Size: the bytes that each way of keeping store paths takes, for a world, for the world and
//! its mass rebuild together, and so on for every binary cache that is given.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::cache::{BinaryCache, base_name};
use crate::files::{self, Distinct};
use crate::image::{self, Recipe};
use crate::narfs::{Narfs, Stats};
use crate::nix::{self, Nix};
use crate::report::{Section, mb, table};
use crate::work::{self, Work};

/// One way of keeping store paths: for each stage its bytes, or why they were not measured.
struct Row {
    name: String,
    stages: Vec<Result<u64, String>>,
}

const STORED: &str = "**narfs**, stored";

pub fn run(
    narfs: &Narfs,
    nix: Option<&Nix>,
    caches: &[BinaryCache],
    work: &Work,
) -> Result<Section> {
    let (ours, stats) = of_narfs(narfs, caches, work)?;
    let mut rows = vec![nars(caches), binary_caches(caches)];
    rows.extend(unpacked(nix, caches, work)?);
    rows.extend(ours);
    Ok(Section {
        markdown: markdown(&rows, caches, &stats),
        data: data(&rows, caches, &stats),
        ..Section::new("size")
    })
}

fn of_narfs(narfs: &Narfs, caches: &[BinaryCache], work: &Work) -> Result<(Vec<Row>, Vec<Stats>)> {
    let state = work.fresh("state")?;
    let mut all = Vec::new();
    let mut on_disk = Vec::new();
    for cache in caches {
        eprintln!("size, {}: narfs", cache.label);
        narfs.copy_now(&state, cache, &work.scratch("log"))?;
        // Before another command opens the state, and tidies it.
        on_disk.push(files::disk_bytes(&state)?);
        all.push(narfs.stats(&state)?);
    }
    work::remove(&state)?;
    let row = |name: &str, of: fn(&Stats) -> u64| Row {
        name: name.to_owned(),
        stages: all.iter().map(|stats| Ok(of(stats))).collect(),
    };
    let rows = vec![
        row("narfs, distinct contents before compression", |s| {
            s.unique_bytes
        }),
        row(STORED, |s| s.stored_bytes),
        Row {
            name: "narfs, state directory on disk".into(),
            stages: on_disk.into_iter().map(Ok).collect(),
        },
    ];
    Ok((rows, all))
}

/// Sums `of` over what is distinct in the binary caches so far.
fn cumulative(
    caches: &[BinaryCache],
    of: fn(&crate::cache::Entry) -> u64,
) -> Vec<Result<u64, String>> {
    let mut seen = BTreeMap::new();
    caches
        .iter()
        .map(|cache| {
            seen.extend(cache.paths.iter().map(|(path, entry)| (path, of(entry))));
            Ok(seen.values().sum())
        })
        .collect()
}

fn nars(caches: &[BinaryCache]) -> Row {
    Row {
        name: "NARs".into(),
        stages: cumulative(caches, |entry| entry.nar_size),
    }
}

fn binary_caches(caches: &[BinaryCache]) -> Row {
    let methods: BTreeSet<&str> = caches
        .iter()
        .flat_map(|cache| cache.paths.values())
        .map(|entry| entry.compression.as_str())
        .collect();
    let methods: Vec<&str> = methods.into_iter().collect();
    Row {
        name: format!("binary cache, {}", methods.join(" and ")),
        stages: cumulative(caches, |entry| entry.file_bytes),
    }
}

/// All that starts from unpacked trees, which real Nix unpacks.
fn unpacked(nix: Option<&Nix>, caches: &[BinaryCache], work: &Work) -> Result<Vec<Row>> {
    let images = image::recipes(work);
    let mut names: Vec<String> = vec![
        "Nix store on disk".into(),
        "Nix store on disk, optimised".into(),
        "distinct files".into(),
        format!("distinct files, each zstd level {}", files::LEVEL),
    ];
    names.extend(images.iter().map(|recipe| recipe.name.clone()));
    let mut rows: Vec<Row> = names
        .into_iter()
        .map(|name| Row {
            name,
            stages: Vec::new(),
        })
        .collect();

    let root = work.fresh("root")?;
    let mut distinct = Distinct::default();
    for (i, cache) in caches.iter().enumerate() {
        let stage = match nix {
            None => Err(format!("unpacking needs Nix: {}", nix::ABSENT)),
            Some(nix) => stage(nix, &caches[..=i], &root, &mut distinct, &images, work)
                .with_context(|| format!("unpacking {}", cache.label))
                .map_err(|error| format!("{error:#}")),
        };
        for (column, row) in rows.iter_mut().enumerate() {
            row.stages.push(match &stage {
                Ok(values) => values[column].clone(),
                Err(reason) => Err(reason.clone()),
            });
        }
    }
    work::remove(&root)?;
    Ok(rows)
}

/// Adds the last binary cache to the store at `root`, and measures what is there now.
fn stage(
    nix: &Nix,
    caches: &[BinaryCache],
    root: &std::path::Path,
    distinct: &mut Distinct,
    images: &[Recipe],
    work: &Work,
) -> Result<Vec<Result<u64, String>>> {
    let Some(cache) = caches.last() else {
        return Ok(Vec::new());
    };
    eprintln!("size, {}: Nix", cache.label);
    let log = work.scratch("log");
    std::fs::create_dir_all(root)?;
    crate::measure::run(&mut nix.copy(root, cache, false)?, root, &log)?;
    Nix::check(root, cache)?;
    nix.optimise(root, &log)?;
    let mut values = vec![
        Ok(files::unlinked_disk_bytes(root)?),
        Ok(files::disk_bytes(root)?),
    ];

    eprintln!("size, {}: distinct files", cache.label);
    let old = &caches[..caches.len() - 1];
    for path in cache.paths.keys() {
        if !old.iter().any(|cache| cache.paths.contains_key(path)) {
            distinct.add(&nix::store_dir(root).join(base_name(path)))?;
        }
    }
    values.extend([Ok(distinct.bytes), Ok(distinct.compressed_bytes)]);

    for recipe in images {
        eprintln!("size, {}: {}", cache.label, recipe.name);
        values.push(recipe.size(&nix::store_dir(root), work));
    }
    Ok(values)
}

fn markdown(rows: &[Row], caches: &[BinaryCache], stats: &[Stats]) -> String {
    let mut head = vec!["MB kept".to_owned()];
    for (i, cache) in caches.iter().enumerate() {
        head.push(if i == 0 {
            cache.label.clone()
        } else {
            format!("+ {}", cache.label)
        });
        head.push("of narfs".into());
        if i > 0 {
            head.push("adds".into());
        }
    }
    let body = rows.iter().map(|row| cells(row, stats));
    let all: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
    let paths: Vec<String> = caches
        .iter()
        .zip(stats)
        .map(|(cache, stats)| {
            format!(
                "{}: {} store paths, then {} chunks",
                cache.label,
                cache.paths.len(),
                stats.chunks
            )
        })
        .collect();
    let mut missing: BTreeMap<&String, Vec<&str>> = BTreeMap::new();
    for row in rows {
        if let Some(reason) = row.stages.iter().find_map(|stage| stage.as_ref().err()) {
            missing.entry(reason).or_default().push(&row.name);
        }
    }
    let missing: Vec<String> = missing
        .into_iter()
        .map(|(reason, names)| format!("\nNot measured: {}: {reason}.\n", names.join("; ")))
        .collect();
    let legend = "\nMB of 10^6 bytes; each column holds all that is left of it as well. The columns `of \
        narfs` are ratios to what narfs stores: every record of chunks, trees and path infos, whatever \
        RocksDB makes of them; its directory is what `du` sees right after the copy, log and files not yet \
        compacted included. The binary cache is counted as it lies there, NARs and narinfos. A Nix store is \
        what `du` sees, database and its reserve of 8 MB included, before and after `nix store optimise`. \
        Distinct files are the sum of lengths, without any metadata; images hold the store directory, equal \
        files linked. What narfs is to add for a mass rebuild: at most 1 %.\n";
    format!(
        "### Size: {}\n\n{}{}{legend}",
        paths.join("; "),
        table(&all),
        missing.concat()
    )
}

#[expect(clippy::cast_precision_loss, reason = "fewer than 2^53 bytes")]
fn cells(row: &Row, stats: &[Stats]) -> Vec<String> {
    let mut cells = vec![row.name.clone()];
    for (i, (bytes, stats)) in row.stages.iter().zip(stats).enumerate() {
        let Ok(bytes) = bytes else {
            cells.extend(["not measured".into(), String::new()]);
            cells.extend((i > 0).then(String::new));
            continue;
        };
        cells.push(format!("{:.1}", mb(*bytes)));
        cells.push(format!(
            "{:.2} ×",
            *bytes as f64 / stats.stored_bytes as f64
        ));
        if i > 0 {
            cells.push(match row.stages[i - 1] {
                Ok(before) => percent(*bytes as f64 / before as f64 - 1.0),
                Err(_) => String::new(),
            });
        }
    }
    cells
}

/// A change, with another digit where it is small: 1 % is what a mass rebuild may add.
fn percent(change: f64) -> String {
    let digits = if change.abs() < 0.01 { 2 } else { 1 };
    format!("{:+.digits$} %", change * 100.0)
}

fn data(rows: &[Row], caches: &[BinaryCache], stats: &[Stats]) -> Value {
    let stages: Vec<Value> = caches
        .iter()
        .zip(stats)
        .enumerate()
        .map(|(i, (cache, stats))| {
            let kept: serde_json::Map<_, _> = rows
                .iter()
                .map(|row| {
                    let value = match &row.stages[i] {
                        Ok(bytes) => json!(bytes),
                        Err(reason) => json!({ "not_measured": reason }),
                    };
                    (row.name.replace("**", ""), value)
                })
                .collect();
            json!({
                "label": cache.label,
                "paths": cache.paths.len(),
                "paths_together": stats.paths,
                "nar_bytes_together": stats.nar_bytes,
                "chunks_together": stats.chunks,
                "bytes": kept,
            })
        })
        .collect();
    json!({ "stages": stages })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(label: &str, paths: &[(&str, u64)]) -> BinaryCache {
        let entry = |nar_size| crate::cache::Entry {
            nar_size,
            references: Vec::new(),
            url: String::new(),
            compression: "zstd".into(),
            file_bytes: nar_size / 4,
        };
        BinaryCache {
            label: label.into(),
            dir: "/srv/cache".into(),
            public_key: "key-1:AAAA".into(),
            store_dir: "/nix/store".into(),
            paths: paths
                .iter()
                .map(|&(path, size)| (path.into(), entry(size)))
                .collect(),
        }
    }

    #[test]
    fn a_path_of_two_binary_caches_counts_once() {
        let caches = [
            cache("world", &[("a", 400), ("b", 800)]),
            cache("upgrade", &[("b", 800), ("c", 40)]),
        ];
        assert_eq!(nars(&caches).stages, [Ok(1200), Ok(1240)]);
        assert_eq!(binary_caches(&caches).stages, [Ok(300), Ok(310)]);
    }

    #[test]
    fn a_row_says_what_a_stage_adds_and_what_was_not_measured() {
        let stats = |stored_bytes| Stats {
            paths: 1,
            chunks: 1,
            stored_bytes,
            unique_bytes: 1,
            nar_bytes: 1,
        };
        let stats = [stats(1_000_000), stats(2_000_000)];
        let row = |stages| Row {
            name: "NARs".into(),
            stages,
        };
        let measured = row(vec![Ok(3_000_000), Ok(3_012_000)]);
        assert_eq!(
            cells(&measured, &stats)[1..],
            ["3.0", "3.00 ×", "3.0", "1.51 ×", "+0.40 %"]
        );
        let failed = row(vec![Ok(3_000_000), Err("no space".into())]);
        assert_eq!(cells(&failed, &stats)[3..], ["not measured", "", ""]);
    }
}
