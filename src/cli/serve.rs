//! `narfs serve`

#![allow(
    rustdoc::broken_intra_doc_links,
    reason = "help shows an IPv6 address in its brackets"
)]

use std::time::Duration;

use clap::Args;

use super::global::Global;
use super::outcome::{Outcome, Usage};
use super::output::println;
use crate::daemon::{HttpError, HttpService};
use crate::http::Address;

/// Serve the status of the daemon over HTTP, from a process without privileges
///
/// The endpoints are /metrics for Prometheus, /status (as `narfs status --json`) and /healthz. The
/// daemon is queried over its control socket; while it is being restarted, it is waited for.
/// Listens at --listen, at sockets passed by a service manager (sd_listen_fds(3)), or at both.
/// `narfs mount --listen` serves the same from the daemon itself.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Address to listen at: 127.0.0.1:9464, [::1]:9464 or unix:/PATH
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<Address>,
    /// Exit when there was no connection for so many seconds: a service manager that keeps the
    /// socket starts it again
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    idle_timeout: Option<u32>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let opened = HttpService::open(&global.state()?, self.listen.as_ref());
        let service = opened.map_err(|e| match e {
            HttpError::NoAddress => Usage::error(e.to_string()),
            other => other.into(),
        })?;
        for address in service.addresses() {
            println(&format!("listening at {address}"))?;
        }
        let idle = self.idle_timeout.map(|n| Duration::from_secs(n.into()));
        service.run(idle)?;
        Ok(Outcome::Good)
    }
}
