//! `narfs top`

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};

use super::global::Global;
use super::metrics::figures;
use super::outcome::{Outcome, Usage};
use super::output::bytes;
use super::status::{flight, source};
use crate::command::FiguresReport;
use crate::measure::Histogram;

/// Watch the daemon: requests and their latencies, fetches, sources, memory
///
/// Rates and latencies cover the time since the previous refresh, and at first the time since the
/// daemon started. Quit with q or Ctrl-C.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Seconds between refreshes
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    interval: f64,
    /// Exit after this many refreshes
    #[arg(short = 'n', long, value_name = "NUMBER")]
    count: Option<u64>,
    /// Show once and exit
    #[arg(long, conflicts_with = "count")]
    once: bool,
}

/// Moves the cursor to the upper left corner.
const HOME: &str = "\x1b[H";
/// Clears the rest of the line.
const REST_OF_LINE: &str = "\x1b[K";
/// Clears the rest of the screen.
const CLEAR_BELOW: &str = "\x1b[J";
/// Clears the screen.
const CLEAR: &str = "\x1b[2J";
/// Ctrl-C, as a byte from a terminal without ISIG.
const CTRL_C: u8 = 3;
/// Number of lines if the terminal does not report its size.
const LINES: usize = 24;

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let interval = Duration::try_from_secs_f64(self.interval).ok();
        let Some(interval) = interval.filter(|i| *i >= Duration::from_millis(50)) else {
            let text = format!(
                "--interval {} is not valid; give 0.05 s or more",
                self.interval
            );
            return Err(Usage::error(text));
        };
        let refreshes = if self.once { Some(1) } else { self.count };
        let mut before = None;
        let mut shown = 0;
        let mut now = figures(global)?;
        let keys = Keys::open();
        let screen = std::io::stdout().is_terminal() && refreshes != Some(1);
        if screen {
            show(CLEAR)?;
        }
        loop {
            let when = Instant::now();
            let since = before.as_ref().map(|(at, figures)| (when - *at, figures));
            let lines = lines(&now, since);
            if screen {
                show(&on_screen(&lines))?;
            } else {
                show(&format!("{}\n", lines.join("\n")))?;
            }
            shown += 1;
            if refreshes.is_some_and(|refreshes| shown >= refreshes) || keys.quit_within(interval) {
                return Ok(Outcome::Good);
            }
            before = Some((when, now));
            now = figures(global)?;
        }
    }
}

fn show(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// As many lines as fit, overwriting the previous ones.
fn on_screen(lines: &[String]) -> String {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    let size = size.filter(|s| s.ws_row > 0 && s.ws_col > 0);
    let (rows, columns) = size.map_or((LINES, usize::MAX), |s| {
        (usize::from(s.ws_row), usize::from(s.ws_col))
    });
    let mut text = HOME.to_owned();
    // The last row stays free, so that the terminal does not scroll.
    for line in lines.iter().take(rows.saturating_sub(1)) {
        text.extend(line.chars().take(columns));
        text.push_str(REST_OF_LINE);
        text.push('\n');
    }
    text + CLEAR_BELOW
}

/// The keyboard, if there is one, without line buffering; the terminal mode is restored on drop.
struct Keys(Option<Termios>);

impl Keys {
    fn open() -> Self {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() || !std::io::stdout().is_terminal() {
            return Self(None);
        }
        let Ok(before) = rustix::termios::tcgetattr(&stdin) else {
            return Self(None);
        };
        let mut each = before.clone();
        // Ctrl-C arrives as a key: a process killed by a signal would not restore the terminal.
        let whole_lines = LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
        each.local_modes.remove(whole_lines);
        each.special_codes[SpecialCodeIndex::VMIN] = 0;
        each.special_codes[SpecialCodeIndex::VTIME] = 0;
        let set = rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &each);
        Self(set.is_ok().then_some(before))
    }

    /// Waits that long; whether a key asked to quit, or the terminal is gone.
    fn quit_within(&self, time: Duration) -> bool {
        if self.0.is_none() {
            std::thread::sleep(time);
            return false;
        }
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(timeout) = Timespec::try_from(left) else {
                return false;
            };
            let stdin = std::io::stdin();
            let mut keyboard = [PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN)];
            match poll(&mut keyboard, Some(&timeout)) {
                Ok(0) => return false,
                Ok(_) => {}
                Err(e) if is_interruption(&e.into()) => continue,
                Err(_) => return true,
            }
            let mut key = [0];
            match rustix::io::read(stdin.as_fd(), &mut key) {
                Ok(1..) if !matches!(key[0], b'q' | b'Q' | CTRL_C) => {}
                _ => return true,
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn is_interruption(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::Interrupted
}

/// The change since an earlier report, or since the daemon started.
struct Since<'f> {
    seconds: f64,
    before: Option<&'f FiguresReport>,
}

impl Since<'_> {
    /// Increase of a counter per second.
    fn rate(&self, now: u64, of: impl Fn(&FiguresReport) -> u64) -> f64 {
        let before = self.before.map_or(0, of);
        now.saturating_sub(before) as f64 / self.seconds
    }
}

fn lines(now: &FiguresReport, since: Option<(Duration, &FiguresReport)>) -> Vec<String> {
    // A restarted daemon counts from zero.
    let since = since.filter(|(_, before)| before.pid == now.pid);
    let since = Since {
        seconds: since
            .map_or(now.uptime, |(time, _)| time.as_secs_f64())
            .max(0.001),
        before: since.map(|(_, before)| before),
    };
    let mut lines = vec![head(now, &since)];
    lines.push(process(now, &since));
    lines.extend(state(now, &since));
    lines.push(String::new());
    lines.extend(operations(now, &since));
    let activity = &now.activity;
    if !activity.sources.is_empty() {
        lines.push(String::new());
        lines.push(demand(now, &since));
        lines.extend(activity.sources.iter().map(source));
        let flights = activity.fetches.iter();
        lines.extend(flights.map(|f| format!("fetching    {}{}", flight(f), bar(f))));
    }
    lines
}

fn head(now: &FiguresReport, since: &Since<'_>) -> String {
    let restarts = match now.restarts {
        None | Some(0) => String::new(),
        Some(n) => format!(", restarted {n} times"),
    };
    let over = match since.before {
        Some(_) => format!("the last {:.1} s", since.seconds),
        None => "its lifetime".to_owned(),
    };
    let (version, pid) = (&now.version, now.pid);
    format!(
        "narfs {version}, process {pid}, up {}{restarts}; over {over}",
        duration(now.uptime)
    )
}

fn process(now: &FiguresReport, since: &Since<'_>) -> String {
    let p = &now.process;
    let before = since.before.map_or(0.0, |b| b.process.cpu_seconds);
    let cpu = (p.cpu_seconds - before).max(0.0) / since.seconds * 100.0;
    let known = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
    format!(
        "process     {} resident, {cpu:.0} % of a processor, {} threads, {} of {} descriptors",
        p.resident_bytes.map_or_else(|| "?".to_owned(), bytes),
        known(p.threads),
        known(p.open_descriptors),
        known(p.descriptor_limit),
    )
}

fn state(now: &FiguresReport, since: &Since<'_>) -> Vec<String> {
    let stored = match (&now.stored, now.budget) {
        (None, _) => "being computed".to_owned(),
        (Some(s), Some(budget)) => {
            format!("{} of {} stored", bytes(s.stored_bytes), bytes(budget))
        }
        (Some(s), None) => format!("{} stored", bytes(s.stored_bytes)),
    };
    let unique = now.stored.map_or(String::new(), |s| {
        format!(", {} unique in {} chunks", bytes(s.unique_bytes), s.chunks)
    });
    let free = now.disk_free_bytes.map_or(String::new(), |free| {
        format!("; {} free on its disk", bytes(free))
    });
    let dropped = since.rate(now.evicted_paths, |b| b.evicted_paths);
    let c = &now.caches;
    let effect = |hits: u64, misses: u64, of: &dyn Fn(&FiguresReport) -> (u64, u64)| {
        let (old_hits, old_misses) = since.before.map_or((0, 0), of);
        let hits = hits.saturating_sub(old_hits);
        let misses = misses.saturating_sub(old_misses);
        percent(hits, hits + misses)
    };
    let chunks = effect(c.chunk_hits, c.chunk_misses, &|b| {
        (b.caches.chunk_hits, b.caches.chunk_misses)
    });
    let trees = effect(c.tree_hits, c.tree_misses, &|b| {
        (b.caches.tree_hits, b.caches.tree_misses)
    });
    vec![
        format!("state       {stored}{unique}{free}"),
        format!(
            "evictions   {} paths, {} so far; {dropped:.1} paths/s",
            now.evicted_paths,
            bytes(now.evicted_bytes)
        ),
        format!(
            "in memory   chunks: {chunks} hits, {}; trees: {trees} hits, {}",
            bytes(c.chunk_bytes),
            bytes(c.tree_bytes)
        ),
    ]
}

fn operations(now: &FiguresReport, since: &Since<'_>) -> Vec<String> {
    let served = since.rate(now.times.served_bytes, |b| b.times.served_bytes);
    let total = since.rate(now.requests.total, |b| b.requests.total);
    let mut lines = vec![format!(
        "requests    {total:.1}/s, {} waiting; {}/s served",
        now.times.waiting,
        bytes(served as u64)
    )];
    let none = Histogram::default();
    let mut rows: Vec<_> = now.times.operations.iter().collect();
    let count = |name: &String, times: &Histogram| {
        let before = since.before.and_then(|b| b.times.operations.get(name));
        times.since(before.unwrap_or(&none))
    };
    rows.sort_by_key(|(name, times)| std::cmp::Reverse(count(name, times).count()));
    if !rows.is_empty() {
        lines.push(format!(
            "  {:<12} {:>10} {:>10} {:>10}",
            "", "per second", "p50", "p99"
        ));
    }
    for (name, times) in rows {
        let recent = count(name, times);
        let quantile = |part| {
            recent
                .quantile(part)
                .map_or_else(|| "-".to_owned(), latency)
        };
        lines.push(format!(
            "  {name:<12} {:>10.1} {:>10} {:>10}",
            recent.count() as f64 / since.seconds,
            quantile(0.5),
            quantile(0.99)
        ));
    }
    lines
}

fn demand(now: &FiguresReport, since: &Since<'_>) -> String {
    let a = &now.activity;
    let (hits, misses) = since
        .before
        .map_or((0, 0), |b| (b.activity.hits, b.activity.misses));
    let (hits, misses) = (a.hits.saturating_sub(hits), a.misses.saturating_sub(misses));
    let fetched = since.rate(now.fetched_bytes, |b| b.fetched_bytes);
    format!(
        "on demand   {} hits; {} fetched, {}/s; {} in flight, {} queued",
        percent(hits, hits + misses),
        bytes(now.fetched_bytes),
        bytes(fetched as u64),
        a.fetches.len(),
        a.queued
    )
}

/// Progress of a fetch.
fn bar(f: &crate::fetch::FlightReport) -> String {
    /// In characters.
    const LENGTH: u64 = 20;
    let (done, all) = (f.progress.nar_bytes_done, f.progress.nar_bytes);
    if all == 0 {
        return String::new();
    }
    let filled = done.min(all) * LENGTH / all;
    let mut bar = String::from(" [");
    bar.extend((0..LENGTH).map(|at| if at < filled { '#' } else { '.' }));
    let _ = write!(bar, "] {}", percent(done.min(all), all));
    bar
}

fn percent(part: u64, all: u64) -> String {
    if all == 0 {
        return "-".to_owned();
    }
    format!("{:.0} %", part as f64 * 100.0 / all as f64)
}

fn latency(time: Duration) -> String {
    let micros = time.as_secs_f64() * 1e6;
    match micros {
        ..1e3 => format!("{micros:.0} µs"),
        ..1e6 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

fn duration(seconds: f64) -> String {
    let seconds = seconds as u64;
    let (days, hours) = (seconds / 86400, seconds / 3600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, seconds % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}:{rest:02}"),
        (0, _) => format!("{hours}:{minutes:02}:{rest:02}"),
        _ => format!("{days} d {hours}:{minutes:02}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Latencies;

    fn figures(uptime: f64, requests: u64) -> (FiguresReport, Latencies) {
        let latencies = Latencies::default();
        for _ in 0..requests {
            latencies.add(Duration::from_millis(3));
        }
        let mut figures = FiguresReport {
            pid: 7,
            uptime,
            ..FiguresReport::default()
        };
        let operations = &mut figures.times.operations;
        operations.insert("read".into(), latencies.snapshot());
        figures.requests.total = requests;
        (figures, latencies)
    }

    fn row(lines: &[String]) -> String {
        let row = lines.iter().find(|l| l.trim_start().starts_with("read"));
        let words: Vec<_> = row.unwrap().split_whitespace().collect();
        words.join(" ")
    }

    #[test]
    fn rates_and_times_are_those_since_the_last_look() {
        let (before, latencies) = figures(10.0, 100);
        assert_eq!(row(&lines(&before, None)), "read 10.0 3.1 ms 4.1 ms");
        let (mut now, _) = figures(12.0, 104);
        for _ in 0..4 {
            latencies.add(Duration::from_millis(100));
        }
        now.times
            .operations
            .insert("read".into(), latencies.snapshot());
        let two = Duration::from_secs(2);
        let text = lines(&now, Some((two, &before)));
        assert_eq!(row(&text), "read 2.0 98.3 ms 130.4 ms");
        assert!(
            text.iter().any(|l| l.starts_with("requests    2.0/s")),
            "{text:?}"
        );
        // A restarted daemon counts from zero.
        now.pid = 8;
        let text = lines(&now, Some((two, &before)));
        assert!(text[0].contains("its lifetime"), "{text:?}");
        assert!(row(&text).starts_with("read 8.7 "), "{text:?}");
    }

    #[test]
    fn times_are_readable() {
        let micros = Duration::from_micros;
        assert_eq!(latency(micros(7)), "7 µs");
        assert_eq!(latency(micros(1500)), "1.5 ms");
        assert_eq!(latency(micros(67_108_864)), "67.1 s");
        assert_eq!(duration(59.9), "0:59");
        assert_eq!(duration(3661.0), "1:01:01");
        assert_eq!(duration(90_061.0), "1 d 1:01");
        assert_eq!((percent(1, 3), percent(0, 0)), ("33 %".into(), "-".into()));
    }
}
