//! Traces: recording and listing the paths that runs access.

use crate::command::{Report, TraceCommand, TraceReport};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::nix::store_path::StorePath;

/// Limit of the length of a trace name, in bytes.
const NAME: usize = 100;

impl Engine {
    /// The traces being recorded.
    pub fn recording(&self) -> Vec<TraceReport> {
        let running = self.recorder.running().into_iter();
        let reports = running.map(|(name, paths)| TraceReport {
            name,
            paths: paths as u64,
            recording: true,
        });
        reports.collect()
    }

    /// The paths of a saved trace.
    pub(super) fn traced(&self, name: &str) -> Result<Vec<StorePath>, EngineError> {
        self.store.traces().get(name)?.ok_or_else(|| {
            EngineError::Trace(format!(
                "there is no trace {name:?}; `narfs trace list` lists the existing ones"
            ))
        })
    }

    pub(super) fn trace(&self, command: TraceCommand) -> Result<Report, EngineError> {
        match command {
            TraceCommand::Start { name, drop_caches } => {
                check_name(&name)?;
                if !self.serving.is_mounted() {
                    return Err(EngineError::Usage(
                        "only accesses through a mount can be recorded; mount the state first",
                    ));
                }
                if !self.recorder.start(&name) {
                    let text = format!("the trace {name:?} is already being recorded");
                    return Err(EngineError::Trace(text));
                }
                if drop_caches {
                    drop_kernel_caches()?;
                }
                Ok(Report::Done)
            }
            TraceCommand::Stop(name) => {
                let seen = self.recorder.stop(&name).ok_or_else(|| {
                    EngineError::Trace(format!("no trace {name:?} is being recorded"))
                })?;
                let mut paths = Vec::new();
                for ordinal in seen {
                    paths.extend(self.store.paths().with_ordinal(ordinal)?);
                }
                self.store.traces().put(&name, &paths)?;
                Ok(Report::Trace(paths.iter().map(|p| self.full(p)).collect()))
            }
            TraceCommand::List => {
                let mut traces = self.recording();
                for (name, paths) in self.store.traces().list()? {
                    let paths = paths as u64;
                    let recording = false;
                    traces.push(TraceReport {
                        name,
                        paths,
                        recording,
                    });
                }
                Ok(Report::Traces(traces))
            }
            TraceCommand::Show(name) => {
                let paths = self.traced(&name)?;
                Ok(Report::Trace(paths.iter().map(|p| self.full(p)).collect()))
            }
            TraceCommand::Delete(name) => {
                self.traced(&name)?;
                self.store.traces().delete(&name)?;
                Ok(Report::Done)
            }
        }
    }
}

/// Checks that a name is easy to type and unambiguous in lists.
fn check_name(name: &str) -> Result<(), EngineError> {
    let good = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    if name.is_empty() || name.len() > NAME || !name.chars().all(good) {
        return Err(EngineError::Trace(format!(
            "{name:?} is not a valid trace name; use up to {NAME} letters, digits and +-._"
        )));
    }
    Ok(())
}

/// Drops the caches of the kernel, since it sends no requests for what it has cached. This is
/// possible only for all file systems together: proc_sys_vm(5), 3 means pages, entries and inodes.
fn drop_kernel_caches() -> Result<(), EngineError> {
    rustix::fs::sync();
    std::fs::write("/proc/sys/vm/drop_caches", "3").map_err(|e| {
        EngineError::Trace(format!(
            "cannot drop the kernel's caches: {e}; the trace is recorded, without accesses to cached data"
        ))
    })
}
