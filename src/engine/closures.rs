//! Closure views: shown, made and removed.
//!
//! Invariant: a view is made or changed only when all that its paths refer to is known, so that
//! what is missing in it is missing by intent. A profile that it follows may be switched before;
//! then it is said to be incomplete, and completed as soon as more is known.

use std::path::{Path, PathBuf};

use crate::command::{ClosureReport, ClosureRequest, Output, Report, SourceRequest, UnknownPath};
use crate::engine::error::{ClosureError, EngineError, ProfileError};
use crate::engine::state::Engine;
use crate::fuse::FileHandles;
use crate::nix::store_path::StorePath;
use crate::profile::ProfileName;
use crate::store::{StoreError, View, ViewName};

/// Where views are, in the mount.
const PLACE: &str = ".narfs/closures";

/// Of what is not known of a view so many paths are named.
const NAMED: usize = 20;

/// Where a view shows its store, in the mount.
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
                    return Err(self.no_view(name).into());
                }
                Ok(Report::Done)
            }
        }
    }

    /// Has a view made of what was named, once all of it is known: `make` gets store paths and the
    /// profiles that it is to follow.
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
        supply.need_closures(&needed, output)?;
        // What is kept for this command is kept by the view from here on.
        Ok(make(&roots, &followed)?)
    }

    /// Describes views of these names, or all.
    fn describe(&self, names: &[String]) -> Result<Report, EngineError> {
        self.store.views().complete()?;
        let all = self.store.views().list()?;
        let mut chosen = Vec::new();
        for name in names {
            let there = all.iter().find(|view| *view.name == **name);
            chosen.push(there.ok_or_else(|| self.no_view(name))?);
        }
        if names.is_empty() {
            chosen.extend(&all);
        }
        let mount = self.serving.whole_mounts()?.into_iter().next();
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
            incomplete: false,
            unknown: 0,
            unknown_paths: Vec::new(),
            created: record.created,
            changed: record.changed,
            store: mount.map(|at| store_directory(at, &view.name)),
        };
        for (_, hash) in self.store.views().members(view)?.from(1) {
            report.paths += 1;
            if let Some(info) = self.store.paths().info(hash)? {
                report.size += info.registration.nar_size;
                report.missing += u64::from(!self.store.paths().has_contents(&info)?);
            }
        }
        let unknown = self.store.views().unknown(view)?;
        report.incomplete = !unknown.is_empty();
        report.unknown = unknown.len() as u64;
        report.unknown_paths = self.unknown_paths(&unknown);
        Ok(report)
    }

    /// The first of these, with why they are not known.
    pub fn unknown_paths(&self, unknown: &[StorePath]) -> Vec<UnknownPath> {
        let named = unknown.iter().take(NAMED).map(|path| UnknownPath {
            path: self.full(path),
            error: None,
        });
        named.collect()
    }

    /// That there is no view of a name, with what there is.
    pub fn no_view(&self, name: &str) -> ClosureError {
        let table = self.store.views().table();
        let there: Vec<_> = table.views().map(|view| &*view.name).collect();
        ClosureError::Absent {
            name: name.to_owned(),
            there: match there.as_slice() {
                [] => "there is none yet, and `narfs closure` makes one".to_owned(),
                names => format!("there are: {}", names.join(", ")),
            },
        }
    }
}
