//! User environments: the packages of a profile, and their changes.
//!
//! Invariant: manifests are written in version 2, which every Nix with `nix profile` reads, unless they are
//! of version 3 already, whose elements have names that stay.

use std::collections::BTreeSet;

use crate::chunk::ChunkHash;
use crate::command::{ElementReport, Output, ProfileChangeReport, ProfileReport, Report};
use crate::engine::error::{EngineError, ProfileError, SupplyError};
use crate::engine::location;
use crate::engine::profiles::change::{Plan, ProfileChanger};
use crate::engine::state::Engine;
use crate::engine::supply::Supply;
use crate::nix::store_path::StorePath;
use crate::profile::{
    DEFAULT_PRIORITY, Element, Generation, Generations, Manifest, ManifestVersion, PackageSource,
    ProfileName, ProfileTree, StoredPackages, package_name, realise_profile, synthesize,
};
use crate::store::{Origin, Publication, Registration, StoreError};
use crate::tree::ChunkSink;

const MANIFEST: &[u8] = b"manifest.json";
/// That of `nix-env`: mostly a link to a store path of its own.
const NIX_ENV_MANIFEST: &[u8] = b"manifest.nix";

/// A user environment that was built.
pub(super) struct Built {
    pub(super) path: StorePath,
    /// What to publish; `None` if only the path is needed.
    pub(super) publication: Option<Publication>,
    pub(super) warnings: Vec<String>,
    /// What it refers to: its packages, and other targets of its links.
    pub(super) needs: BTreeSet<StorePath>,
}

/// Discards chunks, if only the path is needed.
struct DiscardChunks;

impl ChunkSink for DiscardChunks {
    type Error = StoreError;

    fn put(&mut self, _: ChunkHash, _: &[u8]) -> Result<(), StoreError> {
        Ok(())
    }
}

/// An element as installed; the default priority is omitted, as Nix 2.8 does not write one.
pub(super) fn element(path: StorePath, priority: Option<i64>) -> Element {
    Element {
        priority: priority.filter(|p| *p != DEFAULT_PRIORITY),
        ..Element::new([path])
    }
}

/// Elements with the names that Nix gives them.
fn named(manifest: &Manifest) -> Vec<Element> {
    let mut named = manifest.clone();
    named.name_elements();
    named.elements
}

fn name_of(element: &Element) -> &str {
    element.name.as_deref().unwrap_or_default()
}

impl Engine {
    /// The manifest of a generation; `None` if its path has none.
    fn manifest(
        &self,
        generation: &Generation,
        supply: &Supply<'_>,
    ) -> Result<Option<Manifest>, ProfileError> {
        let target = &generation.target;
        supply.keep([target]);
        let packages = StoredPackages::new(&self.store, |path: &StorePath| supply.fetch(path));
        let Some(package) = packages.find(target)? else {
            let source = SupplyError::NoSources(target.to_string());
            return Err(source.into());
        };
        let store_dir = self.store.store_dir();
        let unreadable = |file| {
            let path = target.clone();
            move |source| ProfileError::Manifest { path, file, source }
        };
        if let Some(file) = package.tree().lookup(0, MANIFEST) {
            let json = packages.read(&package, file)?;
            let manifest = Manifest::parse(store_dir, &json);
            let mut manifest = manifest.map_err(unreadable("manifest.json"))?;
            manifest.version = manifest.version.max(ManifestVersion::Two);
            return Ok(Some(manifest));
        }
        let Some(file) = package.tree().lookup(0, NIX_ENV_MANIFEST) else {
            return Ok(None);
        };
        let text = match package.target(file) {
            None => packages.read(&package, file)?,
            Some(link) => {
                let link = String::from_utf8_lossy(&link);
                let Ok(path) = StorePath::parse_full(store_dir, &link) else {
                    return Ok(None);
                };
                supply.keep([&path]);
                let Some(linked) = packages.find(&path)? else {
                    return Err(SupplyError::NoSources(path.to_string()).into());
                };
                packages.read(&linked, 0)?
            }
        };
        let manifest = Manifest::of_nix_env(store_dir, &text);
        Ok(Some(manifest.map_err(unreadable("manifest.nix"))?))
    }

    /// The manifest of the current generation, or an empty one if there is no generation.
    fn manifest_to_change(
        &self,
        name: &ProfileName,
        generations: &Generations,
        supply: &Supply<'_>,
    ) -> Result<Manifest, ProfileError> {
        let (Some(number), Some(generation)) =
            (generations.current(), generations.current_generation())
        else {
            return Ok(Manifest::new(ManifestVersion::Two));
        };
        let manifest = self.manifest(generation, supply)?;
        manifest.ok_or_else(|| ProfileError::NoManifest {
            profile: name.clone(),
            number,
            target: generation.target.clone(),
        })
    }

    /// Builds the environment of a manifest, with its chunks if `keep`.
    pub(super) fn make(
        &self,
        manifest: &Manifest,
        supply: &Supply<'_>,
        keep: bool,
    ) -> Result<Built, EngineError> {
        let store_dir = self.store.store_dir();
        supply.keep(&manifest.references());
        let packages = StoredPackages::new(&self.store, |path: &StorePath| supply.fetch(path));
        let environment = synthesize(&manifest.packages(), store_dir, &packages);
        let environment = environment.map_err(ProfileError::from)?;
        let (root, spool) = (&environment.root, self.store.spool());
        let (tree, hold) = if keep {
            let mut writer = self.store.contents().chunk_writer()?;
            let tree = realise_profile(root, manifest, store_dir, &mut writer, &spool);
            (tree, Some(writer.finish()?))
        } else {
            let tree = realise_profile(root, manifest, store_dir, &mut DiscardChunks, &spool);
            (tree, None)
        };
        let ProfileTree {
            path,
            content_address,
            nar_hash,
            nar_size,
            references,
            unpacked,
        } = tree.map_err(ProfileError::from)?;
        let mut needs = root.linked(store_dir);
        needs.extend(references);
        supply.keep(needs.iter().chain([&path]));
        let publication = hold.map(|hold| Publication {
            registration: Registration {
                path: path.clone(),
                nar_hash,
                nar_size,
                references: unpacked.references,
                deriver: None,
                signatures: Vec::new(),
                ca: Some(content_address),
                vouched: true,
            },
            origin: Origin::Added,
            tree: unpacked.tree,
            hold,
        });
        let warnings = environment.warnings.iter().map(ToString::to_string);
        Ok(Built {
            path,
            publication,
            warnings: warnings.collect(),
            needs,
        })
    }

    pub(super) fn list_profile(
        &self,
        name: &ProfileName,
        supply: &Supply<'_>,
    ) -> Result<Report, EngineError> {
        let generations = self.generations_of(name)?;
        let (Some(number), Some(generation)) =
            (generations.current(), generations.current_generation())
        else {
            return Err(ProfileError::NoCurrent(name.clone()).into());
        };
        let manifest = self.manifest(generation, supply)?;
        let elements = manifest.as_ref().map_or_else(Vec::new, named);
        let elements = elements.into_iter().enumerate().map(|(index, element)| {
            let source = element.source.as_ref();
            let report = ElementReport {
                index,
                active: element.active,
                priority: element.priority.unwrap_or(DEFAULT_PRIORITY),
                original_url: source.map(|s| s.original_url.clone()),
                url: source.map(|s| s.url.clone()),
                attr_path: source.map(|s| s.attr_path.clone()),
                store_paths: element.store_paths.iter().map(|p| self.full(p)).collect(),
            };
            (element.name.unwrap_or_default(), report)
        });
        Ok(Report::Profile(ProfileReport {
            profile: name.to_string(),
            generation: number.0,
            path: self.full(&generation.target),
            environment: manifest.is_some(),
            elements: elements.collect(),
            version: 3,
        }))
    }
}

impl ProfileChanger<'_> {
    pub(super) fn install(
        &self,
        texts: &[String],
        priority: Option<i64>,
        prefetch: bool,
        output: &mut dyn Output,
    ) -> Result<ProfileChangeReport, EngineError> {
        if texts.is_empty() {
            return Err(EngineError::Usage("name store paths to install"));
        }
        let paths = self.supply.resolve_all(texts)?;
        self.supply.fetch_all(&paths, output)?;
        let unknown = match prefetch {
            true => None,
            false => self.register_closures(&paths, output)?,
        };
        self.change(|before| {
            let engine = self.engine;
            let before_change = engine.manifest_to_change(self.name, before, self.supply)?;
            let mut manifest = before_change.clone();
            let (mut installed, mut kept) = (Vec::new(), Vec::new());
            for path in &paths {
                let elements = &mut manifest.elements;
                let there = elements.iter_mut().find(|e| e.store_paths.contains(path));
                if let Some(there) = there {
                    if let Some(priority) = priority {
                        let default = there.priority.is_none() && priority == DEFAULT_PRIORITY;
                        there.priority = (!default).then_some(priority);
                    }
                    kept.push(engine.full(path));
                } else {
                    elements.push(element(path.clone(), priority));
                    installed.push(engine.full(path));
                }
            }
            let mut plan = if manifest == before_change && before.current().is_some() {
                if prefetch && !self.dry_run {
                    self.supply.complete(&manifest.references(), output)?;
                }
                engine.unchanged(self.name, before)
            } else {
                self.advance_to(&manifest, before, prefetch.then_some(&mut *output))?
            };
            plan.report.warnings.extend(unknown.clone());
            plan.report.installed = installed;
            plan.report.kept = kept;
            Ok(plan)
        })
    }

    pub(super) fn remove(&self, texts: &[String]) -> Result<ProfileChangeReport, EngineError> {
        if texts.is_empty() {
            return Err(EngineError::Usage("name packages to remove"));
        }
        self.engine.generations_of(self.name)?;
        self.change(|before| {
            let engine = self.engine;
            let mut manifest = engine.manifest_to_change(self.name, before, self.supply)?;
            let elements = named(&manifest);
            let mut chosen = BTreeSet::new();
            let mut unknown = Vec::new();
            for text in texts {
                let found = self.matching(&elements, text);
                if found.is_empty() {
                    unknown.push(format!("'{text}'"));
                }
                chosen.extend(found);
            }
            if !unknown.is_empty() {
                let there: Vec<_> = elements.iter().map(name_of).collect();
                return Err(ProfileError::NoElement {
                    profile: self.name.clone(),
                    named: unknown.join(", "),
                    there: match there.as_slice() {
                        [] => "none".to_owned(),
                        names => names.join(", "),
                    },
                }
                .into());
            }
            let mut removed = Vec::new();
            let mut index = 0;
            manifest.elements.retain(|element| {
                let goes = chosen.contains(&index);
                index += 1;
                if goes {
                    removed.extend(element.store_paths.iter().map(|p| engine.full(p)));
                }
                !goes
            });
            let mut plan = self.advance_to(&manifest, before, None)?;
            plan.report.removed = removed;
            Ok(plan)
        })
    }

    /// The elements that the user means: the one of this name, or else those with this store path
    /// or hash, or else those with a package of this name.
    fn matching(&self, elements: &[Element], text: &str) -> Vec<usize> {
        let find = |is_meant: &dyn Fn(&Element) -> bool| {
            let meant = elements.iter().enumerate().filter(|(_, e)| is_meant(e));
            meant.map(|(index, _)| index).collect::<Vec<_>>()
        };
        let by_name = find(&|element| name_of(element) == text);
        if !by_name.is_empty() {
            return by_name;
        }
        if let Ok(named_path) = location::parse(&self.engine.store, text)
            && named_path.place.is_empty()
        {
            let is_asked = |path: &StorePath| {
                let same_name = named_path
                    .path
                    .as_ref()
                    .is_none_or(|named_path| named_path == path);
                path.hash() == named_path.hash && same_name
            };
            return find(&|element| element.store_paths.iter().any(is_asked));
        }
        let is_called = |path: &StorePath| {
            let name = path.name();
            name == text || package_name(name) == text
        };
        find(&|element| element.store_paths.iter().any(is_called))
    }

    fn advance_to(
        &self,
        manifest: &Manifest,
        before: &Generations,
        prefetch: Option<&mut dyn Output>,
    ) -> Result<Plan, EngineError> {
        let made = self.engine.make(manifest, self.supply, !self.dry_run)?;
        if let Some(output) = prefetch
            && !self.dry_run
        {
            self.supply.complete(&made.needs, output)?;
        }
        let mut plan = self.engine.advance(self.name, before, made.path)?;
        plan.publication = made.publication;
        plan.report.warnings = made.warnings;
        Ok(plan)
    }
}
