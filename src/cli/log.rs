//! Logging to a terminal, a file, or the journal of systemd, and what commands tell their user, in the same
//! format.
//!
//! Invariant: with [`LogFormat::Json`], each line on stderr is an object; only help and errors of clap, which
//! come before the format is known, are not.

use std::fmt;
use std::io::{self, ErrorKind, IsTerminal, Stderr, Write};
use std::sync::OnceLock;

use serde_json::json;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::{Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::supervision;

/// The format of what is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LogFormat {
    #[default]
    Text,
    /// One object a line.
    Json,
}

impl LogFormat {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// The format of this process.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// Tells the user of something that is not as it should be.
pub(super) fn warn(text: &str) {
    tell(Level::WARN, "narfs: warning: ", text);
}

/// Tells the user what failed.
pub(super) fn error(text: &str) {
    tell(Level::ERROR, "narfs: ", text);
}

/// Whether stderr has objects, and nothing else.
pub(super) fn is_json() -> bool {
    FORMAT.get() == Some(&LogFormat::Json)
}

fn tell(level: Level, prefix: &str, text: &str) {
    let line = match is_json() {
        true => object(level, text),
        false => format!("{prefix}{text}"),
    };
    // Whoever cannot write to stderr has nobody left to tell.
    let _ = writeln!(io::stderr(), "{line}");
}

/// What is told as an object like those of the log.
fn object(level: Level, text: &str) -> String {
    let mut time = String::new();
    let _ = SystemTime.format_time(&mut Writer::new(&mut time));
    let object = json!({
        "timestamp": time,
        "level": level.as_str(),
        "message": text,
        "target": "narfs::cli",
    });
    object.to_string()
}

/// The format of events as JSON: message, fields and the span stand beside the level.
fn json_format() -> Format<Json> {
    let format = Format::default().json().flatten_event(true);
    format.with_current_span(true).with_span_list(false)
}

/// Starts logging to stderr.
pub(super) fn start(verbose: u8, format: LogFormat) {
    let format = *FORMAT.get_or_init(|| format);
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
    let to_journal = !in_background && is_journal();
    if format == LogFormat::Json {
        supervision::pass_to_keepers(&["--log-format", format.name()]);
        std::panic::set_hook(Box::new(|panic| error(&panic.to_string())));
        let log = log.with_ansi(false).fmt_fields(JsonFields::new());
        return match to_journal {
            true => log.event_format(Journal(json_format())).init(),
            false => log.event_format(json_format()).init(),
        };
    }
    if to_journal {
        let format = Format::default().without_time().with_level(false);
        let format = format.with_target(false).with_ansi(false);
        log.with_ansi(false).event_format(Journal(format)).init();
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

/// Log format for the journal: the priority prefix of sd-daemon(3), which the journal takes off, and a line
/// in the inner format.
struct Journal<F>(F);

/// The priority, as in syslog(3).
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

impl<F, S, N> FormatEvent<S, N> for Journal<F>
where
    F: FormatEvent<S, N>,
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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects what is written.
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged with a format of events.
    fn logged<F>(format: F) -> Vec<String>
    where
        F: FormatEvent<tracing_subscriber::Registry, JsonFields> + Send + Sync + 'static,
    {
        use tracing_subscriber::layer::SubscriberExt;
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = tracing_subscriber::fmt::layer().fmt_fields(JsonFields::new());
        let layer = layer
            .event_format(format)
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            let _inside = tracing::info_span!("fetch", path = "a-\"b\"").entered();
            tracing::warn!(url = %"http://x", attempt = 3, "two\nlines\u{1b}[1m");
            tracing::info!(unsaid = 7_u64, "not fetched: {}", "é");
        });
        let text = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(text).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn every_line_of_json_is_an_object_with_time_level_target_message_and_fields() {
        let lines = logged(json_format());
        assert_eq!(lines.len(), 2);
        let parsed = lines.iter().map(|line| serde_json::from_str(line).unwrap());
        let parsed: Vec<serde_json::Value> = parsed.collect();
        for object in &parsed {
            let time = object["timestamp"].as_str().unwrap();
            assert!(time.parse::<jiff::Timestamp>().is_ok(), "{time}");
            assert!(
                object["target"]
                    .as_str()
                    .unwrap()
                    .starts_with("narfs::cli::log")
            );
            assert_eq!(object["span"]["path"], "a-\"b\"");
        }
        assert_eq!(parsed[0]["level"], "WARN");
        assert_eq!(parsed[0]["message"], "two\nlines\u{1b}[1m");
        assert_eq!(
            (&parsed[0]["url"], &parsed[0]["attempt"]),
            (&"http://x".into(), &3.into())
        );
        assert_eq!(
            (&parsed[1]["level"], &parsed[1]["unsaid"]),
            (&"INFO".into(), &7.into())
        );
    }

    #[test]
    fn in_the_journal_each_object_has_its_priority_before_it() {
        let lines = logged(Journal(json_format()));
        for (line, priority) in lines.iter().zip(["<4>", "<6>"]) {
            let object = line.strip_prefix(priority).unwrap();
            assert!(
                serde_json::from_str::<serde_json::Value>(object).is_ok(),
                "{line}"
            );
        }
    }

    #[test]
    fn what_a_command_says_is_an_object_of_the_same_form() {
        let line = object(Level::ERROR, "cannot \"x\"\nand y");
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (line.lines().count(), &object["level"]),
            (1, &"ERROR".into())
        );
        assert_eq!(object["message"], "cannot \"x\"\nand y");
        assert!(
            object["timestamp"]
                .as_str()
                .unwrap()
                .parse::<jiff::Timestamp>()
                .is_ok()
        );
    }
}
