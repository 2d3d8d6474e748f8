//! Registrations for Nix's own database, in the format of `nix-store --dump-db`.
//!
//! Invariant: what is written is closed. Nix refuses the whole of it otherwise.

use std::collections::HashSet;
use std::io::Write;

use super::chunked::Chunked;
use crate::command::{Failure, NixDbReport, NixDbRequest, Output, Report};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::nix::hash::Hash;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{PathInfo, StoreError};

impl Engine {
    pub(super) fn nix_db(
        &self,
        request: &NixDbRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let report = match request.paths.is_empty() {
            true => self.all_registrations(output)?,
            false => {
                let supply = self.supply(&request.sources)?;
                let roots = supply.resolve_all(&request.paths)?;
                supply.require_closures(&roots, output)?;
                let roots = roots.iter().map(StorePath::hash);
                let closure = self.store.paths().closure(roots)?;
                let mut out = Chunked::new(output);
                for info in &closure {
                    self.write_registration(info, &mut out)?;
                }
                out.finish()?;
                NixDbReport {
                    paths: closure.len() as u64,
                    left_out: Vec::new(),
                }
            }
        };
        Ok(Report::NixDb(report))
    }

    /// Writes all that is known and closed.
    fn all_registrations(&self, output: &mut dyn Output) -> Result<NixDbReport, EngineError> {
        let (closed, left_out) = self.closed()?;
        let mut out = Chunked::new(output);
        let mut paths = 0;
        let mut written = Ok(());
        self.store.paths().each_readable(&mut |info| {
            if written.is_ok() && closed.contains(&info.registration.path.hash()) {
                written = self.write_registration(info, &mut out);
                paths += 1;
            }
        })?;
        written?;
        if paths < closed.len() as u64 {
            return Err(EngineError::RemovedMeanwhile);
        }
        out.finish()?;
        Ok(NixDbReport { paths, left_out })
    }

    /// The paths whose closures are known; and the others, each with what it misses.
    fn closed(&self) -> Result<(HashSet<StorePathHash>, Vec<Failure>), StoreError> {
        let mut closed = HashSet::new();
        let paths = self.store.paths();
        paths.each_readable(&mut |info| {
            closed.insert(info.registration.path.hash());
        })?;
        let mut left_out = Vec::new();
        loop {
            let before = left_out.len();
            paths.each_readable(&mut |info| {
                let path = &info.registration.path;
                let is_missing = |reference: &&StorePath| !closed.contains(&reference.hash());
                let missing = info.registration.references.iter().find(is_missing);
                if let Some(missing) = missing
                    && closed.remove(&path.hash())
                {
                    left_out.push(Failure {
                        path: self.full(path),
                        error: format!(
                            "it needs {}, whose closure is not known",
                            self.full(missing)
                        ),
                    });
                }
            })?;
            if left_out.len() == before {
                left_out.sort_by(|a, b| a.path.cmp(&b.path));
                return Ok((closed, left_out));
            }
        }
    }

    /// Writes one path: its name, the hash of the NAR in base 16, its size, the deriver, the number of
    /// references, and each reference, a line each, as `decodeValidPathInfo` of Nix reads them.
    fn write_registration(&self, info: &PathInfo, out: &mut impl Write) -> std::io::Result<()> {
        let r = &info.registration;
        let hash = Hash::from(r.nar_hash).to_hex();
        let hex = hash.split_once(':').map_or(&*hash, |(_, hex)| hex);
        let deriver = r.deriver.as_ref().map(|d| self.full(d)).unwrap_or_default();
        let references = info.sorted_references();
        let (path, size, count) = (self.full(&r.path), r.nar_size, references.len());
        writeln!(out, "{path}\n{hex}\n{size}\n{deriver}\n{count}")?;
        references
            .into_iter()
            .try_for_each(|reference| writeln!(out, "{}", self.full(reference)))
    }
}
