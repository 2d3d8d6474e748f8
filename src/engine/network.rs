//! Network use of requests: sources, a runtime, and the fetcher.

use std::sync::atomic::Ordering;

use tokio::runtime::Runtime;

use crate::command::SourceRequest;
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::fetch::{Deadlines, Destination, FetchOptions, Fetcher, PrefetchPolicy, Sources};

impl Engine {
    /// The runtime of the network, started on first use.
    ///
    /// # Errors
    /// No threads are available.
    pub fn runtime(&self) -> Result<&Runtime, EngineError> {
        if let Some(runtime) = self.network.runtime.get() {
            return Ok(runtime);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .thread_name("narfs-net")
            .build()
            .map_err(EngineError::Runtime)?;
        Ok(self.network.runtime.get_or_init(|| runtime))
    }

    /// Where fetchers of this engine fetch to.
    pub(super) fn destination(&self) -> Result<Destination, EngineError> {
        Ok(Destination {
            store: self.store.clone(),
            runtime: self.runtime()?.handle().clone(),
            budget: self.budget.clone(),
            flights: self.network.flights.clone(),
        })
    }

    /// Has paths fetched on demand from now on; once.
    ///
    /// # Errors
    /// No threads are available.
    pub fn fetch_on_demand(&self, options: &FetchOptions) -> Result<Fetcher, EngineError> {
        let fetcher = Fetcher::new(self.destination()?, options);
        Ok(self.network.fetcher.get_or_init(|| fetcher).clone())
    }

    /// The fetcher; `None` without a mount or without sources.
    pub fn fetcher(&self) -> Option<&Fetcher> {
        self.network.fetcher.get()
    }

    /// Opens the sources of a request, or those of the daemon where it names none.
    pub(super) async fn sources(&self, request: &SourceRequest) -> Result<Sources, EngineError> {
        let named = !request.from.is_empty();
        let request = request.or(&self.network.defaults);
        let (from, netrc) = (&request.from, request.netrc.as_deref());
        if from.is_empty() {
            return Err(EngineError::NoSource(request.without));
        }
        Ok(Sources::open(from, netrc, self.store.store_dir(), named).await?)
    }

    /// Whether a request uses the daemon's fetcher, since it names no other sources.
    pub(super) fn uses_own_fetcher(&self, request: &SourceRequest) -> bool {
        *request == SourceRequest::default() && self.fetcher().is_some()
    }

    pub(super) fn fetcher_for(&self, request: &SourceRequest) -> Result<Fetcher, EngineError> {
        match self.fetcher() {
            Some(fetcher) if self.uses_own_fetcher(request) => Ok(fetcher.clone()),
            _ => {
                let sources = request.or(&self.network.defaults);
                if sources.from.is_empty() {
                    return Err(EngineError::NoSource(sources.without));
                }
                let options = sources.fetch_options(Deadlines::default(), PrefetchPolicy::None)?;
                // What fails is in the command's report.
                Ok(Fetcher::new(self.destination()?, &options).quiet())
            }
        }
    }

    /// NAR bytes received from sources, on demand and by requests.
    pub fn fetched_bytes(&self) -> u64 {
        let on_demand = self.fetcher().map_or(0, Fetcher::fetched_bytes);
        self.network.fetched.load(Ordering::Relaxed) + on_demand
    }
}
