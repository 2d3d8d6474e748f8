//! The program that is measured.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cache::BinaryCache;
use crate::measure;

pub struct Narfs {
    program: PathBuf,
    pub version: String,
}

/// What `narfs stats` says of a state.
#[derive(Clone, Copy)]
pub struct Stats {
    pub paths: u64,
    pub chunks: u64,
    /// Records of chunks, trees and path infos, as they are kept.
    pub stored_bytes: u64,
    /// Distinct contents before compression.
    pub unique_bytes: u64,
    pub nar_bytes: u64,
}

/// What `narfs stats` says of a daemon with sources.
#[derive(Clone, Copy)]
pub struct Activity {
    /// Requests of the kernel so far.
    pub fuse_requests: u64,
    /// Bytes of NARs that the sources sent so far.
    pub fetched_bytes: u64,
    /// Whether nothing is fetched now, nor waits for it.
    pub idle: bool,
}

impl Narfs {
    pub fn find(given: Option<&Path>) -> Result<Self> {
        let program = match given {
            Some(program) => program.to_owned(),
            None => std::env::current_exe()?.with_file_name("narfs"),
        };
        let program = program.canonicalize().with_context(|| {
            format!(
                "no narfs at {}: build it, or give --narfs",
                program.display()
            )
        })?;
        let output = Command::new(&program)
            .arg("--version")
            .output()
            .with_context(|| format!("cannot run {}", program.display()))?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        Ok(Self { program, version })
    }

    /// Copies all of a binary cache, verified, into a state.
    pub fn copy(&self, state: &Path, cache: &BinaryCache) -> Command {
        let mut command = self.command(state);
        command
            .args(["copy", "--from", &cache.url(), "--all"])
            .args(["--trusted-public-key", &cache.public_key]);
        command
    }

    /// The same of a binary cache that nobody has signed.
    pub fn copy_unsigned(&self, state: &Path, cache: &Path) -> Command {
        let mut command = self.command(state);
        let url = format!("file://{}", cache.display());
        command.args(["copy", "--from", &url, "--all", "--no-require-sigs"]);
        command
    }

    /// Shows a state at a mount point, in the background; what is absent comes from `url`.
    pub fn mount(&self, state: &Path, at: &str, cache: &BinaryCache, url: &str) -> Command {
        let mut command = self.command(state);
        command
            .args(["mount", at, "--from", url])
            .args(["--trusted-public-key", &cache.public_key]);
        command
    }

    /// A command to the daemon that serves a state.
    pub fn tell(&self, state: &Path, args: &[&str]) -> Command {
        let mut command = self.command(state);
        command.args(args);
        command
    }

    /// What a command prints.
    pub fn ask(&self, state: &Path, args: &[&str]) -> Result<Vec<u8>> {
        let output = self.tell(state, args).stdin(Stdio::null()).output()?;
        if !output.status.success() {
            bail!(
                "narfs {} failed: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    }

    /// What a daemon with sources does and has done.
    pub fn activity(&self, state: &Path) -> Result<Activity> {
        let said = self.said(state)?;
        let flights = said["fetcher"]["fetches"].as_array();
        let queued = number(&said, "/fetcher/queued")?;
        Ok(Activity {
            fuse_requests: number(&said, "/fuse/total")?,
            fetched_bytes: number(&said, "/fetched_bytes")?,
            idle: queued == 0 && flights.is_some_and(Vec::is_empty),
        })
    }

    /// What the kernel has asked the daemon that serves a state so far, by operation. To ask for this
    /// reads nothing of the state.
    pub fn requests(&self, state: &Path) -> Result<BTreeMap<String, u64>> {
        let said = self.ask(state, &["metrics"])?;
        let said = String::from_utf8(said).context("narfs metrics is no text")?;
        let requests = requests(&said);
        if requests.is_empty() {
            bail!("narfs metrics has no {REQUESTS}");
        }
        Ok(requests)
    }

    /// The process that serves a state.
    pub fn daemon(&self, state: &Path) -> Result<u32> {
        let said = self.ask(state, &["status", "--json"])?;
        let said: Value =
            serde_json::from_slice(&said).context("narfs status --json is no JSON")?;
        Ok(u32::try_from(number(&said, "/pid")?)?)
    }

    fn said(&self, state: &Path) -> Result<Value> {
        let said = self.ask(state, &["stats", "--json"])?;
        serde_json::from_slice(&said).context("narfs stats --json is no JSON")
    }

    pub fn stats(&self, state: &Path) -> Result<Stats> {
        let said = self.said(state)?;
        let number = |name: &str| number(&said, &format!("/{name}"));
        Ok(Stats {
            paths: number("paths")?,
            chunks: number("chunks")?,
            stored_bytes: number("stored_bytes")?,
            unique_bytes: number("unique_bytes")?,
            nar_bytes: number("nar_bytes")?,
        })
    }

    /// As a stranger's shell would start it: no setting of this user's environment counts.
    fn command(&self, state: &Path) -> Command {
        let mut command = Command::new(&self.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NARFS_") {
                command.env_remove(name);
            }
        }
        // Nor does this machine's configuration.
        command.args(["--config", "/dev/null"]);
        command.arg("--state").arg(state);
        command
    }

    /// For what is not measured: runs to the end, or says why not.
    pub fn copy_now(&self, state: &Path, cache: &BinaryCache, log: &Path) -> Result<()> {
        std::fs::create_dir_all(state)?;
        measure::run(&mut self.copy(state, cache), state, log).map(drop)
    }
}

/// The metric of requests that the kernel made.
const REQUESTS: &str = "narfs_fuse_requests_total";

fn requests(metrics: &str) -> BTreeMap<String, u64> {
    let lines = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(REQUESTS)?;
        let (operation, count) = rest.strip_prefix("{operation=\"")?.split_once("\"} ")?;
        Some((operation.to_owned(), count.parse().ok()?))
    });
    lines.collect()
}

/// A number in what `narfs stats` or `status` said.
fn number(said: &Value, place: &str) -> Result<u64> {
    said.pointer(place)
        .and_then(Value::as_u64)
        .with_context(|| format!("narfs --json has no number at {place}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_found_among_all_metrics() {
        let metrics = "# HELP narfs_fuse_requests_total FUSE requests.\n\
            narfs_fuse_requests_total{operation=\"lookup\"} 4\n\
            narfs_fuse_requests_total{operation=\"read\"} 12\n\
            narfs_fuse_requests_waiting 7\n";
        let found = requests(metrics);
        let expected = [("lookup".to_owned(), 4), ("read".to_owned(), 12)];
        assert_eq!(found, BTreeMap::from(expected));
    }
}
