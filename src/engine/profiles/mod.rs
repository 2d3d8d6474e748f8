//! Requests on profiles.

mod apply;
pub(super) mod change;
mod diff;
mod links;
mod packages;

use crate::command::{
    GenerationReport, Output, ProfileAction, ProfileRequest, ProfileSummary, Report,
};
use crate::engine::error::{EngineError, ProfileError};
use crate::engine::profiles::change::ProfileChanger;
use crate::engine::state::Engine;
use crate::profile::{GenerationNumber, ProfileName};

impl Engine {
    pub(super) fn profile(
        &self,
        request: &ProfileRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let name = ProfileName::parse(&request.profile).map_err(ProfileError::from)?;
        let supply = self.supply(&request.sources)?;
        let dry_run = request.dry_run;
        let mut change = ProfileChanger {
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

    fn list_profiles(&self) -> Result<Report, EngineError> {
        let profiles = self.store.profiles().list()?;
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

    fn history(&self, name: &ProfileName) -> Result<Report, EngineError> {
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
}
