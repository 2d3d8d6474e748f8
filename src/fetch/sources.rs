//! The sources of a mount or a command.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::availability::{Slot, SourceReport};
use super::error::FetchError;
use super::options::{Deadlines, FetchOptions};
use super::question::Question;
use super::source::{Asked, Offer, STALL, Source, Trust};
use crate::measure::Histogram;
use crate::nix::store_path::{StoreDir, StorePathHash};
use crate::substituter::{self, Options};

/// Time that a command gives those of its sources that do not say what they are, once another one has.
const GIVE_UP: Duration = Duration::from_secs(2);

/// The sources of a mount or a command, in the order in which they were named.
#[derive(Clone)]
pub struct Sources {
    slots: Arc<[Arc<Slot>]>,
    /// Head start of a source, before the next one is asked as well.
    head_start: Duration,
}

impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.urls()).finish()
    }
}

impl Sources {
    /// The sources of a mount. None is asked yet.
    pub(super) fn new(options: &FetchOptions) -> Self {
        let deadlines = &options.deadlines;
        let open = Arc::new(Options {
            // Half: who waits for a NAR that stopped coming sees a second try.
            stall: deadlines.contents / 2,
            netrc: options.netrc.clone(),
        });
        let slots = options.urls.iter();
        let slots = slots.map(|url| Arc::new(Slot::of_mount(url, &open, deadlines.lookup)));
        Self {
            slots: slots.collect(),
            head_start: deadlines.head_start,
        }
    }

    /// Opens the sources of a command. Names and passwords are in `netrc`; `None` is the usual file. If the
    /// command names the sources itself (`named`), none is optional. Sources that do not answer are left
    /// behind where another one does, and join when they do.
    ///
    /// # Errors
    /// A source cannot be used at all, or none answers.
    pub async fn open(
        urls: &[String],
        netrc: Option<&Path>,
        store_dir: &StoreDir,
        named: bool,
    ) -> Result<Self, FetchError> {
        let open = Arc::new(Options {
            stall: STALL,
            netrc: netrc.map(Path::to_owned),
        });
        let slots = urls.iter().map(|url| {
            let optional = !named && substituter::is_optional(url);
            Arc::new(Slot::of_command(url, optional, &open))
        });
        let sources = Self {
            slots: slots.collect(),
            head_start: Deadlines::default().head_start,
        };
        sources.opened(store_dir).await?;
        Ok(sources)
    }

    /// Waits until the sources have said what they are, or enough of them.
    async fn opened(&self, store_dir: &StoreDir) -> Result<(), FetchError> {
        let give_up = Instant::now() + GIVE_UP;
        let mut opening = JoinSet::new();
        for (at, slot) in self.slots.iter().enumerate() {
            slot.begin(store_dir);
            let slot = slot.clone();
            opening.spawn(async move { (at, slot.settled().await) });
        }
        let (mut answers, mut silent) = (false, None::<(usize, FetchError)>);
        loop {
            let opened = tokio::select! {
                opened = opening.join_next() => opened,
                () = tokio::time::sleep_until(give_up.into()), if answers => None,
            };
            let (at, opened) = match opened {
                Some(opened) => opened.map_err(|_| FetchError::Stopped)?,
                None => break,
            };
            match opened.map_err(FetchError::into_last_try) {
                Ok(_) => answers = true,
                Err(e) if self.slots[at].is_out_of_reach(&e) => {}
                Err(e) if !e.is_transient() => return Err(e),
                // Of several, that of the source which was named first.
                Err(e) => match &silent {
                    Some((first, _)) if *first < at => {}
                    _ => silent = Some((at, e)),
                },
            }
        }
        match silent {
            Some((_, error)) if !answers => Err(error),
            _ => Ok(()),
        }
    }

    /// All of them, in the order in which they are asked as far as that is known.
    pub(super) fn report(&self) -> Vec<SourceReport> {
        let mut all: Vec<_> = self.slots.iter().map(|slot| slot.report()).collect();
        all.sort_by_key(|s| s.priority.unwrap_or(u32::MAX));
        all
    }

    /// From asking to the heads of the answers, by source; those that were asked.
    pub(super) fn latencies(&self) -> Vec<(String, Histogram)> {
        self.slots.iter().filter_map(|s| s.latencies()).collect()
    }

    pub(super) fn urls(&self) -> impl Iterator<Item = &str> {
        self.slots.iter().map(|slot| &*slot.shown)
    }

    /// The error that none of these has what was asked for, with the optional ones that could not be asked.
    pub(super) fn nowhere(&self, asked: &Asked, unreachable: Vec<String>) -> FetchError {
        asked.nowhere(self.urls(), unreachable)
    }

    /// The best usable offer of a path.
    ///
    /// # Errors
    /// Every source said that it has none, but for optional ones that are out of reach; or one could not say.
    pub(super) async fn find(
        &self,
        asked: &Asked,
        store_dir: &StoreDir,
        trust: &Trust,
    ) -> Result<Offer, FetchError> {
        let question = Question::new(&self.slots, self.head_start, asked, store_dir, trust);
        question.answer().await
    }

    /// All but this one, to try when it fails; `None` if it is the only one.
    pub(super) fn besides(&self, source: &Source) -> Option<Self> {
        let others = self.slots.iter();
        let others = others.filter(|slot| !Arc::ptr_eq(&slot.health, &source.health));
        let slots: Arc<[_]> = others.cloned().collect();
        let head_start = self.head_start;
        (!slots.is_empty()).then_some(Self { slots, head_start })
    }

    /// The hashes of all paths that they list.
    ///
    /// # Errors
    /// One of them cannot be listed, or does not answer; but for optional ones that are out of reach.
    pub(super) async fn list(
        &self,
        store_dir: &StoreDir,
    ) -> Result<Vec<StorePathHash>, FetchError> {
        let mut all = Vec::new();
        for slot in self.slots.iter() {
            slot.begin(store_dir);
            match slot.settled().await {
                Ok(source) => all.extend(source.list().await?),
                Err(e) if slot.is_out_of_reach(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }
}
