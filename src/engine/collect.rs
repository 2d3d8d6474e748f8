//! Garbage collection.
//!
//! Invariant: roots are searched after the collection has started, so that it is told of paths that
//! become roots later (see [`Collection`](crate::store::Collection)); copies and fetches continue
//! meanwhile.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};

use super::in_use::Unseen;
use crate::command::{
    GcReport, GcRequest, OldGeneration, OldGenerations, Output, Report, SourceRequest,
};
use crate::engine::error::EngineError;
use crate::engine::profiles::change::now;
use crate::engine::roots::{Root, links};
use crate::engine::state::Engine;
use crate::nix::store_path::StorePath;
use crate::profile::{DeleteSpec, Generations, ProfileName};
use crate::store::{Collected, PathInfo, ProfileTable};

/// Progress lines, if requested.
struct Lines<'o> {
    output: &'o mut dyn Output,
    wanted: bool,
}

impl Lines<'_> {
    fn print(&mut self, line: &str) -> io::Result<()> {
        if !self.wanted {
            return Ok(());
        }
        self.output.data(format!("{line}\n").as_bytes())
    }
}

fn names(unseen: &[Unseen]) -> Vec<String> {
    let each = unseen.iter();
    each.map(|u| format!("{} ({})", u.process, u.name))
        .collect()
}

fn uninspected_warning(process: &str) -> String {
    format!(
        "process {process} cannot be inspected; what it was last seen to use is kept, and so is everything \
         newer"
    )
}

impl Engine {
    pub(super) fn gc(
        &self,
        request: &GcRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let wanted = request.lines;
        let mut lines = Lines { output, wanted };
        let mut report = GcReport {
            dry_run: request.dry_run,
            ..GcReport::default()
        };
        if let Some(old) = request.delete {
            report.generations = self.delete_generations(old, request.dry_run, &mut lines)?;
        }
        let (collected, unseen) = if request.dry_run {
            self.collectable(&report.generations, &mut lines)?
        } else {
            self.collect_what_is_known(request.max_freed, &mut lines)?
        };
        report.unreadable.clone_from(&collected.unreadable);
        report.unseen = unseen;
        let stop = AtomicBool::new(false);
        if !request.dry_run && collected.bytes > 0 {
            if let Some(fetcher) = self.fetcher() {
                fetcher.removed(&collected.paths);
            }
            report.reclaimed_bytes = self.store.upkeep().reclaim_after_collection(&stop)?;
        } else if !request.dry_run {
            // Whatever earlier collections removed is included; they may have been interrupted.
            report.reclaimed_bytes = self.store.upkeep().reclaim_all(&stop)?;
        }
        let gone: HashSet<_> = collected.paths.iter().map(StorePath::hash).collect();
        let unsigned = |info: &PathInfo| {
            let registration = &info.registration;
            !registration.vouched && !gone.contains(&registration.path.hash())
        };
        let left = self.infos(&[])?;
        report.unsigned = left.into_iter().filter(unsigned).count() as u64;
        report.paths = collected.paths.iter().map(|p| self.full(p)).collect();
        report.freed_bytes = collected.bytes;
        report.stored_bytes = self.store.upkeep().stored_bytes()?;
        Ok(Report::Gc(report))
    }

    /// Deletes old generations of all profiles in one transaction; the lines are those of Nix.
    fn delete_generations(
        &self,
        old: OldGenerations,
        dry_run: bool,
        lines: &mut Lines<'_>,
    ) -> Result<Vec<OldGeneration>, EngineError> {
        let spec = match old {
            OldGenerations::All => DeleteSpec::Old,
            OldGenerations::Days(days) => DeleteSpec::Days(days),
        };
        let now = now();
        let mut deleted = Vec::new();
        let mut plan = |table: &ProfileTable| {
            let mut changes = Vec::new();
            for (name, record) in table.profiles()? {
                let Ok(profile) = ProfileName::parse(name) else {
                    continue;
                };
                let mut generations = Generations::from(record);
                // Only generation numbers can be invalid, and there are none.
                let Ok(old) = generations.select(&profile, &spec, now) else {
                    continue;
                };
                if old.is_empty() {
                    continue;
                }
                deleted.extend(old.iter().map(|n| OldGeneration {
                    profile: name.to_owned(),
                    generation: n.0,
                }));
                generations.remove(&old);
                changes.push(generations.to_change(&profile));
            }
            Ok(changes)
        };
        match dry_run {
            true => drop(plan(&self.store.profiles().table())?),
            false => self.store.profiles().change(plan)?,
        }
        let mut profile = "";
        for old in &deleted {
            if old.profile != profile {
                profile = &old.profile;
                lines.print(&format!("removing old generations of profile {profile}"))?;
            }
            let what = if dry_run { "would remove" } else { "removing" };
            lines.print(&format!("{what} profile version {}", old.generation))?;
        }
        Ok(deleted)
    }

    /// The paths that would be removed if the generations in `old` did not exist.
    fn collectable(
        &self,
        old: &[OldGeneration],
        lines: &mut Lines<'_>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        lines.print("finding garbage collector roots...")?;
        let is_old = |profile: &str, number| {
            let mut all = old.iter();
            all.any(|o| o.profile == profile && o.generation == number)
        };
        let mut roots = self.recorded_roots(is_old)?;
        roots.extend(links(&self.store)?.roots);
        let (used, unseen) = self.roots_in_use()?;
        roots.extend(used);
        let unseen = names(&unseen);
        unseen
            .iter()
            .try_for_each(|u| lines.print(&uninspected_warning(u)))?;
        let live = roots.iter().map(|r| r.path.hash()).collect();
        let collected = self.store.upkeep().collectable(&live)?;
        for path in &collected.paths {
            lines.print(&format!("would delete '{}'", self.full(path)))?;
        }
        Ok((collected, unseen))
    }

    /// Removes what is not live. Where that is not known, since path infos cannot be read, the sources are
    /// asked for them.
    fn collect_what_is_known(
        &self,
        max_freed: Option<u64>,
        lines: &mut Lines<'_>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        let (first, unseen) = self.collect(max_freed, lines)?;
        if first.unreadable.is_empty() {
            return Ok((first, unseen));
        }
        let lost = self.store.paths().unreadable()?.paths;
        let sources = SourceRequest::default();
        let asked = self.register_anew(&lost, &sources, false, &mut *lines.output);
        let missing = self.unreadable_failures(&lost, &asked).len();
        if missing == lost.len() {
            return Ok((first, unseen));
        }
        let left = max_freed.map(|most| most.saturating_sub(first.bytes));
        let (mut all, unseen) = self.collect(left, lines)?;
        all.paths.splice(0..0, first.paths);
        all.registered.splice(0..0, first.registered);
        all.bytes += first.bytes;
        Ok((all, unseen))
    }

    /// Removes what is not live. The collection does not wait for a slow reader of its lines; if
    /// the reader is gone, it stops.
    fn collect(
        &self,
        max_freed: Option<u64>,
        lines: &mut Lines<'_>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        std::thread::scope(|scope| {
            let (sender, received) = channel();
            let working = scope.spawn(move || self.collect_with_lines(max_freed, &sender));
            let read = received.iter().try_for_each(|line| lines.print(&line));
            drop(received);
            let outcome = working.join();
            let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read?;
            outcome
        })
    }

    fn collect_with_lines(
        &self,
        max_freed: Option<u64>,
        lines: &Sender<String>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        let print = |line: String| lines.send(line).is_ok();
        print("finding garbage collector roots...".into());
        let collection = self.store.upkeep().begin_collection();
        let mut roots = self.recorded_roots(|_, _| false)?;
        let links = links(&self.store)?;
        links.keep(&self.store)?;
        for stale in links.stale {
            let (link, target) = (stale.link.display(), stale.target.display());
            print(format!("removing stale link from '{link}' to '{target}'"));
            if let Err(e) = fs::remove_file(&stale.link) {
                tracing::warn!("cannot remove the stale link {link}: {e}");
            }
        }
        roots.extend(links.roots);
        let (used, unseen) = self.roots_in_use()?;
        roots.extend(used);
        let unseen = names(&unseen);
        for process in &unseen {
            print(uninspected_warning(process));
        }
        let live = roots.iter().map(|r: &Root| r.path.hash()).collect();
        print("deleting garbage...".into());
        let mut removed = |path: &StorePath| print(format!("deleting '{}'", self.full(path)));
        let in_use = || self.users.known();
        let collected = collection.remove(&live, max_freed, &in_use, &mut removed)?;
        Ok((collected, unseen))
    }
}
