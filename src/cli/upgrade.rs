//! `narfs upgrade`

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::println;
use super::run::RunError;
use crate::command::{Request, StatusReport};
use crate::control::{self};

/// Hand the state over to a daemon of this program, or of another version
///
/// Programs in the mount pause for a moment and continue; running commands are interrupted. With a
/// keeper, which `narfs mount` starts, this program becomes the daemon, or --program; if it does
/// not start, the previous one is restarted. With a service manager, the program named in the unit
/// is started again.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Program of the new daemon
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Timeout for the new daemon; by then a keeper has gone back to the previous program.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(90);
/// Timeout for the replacement of the keeper; versions before 0.2.0 do not replace it.
const KEEPER_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between checks.
const PAUSE: Duration = Duration::from_millis(20);

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let state = global.state()?;
        let before = control::status(&state, None)?;
        let is_kept = before.supervisor.as_deref() == Some("keeper");
        let program = match self.program {
            Some(program) => Some(
                std::fs::canonicalize(&program)
                    .with_context(|| format!("cannot find the program {}", program.display()))?,
            ),
            None if is_kept => Some(std::env::current_exe()?),
            None => None,
        };
        let version = program.as_deref().map(version).transpose()?;
        // A wrapper script can be identified only by its version.
        let wanted = program.as_deref().filter(|program| is_program(program));
        let wanted = wanted.map(file_of).transpose()?;
        let began = Instant::now();
        let request = Request::Upgrade { program };
        let Err(e) = global.run(request, false) else {
            bail!("the daemon does not end");
        };
        // The daemon ends during the request if all is well.
        let ended = RunError::is_disconnected;
        if !e.downcast_ref().is_some_and(ended) {
            return Err(e);
        }
        let after = wait_for_successor(global, &before, wanted, began)?;
        if let Some(version) = version
            && (version != after.version
                || wanted.is_some_and(|w| program_of(after.pid) != Some(w)))
        {
            bail!(
                "narfs {version} did not start, and narfs {} continues as process {}; see {}",
                after.version,
                after.pid,
                state.join("narfs.log").display()
            );
        }
        println(&format!(
            "process {} (narfs {}) took over from process {} (narfs {}) after {:.1} s",
            after.pid,
            after.version,
            before.pid,
            before.version,
            began.elapsed().as_secs_f64()
        ))?;
        Ok(Outcome::Good)
    }
}

/// Device and inode of a file, since two programs may have the same version.
type FileId = (u64, u64);

fn file_of(path: &Path) -> anyhow::Result<FileId> {
    let metadata = std::fs::metadata(path);
    let metadata =
        metadata.with_context(|| format!("cannot find the program {}", path.display()))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether a file is an ELF program, not a script that starts one.
fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

/// The executable of a process; `None` if it has ended.
fn program_of(process: u32) -> Option<FileId> {
    file_of(Path::new(&format!("/proc/{process}/exe"))).ok()
}

/// The parent of a process.
fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The fields after the name: state, parent (proc_pid_stat(5)).
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

/// Waits for the daemon after `before`, and, if that runs the requested program, until its keeper
/// does so too.
fn wait_for_successor(
    global: &Global,
    before: &StatusReport,
    wanted: Option<FileId>,
    began: Instant,
) -> anyhow::Result<StatusReport> {
    let state = global.state()?;
    let mut since = None;
    while began.elapsed() < DAEMON_TIMEOUT {
        if let Ok(status) = control::status(&state, None)
            && status.pid != before.pid
        {
            let keeper = || parent_of(status.pid).and_then(program_of);
            let is_settled =
                wanted.is_none() || program_of(status.pid) != wanted || keeper() == wanted;
            if is_settled || since.get_or_insert_with(Instant::now).elapsed() > KEEPER_TIMEOUT {
                return Ok(status);
            }
        }
        std::thread::sleep(PAUSE);
    }
    bail!(
        "no new daemon started within {} s; see {}",
        DAEMON_TIMEOUT.as_secs(),
        state.join("narfs.log").display()
    )
}

/// The version of a narfs program.
fn version(program: &Path) -> anyhow::Result<String> {
    let output = Process::new(program).arg("--version").output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.trim().strip_prefix("narfs ") {
        Some(version) if output.status.success() => Ok(version.to_owned()),
        _ => bail!(
            "{} is not narfs: --version says {text:?}",
            program.display()
        ),
    }
}
