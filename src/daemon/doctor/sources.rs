//! The sources, the keys that are believed, and what the sources say of our clock.

use super::super::engine::chain;
use super::super::source_request::SourceRequest;
use super::{Examination, Finding};
use crate::fetch;
use crate::nix::store_path::StoreDir;
use crate::store;

/// Clocks that differ by less are right: certificates and signatures are not as exact.
const CLOCK_SECONDS: u64 = 300;

pub(super) fn nobody() -> Finding {
    Finding::note(
        "sources",
        "none is asked; only what is in the state can be mounted",
    )
    .advise("name one: `from` in the configuration, or --from")
}

pub(super) fn keys(sources: &SourceRequest) -> Finding {
    const NAME: &str = "keys";
    match sources.trust() {
        Err(e) => Finding::error(NAME, chain(&e)).advise("write a key as NAME:BASE64"),
        Ok(trust) if !trust.require_signatures => Finding::warning(
            NAME,
            "paths are believed without signatures (require-sigs = false)",
        )
        .advise("name the keys of your sources, and require signatures"),
        Ok(_) => {
            let more = sources.trusted_public_keys.len();
            Finding::ok(
                NAME,
                format!("cache.nixos.org-1 and {more} more are trusted"),
            )
        }
    }
}

/// Whether a source is a binary cache for us, how soon it answers, and what time it has.
pub(super) fn source(url: &str, examination: &Examination) -> Vec<Finding> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let name = format!("source {}", crate::substituter::redacted(url));
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return vec![Finding::error(&name, format!("it cannot be asked: {e}"))],
    };
    let there = store::inspect(&examination.state, None).map(|s| s.store_dir);
    let store_dir = examination.store_dir.clone().or(there.ok());
    let store_dir: StoreDir = store_dir.unwrap_or_default();
    let netrc = examination.sources.netrc.as_deref();
    let asked = runtime.block_on(fetch::ask_source(url, netrc, &store_dir));
    let mut findings = vec![match &asked.priority {
        Ok(priority) => {
            let time = asked.answered_within.map_or(String::new(), |t| {
                format!(" in {:.1} ms", t.as_secs_f64() * 1000.0)
            });
            let seen = format!("it answers{time}, for paths in {store_dir}, priority {priority}");
            Finding::ok(&name, seen)
        }
        Err(e) => Finding::error(&name, chain(e)).advise(
            "check its URL, the network and the proxies of the environment; what is in the state \
             works without it",
        ),
    }];
    findings.extend(asked.clock_ahead_s.map(|ahead| clock(url, ahead)));
    findings
}

fn clock(url: &str, ahead: i64) -> Finding {
    const NAME: &str = "clock";
    let url = crate::substituter::redacted(url);
    let seconds = ahead.unsigned_abs();
    if seconds <= CLOCK_SECONDS {
        return Finding::ok(NAME, format!("within {seconds} s of that of {url}"));
    }
    let way = if ahead > 0 { "behind" } else { "ahead of" };
    let seen = format!("this machine's is {seconds} s {way} that of {url}");
    Finding::warning(NAME, seen)
        .advise("set it, by an NTP client for example: certificates are judged by it")
}
