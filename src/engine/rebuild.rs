//! States whose databases cannot be opened, and what is fetched once they can be.

use std::path::Path;

use crate::command::{
    CopyRequest, Failure, Output, PrefetchRequest, RebuiltReport, Report, Request, SourceRequest,
    chain,
};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::nix::store_path::StorePath;
use crate::store::{Rebuilt, Store, StoreError, StoreOptions, open_repaired};
use crate::sync::lock;

const LOST: &str = "it was added here, its contents are lost, and it cannot be fetched; add it again, \
    or remove what needs it";

/// Opens the state in `dir` for a request. If that is to repair it, a database that cannot be opened is made
/// anew first.
///
/// # Errors
/// The state cannot be opened, nor repaired.
pub fn open_for(
    request: &Request,
    dir: &Path,
    options: &StoreOptions,
) -> Result<(Store, Option<Rebuilt>), StoreError> {
    let repairs = matches!(
        request,
        Request::Verify {
            repair: Some(_),
            ..
        }
    );
    if !repairs {
        return Ok((Store::open(dir, options)?, None));
    }
    let (store, rebuilt) = open_repaired(dir, options)?;
    rebuilt.iter().for_each(tell);
    Ok((store, rebuilt))
}

/// Says what was done.
fn tell(rebuilt: &Rebuilt) {
    let moved = match &rebuilt.moved {
        Some(moved) => format!(
            "; what was left of it is in {}, which may be deleted (rm -r)",
            moved.display()
        ),
        None => String::new(),
    };
    let contents = match rebuilt.has_contents {
        true => "; contents that can be read are still there",
        false => "",
    };
    tracing::warn!(
        "the database could not be opened, and was made anew{}{contents}{moved}",
        if rebuilt.has_copied {
            " from the second copy"
        } else {
            ""
        },
    );
    if let Some(copy) = &rebuilt.damaged_copy {
        tracing::warn!(
            "the second copy was damaged, too, so that some of what it had is lost: look at \
             `narfs profiles`, `narfs pins` and `narfs closures`; it is in {}",
            copy.display()
        );
    }
}

impl Engine {
    /// An engine for a state whose database was made anew when it was opened.
    #[must_use]
    pub fn after(self, rebuilt: Option<Rebuilt>) -> Self {
        *lock(&self.rebuilt) = rebuilt;
        self
    }

    /// Fetches what is to be in a database that was made anew, if it was. What could not be fetched is among
    /// the failures.
    pub(super) fn fetch_again(
        &self,
        sources: &SourceRequest,
        output: &mut dyn Output,
    ) -> Result<Option<(RebuiltReport, Vec<Failure>)>, EngineError> {
        let Some(rebuilt) = lock(&self.rebuilt).take() else {
            return Ok(None);
        };
        let mut report = RebuiltReport {
            moved: rebuilt.moved,
            damaged_copy: rebuilt.damaged_copy,
            has_contents: rebuilt.has_contents,
            ..RebuiltReport::default()
        };
        let mut failures = self.fetch_pins(sources, output, &mut report)?;
        failures.extend(self.fetch_added(sources, &rebuilt.lost, output, &mut report));
        tracing::warn!(
            "{} pinned or added paths were fetched; what else is not here is fetched when it is used",
            report.fetched
        );
        Ok(Some((report, failures)))
    }

    /// Has pinned closures be here again, as pins say.
    fn fetch_pins(
        &self,
        sources: &SourceRequest,
        output: &mut dyn Output,
        report: &mut RebuiltReport,
    ) -> Result<Vec<Failure>, EngineError> {
        let pins = self.store.roots().pins()?;
        let paths: Vec<_> = pins.iter().map(|pin| self.full(&pin.path)).collect();
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let request = PrefetchRequest {
            sources: sources.clone(),
            paths: paths.clone(),
            recursive: true,
            ..PrefetchRequest::default()
        };
        Ok(match self.prefetch(&request, output) {
            Ok(Report::Prefetch(fetched)) => {
                report.fetched += fetched.fetched;
                fetched.failures
            }
            Ok(_) => Vec::new(),
            Err(e) => {
                let error = format!("it is pinned, and cannot be fetched: {}", chain(&e));
                all_fail(paths, &error)
            }
        })
    }

    /// Looks for what was added here and is lost.
    fn fetch_added(
        &self,
        sources: &SourceRequest,
        lost: &[StorePath],
        output: &mut dyn Output,
        report: &mut RebuiltReport,
    ) -> Vec<Failure> {
        if lost.is_empty() {
            return Vec::new();
        }
        let paths: Vec<_> = lost.iter().map(StorePath::base_name).collect();
        let request = CopyRequest {
            sources: sources.clone(),
            paths: paths.clone(),
            ..CopyRequest::default()
        };
        let failures = match self.copy(&request, output) {
            Ok(copied) => {
                report.fetched += copied.copied;
                let lost = |f: Failure| Failure {
                    error: format!("{LOST}: {}", f.error),
                    ..f
                };
                copied.failures.into_iter().map(lost).collect()
            }
            Err(e) => all_fail(paths, &format!("{LOST}: {}", chain(&e))),
        };
        report.lost = failures.iter().map(|f| f.path.clone()).collect();
        failures
    }
}

fn all_fail(paths: Vec<String>, error: &str) -> Vec<Failure> {
    let failure = |path| Failure {
        path,
        error: error.to_owned(),
    };
    paths.into_iter().map(failure).collect()
}
