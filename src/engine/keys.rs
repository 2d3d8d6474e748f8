//! Keys that are no longer to be believed.
//!
//! Invariant: after a key is forgotten, none of its signatures is in the state, and no path counts as
//! vouched for that nothing else vouches for. What is here stays and can be read.

use crate::command::{Failure, ForgetKeyReport, ForgetKeyRequest, Output, Report, chain};
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::fetch::{CopyFailure, Deadlines, FetchOptions, Fetcher, PrefetchPolicy, Trust};
use crate::nix::narinfo::fingerprint;
use crate::nix::signature::{NamedKey, Signature, TrustedKeys, Verdict};
use crate::nix::store_path::{StoreDir, StorePath};
use crate::store::{Origin, PathInfo, Registration};

/// A key that is being forgotten.
struct Forgotten {
    key: NamedKey,
    /// The keys that are still trusted.
    others: TrustedKeys,
    store_dir: StoreDir,
    report: ForgetKeyReport,
    lost: Vec<StorePath>,
}

impl Forgotten {
    /// What is registered of a path without the key; `None` if it has not signed it.
    fn judge(&mut self, info: &PathInfo) -> Option<Registration> {
        let there = &info.registration;
        let signed = fingerprint(
            &self.store_dir,
            &there.path,
            &there.nar_hash,
            there.nar_size,
            &there.references,
        );
        // What is no signature was never one of the key.
        let (of_key, rest): (Vec<_>, Vec<_>) = there.signatures.iter().partition(|text| {
            let signature = Signature::parse(text);
            signature.is_ok_and(|signature| self.key.has_signed(&signed, &signature))
        });
        if of_key.is_empty() {
            return None;
        }
        let parsed = rest.iter().filter_map(|text| Signature::parse(text).ok());
        let parsed: Vec<_> = parsed.collect();
        let by_another = matches!(self.others.verify(&signed, &parsed), Verdict::Valid { .. });
        let vouched = info.origin == Origin::Added || there.ca.is_some() || by_another;
        self.report.signed += 1;
        if vouched {
            self.report.kept += 1;
        } else if there.vouched {
            self.lost.push(there.path.clone());
        }
        Some(Registration {
            signatures: rest.into_iter().cloned().collect(),
            vouched,
            ..there.clone()
        })
    }
}

impl Engine {
    pub(super) fn forget_key(
        &self,
        request: &ForgetKeyRequest,
        output: &mut dyn Output,
    ) -> Result<Report, EngineError> {
        let key = NamedKey::parse(request.key.trim());
        let key = key.map_err(|source| EngineError::ForgottenKey {
            text: request.key.clone(),
            source,
        })?;
        let sources = request.sources.or(&self.network.defaults);
        let trusted = sources.trust()?.keys;
        let mut forgotten = Forgotten {
            others: trusted.without(&key),
            store_dir: self.store.store_dir().clone(),
            report: ForgetKeyReport {
                dry_run: request.dry_run,
                still_trusted: trusted.has(&key),
                ..ForgetKeyReport::default()
            },
            lost: Vec::new(),
            key,
        };
        let mut judge = |info: &PathInfo| forgotten.judge(info);
        self.store.paths().revise(request.dry_run, &mut judge)?;
        let Forgotten {
            mut report,
            lost,
            others,
            ..
        } = forgotten;
        report.lost = lost.iter().map(|path| self.full(path)).collect();
        if !request.dry_run && !lost.is_empty() {
            let options = FetchOptions {
                urls: sources.from.clone(),
                trust: Trust {
                    keys: others,
                    require_signatures: true,
                },
                netrc: sources.netrc.clone(),
                deadlines: Deadlines::default(),
                prefetch: PrefetchPolicy::None,
            };
            self.ask_again(lost, &options, &mut report, output)?;
        }
        Ok(Report::ForgotKey(report))
    }

    /// Asks the sources whether they vouch for what was lost.
    fn ask_again(
        &self,
        lost: Vec<StorePath>,
        options: &FetchOptions,
        report: &mut ForgetKeyReport,
        output: &mut dyn Output,
    ) -> Result<(), EngineError> {
        let mut failures = Vec::new();
        if !options.urls.is_empty() {
            let fetcher = Fetcher::new(self.destination()?, options).quiet();
            let runtime = self.runtime()?;
            let wanted = lost.iter().map(|path| (path.hash(), Some(path.clone())));
            failures = self.with_progress(output, |progress| {
                runtime.block_on(fetcher.vouch(wanted.collect(), progress))
            })?;
        }
        for path in lost {
            let there = self.store.paths().readable_info(path.hash())?;
            let full = self.full(&path);
            match there {
                Some(there) if !there.registration.vouched => {
                    let of_path = |failure: &&CopyFailure| failure.hash == path.hash();
                    let why = failures.iter().find(of_path);
                    let error = why.map_or_else(
                        || "no source is configured".to_owned(),
                        |failure| chain(&failure.error),
                    );
                    report.unvouched.push(Failure { path: full, error });
                }
                Some(_) => report.vouched_again.push(full),
                // It was collected meanwhile.
                None => {}
            }
        }
        Ok(())
    }
}
