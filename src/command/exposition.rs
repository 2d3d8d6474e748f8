//! Metrics in the text exposition format of Prometheus, version 0.0.4.
//!
//! Invariant: each family has its HELP and TYPE once, before its samples, and no series appears
//! twice.

use std::collections::HashSet;
use std::fmt::Write;

use super::FiguresReport;
use crate::fetch::{SourceReport, SourceState};
use crate::measure::{Histogram, bounds_micros};
use crate::store::Ingested;

type Labels<'l> = &'l [(&'l str, &'l str)];

/// The text written so far.
#[derive(Default)]
struct Exposition {
    text: String,
    /// The current family.
    family: &'static str,
    /// Series already written for this family.
    series: HashSet<String>,
}

/// Escapes a label value; the format escapes only these three characters.
fn escaped(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"");
    value.replace('\n', "\\n")
}

impl Exposition {
    /// Starts a family. The name of a counter ends with `_total`.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}");
        let _ = writeln!(self.text, "# TYPE {name} {kind}");
        self.family = name;
        self.series.clear();
    }

    fn sample(&mut self, suffix: &str, labels: Labels<'_>, value: impl std::fmt::Display) {
        let mut series = format!("{}{suffix}", self.family);
        for (at, (name, value)) in labels.iter().enumerate() {
            let before = if at == 0 { '{' } else { ',' };
            let _ = write!(series, "{before}{name}=\"{}\"", escaped(value));
        }
        if !labels.is_empty() {
            series.push('}');
        }
        // Two sources that differ only in their credentials have the same URL here.
        if !self.series.contains(&series) {
            let _ = writeln!(self.text, "{series} {value}");
            self.series.insert(series);
        }
    }

    fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample("", &[], value);
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: impl std::fmt::Display) {
        self.family(name, "gauge", help);
        self.sample("", &[], value);
    }

    /// Writes a gauge, if its value is known.
    fn gauge_of(&mut self, name: &'static str, help: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.gauge(name, help, value);
        }
    }

    /// Writes the samples of a histogram of durations.
    fn histogram(&mut self, label: (&str, &str), histogram: &Histogram) {
        let mut below = 0;
        for (n, bound) in histogram.buckets.iter().zip(bounds_micros()) {
            below += n;
            let bound = (bound as f64 / 1e6).to_string();
            self.sample("_bucket", &[label, ("le", &bound)], below);
        }
        let count = histogram.count();
        self.sample("_bucket", &[label, ("le", "+Inf")], count);
        self.sample("_sum", &[label], histogram.sum_nanos as f64 / 1e9);
        self.sample("_count", &[label], count);
    }
}

impl FiguresReport {
    pub fn exposition(&self) -> String {
        let mut out = Exposition::default();
        let name = "narfs_build_info";
        out.family(name, "gauge", "Version of the daemon.");
        out.sample("", &[("version", &self.version)], 1);
        let help = "Seconds since the daemon started.";
        out.gauge("narfs_uptime_seconds", help, self.uptime);
        if let Some(restarts) = self.restarts {
            let help = "Times that the keeper restarted the daemon.";
            out.counter("narfs_restarts_total", help, restarts);
        }
        self.requests(&mut out);
        self.fetches(&mut out);
        self.sources(&mut out);
        self.state(&mut out);
        self.process(&mut out);
        out.text
    }

    fn requests(&self, out: &mut Exposition) {
        let name = "narfs_fuse_requests_total";
        out.family(name, "counter", "FUSE requests that expect a reply.");
        for (operation, count) in &self.requests.requests {
            out.sample("", &[("operation", operation)], count);
        }
        let help = "FUSE FORGET messages.";
        out.counter("narfs_fuse_forgets_total", help, self.requests.forgets);
        let help = "FUSE requests in flight.";
        out.gauge("narfs_fuse_requests_waiting", help, self.times.waiting);
        let name = "narfs_fuse_request_duration_seconds";
        let help = "Time from a FUSE request to its reply, including time spent fetching.";
        out.family(name, "histogram", help);
        for (operation, times) in &self.times.operations {
            out.histogram(("operation", operation), times);
        }
        let help = "Bytes of file contents returned to the kernel.";
        out.counter("narfs_served_bytes_total", help, self.times.served_bytes);
    }

    fn fetches(&self, out: &mut Exposition) {
        let activity = &self.activity;
        let help = "FUSE requests answered from local data.";
        out.counter("narfs_demand_hits_total", help, activity.hits);
        let help = "FUSE requests that waited for a fetch.";
        out.counter("narfs_demand_misses_total", help, activity.misses);
        let name = "narfs_fetches_total";
        let help = "Finished fetches: of the root or of the contents of a path, for a waiting program \
                    or ahead.";
        out.family(name, "counter", help);
        for o in &self.fetcher.outcomes {
            let labels = [
                ("kind", o.kind.as_str()),
                ("purpose", &o.purpose),
                ("result", &o.result),
            ];
            out.sample("", &labels, o.count);
        }
        let name = "narfs_fetch_duration_seconds";
        out.family(name, "histogram", "Duration of finished fetches.");
        for (kind, times) in &self.fetcher.times {
            out.histogram(("kind", kind), times);
        }
        let help = "NAR bytes received from sources by finished transfers.";
        out.counter("narfs_fetched_bytes_total", help, self.fetched_bytes);
        let name = "narfs_fetches_running";
        out.family(name, "gauge", "Fetches in flight, including queued ones.");
        for (purpose, urgent) in [("program", true), ("ahead", false)] {
            let running = activity.fetches.iter().filter(|f| f.urgent == urgent);
            out.sample("", &[("purpose", purpose)], running.count());
        }
        let help = "Fetches queued for a transfer slot.";
        out.gauge("narfs_fetches_queued", help, activity.queued);
        let waiting: u64 = activity.fetches.iter().map(|f| f.waiting).sum();
        let help = "FUSE requests and commands waiting for fetches.";
        out.gauge("narfs_fetch_waiters", help, waiting);
        let help = "Copy and prefetch commands in progress.";
        out.gauge("narfs_commands_running", help, self.commands);
    }

    fn sources(&self, out: &mut Exposition) {
        let sources = &self.activity.sources;
        let name = "narfs_source_up";
        let help = "Whether the source answered the last request; absent before the first request.";
        out.family(name, "gauge", help);
        for s in sources.iter().filter(|s| s.state != SourceState::NotAsked) {
            let up = u8::from(s.state == SourceState::Answers);
            let optional = if s.optional { "true" } else { "false" };
            out.sample("", &[("source", &s.url), ("optional", optional)], up);
        }
        let name = "narfs_source_requests_total";
        let help = "Finished requests: the source had the file (hit), did not have it (miss), failed \
                    (error), or the caller stopped waiting (abandoned).";
        out.family(name, "counter", help);
        for (s, t) in with_traffic(sources) {
            let results = [
                ("hit", t.found),
                ("miss", t.absent),
                ("error", t.failures),
                ("abandoned", t.abandoned),
            ];
            for (result, count) in results {
                out.sample("", &[("source", &s.url), ("result", result)], count);
            }
        }
        let name = "narfs_source_retries_total";
        out.family(name, "counter", "Retries and resumed transfers.");
        for (s, t) in with_traffic(sources) {
            out.sample("", &[("source", &s.url)], t.retries);
        }
        let name = "narfs_source_received_bytes_total";
        out.family(name, "counter", "Bytes of response bodies received.");
        for (s, t) in with_traffic(sources) {
            out.sample("", &[("source", &s.url)], t.received_bytes);
        }
        let name = "narfs_source_clock_ahead_seconds";
        let help = "Clock of the source minus the local clock.";
        out.family(name, "gauge", help);
        for (s, t) in with_traffic(sources) {
            if let Some(ahead) = t.clock_ahead_s {
                out.sample("", &[("source", &s.url)], ahead);
            }
        }
        let name = "narfs_source_answer_duration_seconds";
        let help = "Time from a request to a source to the response header.";
        out.family(name, "histogram", help);
        for (url, times) in &self.fetcher.sources {
            out.histogram(("source", url), times);
        }
    }

    fn state(&self, out: &mut Exposition) {
        let stored = self.stored;
        let help = "Compressed size of all records of the state; absent until computed.";
        out.gauge_of("narfs_stored_bytes", help, stored.map(|s| s.stored_bytes));
        let help = "Uncompressed size of all distinct chunks; absent until computed.";
        out.gauge_of("narfs_unique_bytes", help, stored.map(|s| s.unique_bytes));
        let help = "Distinct chunks; absent until computed.";
        out.gauge_of("narfs_chunks", help, stored.map(|s| s.chunks));
        let name = "narfs_ingested_bytes_total";
        let help = "Bytes of ingested contents, uncompressed: in chunks that the state did not have \
                    (new), or that it had already (known).";
        out.family(name, "counter", help);
        let Ingested { bytes, known_bytes } = self.brought;
        out.sample("", &[("chunk", "new")], bytes.saturating_sub(known_bytes));
        out.sample("", &[("chunk", "known")], known_bytes);
        let help = "Budget of stored bytes; absent without a budget.";
        out.gauge_of("narfs_budget_bytes", help, self.budget);
        let help = "Paths whose contents were evicted.";
        out.counter("narfs_evicted_paths_total", help, self.evicted_paths);
        let help = "Stored bytes freed by eviction.";
        out.counter("narfs_evicted_bytes_total", help, self.evicted_bytes);
        let help =
            "Chunks found damaged or missing since the daemon started, and not replaced since.";
        out.gauge("narfs_damaged_chunks", help, self.damaged_chunks);
        let help = "Free bytes on the file system of the state.";
        out.gauge_of("narfs_disk_free_bytes", help, self.disk_free_bytes);
        let c = &self.caches;
        let name = "narfs_cache_hits_total";
        out.family(name, "counter", "Hits of the caches in memory.");
        out.sample("", &[("cache", "chunk")], c.chunk_hits);
        out.sample("", &[("cache", "tree")], c.tree_hits);
        let name = "narfs_cache_misses_total";
        out.family(name, "counter", "Misses of the caches in memory.");
        out.sample("", &[("cache", "chunk")], c.chunk_misses);
        out.sample("", &[("cache", "tree")], c.tree_misses);
        let name = "narfs_cache_bytes";
        out.family(name, "gauge", "Bytes in the caches in memory.");
        out.sample("", &[("cache", "chunk")], c.chunk_bytes);
        out.sample("", &[("cache", "tree")], c.tree_bytes);
    }

    fn process(&self, out: &mut Exposition) {
        let p = &self.process;
        let help = "Resident memory of the daemon.";
        out.gauge_of("narfs_resident_memory_bytes", help, p.resident_bytes);
        let help = "Open file descriptors of the daemon.";
        out.gauge_of("narfs_open_descriptors", help, p.open_descriptors);
        let help = "Limit of open file descriptors of the daemon.";
        out.gauge_of("narfs_descriptor_limit", help, p.descriptor_limit);
        out.gauge_of("narfs_threads", "Threads of the daemon.", p.threads);
        let name = "narfs_cpu_seconds_total";
        out.family(name, "counter", "User and system CPU time of the daemon.");
        out.sample("", &[], p.cpu_seconds);
    }
}

fn with_traffic(
    sources: &[SourceReport],
) -> impl Iterator<Item = (&SourceReport, &crate::substituter::TrafficSnapshot)> {
    sources
        .iter()
        .filter_map(|s| Some((s, s.traffic.as_ref()?)))
}

#[cfg(test)]
mod tests;
