//! `narfs mount`

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::copy::Trust;
use super::{Global, Outcome, Usage};
use crate::daemon::{self, Command, StatusReport};
use crate::fetch::Deadlines;
use crate::fuse::{self, MountRequest, Subtree};

/// Mount the state as a read-only file system
///
/// Returns once the mount answers, and serves it in the background until it is unmounted. Where a
/// daemon serves the state already, the same file system is shown at one more place.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An empty directory, usually /nix
    mountpoint: PathBuf,
    /// Options, comma-separated: subtree=store (show only the store, for /nix/store), nonempty
    /// (mount over a directory that has something in it), and how many seconds programs wait for
    /// what is fetched: lookup-timeout=10 (for a store path), contents-timeout=30 (inside a path,
    /// without any of it arriving), absent-ttl=10 (how long it is remembered that no source has a
    /// path); ro and x-… change nothing
    #[arg(
        short = 'o',
        long = "options",
        value_name = "OPTS",
        value_delimiter = ','
    )]
    options: Vec<String>,
    /// Fetch what is looked up and is not there: file:///DIR, http://… or https://…; repeatable,
    /// tried by their priority. Without it the mount shows what the state has
    #[arg(long, value_name = "URL")]
    from: Vec<String>,
    #[command(flatten)]
    trust: Trust,
    /// Serve in the foreground, for service managers; readiness is told as sd_notify(3) says
    #[arg(long)]
    foreground: bool,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let request = self.request()?;
        self.deadlines()?;
        let state = global.state()?;
        if let Some(status) = daemon::status(&state) {
            check_namespace(&status)?;
            if self.foreground {
                bail!(
                    "process {} serves the state {} already; end it, or mount without \
                     --foreground to show the same file system at one more place",
                    status.pid,
                    state.display()
                );
            }
            global.run(Command::Mount(request), false)?;
            return Ok(Outcome::Good);
        }
        if self.foreground {
            let mut sources = self.trust.clone().request(self.from.clone());
            sources.deadlines = self.deadlines()?;
            let sources = (!self.from.is_empty()).then_some(&sources);
            daemon::serve(&state, &global.options(true)?, &request, sources)?;
            return Ok(Outcome::Good);
        }
        daemon::spawn_and_wait(self.background(global, &state, &request)?)?;
        Ok(Outcome::Good)
    }

    /// The same command for the background: started anew rather than forked, since threads do
    /// not survive a fork; with absolute paths and at `/`, so that it keeps no directory busy.
    fn background(
        &self,
        global: &Global,
        state: &Path,
        request: &MountRequest,
    ) -> anyhow::Result<std::process::Command> {
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = std::process::Command::new(program);
        command.current_dir("/").arg("--state").arg(state);
        command.args(["--memory", &global.memory.to_string()]);
        if let Some(store_dir) = &global.store_dir {
            command.args(["--store-dir", store_dir]);
        }
        if global.verbose > 0 {
            command.arg(format!("-{}", "v".repeat(usize::from(global.verbose))));
        }
        command.arg("mount").arg(&request.mountpoint);
        if !self.options.is_empty() {
            command.args(["-o", &self.options.join(",")]);
        }
        for url in &self.from {
            command.args(["--from", url]);
        }
        command.args(self.trust.arguments()).arg("--foreground");
        Ok(command)
    }

    fn request(&self) -> anyhow::Result<MountRequest> {
        let mut request = MountRequest {
            mountpoint: fuse::mountpoint(&self.mountpoint)?,
            subtree: Subtree::Whole,
            nonempty: false,
        };
        for option in &self.options {
            match option.as_str() {
                "subtree=store" => request.subtree = Subtree::Store,
                "nonempty" => request.nonempty = true,
                "" | "ro" | "_netdev" | "nofail" | "allow_other" => {}
                o if o.starts_with("x-") => {}
                o if deadline(o).is_some() => {}
                other => {
                    return Err(Usage::error(format!(
                        "unknown mount option {other:?}; there are subtree=store, nonempty, \
                         lookup-timeout=SECONDS, contents-timeout=SECONDS and absent-ttl=SECONDS"
                    )));
                }
            }
        }
        Ok(request)
    }

    fn deadlines(&self) -> anyhow::Result<Deadlines> {
        let mut deadlines = Deadlines::default();
        for (field, seconds) in self.options.iter().filter_map(|o| deadline(o)) {
            *field(&mut deadlines) = match seconds.parse::<u32>() {
                Ok(seconds) if seconds > 0 => Duration::from_secs(seconds.into()),
                _ => {
                    let text = format!("{seconds:?} is no number of seconds; give 1 or more");
                    return Err(Usage::error(text));
                }
            };
        }
        Ok(deadlines)
    }
}

/// Picks one of the deadlines.
type Field = fn(&mut Deadlines) -> &mut Duration;

/// The deadline that a mount option sets, and its value.
fn deadline(option: &str) -> Option<(Field, &str)> {
    let (name, value) = option.split_once('=')?;
    let field: Field = match name {
        "lookup-timeout" => |d| &mut d.lookup,
        "contents-timeout" => |d| &mut d.contents,
        "absent-ttl" => |d| &mut d.absent,
        _ => return None,
    };
    Some((field, value))
}

/// A mount that the daemon makes is seen in its mount namespace only.
fn check_namespace(status: &StatusReport) -> anyhow::Result<()> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace("self") != namespace(&status.pid.to_string()) {
        bail!(
            "the state {} is served by process {} in another mount namespace; mount there with \
             `nsenter --mount --target {} narfs mount …`, or bind what it has mounted",
            status.state.display(),
            status.pid,
            status.pid
        );
    }
    Ok(())
}
