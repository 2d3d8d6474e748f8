//! Profiles: shown, changed, and made what a file declares.
//!
//! Invariants: a change is planned on what was read and is made only if that is still true, so
//! changes come one after the other; and it is one write of the store, before which nothing has
//! changed that anybody sees.

mod apply;
mod diff;
mod error;
mod links;
mod packages;
mod request;
mod supply;

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::{SystemTime, UNIX_EPOCH};

pub use error::ProfileError;
pub use request::{
    ApplyRequest, DeclaredPackage, DeclaredProfile, DeclaredTarget, ElementReport,
    GenerationReport, ProfileAction, ProfileChangeReport, ProfileDiffReport, ProfileOutcome,
    ProfileReport, ProfileRequest, ProfileSummary,
};
pub use supply::SupplyError;

use super::command::{CommandError, Output, Report};
use super::engine::Engine;
use crate::nix::store_path::StorePath;
use crate::profile::{Advance, DeleteSpec, Generation, GenerationNumber, Generations, ProfileName};
use crate::store::{ProfileChange, ProfileRecord, Publication, StoreError};
use supply::Supply;

/// What is to become of a profile.
struct Plan {
    generations: Generations,
    /// The environment that the new generation points to, if it was made.
    publication: Option<Publication>,
    report: ProfileChangeReport,
}

impl Engine {
    pub(super) fn profile(
        &self,
        request: &ProfileRequest,
        output: &mut dyn Output,
    ) -> Result<Report, CommandError> {
        let name = ProfileName::parse(&request.profile).map_err(ProfileError::from)?;
        let supply = self.supply(&request.sources)?;
        let dry_run = request.dry_run;
        let mut change = Changing {
            engine: self,
            name: &name,
            supply: &supply,
            dry_run,
        };
        let report = match &request.action {
            ProfileAction::List => return self.list_profile(&name, &supply),
            ProfileAction::ListAll => return self.list_profiles(),
            ProfileAction::Delete => change.delete()?,
            ProfileAction::History => return self.history(&name),
            ProfileAction::Diff { from, to } => {
                return self.diff(&name, *from, *to, &supply, output);
            }
            ProfileAction::Install {
                paths,
                priority,
                prefetch,
            } => change.install(paths, *priority, *prefetch, output)?,
            ProfileAction::Remove(named) => change.remove(named)?,
            ProfileAction::Set { path, prefetch } => change.set(path, *prefetch, output)?,
            ProfileAction::Rollback => change.switch(None)?,
            ProfileAction::Switch(to) => change.switch(Some(GenerationNumber(*to)))?,
            ProfileAction::DeleteGenerations(spec) => change.delete_generations(spec)?,
        };
        Ok(Report::ProfileChanges(vec![report]))
    }

    /// The generations of a profile; none if there is no such profile.
    fn generations(&self, name: &ProfileName) -> Result<Generations, StoreError> {
        let record = self.store.profile(name.as_str())?;
        Ok(record.map_or_else(Generations::new, |record| from_record(&record)))
    }

    /// The generations of a profile that must be there.
    fn generations_of(&self, name: &ProfileName) -> Result<Generations, CommandError> {
        let generations = self.generations(name)?;
        if generations.list().is_empty() {
            return Err(self.absent(name)?.into());
        }
        Ok(generations)
    }

    pub(super) fn absent(&self, name: &ProfileName) -> Result<ProfileError, StoreError> {
        let there = self.store.profiles()?;
        let there: Vec<_> = there.iter().map(|(name, _)| name.as_str()).collect();
        let there = match there.as_slice() {
            [] => "there is none yet, and `narfs profile install` makes one".to_owned(),
            names => format!("there are: {}", names.join(", ")),
        };
        let name = name.clone();
        Ok(ProfileError::Absent { name, there })
    }

    /// Plans changes of profiles and makes them, all together or none. A plan that is out of date
    /// when it is ready is made again.
    fn change_profiles(
        &self,
        names: &[&ProfileName],
        dry_run: bool,
        mut plan: impl FnMut(&[Generations]) -> Result<Vec<Plan>, CommandError>,
    ) -> Result<Vec<ProfileChangeReport>, CommandError> {
        loop {
            self.check_new(names)?;
            let before = self.read_all(names)?;
            let plans = plan(&before)?;
            let mut publications = Vec::new();
            let mut changes = Vec::new();
            let mut reports = Vec::new();
            for ((name, before), plan) in names.iter().zip(&before).zip(plans) {
                if plan.generations != *before {
                    changes.push(to_change(name, &plan.generations));
                }
                publications.extend(plan.publication);
                reports.push(plan.report);
            }
            if dry_run || changes.is_empty() {
                return Ok(reports);
            }
            let _changing = self
                .changing_profiles
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if self.read_all(names)? != before {
                tracing::info!("a profile changed while a change was planned; planning again");
                continue;
            }
            self.check_new(names)?;
            if !publications.is_empty() {
                self.store.publish(&publications)?;
            }
            self.store.change_profiles(&changes)?;
            self.complete_views();
            return Ok(reports);
        }
    }

    fn read_all(&self, names: &[&ProfileName]) -> Result<Vec<Generations>, StoreError> {
        names.iter().map(|name| self.generations(name)).collect()
    }

    /// Whether all of these can be profiles at once, with those that there are.
    fn check_new(&self, names: &[&ProfileName]) -> Result<(), CommandError> {
        let there = self.store.profiles()?;
        let there: Vec<_> = there
            .iter()
            .filter_map(|(n, _)| ProfileName::parse(n).ok())
            .collect();
        for new in names {
            let mut others = there.iter().chain(names.iter().copied());
            if let Some(old) = others.find(|old| old.conflicts_with(new)) {
                let (new, old) = ((*new).clone(), old.clone());
                return Err(ProfileError::Conflict { new, old }.into());
            }
        }
        Ok(())
    }

    fn list_profiles(&self) -> Result<Report, CommandError> {
        let profiles = self.store.profiles()?;
        let summaries = profiles.into_iter().map(|(profile, record)| {
            let current = record.current_generation();
            ProfileSummary {
                profile,
                generation: current.map(|g| g.number),
                generations: record.generations.len() as u64,
                path: current.map(|g| self.full(&g.path)),
            }
        });
        Ok(Report::Profiles(summaries.collect()))
    }

    fn history(&self, name: &ProfileName) -> Result<Report, CommandError> {
        let generations = self.generations_of(name)?;
        let current = generations.current();
        let each = generations.list().iter();
        let reports = each.map(|(number, generation)| GenerationReport {
            generation: number.0,
            created: generation.created,
            path: self.full(&generation.target),
            current: Some(*number) == current,
        });
        Ok(Report::Generations(reports.collect()))
    }

    /// Makes `target` current by Nix's rules, with a report of that.
    fn advance(
        &self,
        name: &ProfileName,
        before: &Generations,
        target: StorePath,
    ) -> Result<Plan, CommandError> {
        let mut generations = before.clone();
        let path = self.full(&target);
        let advance = generations.advance(target, now());
        let advance = advance.map_err(ProfileError::from)?;
        let outcome = match advance {
            Advance::Created(_) => ProfileOutcome::Created,
            Advance::Reused(number) if Some(number) == before.current() => {
                ProfileOutcome::Unchanged
            }
            Advance::Reused(_) => ProfileOutcome::Switched,
        };
        Ok(Plan {
            generations,
            publication: None,
            report: ProfileChangeReport {
                profile: name.to_string(),
                outcome,
                from: before.current().map(|n| n.0),
                to: Some(advance.number().0),
                path: Some(path),
                ..ProfileChangeReport::default()
            },
        })
    }

    /// A plan that leaves a profile as it is.
    fn unchanged(&self, name: &ProfileName, before: &Generations) -> Plan {
        let current = before.current().map(|n| n.0);
        let target = before.current_generation().map(|g| &g.target);
        Plan {
            generations: before.clone(),
            publication: None,
            report: ProfileChangeReport {
                profile: name.to_string(),
                from: current,
                to: current,
                path: target.map(|target| self.full(target)),
                ..ProfileChangeReport::default()
            },
        }
    }
}

/// A change of one profile.
struct Changing<'e> {
    engine: &'e Engine,
    name: &'e ProfileName,
    supply: &'e Supply<'e>,
    dry_run: bool,
}

impl Changing<'_> {
    /// Plans and makes the change.
    fn change(
        &self,
        mut plan: impl FnMut(&Generations) -> Result<Plan, CommandError>,
    ) -> Result<ProfileChangeReport, CommandError> {
        let plan = |before: &[Generations]| before.iter().map(&mut plan).collect();
        let reports = self
            .engine
            .change_profiles(&[self.name], self.dry_run, plan)?;
        let mut report = reports.into_iter().next().unwrap_or_default();
        report.dry_run = self.dry_run;
        Ok(report)
    }

    fn set(
        &mut self,
        text: &str,
        prefetch: bool,
        output: &mut dyn Output,
    ) -> Result<ProfileChangeReport, CommandError> {
        let path = self.supply.resolve(text)?;
        self.supply.register(&path)?;
        let warnings = if prefetch && !self.dry_run {
            self.supply.complete([&path], output)?;
            None
        } else {
            self.register_closures(std::slice::from_ref(&path), output)?
        };
        self.change(|before| {
            let mut plan = self.engine.advance(self.name, before, path.clone())?;
            plan.report.warnings.extend(warnings.clone());
            Ok(plan)
        })
    }

    /// Has the state know what paths that were named need, unless nothing is to be done.
    fn register_closures(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<Option<String>, CommandError> {
        if self.dry_run {
            return Ok(None);
        }
        self.supply.register_closures(paths, output)
    }

    /// Switches to a generation; to the one before the current one if none is named.
    fn switch(&self, to: Option<GenerationNumber>) -> Result<ProfileChangeReport, CommandError> {
        self.engine.generations_of(self.name)?;
        self.change(|before| {
            let mut generations = before.clone();
            let switch = match to {
                Some(to) => generations.switch(to),
                None => generations.roll_back(),
            };
            let switch = switch.map_err(ProfileError::from)?;
            let mut plan = self.engine.unchanged(self.name, &generations);
            plan.report.from = switch.from.map(|n| n.0);
            plan.report.outcome = ProfileOutcome::Switched;
            Ok(plan)
        })
    }

    /// Deletes the profile itself, with all generations.
    fn delete(&self) -> Result<ProfileChangeReport, CommandError> {
        self.engine.generations_of(self.name)?;
        self.change(|before| {
            let mut plan = self.engine.unchanged(self.name, before);
            plan.generations = Generations::new();
            plan.report.outcome = ProfileOutcome::Deleted;
            (plan.report.to, plan.report.path) = (None, None);
            plan.report.deleted = before.list().keys().map(|n| n.0).collect();
            Ok(plan)
        })
    }

    fn delete_generations(&self, spec: &[String]) -> Result<ProfileChangeReport, CommandError> {
        let spec = DeleteSpec::parse(spec).map_err(ProfileError::from)?;
        self.engine.generations_of(self.name)?;
        self.change(|before| {
            let selected = before.select(self.name, &spec, now());
            let selected = selected.map_err(ProfileError::from)?;
            let mut generations = before.clone();
            generations.remove(&selected);
            let mut plan = self.engine.unchanged(self.name, &generations);
            plan.report.deleted = selected.iter().map(|n| n.0).collect();
            Ok(plan)
        })
    }
}

fn from_record(record: &ProfileRecord) -> Generations {
    let list = record.generations.iter().map(|g| {
        let (target, created) = (g.path.clone(), g.created);
        (GenerationNumber(g.number), Generation { target, created })
    });
    let list: BTreeMap<_, _> = list.collect();
    Generations::from_parts(record.current.map(GenerationNumber), list)
}

fn to_change(name: &ProfileName, generations: &Generations) -> ProfileChange {
    let list = generations.list().iter();
    let list = list.map(|(number, g)| (number.0, g.target.clone(), g.created));
    ProfileChange {
        name: name.to_string(),
        current: generations.current().map(|n| n.0),
        generations: list.collect(),
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
