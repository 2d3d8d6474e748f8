//! The program that is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

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

    pub fn stats(&self, state: &Path) -> Result<Stats> {
        let output = self.command(state).args(["stats", "--json"]).output()?;
        if !output.status.success() {
            bail!(
                "narfs stats failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        let said: Value =
            serde_json::from_slice(&output.stdout).context("narfs stats --json is no JSON")?;
        let number = |name: &str| {
            said[name]
                .as_u64()
                .with_context(|| format!("narfs stats --json has no number {name}"))
        };
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
