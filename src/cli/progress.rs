//! Output of a running command: bytes on stdout, a progress bar on stderr.

use std::io::{self, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::log;
use super::output::bytes;
use super::status;
use crate::command::Output;
use crate::daemon::Show;
use crate::fetch::Snapshot;

/// Output to the terminal; the bar is shown only if stderr is a terminal.
pub(super) struct Terminal {
    bar: ProgressBar,
}

impl Terminal {
    pub(super) fn new() -> Self {
        let target = match log::is_json() {
            true => ProgressDrawTarget::hidden(),
            false => ProgressDrawTarget::stderr(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        let style = ProgressStyle::with_template(
            "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} eta {eta} {msg}",
        );
        if let Ok(style) = style {
            bar.set_style(style);
        }
        Self { bar }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

impl Output for Terminal {
    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        io::stdout().write_all(bytes)
    }

    fn progress(&mut self, s: &Snapshot) -> io::Result<()> {
        // The total grows while the closure is being explored.
        self.bar.set_length(s.nar_bytes);
        self.bar.set_position(s.nar_bytes_done.min(s.nar_bytes));
        let mut message = format!("{}/{} paths", s.paths_done, s.paths);
        if s.fetched_bytes > 0 {
            message = format!("{message}, {} fetched", bytes(s.fetched_bytes));
        }
        self.bar.set_message(message);
        self.bar.enable_steady_tick(Duration::from_millis(200));
        Ok(())
    }
}

/// Shows the fetches of a mount in the foreground, one line per path; `None` if stderr is not a
/// terminal, or has the log as JSON.
pub(super) fn show_fetches() -> Option<Show> {
    if log::is_json() || !io::IsTerminal::is_terminal(&io::stderr()) {
        return None;
    }
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg}") {
        bar.set_style(style);
    }
    Some(Box::new(move |activity| {
        let lines: Vec<_> = activity.fetches.iter().map(status::flight).collect();
        match lines.as_slice() {
            [] => bar.set_message(""),
            lines => bar.set_message(lines.join("\n")),
        }
        bar.tick();
    }))
}
