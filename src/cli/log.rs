//! Logging to a terminal, a file, or the journal of systemd.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Stderr, Write};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Full, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::supervision;

/// Starts logging to stderr.
pub(super) fn start(verbose: u8) {
    let default = match verbose {
        0 => "narfs=warn",
        1 => "narfs=info",
        _ => "narfs=debug",
    };
    let filter = std::env::var("NARFS_LOG").unwrap_or_else(|_| default.to_owned());
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(|| BestEffort(io::stderr()));
    let in_background = supervision::in_background();
    if !in_background && is_journal() {
        log.with_ansi(false).event_format(Journal::new()).init();
        return;
    }
    // A daemon may start on a terminal, and continue in a file.
    log.with_ansi(!in_background && io::stderr().is_terminal())
        .with_target(false)
        .init();
}

/// Standard error, ignoring write errors: the disk with the log may be full, or its reader gone;
/// the subscriber would report that on stderr again, and panic.
struct BestEffort(Stderr);

impl Write for BestEffort {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.0.write(line) {
            Err(e) if e.kind() != ErrorKind::Interrupted => Ok(line.len()),
            written => written,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether stderr is connected to the journal; JOURNAL_STREAM has its device and inode, see
/// systemd.exec(5).
fn is_journal() -> bool {
    let said = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let stat = rustix::fs::fstat(io::stderr());
    stat.is_ok_and(|s| said == format!("{}:{}", s.st_dev, s.st_ino))
}

/// Log format for the journal, which has its own timestamps: the priority prefix of sd-daemon(3),
/// and the text.
struct Journal(Format<Full, ()>);

impl Journal {
    fn new() -> Self {
        let format = Format::default().without_time();
        Self(format.with_level(false).with_target(false).with_ansi(false))
    }
}

/// The priority, as in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut text = String::new();
        self.0
            .format_event(context, Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        // The journal takes each line as a message.
        for line in text.lines() {
            writeln!(writer, "<{priority}>{line}")?;
        }
        Ok(())
    }
}
