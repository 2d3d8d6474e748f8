//! Formatted output of commands.

use super::log;
use super::outcome::Outcome;
use crate::command::Failure;

/// Prints a report as JSON.
pub(super) fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println(&serde_json::to_string_pretty(value)?)
}

/// Prints a line; a closed pipe is an error, not a panic.
pub(super) fn println(line: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// Says that what a command has done or shown rests on the word of a source; `what` names the paths.
pub(super) fn warn_unsigned_paths(unsigned: u64, what: &str) {
    if unsigned > 0 {
        log::warn(&format!(
            "nothing but the word of a source vouches for {unsigned} {what}, nor for what these need \
             (`narfs path-info --json` has them as unsigned); a copy or prefetch that requires signatures \
             from a source that signs them mends that"
        ));
    }
}

/// A human-readable number of bytes.
pub(super) fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}

/// Prints each failed path to stderr.
pub(super) fn show_failures(failures: &[Failure]) -> Outcome {
    for f in failures {
        let name = f.path.rsplit('/').next().unwrap_or(&f.path);
        match f.error.starts_with(name) {
            true => log::error(&f.error),
            false => log::error(&format!("{}: {}", f.path, f.error)),
        }
    }
    if failures.is_empty() {
        Outcome::Good
    } else {
        Outcome::Failed
    }
}
