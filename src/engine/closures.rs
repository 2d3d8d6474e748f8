//! Closure views: listing, defining and removing.
//!
//! Invariant: a view is defined only when the closures of its paths are known, so that whatever is
//! absent from it is absent by intent. After a switch of a profile that it follows it may be
//! incomplete; it is then reported as such, and completed as soon as the closure is known.

use std::path::{Path, PathBuf};

use crate::command::{ClosureReport, ClosureRequest, Output, Report, SourceRequest, UnknownPath};
use crate::engine::error::{ClosureError, EngineError, ProfileError};
use crate::engine::state::Engine;
use crate::fuse::FileHandles;
use crate::nix::store_path::StorePath;
use crate::profile::ProfileName;
use crate::store::{StoreError, View, ViewName};

/// Directory of the views, in the mount.
const PLACE: &str = ".narfs/closures";

/// Number of unknown paths that are named in a report.
const NAMED: usize = 20;

/// The store directory of a view, in the mount.
pub fn store_directory(mount: &Path, view: &str) -> PathBuf {
    mount.join(PLACE).join(view).join("store")
}

impl Engine {
    pub(super) fn closures(
        &self,
        request: &ClosureRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        match request {
            ClosureRequest::Define {
                name,
                paths,
                profiles,
                sources,
            } => {
                let name = ViewName::parse(name).map_err(ClosureError::from)?;
                self.with_closure(paths, profiles, sources, output, |roots, followed| {
                    self.store.views().define(&name, roots, followed)
                })?;
                self.describe(&[name.to_string()])
            }
            ClosureRequest::List { names } => self.describe(names),
            ClosureRequest::Delete { name } => {
                if !self.store.views().remove(name)? {
                    return Err(self.absent_view(name).into());
                }
                Ok(Report::Done)
            }
        }
    }

    /// Resolves the paths and profiles for a view, and calls `make` with the store paths and the
    /// followed profiles once their closures are known.
    pub fn with_closure<T>(
        &self,
        paths: &[String],
        profiles: &[String],
        sources: &SourceRequest,
        output: &mut dyn Output,
        make: impl FnOnce(&[StorePath], &[String]) -> Result<T, StoreError>,
    ) -> Result<T, EngineError> {
        if paths.is_empty() && profiles.is_empty() {
            return Err(EngineError::Usage(
                "name store paths for the closure view, or a profile with --profile",
            ));
        }
        if self.serving.file_handles() == FileHandles::Given {
            return Err(ClosureError::Unbounded.into());
        }
        let mut followed = Vec::new();
        let mut needed = Vec::new();
        for text in profiles {
            let profile = ProfileName::parse(text).map_err(ProfileError::from)?;
            let Some(record) = self.store.profiles().get(profile.as_str())? else {
                return Err(self.absent(&profile)?.into());
            };
            let Some(current) = record.current_generation() else {
                return Err(ClosureError::NoCurrent(profile).into());
            };
            needed.push(current.path.clone());
            let profile = profile.to_string();
            if !followed.contains(&profile) {
                followed.push(profile);
            }
        }
        let supply = self.supply(sources)?;
        let roots = supply.resolve_all(paths)?;
        needed.extend(roots.iter().cloned());
        supply.require_closures(&needed, output)?;
        // From here on the view keeps what the command has kept.
        Ok(make(&roots, &followed)?)
    }

    /// Reports on the given views, or on all.
    fn describe(&self, names: &[String]) -> Result<Report, EngineError> {
        self.store.views().complete()?;
        let all = self.store.views().list()?;
        let mut chosen = Vec::new();
        for name in names {
            let there = all.iter().find(|view| *view.name == **name);
            chosen.push(there.ok_or_else(|| self.absent_view(name))?);
        }
        if names.is_empty() {
            chosen.extend(&all);
        }
        let mount = self.serving.full_mounts()?.into_iter().next();
        let reports = chosen
            .into_iter()
            .map(|v| self.closure_report(v, mount.as_deref()));
        let reports: Result<_, EngineError> = reports.collect();
        Ok(Report::Closures(reports?))
    }

    fn closure_report(
        &self,
        view: &View,
        mount: Option<&Path>,
    ) -> Result<ClosureReport, EngineError> {
        let record = &view.record;
        let mut report = ClosureReport {
            name: view.name.to_string(),
            roots: record.roots.iter().map(|p| self.full(p)).collect(),
            profiles: record.profiles.clone(),
            paths: 0,
            size: 0,
            missing: 0,
            unsigned: 0,
            incomplete: false,
            unknown: 0,
            unknown_paths: Vec::new(),
            created: record.created,
            changed: record.changed,
            store: mount.map(|at| store_directory(at, &view.name)),
        };
        for (_, hash) in self.store.views().members(view)?.from(1) {
            report.paths += 1;
            if let Some(info) = self.store.paths().readable_info(hash)? {
                report.size += info.registration.nar_size;
                report.unsigned += u64::from(!info.registration.vouched);
                report.missing += u64::from(!self.store.paths().has_contents(&info)?);
            }
        }
        let unknown = self.store.views().unknown(view)?;
        report.incomplete = !unknown.is_empty();
        report.unknown = unknown.len() as u64;
        report.unknown_paths = self.unknown_paths(&unknown);
        Ok(report)
    }

    /// The first unknown paths, with the reason where a source has been queried.
    pub fn unknown_paths(&self, unknown: &[StorePath]) -> Vec<UnknownPath> {
        let named = unknown.iter().take(NAMED).map(|path| UnknownPath {
            path: self.full(path),
            error: None,
        });
        named.collect()
    }

    /// The error that there is no such view, with the names of those that exist.
    pub fn absent_view(&self, name: &str) -> ClosureError {
        let table = self.store.views().table();
        let there: Vec<_> = table.views().map(|view| &*view.name).collect();
        ClosureError::Absent {
            name: name.to_owned(),
            there: match there.as_slice() {
                [] => "there are none yet; `narfs closure` defines one".to_owned(),
                names => format!("the views are: {}", names.join(", ")),
            },
        }
    }
}
