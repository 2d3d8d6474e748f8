//! Copies: closures that are planned first, and then brought with references first.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::batch::{Batch, Fetched, Missing};
use super::error::FetchError;
use super::fetcher::Fetcher;
use super::plan::{Plan, Wanted, plan};
use super::progress::Progress;

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
            // Until all is published.
            kept: _kept,
        } = planned;
        if recursive {
            let coming = offers.iter().map(|o| o.info.store_path.hash());
            let failed = failures.iter().map(|f| f.hash);
            self.0.publisher.expect(coming.collect(), failed.collect());
        }
        let mut batch = Batch::new(&self.0, progress);
        let missing = offers.into_iter().map(|offer| Missing {
            path: offer.info.store_path.clone(),
            nar_size: offer.info.nar_size,
            offer: Some(Arc::new(offer)),
        });
        batch.unbegun.extend(missing);
        batch.done.already = already;
        batch.done.failures = failures;
        let mut ended = Ok(());
        loop {
            if progress.stopped() {
                ended = ended.and(Err(FetchError::Stopped));
            }
            if ended.is_ok() {
                batch.begin();
            } else {
                // What is whole is published even so.
                self.0.stop.store(true, Ordering::Relaxed);
                self.0.publisher.stop();
            }
            if batch.is_idle() || ended.is_err() && !batch.is_flying() {
                break;
            }
            ended = ended.and(batch.step().await);
        }
        let sent = self.fetched_bytes();
        progress.fetched_bytes.store(sent, Ordering::Relaxed);
        batch.done.fetched_bytes = sent;
        ended.map(|()| batch.done)
    }
}
