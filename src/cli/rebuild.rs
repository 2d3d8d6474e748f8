//! What `narfs verify --repair` does where the database cannot be opened.

use super::global::Global;
use super::log;
use crate::command::{
    CopyRequest, Failure, PrefetchRequest, RebuiltReport, Report, Request, SourceRequest,
};
use crate::control;
use crate::nix::store_path::StorePath;
use crate::store::{self, Rebuilt, StoreError};

/// Makes the database of the state anew if it cannot be opened; `None` if it can.
pub(super) fn rebuild(global: &Global) -> anyhow::Result<Option<Rebuilt>> {
    let state = global.state()?;
    // A daemon has it open.
    if control::connect(&state).is_ok() {
        return Ok(None);
    }
    match store::rebuild(&state, &global.options(false)) {
        // Whoever owns it may end soon, as with any command.
        Err(StoreError::Owned { .. } | StoreError::Waiting { .. }) => Ok(None),
        rebuilt => {
            let rebuilt = rebuilt?;
            rebuilt.iter().for_each(show);
            Ok(rebuilt)
        }
    }
}

/// Fetches what is to be in a database that was made anew. What could not be fetched is among the failures.
pub(super) fn fetch_again(
    global: &Global,
    sources: &SourceRequest,
    rebuilt: Rebuilt,
) -> anyhow::Result<(RebuiltReport, Vec<Failure>)> {
    let Rebuilt {
        moved,
        damaged_copy,
        has_contents,
        lost,
    } = rebuilt;
    let mut report = RebuiltReport {
        moved,
        damaged_copy,
        has_contents,
        ..RebuiltReport::default()
    };
    let mut failures = fetch_pins(global, sources, &mut report)?;
    let added = lost.iter().map(StorePath::base_name).collect();
    failures.extend(fetch_added(global, sources, added, &mut report)?);
    log::warn(&format!(
        "{} pinned or added paths were fetched; all others are fetched when they are used",
        report.fetched
    ));
    Ok((report, failures))
}

/// Has pinned closures be here again, as pins say.
fn fetch_pins(
    global: &Global,
    sources: &SourceRequest,
    report: &mut RebuiltReport,
) -> anyhow::Result<Vec<Failure>> {
    let Report::Pins(pins) = global.run(Request::Pins, false)? else {
        anyhow::bail!("the daemon sent an unexpected report instead of the pins");
    };
    let paths: Vec<_> = pins.into_iter().map(|pin| pin.path).collect();
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let request = Request::Prefetch(PrefetchRequest {
        sources: sources.clone(),
        paths: paths.clone(),
        recursive: true,
        ..PrefetchRequest::default()
    });
    Ok(match global.run(request, false) {
        Ok(Report::Prefetch(fetched)) => {
            report.fetched += fetched.fetched;
            fetched.failures
        }
        Ok(_) => anyhow::bail!("the daemon sent an unexpected report instead of a prefetch"),
        Err(e) => all_fail(
            paths,
            &format!("it is pinned, and cannot be fetched: {e:#}"),
        ),
    })
}

/// Looks for what was added here and is lost.
fn fetch_added(
    global: &Global,
    sources: &SourceRequest,
    paths: Vec<String>,
    report: &mut RebuiltReport,
) -> anyhow::Result<Vec<Failure>> {
    const LOST: &str = "it was added here, its contents are lost, and it cannot be fetched; add it again, \
        or remove what needs it";
    if paths.is_empty() {
        return Ok(Vec::new());
    }
    let request = Request::Copy(CopyRequest {
        sources: sources.clone(),
        paths: paths.clone(),
        ..CopyRequest::default()
    });
    let failures = match global.run(request, false) {
        Ok(Report::Copy(copied)) => {
            report.fetched += copied.copied;
            let lost = |f: Failure| Failure {
                error: format!("{LOST}: {}", f.error),
                ..f
            };
            copied.failures.into_iter().map(lost).collect()
        }
        Ok(_) => anyhow::bail!("the daemon sent an unexpected report instead of a copy"),
        Err(e) => all_fail(paths, &format!("{LOST}: {e:#}")),
    };
    report.lost = failures.iter().map(|f| f.path.clone()).collect();
    Ok(failures)
}

fn all_fail(paths: Vec<String>, error: &str) -> Vec<Failure> {
    let failure = |path| Failure {
        path,
        error: error.to_owned(),
    };
    paths.into_iter().map(failure).collect()
}

/// Says what was done.
fn show(rebuilt: &Rebuilt) {
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
    log::warn(&format!(
        "the database could not be opened, and was made anew from the second copy{contents}{moved}"
    ));
    if let Some(copy) = &rebuilt.damaged_copy {
        log::warn(&format!(
            "that copy was damaged, too, so that some of what it had is lost: look at `narfs profiles`, \
             `narfs pins` and `narfs closures`; it is in {}",
            copy.display()
        ));
    }
}
