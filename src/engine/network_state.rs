//! The network of an engine: nothing of it is there before it is needed.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use tokio::runtime::Runtime;

use crate::command::SourceRequest;
use crate::fetch::Fetcher;

/// Sources, threads and counts of an engine.
#[derive(Default)]
pub struct Network {
    /// Sources of requests that name none.
    pub defaults: SourceRequest,
    pub runtime: OnceLock<Runtime>,
    /// What fetches on demand, where the state is mounted with sources.
    pub fetcher: OnceLock<Fetcher>,
    /// Bytes that sources sent for requests.
    pub fetched: AtomicU64,
}
