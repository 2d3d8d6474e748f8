//! What is answered to each operation.

use std::path::{Path, PathBuf};

use super::client::Client;
use super::error::AnswerError;
use crate::command::{Output, SourceRequest};
use crate::engine::{Engine, Supply, Wanted};
use crate::nix::derivation;
use crate::nix::hash::Hash;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::nix::worker_protocol::{
    BuildOutcome, Operation, Target, TargetOutputs, Version, Writer,
};
use crate::store::{PathInfo, TemporaryRoots};

/// Paths that a connection keeps from collection at most.
const KEPT: usize = 1 << 17;
/// Bytes of a derivation at most.
const DERIVATION: u64 = 16 << 20;
/// What stands for the link of a root that only root may know, as in Nix.
const CENSORED: &str = "{censored}";

/// The outputs of a derivation, with their paths where these are known.
type Outputs = Vec<(String, Option<StorePath>)>;

/// Answers to one client.
pub(super) struct Answers<'s> {
    engine: &'s Engine,
    client: &'s Client,
    version: Version,
    /// What the client was told to be valid: it stays as long as the connection.
    kept: TemporaryRoots,
}

/// Why sources are not believed that have paths which were asked for.
type Distrusted = Vec<String>;

fn wanted<'p>(paths: impl IntoIterator<Item = &'p StorePath>) -> Wanted {
    let each = paths.into_iter().map(|p| (p.hash(), Some(p.clone())));
    each.collect()
}

fn paths_of(valid: Vec<PathInfo>) -> Vec<StorePath> {
    let paths = valid.into_iter().map(|info| info.registration.path);
    paths.collect()
}

impl<'s> Answers<'s> {
    pub(super) fn new(engine: &'s Engine, client: &'s Client, version: Version) -> Self {
        Self {
            engine,
            client,
            version,
            kept: engine.store.roots().temporary(),
        }
    }

    fn supply(&self) -> Result<Supply<'s>, AnswerError> {
        Ok(self.engine.supply(&SourceRequest::default())?)
    }

    fn full(&self, path: &StorePath) -> String {
        self.engine.full(path)
    }

    /// Which of these paths are valid.
    fn valid(&self, wanted: &Wanted) -> Result<(Vec<PathInfo>, Distrusted), AnswerError> {
        let found = self.supply()?.valid(wanted)?;
        for info in &found.valid {
            if self.kept.count() < KEPT {
                self.kept.add(info.registration.path.hash());
            }
        }
        Ok((found.valid, found.distrusted))
    }

    fn info(&self, path: &StorePath) -> Result<(Option<PathInfo>, Distrusted), AnswerError> {
        let (mut valid, distrusted) = self.valid(&wanted([path]))?;
        Ok((valid.pop(), distrusted))
    }

    /// A path that must be valid.
    fn require(&self, path: &StorePath) -> Result<PathInfo, AnswerError> {
        let (info, distrusted) = self.info(path)?;
        info.ok_or_else(|| match distrusted.into_iter().next() {
            Some(why) => AnswerError::Distrusted(self.full(path), why),
            None => AnswerError::NotValid(self.full(path)),
        })
    }

    /// Makes the contents of a path local. Returns what writes them, and what is to be sent before.
    pub(super) fn contents(
        &self,
        path: &StorePath,
        output: &mut dyn Output,
    ) -> Result<(Supply<'s>, Writer), AnswerError> {
        self.require(path)?;
        let supply = self.supply()?;
        supply.make_local(std::slice::from_ref(path), output)?;
        let mut hello = Writer::default();
        hello.last();
        Ok((supply, hello))
    }

    /// The whole answer to an operation.
    pub(super) fn answer(
        &mut self,
        operation: Operation,
        output: &mut dyn Output,
    ) -> Result<Writer, AnswerError> {
        let mut out = Writer::default();
        match operation {
            Operation::SetOptions => out.last(),
            Operation::IsValidPath(path) => {
                let (info, distrusted) = self.info(&path)?;
                begin(&mut out, &distrusted);
                out.number(info.is_some().into());
            }
            Operation::QueryValidPaths(paths) | Operation::QuerySubstitutablePaths(paths) => {
                let (valid, distrusted) = self.valid(&wanted(&paths))?;
                begin(&mut out, &distrusted);
                self.write_paths(&mut out, &paths_of(valid));
            }
            Operation::QueryPathInfo(path) => {
                let (info, distrusted) = self.info(&path)?;
                begin(&mut out, &distrusted);
                out.number(info.is_some().into());
                if let Some(info) = info {
                    self.write_info(&mut out, &info);
                }
            }
            Operation::QueryPathFromHashPart(text) => {
                let hash = StorePathHash::parse(text.as_bytes());
                let hash = hash.map_err(|e| AnswerError::HashPart(text, e))?;
                let (mut valid, distrusted) = self.valid(&vec![(hash, None)])?;
                let path = valid.pop().map(|info| info.registration.path);
                begin(&mut out, &distrusted);
                out.path_or_none(self.engine.store.store_dir(), path.as_ref());
            }
            Operation::QueryRealisation => {
                // No source is asked for any.
                out.last();
                out.number(0);
            }
            Operation::EnsurePath(path) => {
                (_, out) = self.contents(&path, output)?;
                out.number(1);
            }
            Operation::BuildPaths(targets) => {
                self.build(&targets, output)?;
                out.last();
                out.number(1);
            }
            Operation::BuildPathsWithResults(targets) => {
                let outcomes = self.build(&targets, output)?;
                out.last();
                let results: Vec<_> = targets.iter().zip(&outcomes).collect();
                out.list(&results, |out, (target, outcome)| {
                    out.string(&target.text);
                    out.outcome(self.version, outcome);
                });
            }
            Operation::BuildDerivation(path, outputs) => {
                let outcome = self.built(&path, outputs)?;
                let local: Vec<_> = outcome.outputs.iter().map(|(_, p)| p.clone()).collect();
                self.supply()?.make_local(&local, output)?;
                out.last();
                out.outcome(self.version, &outcome);
            }
            Operation::AddTempRoot(_)
            | Operation::AddIndirectRoot(_)
            | Operation::SyncWithGc
            | Operation::FindRoots => self.answer_of_roots(operation, &mut out)?,
            operation => self.answer_query(operation, &mut out, output)?,
        }
        Ok(out)
    }

    fn answer_of_roots(&self, operation: Operation, out: &mut Writer) -> Result<(), AnswerError> {
        match operation {
            Operation::AddTempRoot(path) => {
                if self.kept.count() >= KEPT {
                    return Err(AnswerError::TooManyRoots(KEPT));
                }
                self.kept.add(path.hash());
            }
            Operation::AddIndirectRoot(link) => self.add_root(link)?,
            Operation::FindRoots => {
                self.client.wait_for_turn();
                let roots = self.engine.roots()?;
                out.last();
                out.list(&roots, |out, root| {
                    out.string(match self.client.is_trusted {
                        true => &root.from,
                        false => CENSORED,
                    });
                    out.string(&root.path);
                });
                return Ok(());
            }
            _ => {}
        }
        out.last();
        out.number(1);
        Ok(())
    }

    fn add_root(&self, link: String) -> Result<(), AnswerError> {
        if !self.client.is_trusted {
            return Err(AnswerError::NotTrusted);
        }
        if !Path::new(&link).is_absolute() || link.contains('\0') {
            return Err(AnswerError::RootLink(link));
        }
        Ok(self.engine.add_indirect_root(&PathBuf::from(link))?)
    }

    /// Answers queries that clients make seldom.
    fn answer_query(
        &self,
        operation: Operation,
        out: &mut Writer,
        output: &mut dyn Output,
    ) -> Result<(), AnswerError> {
        let store_dir = self.engine.store.store_dir();
        match operation {
            Operation::QueryAllValidPaths => {
                self.client.wait_for_turn();
                let all = self.engine.registered()?;
                out.last();
                self.write_paths(out, &all);
            }
            Operation::QueryReferrers(path) => {
                self.client.wait_for_turn();
                let referrers = self.engine.referrers(&path)?;
                out.last();
                self.write_paths(out, &referrers);
            }
            Operation::QueryDeriver(path) => {
                let deriver = self.require(&path)?.registration.deriver;
                out.last();
                out.path_or_none(store_dir, deriver.as_ref());
            }
            Operation::QueryValidDerivers(path) => {
                let (info, _) = self.info(&path)?;
                let deriver = info.and_then(|info| info.registration.deriver);
                let (valid, _) = self.valid(&wanted(&deriver))?;
                out.last();
                self.write_paths(out, &paths_of(valid));
            }
            Operation::QueryDerivationOutputs(path) => {
                let outputs = self.outputs(&path, output)?.into_iter();
                out.last();
                let paths: Vec<_> = outputs.filter_map(|(_, path)| path).collect();
                self.write_paths(out, &paths);
            }
            Operation::QueryDerivationOutputNames(path) => {
                let outputs = self.outputs(&path, output)?;
                out.last();
                out.list(&outputs, |out, (name, _)| out.string(name));
            }
            Operation::QueryDerivationOutputMap(path) => {
                let outputs = self.outputs(&path, output)?;
                out.last();
                out.list(&outputs, |out, (name, path)| {
                    out.string(name);
                    out.path_or_none(store_dir, path.as_ref());
                });
            }
            Operation::QuerySubstitutablePathInfo(path) => {
                let (info, distrusted) = self.info(&path)?;
                begin(out, &distrusted);
                out.number(info.is_some().into());
                if let Some(info) = info {
                    self.write_substitutable(out, &info);
                }
            }
            Operation::QuerySubstitutablePathInfos(paths) => {
                let (valid, distrusted) = self.valid(&wanted(&paths))?;
                begin(out, &distrusted);
                out.list(&valid, |out, info| {
                    out.path(store_dir, &info.registration.path);
                    self.write_substitutable(out, info);
                });
            }
            Operation::QueryMissing(targets) => self.missing(&targets, out, output)?,
            _ => out.last(),
        }
        Ok(())
    }

    /// What would have to be built for targets, and what is unknown; nothing has to be downloaded, since what
    /// the sources have is valid.
    fn missing(
        &self,
        targets: &[Target],
        out: &mut Writer,
        output: &mut dyn Output,
    ) -> Result<(), AnswerError> {
        let (valid, distrusted) = self.valid(&wanted(targets.iter().map(|t| &t.path)))?;
        let valid = paths_of(valid);
        let (mut unbuilt, mut unknown) = (Vec::new(), Vec::new());
        for target in targets {
            if !valid.contains(&target.path) {
                unknown.push(target.path.clone());
                continue;
            }
            if target.outputs != TargetOutputs::None {
                let outputs = self.outputs(&target.path, output)?;
                let outputs = self.chosen(target, outputs)?;
                match self.built(&target.path, outputs) {
                    Err(AnswerError::NotBuilt { .. }) => unbuilt.push(target.path.clone()),
                    built => drop(built?),
                }
            }
        }
        begin(out, &distrusted);
        for paths in [unbuilt, Vec::new(), unknown] {
            self.write_paths(out, &paths);
        }
        // The sizes of downloads, and of what they unpack to.
        out.number(0);
        out.number(0);
        Ok(())
    }

    /// Makes what was built before local.
    fn build(
        &self,
        targets: &[Target],
        output: &mut dyn Output,
    ) -> Result<Vec<BuildOutcome>, AnswerError> {
        let (mut outcomes, mut local) = (Vec::new(), Vec::new());
        // All at the same time.
        self.valid(&wanted(targets.iter().map(|t| &t.path)))?;
        for target in targets {
            let outcome = match target.outputs {
                TargetOutputs::None => {
                    self.require(&target.path)?;
                    local.push(target.path.clone());
                    BuildOutcome {
                        outputs: Vec::new(),
                    }
                }
                _ => {
                    let outputs = self.outputs(&target.path, output)?;
                    self.built(&target.path, self.chosen(target, outputs)?)?
                }
            };
            local.extend(outcome.outputs.iter().map(|(_, path)| path.clone()));
            outcomes.push(outcome);
        }
        self.supply()?.make_local(&local, output)?;
        Ok(outcomes)
    }

    /// The outputs of a derivation that is valid.
    fn outputs(&self, path: &StorePath, output: &mut dyn Output) -> Result<Outputs, AnswerError> {
        let (supply, _) = self.contents(path, output)?;
        let text = supply.file(path, DERIVATION)?;
        let outputs = derivation::outputs(self.engine.store.store_dir(), &text);
        outputs.map_err(|source| AnswerError::Derivation {
            path: self.full(path),
            source,
        })
    }

    /// Those outputs that a target names.
    fn chosen(&self, target: &Target, outputs: Outputs) -> Result<Outputs, AnswerError> {
        let TargetOutputs::Named(names) = &target.outputs else {
            return Ok(outputs);
        };
        let chosen = names.iter().map(|name| {
            let output = outputs.iter().find(|(output, _)| output == name);
            output.cloned().ok_or_else(|| AnswerError::NoOutput {
                derivation: self.full(&target.path),
                output: name.clone(),
            })
        });
        chosen.collect()
    }

    /// The outputs of a derivation, if all are valid.
    fn built(&self, derivation: &StorePath, outputs: Outputs) -> Result<BuildOutcome, AnswerError> {
        let known = outputs.iter().filter_map(|(_, path)| path.as_ref());
        let valid = paths_of(self.valid(&wanted(known))?.0);
        let built = outputs.into_iter().map(|(name, path)| match path {
            Some(path) if valid.contains(&path) => Ok((name, path)),
            path => Err(AnswerError::NotBuilt {
                what: match path {
                    Some(path) => self.full(&path),
                    None => format!("{}!{name}", self.full(derivation)),
                },
            }),
        });
        let outputs = built.collect::<Result<_, _>>()?;
        Ok(BuildOutcome { outputs })
    }

    fn write_paths(&self, out: &mut Writer, paths: &[StorePath]) {
        out.paths(self.engine.store.store_dir(), paths);
    }

    fn write_info(&self, out: &mut Writer, info: &PathInfo) {
        let (store_dir, r) = (self.engine.store.store_dir(), &info.registration);
        out.path_or_none(store_dir, r.deriver.as_ref());
        out.string(
            Hash::from(r.nar_hash)
                .to_hex()
                .trim_start_matches("sha256:"),
        );
        out.list(&info.sorted_references(), |out, path| {
            out.path(store_dir, path)
        });
        out.number(info.registered);
        out.number(r.nar_size);
        // It was not built here.
        out.number(0);
        out.list(&r.signatures, |out, signature| out.string(signature));
        out.string(&r.ca.map_or_else(String::new, |ca| ca.to_string()));
    }

    fn write_substitutable(&self, out: &mut Writer, info: &PathInfo) {
        let (store_dir, r) = (self.engine.store.store_dir(), &info.registration);
        out.path_or_none(store_dir, r.deriver.as_ref());
        out.list(&info.sorted_references(), |out, path| {
            out.path(store_dir, path)
        });
        // The size of the download is not known.
        out.number(0);
        out.number(r.nar_size);
    }
}

/// Begins an answer, after what the user should know.
fn begin(out: &mut Writer, distrusted: &[String]) {
    for why in distrusted {
        out.message(&format!("warning: {why}"));
    }
    out.last();
}
