//! The program that is run: a python3 of the binary cache, which loads what lies in several store
//! paths: interpreter, shared libraries, modules.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::cache::{BinaryCache, base_name};
use crate::measure;

const SCRIPT: &str = "import json, ssl, sqlite3";

/// It does not take that long, over a slow link either.
const LIMIT: Duration = Duration::from_secs(600);

pub struct Program {
    /// The store path that it is in.
    pub path: String,
    /// That and all that it refers to.
    pub closure: Vec<String>,
    pub nar_bytes: u64,
}

impl Program {
    pub fn shown() -> String {
        format!("python3 -c '{SCRIPT}'")
    }

    fn file(&self) -> String {
        format!("{}/bin/python3", self.path)
    }

    /// Runs it in the store that is at /nix.
    pub fn run(&self, log: &Path) -> Result<()> {
        let mut command = Command::new(self.file());
        command
            .args(["-c", SCRIPT])
            .env_clear()
            .env("LC_ALL", "C.UTF-8")
            // Root could write into the store that Nix makes, which no one should.
            .env("PYTHONDONTWRITEBYTECODE", "1");
        measure::run_within(&mut command, log, LIMIT)
    }

    /// The python3 with the smallest closure that can do it, in the binary cache that is shown at /nix.
    pub fn find(cache: &BinaryCache, log: &Path) -> Option<Self> {
        let mut candidates: Vec<Self> = cache
            .paths
            .keys()
            .filter(|path| is_python(base_name(path)))
            .map(|path| {
                let closure = cache.closure(path);
                Self {
                    path: path.clone(),
                    nar_bytes: closure.iter().map(|&path| cache.paths[path].nar_size).sum(),
                    closure: closure.into_iter().map(str::to_owned).collect(),
                }
            })
            .collect();
        candidates.sort_by_key(|program| program.nar_bytes);
        candidates
            .into_iter()
            .find(|program| Path::new(&program.file()).exists() && program.run(log).is_ok())
    }
}

/// Whether HASH-NAME is an interpreter, of Nixpkgs or of Debian, rather than a package for it.
fn is_python(base_name: &str) -> bool {
    base_name
        .split_once('-')
        .and_then(|(_, name)| name.strip_prefix("python3"))
        .map(|rest| rest.strip_prefix("-minimal").unwrap_or(rest))
        .and_then(|rest| rest.strip_prefix(['-', '.', '_']))
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_told_from_its_packages_by_its_name() {
        let named = |name: &str| is_python(&format!("0000000000000000000000000000000a-{name}"));
        assert!(named("python3-3.12.8") && named("python3.11-3.11.2-6") && named("python3_11"));
        assert!(named("python3-minimal-3.11.2-1"));
        assert!(!named("python3-numpy-1.24.2") && !named("python3") && !named("python2.7"));
    }
}
