//! The sources, the keys that are believed, and what the sources say of our clock.

use super::finding::{Examination, Finding, Verdict};
use crate::command::{SourceRequest, chain};
use crate::fetch::{self, SourceReport};
use crate::nix::store_path::StoreDir;
use crate::store;
use crate::substituter;

/// Clocks that differ by less are right: certificates and signatures are not as exact.
const CLOCK_SECONDS: u64 = 300;

/// A source to be looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ToAsk {
    /// With its password, if the configuration has it.
    url: String,
    /// Whether the daemon that runs asks it; `None` if none runs.
    in_use: Option<bool>,
}

impl ToAsk {
    fn shown(&self) -> String {
        substituter::redacted(&self.url)
    }

    pub(super) fn check(&self) -> String {
        format!("source {}", self.shown())
    }
}

/// Those of the daemon that runs, and those that are in force for others.
pub(super) fn to_ask(configured: &[String], in_use: Option<&[SourceReport]>) -> Vec<ToAsk> {
    let mut all: Vec<_> = configured
        .iter()
        .map(|url| ToAsk {
            url: url.clone(),
            in_use: in_use.map(|used| used.iter().any(|s| s.url == substituter::redacted(url))),
        })
        .collect();
    for source in in_use.unwrap_or_default() {
        if all.iter().all(|asked| asked.shown() != source.url) {
            all.push(ToAsk {
                url: source.url.clone(),
                in_use: Some(true),
            });
        }
    }
    all
}

/// That nobody is asked, if that is so.
pub(super) fn nobody(asked: &[ToAsk], in_use: Option<&[SourceReport]>) -> Option<Finding> {
    const NAME: &str = "sources";
    match in_use {
        Some([]) => {
            let seen = "the daemon that runs asks none; it shows what is in the state";
            let advice = "to have it ask, unmount, and mount without --offline";
            Some(Finding::note(NAME, seen).advise(advice))
        }
        None if asked.is_empty() => {
            let seen = "none is asked; only what is in the state can be mounted";
            let advice = "name one: `from` in the configuration, or --from";
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
pub(super) fn source(asked: &ToAsk, examination: &Examination) -> Vec<Finding> {
    let url = &asked.url;
    let name = asked.check();
    if asked.in_use == Some(true)
        && !examination.sources.from.contains(url)
        && url.contains(":***@")
    {
        let seen = "the daemon asks it with a password that is not known here";
        return vec![Finding::note(&name, seen).advise("`narfs status` says how it is doing")];
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(e) => return vec![Finding::error(&name, format!("it cannot be asked: {e}"))],
    };
    let there = store::inspect(&examination.state, None).map(|s| s.store_dir);
    let store_dir = examination.store_dir.clone().or(there.ok());
    let store_dir: StoreDir = store_dir.unwrap_or_default();
    let netrc = examination.sources.netrc.as_deref();
    let answer = runtime.block_on(fetch::ask_source(url, netrc, &store_dir));
    let idle = match asked.in_use {
        Some(false) => "; the daemon that runs was started with other sources",
        _ => "",
    };
    let mut findings = vec![match &answer.priority {
        Ok(priority) => {
            let time = answer.answered_within.map_or(String::new(), |t| {
                format!(" in {:.1} ms", t.as_secs_f64() * 1000.0)
            });
            Finding::ok(
                &name,
                format!("it answers{time}, for paths in {store_dir}, priority {priority}{idle}"),
            )
        }
        Err(e) => {
            // What nobody asks just now is no trouble yet.
            let verdict = match asked.in_use {
                Some(false) => Verdict::Warning,
                _ => Verdict::Error,
            };
            Finding::new(&name, verdict, format!("{}{idle}", chain(e))).advise(
                "check its URL, the network and the proxies of the environment; what is in the \
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
    let seen = format!("this machine's is {seconds} s {way} that of {url}");
    Finding::warning(NAME, seen)
        .advise("set it, by an NTP client for example: certificates are judged by it")
}
