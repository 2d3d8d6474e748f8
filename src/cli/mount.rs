//! `narfs mount`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::config::{self, Origin, Settings};
use super::global::Global;
use super::keeper;
use super::outcome::{Outcome, Usage};
use super::serving::{self, Serving};
use crate::command::{Request, StatusReport};
use crate::control;
use crate::daemon::{Mounting, ServeRequest};
use crate::fuse::{self, MountRequest, Subtree};
use crate::supervision;

/// So long it is tried to join a daemon that another command has just started, or to be the next.
const PATIENCE: Duration = Duration::from_secs(30);

/// Mount the state as a read-only file system
///
/// What is looked up and is not there is fetched from the sources. Returns once the mount answers,
/// and serves it in the background until it is unmounted. Where a daemon serves the state already,
/// the same file system is shown at one more place, with the sources, the waits, the prefetching
/// and the budget that the daemon was started with.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An empty directory, usually /nix
    mountpoint: PathBuf,
    #[command(flatten)]
    serving: Serving,
    /// Serve in the foreground, for service managers; readiness is told as sd_notify(3) says
    #[arg(long)]
    foreground: bool,
}

impl Arguments {
    /// Whether this process is to serve the mount.
    pub(super) fn serves_here(&self) -> bool {
        self.foreground
    }

    /// What this process is to serve.
    pub(super) fn serve_request(&self, global: &Global) -> anyhow::Result<ServeRequest> {
        let settings = self.serving.settings(global)?;
        let request = self.request(&settings)?;
        if !supervision::may_take_over()
            && let Ok(status) = control::status(&global.state()?, None)
        {
            check_namespace(&status)?;
            bail!(
                "process {} serves the state {} already; end it, or mount without \
                 --foreground to show the same file system at one more place",
                status.pid,
                status.state.display()
            );
        }
        serving::request(global, &settings, Mounting::Itself(request))
    }

    /// Mounts by the daemon that serves the state, or one that is started.
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let settings = self.serving.settings(global)?;
        let request = self.request(&settings)?;
        let state = global.state()?;
        let began = Instant::now();
        loop {
            if let Ok(status) = control::status(&state, None) {
                self.join(global, &state, &status, request)?;
                return Ok(Outcome::Good);
            }
            match self.start(global, &settings, &request) {
                // Another one was faster, and serves it now or in a moment.
                Err(_) if control::is_owned(&state) && began.elapsed() < PATIENCE => {}
                started => return started.map(|()| Outcome::Good),
            }
        }
    }

    /// Starts a daemon in the background.
    fn start(
        &self,
        global: &Global,
        settings: &Settings,
        request: &MountRequest,
    ) -> anyhow::Result<()> {
        let mut command = vec!["mount".into(), request.mountpoint.clone().into()];
        command.extend(self.serving.arguments());
        command.push("--foreground".into());
        let mounting = Mounting::Itself(request.clone());
        keeper::start(
            global,
            command,
            &serving::request(global, settings, mounting)?,
        )
    }

    /// Has the daemon that serves the state mount it here, too.
    fn join(
        &self,
        global: &Global,
        state: &Path,
        status: &StatusReport,
        request: MountRequest,
    ) -> anyhow::Result<()> {
        check_namespace(status)?;
        let unheeded = self.serving.given();
        global.run(Request::Mount(request), false)?;
        if !unheeded.is_empty() {
            eprintln!(
                "narfs: warning: process {} serves the state {} already, and goes on as it \
                 was started; these change nothing: {}; to have them, unmount it everywhere \
                 first",
                status.pid,
                state.display(),
                unheeded.join(", ")
            );
        }
        Ok(())
    }

    fn request(&self, settings: &Settings) -> anyhow::Result<MountRequest> {
        let writable = &settings.writable_profiles;
        let mut request = MountRequest {
            mountpoint: fuse::mountpoint(&self.mountpoint)?,
            subtree: Subtree::Whole,
            nonempty: false,
            writable_profiles: writable.value,
            labels: Vec::new(),
        };
        for option in &self.serving.options() {
            match option.as_str() {
                "subtree=store" => request.subtree = Subtree::Store,
                "nonempty" => request.nonempty = true,
                "" | "ro" | "_netdev" | "nofail" | "allow_other" => {}
                o if o.starts_with("x-") => {}
                o if config::is_mount_option(o) => {}
                o if fuse::label(o).is_some() => request.labels.extend(fuse::label(o)),
                other => {
                    return Err(Usage::error(format!(
                        "unknown mount option {other:?}; there are subtree=store, nonempty, {}, {}, \
                         context=LABEL, fscontext=LABEL, defcontext=LABEL and rootcontext=LABEL",
                        config::named_options(false),
                        config::named_options(true)
                    )));
                }
            }
        }
        if request.subtree == Subtree::Store && request.writable_profiles {
            if writable.origin == Origin::Flag {
                return Err(Usage::error(
                    "-o subtree=store shows no profiles, so that none can be writable; give \
                     -o writable-profiles without it, or leave it out"
                        .to_owned(),
                ));
            }
            // The configuration speaks of mounts that have profiles.
            request.writable_profiles = false;
        }
        Ok(request)
    }
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
