//! Comparison of the closures of two generations.

use std::collections::BTreeSet;

use crate::command::{Output, ProfileDiffReport, Report};
use crate::engine::error::{EngineError, ProfileError};
use crate::engine::state::Engine;
use crate::engine::supply::Supply;
use crate::nix::store_path::StorePath;
use crate::profile::{
    ClosurePart, GenerationError, GenerationNumber, Generations, ProfileName, compare_closures,
};

/// A closure as far as it is known, and its references whose path info is unknown.
struct Closure {
    parts: Vec<ClosurePart>,
    unknown: BTreeSet<StorePath>,
}

impl Engine {
    pub(super) fn diff(
        &self,
        name: &ProfileName,
        from: Option<u64>,
        to: Option<u64>,
        supply: &Supply<'_>,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let generations = self.generations_of(name)?;
        let (from, to) = ends(name, &generations, from, to)?;
        let target = |number| match generations.list().get(&number) {
            Some(generation) => Ok(generation.target.clone()),
            None => Err(ProfileError::from(GenerationError::Absent(number))),
        };
        let targets = [target(from)?, target(to)?];
        // What remains unknown is in the report.
        supply.register_closures(&targets, output)?;
        let [before, after] = targets.map(|target| self.known_closure(&target));
        let (before, mut after) = (before?, after?);
        after.unknown.extend(before.unknown);
        let size = |parts: &[ClosurePart]| parts.iter().map(|part| part.nar_size).sum();
        Ok(Report::ProfileDiff(ProfileDiffReport {
            profile: name.to_string(),
            from: from.0,
            to: to.0,
            packages: compare_closures(&before.parts, &after.parts),
            size_before: size(&before.parts),
            size_after: size(&after.parts),
            unknown: after.unknown.iter().map(|p| self.full(p)).collect(),
        }))
    }

    fn known_closure(&self, target: &StorePath) -> Result<Closure, EngineError> {
        let infos = self.store.paths().closure([target.hash()])?;
        let known: BTreeSet<_> = infos.iter().map(|i| i.registration.path.hash()).collect();
        let references = infos.iter().flat_map(|i| &i.registration.references);
        let unknown = references.chain([target]);
        let unknown = unknown.filter(|path| !known.contains(&path.hash()));
        let unknown = unknown.cloned().collect();
        let parts = infos.into_iter().map(|info| ClosurePart {
            nar_size: info.registration.nar_size,
            path: info.registration.path,
        });
        Ok(Closure {
            parts: parts.collect(),
            unknown,
        })
    }
}

/// The generations to compare.
fn ends(
    name: &ProfileName,
    generations: &Generations,
    from: Option<u64>,
    to: Option<u64>,
) -> Result<(GenerationNumber, GenerationNumber), ProfileError> {
    let current = || {
        let current = generations.current();
        current.ok_or_else(|| ProfileError::NoCurrent(name.clone()))
    };
    let to = to.map_or_else(current, |to| Ok(GenerationNumber(to)))?;
    let from = match from {
        Some(from) => GenerationNumber(from),
        None => {
            let below = generations.list().range(..to).next_back();
            let (number, _) = below.ok_or(GenerationError::NoneOlder(Some(to)))?;
            *number
        }
    };
    Ok((from, to))
}
