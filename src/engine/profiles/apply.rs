//! Declared profiles.
//!
//! Invariant: `apply` is idempotent: a profile that already is as declared is not changed.

use super::packages::{Built, element};
use crate::command::{
    ApplyRequest, DeclaredPackage, DeclaredTarget, Output, ProfileOutcome, Report,
};
use crate::engine::error::{EngineError, ProfileError};
use crate::engine::profiles::change::Plan;
use crate::engine::state::Engine;
use crate::engine::supply::Supply;
use crate::nix::store_path::StorePath;
use crate::profile::{Generations, Manifest, ManifestVersion, ProfileName};

/// Target of a profile.
enum Target {
    Environment(Manifest),
    Path(StorePath),
}

impl Engine {
    pub(in crate::engine) fn apply(
        &self,
        request: &ApplyRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let supply = self.supply(&request.sources)?;
        let mut names = Vec::new();
        let mut targets = Vec::new();
        for declared in &request.profiles {
            let name = ProfileName::parse(&declared.name).map_err(ProfileError::from)?;
            targets.push(declared_target(&name, &declared.target, &supply)?);
            names.push(name);
        }
        let packages = targets.iter().flat_map(|target| match target {
            Target::Environment(manifest) => manifest.references().into_iter().collect(),
            Target::Path(_) => Vec::new(),
        });
        let packages: Vec<_> = packages.collect();
        supply.fetch_all(&packages, output)?;
        let mut unknown = None;
        if !request.prefetch && !request.dry_run {
            let set = targets.iter().filter_map(|target| match target {
                Target::Environment(_) => None,
                Target::Path(path) => Some(path.clone()),
            });
            let named: Vec<_> = packages.into_iter().chain(set).collect();
            unknown = supply.register_closures(&named, output)?;
        }
        let names: Vec<_> = names.iter().collect();
        let mut reports = self.change_profiles(&names, request.dry_run, |before| {
            let each = names.iter().zip(&targets).zip(before);
            let plans = each.map(|((name, target), before)| {
                self.plan(name, target, before, &supply, request, output)
            });
            plans.collect()
        })?;
        for report in &mut reports {
            report.dry_run = request.dry_run;
        }
        if let Some(first) = reports.first_mut() {
            first.warnings.extend(unknown);
        }
        Ok(Report::ProfileChanges(reports))
    }

    fn plan(
        &self,
        name: &ProfileName,
        target: &Target,
        before: &Generations,
        supply: &Supply<'_>,
        request: &ApplyRequest,
        output: &mut dyn Output,
    ) -> Result<Plan, EngineError> {
        let made = match target {
            Target::Environment(manifest) => self.make(manifest, supply, !request.dry_run)?,
            Target::Path(path) => Built {
                path: path.clone(),
                publication: None,
                warnings: Vec::new(),
                needs: [path.clone()].into(),
            },
        };
        if request.prefetch && !request.dry_run {
            supply.complete(&made.needs, output)?;
        }
        let current = before.current_generation().map(|g| &g.target);
        let mut plan = if current == Some(&made.path) {
            self.unchanged(name, before)
        } else {
            self.advance(name, before, made.path)?
        };
        if plan.report.outcome != ProfileOutcome::Unchanged {
            plan.publication = made.publication;
        }
        plan.report.warnings = made.warnings;
        Ok(plan)
    }
}

/// Resolves a declared target; the closure of a store path is registered afterwards.
fn declared_target(
    name: &ProfileName,
    target: &DeclaredTarget,
    supply: &Supply<'_>,
) -> Result<Target, EngineError> {
    match target {
        DeclaredTarget::Path(text) => {
            let path = supply.resolve(text)?;
            supply.register(&path)?;
            Ok(Target::Path(path))
        }
        DeclaredTarget::Packages(packages) => {
            let mut manifest = Manifest::new(ManifestVersion::Two);
            for DeclaredPackage { path, priority } in packages {
                let path = supply.resolve(path)?;
                if manifest.references().contains(&path) {
                    let profile = name.clone();
                    return Err(ProfileError::Twice { profile, path }.into());
                }
                manifest.elements.push(element(path, *priority));
            }
            Ok(Target::Environment(manifest))
        }
    }
}
