//! What requests need of the network: sources, a runtime, and who fetches on demand.

use std::sync::atomic::Ordering;

use tokio::runtime::Runtime;

use crate::command::SourceRequest;
use crate::engine::error::EngineError;
use crate::engine::state::Engine;
use crate::fetch::{Deadlines, Destination, FetchOptions, Fetcher, PrefetchPolicy, Sources};

impl Engine {
    /// The threads of the network, started when they are needed.
    ///
    /// # Errors
    /// There are none to be had.
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
    /// There are no threads for the network.
    pub fn fetch_on_demand(&self, options: &FetchOptions) -> Result<Fetcher, EngineError> {
        let fetcher = Fetcher::new(self.destination()?, options);
        Ok(self.network.fetcher.get_or_init(|| fetcher).clone())
    }

    /// What fetches on demand; `None` where nothing is served, or no source is asked.
    pub fn fetcher(&self) -> Option<&Fetcher> {
        self.network.fetcher.get()
    }

    /// Opens the sources of a request.
    pub(super) async fn sources(&self, request: &SourceRequest) -> Result<Sources, EngineError> {
        let (from, netrc) = (&request.from, request.netrc.as_deref());
        if from.is_empty() {
            return Err(EngineError::NoSource(request.without.clone()));
        }
        Ok(Sources::open(from, netrc, self.store.store_dir()).await?)
    }

    /// Whether a command fetches with the daemon's fetcher: it names no other sources.
    pub(super) fn is_own(&self, request: &SourceRequest) -> bool {
        *request == SourceRequest::default() && self.fetcher().is_some()
    }

    pub(super) fn fetcher_for(&self, request: &SourceRequest) -> Result<Fetcher, EngineError> {
        match self.fetcher() {
            Some(fetcher) if self.is_own(request) => Ok(fetcher.clone()),
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

    /// Bytes that sources sent for NARs, on demand and for requests.
    pub fn fetched_bytes(&self) -> u64 {
        let on_demand = self.fetcher().map_or(0, Fetcher::fetched_bytes);
        self.network.fetched.load(Ordering::Relaxed) + on_demand
    }
}
