//! Runs the program on a state, and says what is in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use narfs::nix::hash::NarHash;
use narfs::nix::store_path::StorePath;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary_cache::Cache;

/// A state that does not exist yet.
pub struct State {
    /// Keeps the directory.
    _parent: Option<TempDir>,
    dir: PathBuf,
    store_dir: String,
}

impl State {
    pub fn new() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("state");
        Self {
            _parent: Some(parent),
            ..Self::at(dir)
        }
    }

    /// One in a directory that someone else cleans up.
    pub fn at(dir: PathBuf) -> Self {
        Self {
            _parent: None,
            dir,
            store_dir: "/nix/store".into(),
        }
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The program, with this state.
    pub fn command<S: AsRef<str>>(&self, arguments: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_narfs"));
        command.env_remove("NARFS_LOG").env_remove("NARFS_MEMORY");
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(proxy);
            command.env_remove(proxy.to_uppercase());
        }
        // Nor passwords and authorities of whoever runs the tests.
        for name in ["NETRC", "HOME", "NIX_SSL_CERT_FILE"] {
            command.env_remove(name);
        }
        // Not what this machine is configured to do.
        command.env("NARFS_CONFIG", "/dev/null");
        command.arg("--state").arg(&self.dir);
        command.args(arguments.iter().map(AsRef::as_ref));
        command
    }

    pub fn run<S: AsRef<str>>(&self, arguments: &[S]) -> Ran {
        Ran::of(&mut self.command(arguments))
    }

    /// `narfs copy` from a cache.
    pub fn copy(&self, cache: &Cache, what: &[&str]) -> Ran {
        let mut arguments = vec!["copy".to_owned()];
        arguments.extend(cache.arguments());
        arguments.extend(what.iter().map(|w| (*w).to_owned()));
        self.run(&arguments)
    }

    /// What `path-info --json` says of `paths`; of all, if there are none.
    pub fn infos(&self, paths: &[&str]) -> Vec<Value> {
        let mut arguments = vec!["path-info", "--json"];
        arguments.extend(paths);
        let ran = self.run(&arguments);
        ran.succeeds();
        serde_json::from_str(&ran.stdout()).unwrap()
    }

    /// The registered paths.
    #[track_caller]
    pub fn has_exactly(&self, paths: &[&StorePath]) {
        let registered: BTreeSet<_> = self.registered();
        let expected = paths.iter().map(|p| format!("{}/{p}", self.store_dir));
        assert_eq!(registered, expected.collect());
    }

    pub fn registered(&self) -> BTreeSet<String> {
        let infos = self.infos(&[]);
        let paths = infos.iter().map(|i| i["path"].as_str().unwrap().to_owned());
        paths.collect()
    }

    /// Neither listed nor readable, by any name.
    #[track_caller]
    pub fn has_nothing_of(&self, path: &StorePath) {
        let base = path.base_name();
        for command in ["path-info", "ls", "dump", "cat"] {
            for name in [&base, &path.hash().to_string()] {
                self.run(&[command, name])
                    .fails(&[name, "not in the state"]);
            }
        }
    }

    /// `narfs verify` finds nothing; the number of paths.
    #[track_caller]
    pub fn is_whole(&self) -> u64 {
        let ran = self.run(&["verify", "--json"]);
        ran.succeeds();
        let report: Value = serde_json::from_str(&ran.stdout()).unwrap();
        assert_eq!(report["failures"].as_array().unwrap().len(), 0);
        report["good"].as_u64().unwrap()
    }

    /// The NAR that comes out is the one that went in.
    #[track_caller]
    pub fn gives_out(&self, path: &StorePath, nar: &[u8]) {
        let ran = self.run(&["dump", &path.base_name()]);
        ran.succeeds();
        assert_eq!(NarHash::of(&ran.output.stdout), NarHash::of(nar), "{path}");
    }
}

/// What a run of the program gave.
#[derive(Debug)]
pub struct Ran {
    pub output: Output,
}

impl Ran {
    pub fn of(command: &mut Command) -> Self {
        Self {
            output: command.output().unwrap(),
        }
    }

    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.output.stdout).into_owned()
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.output.stderr).into_owned()
    }

    #[track_caller]
    pub fn succeeds(&self) -> &Self {
        let code = self.output.status.code();
        assert_eq!(code, Some(0), "{}\n{}", self.stdout(), self.stderr());
        self
    }

    /// Exit status 1 and a single line on stderr, with all of `words` in it.
    #[track_caller]
    pub fn fails(&self, words: &[&str]) -> &Self {
        let stderr = self.stderr();
        assert_eq!(self.output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "not one line: {stderr}");
        assert!(stderr.starts_with("narfs: "), "{stderr}");
        for word in words {
            assert!(stderr.contains(word), "no {word:?} in: {stderr}");
        }
        self
    }

    /// Exit status 1, one line for each of `failures` with its words in it and no other line, and
    /// a summary that counts them and `copied` paths.
    #[track_caller]
    pub fn copies_but(&self, copied: usize, failures: &[(&StorePath, &str)]) -> &Self {
        let stderr = self.stderr();
        assert_eq!(self.output.status.code(), Some(1), "{stderr}");
        for (path, word) in failures {
            let hash = path.hash().to_string();
            let about = |l: &&str| {
                let subject = l.strip_prefix("narfs: ").unwrap_or(l);
                let subject = subject.split(": ").next().unwrap_or_default();
                subject.contains(&hash)
            };
            let lines: Vec<_> = stderr.lines().filter(about).collect();
            assert_eq!(lines.len(), 1, "{path}: {lines:?} in:\n{stderr}");
            assert!(lines[0].contains(word), "no {word:?} in: {}", lines[0]);
        }
        assert_eq!(stderr.lines().count(), failures.len(), "{stderr}");
        self.counts(copied, failures.len())
    }

    /// What the summary counts.
    #[track_caller]
    pub fn counts(&self, copied: usize, failed: usize) -> &Self {
        let summary = self.stdout();
        assert!(
            summary.starts_with(&format!("{copied} paths copied ("))
                && summary.ends_with(&format!(" {failed} failed\n")),
            "{copied} copied, {failed} failed, not {summary}{}",
            self.stderr()
        );
        self
    }
}
