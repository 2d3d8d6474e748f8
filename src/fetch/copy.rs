//! Copies: closures that are planned first, and then brought with references first.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::batch::{Batch, Fetched, Missing};
use super::error::FetchError;
use super::fetcher::Fetcher;
use super::order::Order;
use super::plan::{Plan, Wanted, plan};
use super::progress::Progress;

/// How often it is counted what has arrived, and looked whether the user stopped it.
const LOOK: Duration = Duration::from_millis(100);

impl Fetcher {
    /// Brings `wanted` here, with everything that it refers to if `recursive`.
    ///
    /// # Errors
    /// What ends the whole copy: the state failed, the sources cannot be listed, or the user
    /// stopped it. What was published until then stays. A path that fails is in the summary
    /// instead, and the others go on.
    pub async fn copy(
        &self,
        wanted: &Wanted,
        recursive: bool,
        progress: &Progress,
    ) -> Result<Fetched, FetchError> {
        let planned = plan(&self.0, wanted, recursive, progress).await?;
        let Plan {
            offers,
            failures,
            already,
            kept: _kept,
        } = planned;
        let coming = offers.iter().map(|o| o.info.store_path.hash());
        let failed: HashSet<_> = failures.iter().map(|f| f.hash).collect();
        let order = Arc::new(Order::new(recursive, coming.collect(), failed));
        let mut batch = Batch::new(&self.0, progress, Some(order.clone()));
        batch
            .unbegun
            .extend(offers.into_iter().map(|offer| Missing {
                path: offer.info.store_path.clone(),
                nar_size: offer.info.nar_size,
                offer: Some(Arc::new(offer)),
            }));
        batch.done.already = already;
        batch.done.failures = failures;
        let mut changes = order.changes();
        let mut tick = tokio::time::interval(LOOK);
        let mut ended = Ok(());
        loop {
            if progress.stopped() && ended.is_ok() {
                ended = Err(FetchError::Stopped);
            }
            if ended.is_ok() {
                batch.begin();
            } else {
                // What is whole is published even so.
                order.stop();
            }
            if batch.is_idle() {
                break;
            }
            tokio::select! {
                Some(arrived) = batch.arrival() => ended = ended.and(arrived),
                _ = changes.changed() => {}
                _ = tick.tick() => batch.count(),
            }
        }
        let sent = self.fetched_bytes();
        progress.fetched_bytes.store(sent, Ordering::Relaxed);
        batch.done.fetched_bytes = sent;
        ended.map(|()| batch.done)
    }
}
