//! `narfs mount`

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::bail;
use clap::Args;

use super::config::{self, Origin, Settings};
use super::global::Global;
use super::keeper;
use super::log;
use super::outcome::{Outcome, Usage};
use super::serving::{self, Serving};
use crate::command::{Request, StatusReport};
use crate::control;
use crate::daemon::{Mounting, ServeRequest};
use crate::fuse::{self, MountRequest, Subtree};
use crate::supervision;

/// Timeout for joining a daemon that another command has just started, or for starting one.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Mount the state as a read-only file system
///
/// Paths that are looked up and not local are fetched from the sources. Returns once the mount
/// answers, and serves it in the background until it is unmounted. If a daemon already serves the
/// state, the same file system is mounted at one more mount point, with the sources, timeouts,
/// prefetching and budget of that daemon.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// An empty directory, usually /nix
    mountpoint: PathBuf,
    #[command(flatten)]
    serving: Serving,
    /// Serve in the foreground, for service managers; readiness is reported by sd_notify(3)
    #[arg(long)]
    foreground: bool,
}

impl Arguments {
    /// Whether this process is to become the daemon.
    pub(super) fn serves_here(&self) -> bool {
        self.foreground
    }

    /// The serve request of this process.
    pub(super) fn serve_request(&self, global: &Global) -> anyhow::Result<ServeRequest> {
        let settings = self.serving.settings(global)?;
        let request = self.request(&settings)?;
        if !supervision::may_take_over()
            && let Ok(status) = control::status(&global.state()?, None)
        {
            check_namespace(&status)?;
            bail!(
                "process {} serves the state {} already; end it, or mount without \
                 --foreground to mount the same file system at one more mount point",
                status.pid,
                status.state.display()
            );
        }
        serving::request(global, &settings, Mounting::Itself(request))
    }

    /// Mounts through the daemon of the state, or starts one.
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
                // Another process was faster; its daemon serves the state now or soon.
                Err(_) if control::is_owned(&state) && began.elapsed() < TIMEOUT => {}
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

    /// Requests one more mount from the daemon of the state.
    fn join(
        &self,
        global: &Global,
        state: &Path,
        status: &StatusReport,
        request: MountRequest,
    ) -> anyhow::Result<()> {
        check_namespace(status)?;
        let ignored = self.serving.given();
        global.run(Request::Mount(request), false)?;
        if !ignored.is_empty() {
            log::warn(&format!(
                "process {} serves the state {} already, and continues as it \
                 was started; these options have no effect: {}; to use them, unmount it everywhere \
                 first",
                status.pid,
                state.display(),
                ignored.join(", ")
            ));
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
                    "-o subtree=store shows no profiles, so none can be writable; give \
                     -o writable-profiles without it, or leave it out"
                        .to_owned(),
                ));
            }
            // The setting applies only to mounts that show profiles.
            request.writable_profiles = false;
        }
        Ok(request)
    }
}

/// A mount made by the daemon is visible only in its mount namespace.
fn check_namespace(status: &StatusReport) -> anyhow::Result<()> {
    let namespace = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace("self") != namespace(&status.pid.to_string()) {
        bail!(
            "the state {} is served by process {} in another mount namespace; mount there with \
             `nsenter --mount --target {} narfs mount …`, or bind its mount",
            status.state.display(),
            status.pid,
            status.pid
        );
    }
    Ok(())
}
