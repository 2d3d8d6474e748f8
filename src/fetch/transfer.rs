//! The transfer of one path: from its offer to a tree that is ready to be published.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::receive::{ReceiveError, receive};
use super::sources::{Expected, Offer, Vouched};
use super::{FetchError, Progress, Sources, Trust};
use crate::nix::store_path::ContentVerifier;
use crate::store::{Origin, Publication, Registration, Store};

/// Tries for one NAR at one source when the transfer breaks off.
const TRIES: u32 = 3;

/// What transfers of one command share.
pub(super) struct Transfer<'a> {
    pub(super) store: &'a Store,
    /// Carries the network; the transfer itself blocks.
    pub(super) runtime: &'a Handle,
    pub(super) sources: &'a Sources,
    pub(super) trust: &'a Trust,
    pub(super) progress: &'a Arc<Progress>,
}

impl Transfer<'_> {
    /// Fetches from the source of the offer and, where that fails, from the sources after it.
    pub(super) fn fetch(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let mut result = self.fetch_from(offer);
        let mut rest = self.sources.after(&offer.source);
        let path = &offer.info.store_path;
        while let Err(error) = &result
            && error.is_of_source()
        {
            let store_dir = self.store.store_dir();
            let asked = path.into();
            let next = rest.offer(&asked, store_dir, self.trust);
            // The first failure says more than that another source has not got it either.
            let Ok(Some(other)) = self.runtime.block_on(next) else {
                break;
            };
            rest = rest.after(&other.source);
            // With other references it is not what was planned for: they may not be here.
            if other.info.references == offer.info.references {
                tracing::warn!(%path, "trying the next source: {error}");
                result = self.fetch_from(&other);
            }
        }
        result
    }

    fn fetch_from(&self, offer: &Offer) -> Result<Publication, FetchError> {
        let info = &offer.info;
        let fail = |error| FetchError::Receive {
            url: format!("{}: {}", offer.source.url(), info.store_path),
            error: Box::new(error),
        };
        let mut attempt = 1;
        let received = loop {
            let stream = self
                .runtime
                .block_on(offer.source.substituter.nar(&info.url))?
                .ok_or_else(|| fail(ReceiveError::Gone))?;
            let content = match (offer.vouched, &info.ca) {
                (Vouched::ContentAddress, Some(ca)) => {
                    let own = info.store_path.hash();
                    Some(ContentVerifier::new(ca, &own).map_err(|e| fail(e.into()))?)
                }
                _ => None,
            };
            let expected = Expected {
                nar_hash: info.nar_hash,
                nar_size: info.nar_size,
            };
            let result = receive(
                self.store,
                stream,
                info.compression,
                &info.references,
                expected,
                content,
                self.progress,
            );
            match result {
                Ok(received) => break received,
                Err(_) if self.progress.stopped() => return Err(FetchError::Stopped),
                Err(e) if e.is_transient() && attempt < TRIES => attempt += 1,
                Err(e) => return Err(fail(e)),
            }
        };
        tracing::info!(
            path = %info.store_path,
            source = offer.source.url(),
            nar_bytes = info.nar_size,
            "fetched"
        );
        Ok(Publication {
            registration: Registration {
                path: info.store_path.clone(),
                nar_hash: info.nar_hash,
                nar_size: info.nar_size,
                references: received.unpacked.references,
                deriver: info.deriver.clone(),
                signatures: info.signatures.iter().map(ToString::to_string).collect(),
                ca: info.ca,
            },
            origin: Origin::Fetched,
            tree: received.unpacked.tree,
            hold: received.hold,
        })
    }
}
