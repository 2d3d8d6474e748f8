//! Changes of profiles: planned on what was read, and committed if that is still current.
//!
//! Invariants: changes are serialised, and each is one write of the store, before which nothing is
//! visible.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::command::{Output, ProfileChangeReport, ProfileOutcome};
use crate::engine::error::{EngineError, ProfileError};
use crate::engine::state::Engine;
use crate::engine::supply::Supply;
use crate::nix::store_path::StorePath;
use crate::profile::{Advance, DeleteSpec, GenerationNumber, Generations, ProfileName};
use crate::store::{ProfileTable, Publication, StoreError};

/// The planned change of a profile.
pub(in crate::engine) struct Plan {
    pub(in crate::engine) generations: Generations,
    /// The environment that the new generation points to, if it is a new one.
    pub(in crate::engine) publication: Option<Publication>,
    pub(in crate::engine) report: ProfileChangeReport,
}

/// A change of one profile.
pub(in crate::engine) struct ProfileChanger<'e> {
    pub(in crate::engine) engine: &'e Engine,
    pub(in crate::engine) name: &'e ProfileName,
    pub(in crate::engine) supply: &'e Supply<'e>,
    pub(in crate::engine) dry_run: bool,
}

impl Engine {
    /// The generations of a profile; empty if there is no such profile.
    pub(in crate::engine) fn generations(
        &self,
        name: &ProfileName,
    ) -> Result<Generations, StoreError> {
        generations_in(&self.store.profiles().table(), name)
    }

    /// The generations of an existing profile.
    pub(in crate::engine) fn generations_of(
        &self,
        name: &ProfileName,
    ) -> Result<Generations, EngineError> {
        let generations = self.generations(name)?;
        if generations.list().is_empty() {
            return Err(self.absent(name)?.into());
        }
        Ok(generations)
    }

    pub(in crate::engine) fn absent(&self, name: &ProfileName) -> Result<ProfileError, StoreError> {
        let there = self.store.profiles().list()?;
        let there: Vec<_> = there.iter().map(|(name, _)| name.as_str()).collect();
        let there = match there.as_slice() {
            [] => "there are none yet; `narfs profile install` creates one".to_owned(),
            names => format!("the profiles are: {}", names.join(", ")),
        };
        let name = name.clone();
        Ok(ProfileError::Absent { name, there })
    }

    /// Plans changes of profiles and commits them in one transaction. A plan that is outdated when
    /// it is ready is made again.
    pub(in crate::engine) fn change_profiles(
        &self,
        names: &[&ProfileName],
        dry_run: bool,
        mut plan: impl FnMut(&[Generations]) -> Result<Vec<Plan>, EngineError>,
    ) -> Result<Vec<ProfileChangeReport>, EngineError> {
        loop {
            let table = self.store.profiles().table();
            check_new(&table, names)?;
            let before = read_all(&table, names)?;
            let plans = plan(&before)?;
            let mut publications = Vec::new();
            let mut changes = Vec::new();
            let mut reports = Vec::new();
            for ((name, before), plan) in names.iter().zip(&before).zip(plans) {
                if plan.generations != *before {
                    changes.push(plan.generations.to_change(name));
                }
                publications.extend(plan.publication);
                reports.push(plan.report);
            }
            if dry_run || changes.is_empty() {
                return Ok(reports);
            }
            // What a change points to is there before it; if none is made, the next collection takes it.
            if !publications.is_empty() {
                self.store.paths().publish(&publications)?;
            }
            let mut is_current = Ok(false);
            self.store.profiles().change(|now| {
                is_current = is_still(now, names, &before);
                Ok(match is_current {
                    Ok(true) => changes,
                    _ => Vec::new(),
                })
            })?;
            if is_current? {
                return Ok(reports);
            }
            tracing::info!("a profile changed while a change was planned; planning again");
        }
    }

    /// Makes `target` current by the rules of Nix.
    pub(in crate::engine) fn advance(
        &self,
        name: &ProfileName,
        before: &Generations,
        target: StorePath,
    ) -> Result<Plan, EngineError> {
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

    /// A plan that leaves a profile unchanged.
    pub(in crate::engine) fn unchanged(&self, name: &ProfileName, before: &Generations) -> Plan {
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

impl ProfileChanger<'_> {
    /// Plans and commits a change.
    pub(super) fn change(
        &self,
        mut plan: impl FnMut(&Generations) -> Result<Plan, EngineError>,
    ) -> Result<ProfileChangeReport, EngineError> {
        let plan = |before: &[Generations]| before.iter().map(&mut plan).collect();
        let reports = self
            .engine
            .change_profiles(&[self.name], self.dry_run, plan)?;
        let mut report = reports.into_iter().next().unwrap_or_default();
        report.dry_run = self.dry_run;
        Ok(report)
    }

    pub(super) fn set(
        &mut self,
        text: &str,
        prefetch: bool,
        output: &mut dyn Output,
    ) -> Result<ProfileChangeReport, EngineError> {
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

    /// Registers the closures of the given paths, unless this is a dry run.
    pub(super) fn register_closures(
        &self,
        paths: &[StorePath],
        output: &mut dyn Output,
    ) -> Result<Option<String>, EngineError> {
        if self.dry_run {
            return Ok(None);
        }
        self.supply.register_closures(paths, output)
    }

    /// Switches to a generation, by default to the one before the current one.
    pub(super) fn switch(
        &self,
        to: Option<GenerationNumber>,
    ) -> Result<ProfileChangeReport, EngineError> {
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

    /// Deletes the profile with all its generations.
    pub(super) fn delete(&self) -> Result<ProfileChangeReport, EngineError> {
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

    pub(super) fn delete_generations(
        &self,
        spec: &[String],
    ) -> Result<ProfileChangeReport, EngineError> {
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

/// The generations of a profile; none if there is no such profile.
fn generations_in(table: &ProfileTable, name: &ProfileName) -> Result<Generations, StoreError> {
    let record = table.checked(name.as_str())?;
    Ok(record.map_or_else(Generations::new, |record| Generations::from(&**record)))
}

fn read_all(table: &ProfileTable, names: &[&ProfileName]) -> Result<Vec<Generations>, StoreError> {
    let each = names.iter().map(|name| generations_in(table, name));
    each.collect()
}

/// Fails unless all of these can be profiles at once, with those that there are.
fn check_new(table: &ProfileTable, names: &[&ProfileName]) -> Result<(), EngineError> {
    let there = table.profiles()?;
    let there: Vec<_> = there
        .filter_map(|(name, _)| ProfileName::parse(name).ok())
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

/// Whether these profiles are still what a change was planned on.
fn is_still(
    table: &ProfileTable,
    names: &[&ProfileName],
    before: &[Generations],
) -> Result<bool, EngineError> {
    let is_still = read_all(table, names)? == before;
    if is_still {
        check_new(table, names)?;
    }
    Ok(is_still)
}

/// Seconds since 1970.
pub(in crate::engine) fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::sync::Arc;

    use super::*;
    use crate::command::SourceRequest;
    use crate::nix::store_path::StorePathHash;
    use crate::store::{Store, StoreOptions};

    fn target(seed: u8) -> StorePath {
        StorePath::new(StorePathHash::from_bytes([seed; 20]), "x").unwrap()
    }

    fn engine(dir: &tempfile::TempDir) -> Engine {
        let options = StoreOptions {
            memory: 16 << 20,
            create: true,
            store_dir: None,
        };
        let store = Store::open(dir.path(), &options).unwrap();
        Engine::new(Arc::new(store), SourceRequest::default(), None)
    }

    /// Has a profile lead to a path, while others do `meanwhile` when the change is planned. Returns how
    /// often it was planned.
    fn set(
        engine: &Engine,
        name: &ProfileName,
        seed: u8,
        meanwhile: impl Fn(u32),
    ) -> Result<u32, EngineError> {
        let planned = Cell::new(0);
        engine.change_profiles(&[name], false, |before| {
            planned.set(planned.get() + 1);
            meanwhile(planned.get());
            let plan = engine.advance(name, &before[0], target(seed))?;
            Ok(vec![plan])
        })?;
        Ok(planned.get())
    }

    fn targets(engine: &Engine, name: &ProfileName) -> Vec<StorePath> {
        let generations = engine.generations(name).unwrap();
        generations
            .list()
            .values()
            .map(|g| g.target.clone())
            .collect()
    }

    #[test]
    fn a_plan_that_is_out_of_date_is_made_again_and_loses_no_other_change() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir);
        let [name, other] = ["p", "q"].map(|name| ProfileName::parse(name).unwrap());
        let planned = set(&engine, &name, 1, |nth| {
            if nth == 1 {
                set(&engine, &name, 2, |_| ()).unwrap();
            }
        });
        assert_eq!(planned.unwrap(), 2);
        assert_eq!(targets(&engine, &name), [target(2), target(1)]);
        // Other profiles may change.
        let planned = set(&engine, &name, 3, |_| {
            set(&engine, &other, 4, |_| ()).unwrap();
        });
        assert_eq!(planned.unwrap(), 1);
        assert_eq!(targets(&engine, &name).len(), 3);
    }

    #[test]
    fn a_profile_that_comes_while_another_is_planned_is_in_its_way_if_their_links_are_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let engine = engine(&dir);
        let [name, inside] = ["p", "p/q"].map(|name| ProfileName::parse(name).unwrap());
        assert!(name.conflicts_with(&inside));
        let planned = set(&engine, &name, 1, |_| {
            set(&engine, &inside, 2, |_| ()).unwrap();
        });
        let error = planned.unwrap_err();
        assert!(
            matches!(error, EngineError::Profile(e) if matches!(*e, ProfileError::Conflict { .. }))
        );
        assert!(targets(&engine, &name).is_empty());
        assert_eq!(targets(&engine, &inside), [target(2)]);
    }
}
