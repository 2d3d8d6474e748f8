//! Network state of an engine; each part is created on first use.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use tokio::runtime::Runtime;

use crate::command::SourceRequest;
use crate::fetch::{Fetcher, Flights};

#[derive(Default)]
pub struct Network {
    /// Sources of requests that name none.
    pub defaults: SourceRequest,
    pub runtime: OnceLock<Runtime>,
    /// The fetcher, if the state is mounted with sources.
    pub fetcher: OnceLock<Fetcher>,
    /// What is on its way into the state, for whomever.
    pub flights: Arc<Flights>,
    /// Bytes that sources sent for requests.
    pub fetched: AtomicU64,
}
