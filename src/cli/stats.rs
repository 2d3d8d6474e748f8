//! `narfs stats`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println};
use crate::command::{Report, Request, StateReport};

/// Show what the state holds, and the effect of deduplication and compression
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON; sizes in bytes
    #[arg(long)]
    json: bool,
    /// Paths to report individually
    #[arg(value_name = "PATH")]
    paths: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let command = Request::Stats { paths: self.paths };
        let Report::Stats(report) = global.run(command, false)? else {
            bail!("the daemon sent an unexpected report instead of statistics");
        };
        if self.json {
            print_json(&report)?;
        } else {
            println(&table(&report))?;
        }
        Ok(Outcome::Good)
    }
}

/// A ratio.
fn times(from: u64, to: u64) -> String {
    if to == 0 {
        return "-".to_owned();
    }
    format!("{:.2}×", from as f64 / to as f64)
}

fn table(r: &StateReport) -> String {
    let s = &r.state;
    let mut lines = vec![
        format!(
            "{:>10}  paths with {} files, {} directories, {} links",
            s.paths, s.files, s.directories, s.links
        ),
        format!("{:>10}  of NARs", bytes(s.nar_bytes)),
        format!(
            "{:>10}  unique, in {} chunks   (dedup {})",
            bytes(s.unique_bytes),
            s.chunks,
            times(s.nar_bytes, s.unique_bytes)
        ),
        format!(
            "{:>10}  stored   (compression {}, together {})",
            bytes(s.stored_bytes),
            times(s.unique_bytes, s.stored_bytes),
            times(s.nar_bytes, s.stored_bytes)
        ),
        format!(
            "{:>10}  of it {} trees, {} path infos",
            "",
            bytes(s.tree_bytes),
            bytes(s.path_info_bytes)
        ),
    ];
    if s.unreadable_paths > 0 {
        lines.push(format!(
            "{:>10}  paths cannot be read and are not counted: `narfs verify` names them",
            s.unreadable_paths
        ));
    }
    if let Some(fuse) = &r.fuse {
        let each = fuse.requests.iter().map(|(name, n)| format!("{name} {n}"));
        let each: Vec<_> = each.collect();
        lines.push(format!("{:>10}  requests: {}", fuse.total, each.join(", ")));
    }
    lines.extend(r.fetcher.iter().flat_map(super::status::activity));
    for p in &r.each {
        lines.push(format!(
            "{}\n{:>10}  NAR, {} unique in {} chunks, {} stored, of it {} used by nothing else; \
             {} path(s) with this tree",
            p.path,
            bytes(p.nar_bytes),
            bytes(p.unique_bytes),
            p.chunks,
            bytes(p.stored_bytes),
            bytes(p.own_bytes),
            p.sharing_tree
        ));
    }
    lines.join("\n")
}
