//! Network state of an engine; each part is created on first use.

use std::sync::OnceLock;
use std::sync::atomic::AtomicU64;

use tokio::runtime::Runtime;

use crate::command::SourceRequest;
use crate::fetch::Fetcher;

#[derive(Default)]
pub struct Network {
    /// Sources of requests that name none.
    pub defaults: SourceRequest,
    pub runtime: OnceLock<Runtime>,
    /// The fetcher, if the state is mounted with sources.
    pub fetcher: OnceLock<Fetcher>,
    /// Bytes received from sources by requests.
    pub fetched: AtomicU64,
}
