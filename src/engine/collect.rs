//! Collection of what no root reaches.
//!
//! Invariant: roots are looked for after the collection has begun, so that what becomes one later
//! is known to it (see [`Collection`](crate::store::Collection)); copies and fetches go on
//! meanwhile.

use std::fs;
use std::io;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::{Sender, channel};

use super::in_use::Unseen;
use crate::command::{GcReport, GcRequest, OldGeneration, OldGenerations, Output, Report};
use crate::engine::error::EngineError;
use crate::engine::profiles::change::{from_record, now};
use crate::engine::roots::{Root, links};
use crate::engine::state::Engine;
use crate::nix::store_path::StorePath;
use crate::profile::{DeleteSpec, GenerationNumber, ProfileName};
use crate::store::{Collected, ProfileChange, ProfileTable};

/// Where lines go, if they are wanted.
struct Lines<'o> {
    output: &'o mut dyn Output,
    wanted: bool,
}

impl Lines<'_> {
    fn say(&mut self, line: &str) -> io::Result<()> {
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

fn left_alone(process: &str) -> String {
    format!(
        "process {process} cannot be looked at; what it used last stays, and what is newer than it is"
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
            self.collect(request.max_freed, &mut lines)?
        };
        report.unseen = unseen;
        let stop = AtomicBool::new(false);
        if !request.dry_run && collected.bytes > 0 {
            if let Some(fetcher) = self.fetcher() {
                fetcher.removed(&collected.paths);
            }
            report.reclaimed_bytes = self.store.upkeep().reclaim_after_collection(&stop)?;
        } else if !request.dry_run {
            // Of what was removed before: it may have been interrupted.
            report.reclaimed_bytes = self.store.upkeep().reclaim_all(&stop)?;
        }
        report.paths = collected.paths.iter().map(|p| self.full(p)).collect();
        report.freed_bytes = collected.bytes;
        report.stored_bytes = self.store.upkeep().stored_bytes()?;
        Ok(Report::Gc(report))
    }

    /// Deletes old generations of all profiles together; the lines are those of Nix.
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
                let known = from_record(record);
                let profile = ProfileName::parse(name);
                // Only numbers that a user names can be wrong.
                let old = profile.map(|p| known.select(&p, &spec, now));
                let Ok(Ok(old)) = old else {
                    continue;
                };
                if old.is_empty() {
                    continue;
                }
                deleted.extend(old.iter().map(|n| OldGeneration {
                    profile: name.to_owned(),
                    generation: n.0,
                }));
                let kept = record.generations.iter();
                let kept = kept.filter(|g| !old.contains(&GenerationNumber(g.number)));
                changes.push(ProfileChange {
                    name: name.to_owned(),
                    current: record.current,
                    generations: kept
                        .map(|g| (g.number, g.path.clone(), g.created))
                        .collect(),
                });
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
                lines.say(&format!("removing old generations of profile {profile}"))?;
            }
            let what = if dry_run { "would remove" } else { "removing" };
            lines.say(&format!("{what} profile version {}", old.generation))?;
        }
        Ok(deleted)
    }

    /// What would go if the generations in `old` were not there.
    fn collectable(
        &self,
        old: &[OldGeneration],
        lines: &mut Lines<'_>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        lines.say("finding garbage collector roots...")?;
        let is_old = |profile: &str, number| {
            let mut all = old.iter();
            all.any(|o| o.profile == profile && o.generation == number)
        };
        let mut roots = self.recorded_roots(is_old)?;
        roots.extend(links(&self.store)?.roots);
        let (used, unseen) = self.roots_in_use()?;
        roots.extend(used);
        let unseen = names(&unseen);
        unseen.iter().try_for_each(|u| lines.say(&left_alone(u)))?;
        let live = roots.iter().map(|r| r.path.hash()).collect();
        let collected = self.store.upkeep().collectable(&live)?;
        for path in &collected.paths {
            lines.say(&format!("would delete '{}'", self.full(path)))?;
        }
        Ok((collected, unseen))
    }

    /// Removes what is not live. Who reads the lines may be slow, and the collection does not wait
    /// for that; if nobody reads them any more, it ends.
    fn collect(
        &self,
        max_freed: Option<u64>,
        lines: &mut Lines<'_>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        std::thread::scope(|scope| {
            let (sender, said) = channel();
            let working = scope.spawn(move || self.collect_telling(max_freed, &sender));
            let read = said.iter().try_for_each(|line| lines.say(&line));
            drop(said);
            let outcome = working.join();
            let outcome = outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            read?;
            outcome
        })
    }

    fn collect_telling(
        &self,
        max_freed: Option<u64>,
        lines: &Sender<String>,
    ) -> Result<(Collected, Vec<String>), EngineError> {
        let say = |line: String| lines.send(line).is_ok();
        say("finding garbage collector roots...".into());
        let collection = self.store.upkeep().begin_collection();
        let mut roots = self.recorded_roots(|_, _| false)?;
        let links = links(&self.store)?;
        links.keep(&self.store)?;
        for stale in links.stale {
            let (link, target) = (stale.link.display(), stale.target.display());
            say(format!("removing stale link from '{link}' to '{target}'"));
            if let Err(e) = fs::remove_file(&stale.link) {
                tracing::warn!("the stale link {link} stays: {e}");
            }
        }
        roots.extend(links.roots);
        let (used, unseen) = self.roots_in_use()?;
        roots.extend(used);
        let unseen = names(&unseen);
        for process in &unseen {
            say(left_alone(process));
        }
        let live = roots.iter().map(|r: &Root| r.path.hash()).collect();
        say("deleting garbage...".into());
        let mut removed = |path: &StorePath| say(format!("deleting '{}'", self.full(path)));
        let in_use = || self.users.known();
        let collected = collection.remove(&live, max_freed, &in_use, &mut removed)?;
        Ok((collected, unseen))
    }
}
