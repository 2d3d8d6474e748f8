//! Checks of the sources, the trusted keys, and the clock, which is compared with those of the
//! sources.

use super::finding::{Examination, Finding, Verdict};
use crate::command::{SourceRequest, chain};
use crate::fetch::{self, SourceReport};
use crate::nix::store_path::StoreDir;
use crate::store;
use crate::substituter;

/// Tolerated clock difference: certificates and signatures are no more exact.
const CLOCK_SECONDS: u64 = 300;

/// A source to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SourceToCheck {
    /// URL, with its password if the configuration has it.
    url: String,
    /// Whether the running daemon uses it; `None` if none is running.
    in_use: Option<bool>,
}

impl SourceToCheck {
    fn shown(&self) -> String {
        substituter::redacted(&self.url)
    }

    pub(super) fn check(&self) -> String {
        format!("source {}", self.shown())
    }
}

/// The sources of the running daemon, and the configured ones.
pub(super) fn sources_to_check(
    configured: &[String],
    in_use: Option<&[SourceReport]>,
) -> Vec<SourceToCheck> {
    let mut all: Vec<_> = configured
        .iter()
        .map(|url| SourceToCheck {
            url: url.clone(),
            in_use: in_use.map(|used| used.iter().any(|s| s.url == substituter::redacted(url))),
        })
        .collect();
    for source in in_use.unwrap_or_default() {
        if all
            .iter()
            .all(|source_to_check| source_to_check.shown() != source.url)
        {
            all.push(SourceToCheck {
                url: source.url.clone(),
                in_use: Some(true),
            });
        }
    }
    all
}

/// A finding if there are no sources.
pub(super) fn no_sources(
    source_to_check: &[SourceToCheck],
    in_use: Option<&[SourceReport]>,
) -> Option<Finding> {
    const NAME: &str = "sources";
    match in_use {
        Some([]) => {
            let seen = "the running daemon has none; it shows what is in the state";
            let advice = "to use sources, unmount, and mount without --offline";
            Some(Finding::note(NAME, seen).advise(advice))
        }
        None if source_to_check.is_empty() => {
            let seen = "none is configured; only what is in the state can be mounted";
            let advice = "set `from` in the configuration, or use --from";
            Some(Finding::note(NAME, seen).advise(advice))
        }
        _ => None,
    }
}

pub(super) fn keys(sources: &SourceRequest) -> Finding {
    const NAME: &str = "keys";
    match sources.trust() {
        Err(e) => Finding::error(NAME, chain(&e)).advise("write a key as NAME:BASE64"),
        Ok(trust) if !trust.require_signatures => Finding::warning(
            NAME,
            "paths are accepted without signatures (require-sigs = false)",
        )
        .advise("configure the keys of your sources, and require signatures"),
        Ok(_) => {
            let more = sources.trusted_public_keys.len();
            Finding::ok(
                NAME,
                format!("cache.nixos.org-1 and {more} more are trusted"),
            )
        }
    }
}

/// Checks whether a source is a usable binary cache, its latency, and its clock.
pub(super) fn source(source_to_check: &SourceToCheck, examination: &Examination) -> Vec<Finding> {
    let url = &source_to_check.url;
    let name = source_to_check.check();
    if source_to_check.in_use == Some(true)
        && !examination.sources.from.contains(url)
        && url.contains(":***@")
    {
        let seen = "the daemon uses a password for it that is not known here";
        return vec![Finding::note(&name, seen).advise("`narfs status` shows its health")];
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return vec![Finding::error(&name, format!("it cannot be queried: {e}"))],
    };
    let there = store::inspect(&examination.state, None).map(|s| s.store_dir);
    let store_dir = examination.store_dir.clone().or(there.ok());
    let store_dir: StoreDir = store_dir.unwrap_or_default();
    let netrc = examination.sources.netrc.as_deref();
    let answer = runtime.block_on(fetch::ask_source(url, netrc, &store_dir));
    let idle = match source_to_check.in_use {
        Some(false) => "; the running daemon uses other sources",
        _ => "",
    };
    let mut findings = vec![match &answer.priority {
        Ok(priority) => {
            let time = answer.answered_within.map_or(String::new(), |t| {
                format!(" in {:.1} ms", t.as_secs_f64() * 1000.0)
            });
            Finding::ok(
                &name,
                format!("it answers{time}, for {store_dir}, priority {priority}{idle}"),
            )
        }
        Err(e) => {
            // A source that no daemon uses at the moment is no problem yet.
            let verdict = match source_to_check.in_use {
                _ if substituter::is_optional(url) => Verdict::Note,
                Some(false) => Verdict::Warning,
                _ => Verdict::Error,
            };
            let optional = match verdict {
                Verdict::Note => "optional, and not reachable: ",
                _ => "",
            };
            Finding::new(&name, verdict, format!("{optional}{}{idle}", chain(e))).advise(
                "check its URL, the network and the proxy variables; what is in the \
                 state works without it",
            )
        }
    }];
    findings.extend(answer.clock_ahead_s.map(|ahead| clock(url, ahead)));
    findings
}

fn clock(url: &str, ahead: i64) -> Finding {
    const NAME: &str = "clock";
    let url = substituter::redacted(url);
    let seconds = ahead.unsigned_abs();
    if seconds <= CLOCK_SECONDS {
        return Finding::ok(NAME, format!("within {seconds} s of that of {url}"));
    }
    let way = if ahead > 0 { "behind" } else { "ahead of" };
    let seen = format!("the local clock is {seconds} s {way} that of {url}");
    Finding::warning(NAME, seen).advise(
        "set it, for example with an NTP client: the validity of certificates depends on it",
    )
}
