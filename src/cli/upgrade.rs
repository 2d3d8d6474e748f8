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

/// Have this program, or another version of it, go on as the daemon of the state
///
/// Programs in the mount wait for the moment that it takes, and go on; commands that run are
/// broken off. Where a keeper looks after the daemon, which is what `narfs mount` starts, this very
/// program takes over, or --program; if it does not come up, the one before goes on. Under a
/// service manager the program that the unit names is started again.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The program that takes over
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Time within which the next daemon says that it is; a keeper has gone back to the program before by
/// then.
const PATIENCE: Duration = Duration::from_secs(90);
/// Time within which the keeper becomes the same program; versions before 0.2.0 leave it as it is.
const KEEPER: Duration = Duration::from_secs(3);
/// Pause between two looks.
const PAUSE: Duration = Duration::from_millis(20);

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let state = global.state()?;
        let before = control::status(&state, None)?;
        let is_kept = before.supervisor.as_deref() == Some("keeper");
        let program = match self.program {
            Some(program) => Some(
                std::fs::canonicalize(&program)
                    .with_context(|| format!("there is no program {}", program.display()))?,
            ),
            None if is_kept => Some(std::env::current_exe()?),
            None => None,
        };
        let version = program.as_deref().map(version).transpose()?;
        // What a script starts is told by its version only.
        let wanted = program.as_deref().filter(|program| is_program(program));
        let wanted = wanted.map(file_of).transpose()?;
        let began = Instant::now();
        let request = Request::Upgrade { program };
        let Err(e) = global.run(request, false) else {
            bail!("the daemon does not end");
        };
        // It ends in the middle of the command if all is well.
        let ended = RunError::is_broken_off;
        if !e.downcast_ref().is_some_and(ended) {
            return Err(e);
        }
        let after = next(global, &before, wanted, began)?;
        if let Some(version) = version
            && (version != after.version
                || wanted.is_some_and(|w| program_of(after.pid) != Some(w)))
        {
            bail!(
                "narfs {version} did not come up, and narfs {} goes on as process {}; {} says why",
                after.version,
                after.pid,
                state.join("narfs.log").display()
            );
        }
        println(&format!(
            "process {} (narfs {}) goes on for process {} (narfs {}) after {:.1} s",
            after.pid,
            after.version,
            before.pid,
            before.version,
            began.elapsed().as_secs_f64()
        ))?;
        Ok(Outcome::Good)
    }
}

/// A file, by its device and inode: two programs may be of one version.
type Place = (u64, u64);

fn file_of(path: &Path) -> anyhow::Result<Place> {
    let metadata = std::fs::metadata(path);
    let metadata = metadata.with_context(|| format!("there is no program {}", path.display()))?;
    Ok((metadata.dev(), metadata.ino()))
}

/// Whether a file is a program itself, and no script that starts one.
fn is_program(path: &Path) -> bool {
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_ok() && magic == *b"\x7fELF"
}

/// The program that a process runs; `None` if it has ended.
fn program_of(process: u32) -> Option<Place> {
    file_of(Path::new(&format!("/proc/{process}/exe"))).ok()
}

/// The process that started another one.
fn parent_of(process: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // Behind the name: state, parent (proc_pid_stat(5)).
    stat.rsplit(") ").next()?.split(' ').nth(1)?.parse().ok()
}

/// Waits for the daemon after `before`, and until it has a keeper of its own program, if it is the one
/// that was wanted.
fn next(
    global: &Global,
    before: &StatusReport,
    wanted: Option<Place>,
    began: Instant,
) -> anyhow::Result<StatusReport> {
    let state = global.state()?;
    let mut since = None;
    while began.elapsed() < PATIENCE {
        if let Ok(status) = control::status(&state, None)
            && status.pid != before.pid
        {
            let keeper = || parent_of(status.pid).and_then(program_of);
            let is_settled =
                wanted.is_none() || program_of(status.pid) != wanted || keeper() == wanted;
            if is_settled || since.get_or_insert_with(Instant::now).elapsed() > KEEPER {
                return Ok(status);
            }
        }
        std::thread::sleep(PAUSE);
    }
    bail!(
        "no other daemon came up within {} s; {} may say why",
        PATIENCE.as_secs(),
        state.join("narfs.log").display()
    )
}

/// The version of a program that is narfs.
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
