//! `narfs status`

use std::fmt::Write;

use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println};
use crate::command::StatusReport;
use crate::control;
use crate::fetch::{Activity, FlightReport, SourceReport, SourceState};

/// Show the daemon that serves the state: mount points, sources, and fetches in progress
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let state = global.state()?;
        let s = control::status(&state, None)?;
        if self.json {
            print_json(&s)?;
        } else {
            println(&table(&s).join("\n"))?;
        }
        Ok(Outcome::Good)
    }
}

fn table(s: &StatusReport) -> Vec<String> {
    let mut lines = vec![format!(
        "narfs {}, process {}, up {} s",
        s.version, s.pid, s.uptime
    )];
    let budget = s.budget.map_or(String::new(), |b| {
        format!(" of {}, {} paths dropped", bytes(b), s.evicted)
    });
    lines.push(format!(
        "state       {} ({} paths, {} stored{budget})",
        s.state.display(),
        s.paths,
        bytes(s.stored_bytes)
    ));
    if s.damaged_chunks + s.unreadable_paths > 0 {
        lines.push(format!(
            "damaged     {} chunks, {} path infos; `narfs verify --repair` fetches them again",
            s.damaged_chunks, s.unreadable_paths
        ));
    }
    let at = s.mountpoints.iter();
    lines.extend(at.map(|at| format!("mounted at  {}", at.display())));
    let at = s.writable_profiles.iter();
    lines.extend(at.map(|at| format!("writable    {}", at.display())));
    let at = s.listen.iter();
    lines.extend(at.map(|at| format!("HTTP        {at}")));
    if let Some(socket) = &s.volume_plugin {
        lines.push(format!("volumes     {}", socket.display()));
    }
    if let Some(socket) = &s.nix_socket {
        lines.push(format!("Nix         {}", socket.display()));
    }
    if let Some(mistake) = &s.configuration {
        lines.push(format!(
            "configuration  invalid, the previous one is still used: {mistake}"
        ));
    }
    lines.extend(activity(&s.activity));
    for c in &s.commands {
        let (done, all) = (bytes(c.nar_bytes_done), bytes(c.nar_bytes));
        lines.push(format!(
            "command     {}/{} paths, {done} of {all}",
            c.paths_done, c.paths
        ));
    }
    for t in &s.traces {
        lines.push(format!("recording   {} ({} paths)", t.name, t.paths));
    }
    lines
}

/// Sources, fetches in progress, and hit counts.
pub(super) fn activity(a: &Activity) -> Vec<String> {
    let mut lines: Vec<_> = a.sources.iter().map(source).collect();
    if !a.sources.is_empty() {
        lines.push(format!(
            "on demand   {} hits, {} misses, {} fetched; {} in flight, {} queued",
            a.hits,
            a.misses,
            bytes(a.fetched_bytes),
            a.fetches.len(),
            a.queued
        ));
    }
    lines.extend(
        a.fetches
            .iter()
            .map(|f| format!("fetching    {}", flight(f))),
    );
    lines
}

/// A source and its health, in one line.
pub(super) fn source(s: &SourceReport) -> String {
    let state = match s.state {
        SourceState::NotAsked => "not used yet",
        SourceState::Answers => "answers",
        SourceState::Away if s.optional => "not reachable",
        SourceState::Away => "away",
    };
    let optional = if s.optional { ", optional" } else { "" };
    let priority = s
        .priority
        .map_or(String::new(), |p| format!(", priority {p}"));
    let mut line = format!("source      {}: {state}{optional}{priority}", s.url);
    if let Some(t) = &s.traffic {
        let _ = write!(line, ", {} requests", t.requests);
        if t.retries + t.failures > 0 {
            let _ = write!(line, " ({} retries, {} failed)", t.retries, t.failures);
        }
        let _ = write!(line, ", {}", bytes(t.received_bytes));
        if let Some(latency) = t.latency_average_us {
            let _ = write!(line, ", {:.1} ms", latency as f64 / 1000.0);
        }
        if let (SourceState::Away, Some(last)) = (s.state, &t.last_failure) {
            let _ = write!(line, "; {}", last.text);
        }
    }
    line
}

/// A fetch in progress, in a few words.
pub(super) fn flight(f: &FlightReport) -> String {
    let who = match (f.urgent, f.waiting) {
        (true, n) => format!("{n} waiting"),
        (false, _) => "ahead".to_owned(),
    };
    let how_far = match (f.contents, f.progress.nar_bytes) {
        (false, 0) => "narinfo".to_owned(),
        (true, 0) => "queued".to_owned(),
        (_, all) => format!("{} of {}", bytes(f.progress.nar_bytes_done), bytes(all)),
    };
    format!("{} ({who}, {:.1} s): {how_far}", f.path, f.seconds)
}
