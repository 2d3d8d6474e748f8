//! Publishing in groups: one flush of the database for many paths that arrive together.
//!
//! Invariants: a path that a program waits for is shown to it before it is published, as far as that changes
//! nothing that was seen; such a path, and one after which nothing more is arriving, is published at once,
//! with all that is ready. A path of a closure that is copied waits for its references, unless a program
//! waits for it, and fails with them; paths that wait for each other fail once nothing else is coming.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use super::error::FetchError;
use super::flights::Flight;
use super::priorities::Urgency;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Publication, Shown, Store};
use crate::sync;

/// Bytes of chunks with which a group is published: one flush then writes one large file rather
/// than one for each path.
const BYTES: u64 = 24 << 20;
/// Longest time for which a path waits for others of its group.
const TIME: Duration = Duration::from_secs(1);

type Outcome = Result<(), FetchError>;

/// See the module.
pub(super) struct Publisher {
    store: Arc<Store>,
    paths: Mutex<Paths>,
    /// Held by whoever publishes; meanwhile the next group gathers.
    turn: tokio::sync::Mutex<()>,
    /// Told when a path is handed in.
    pub(super) handed_in: Notify,
}

#[derive(Default)]
struct Paths {
    /// Of a copy, neither ready nor failed: what refers to them waits.
    coming: HashSet<StorePathHash>,
    failed: HashSet<StorePathHash>,
    /// Handed in, and waiting for references.
    waiting: Vec<Handed>,
    /// The next group.
    ready: Vec<Handed>,
}

struct Handed {
    publication: Publication,
    urgency: Arc<Urgency>,
    shown: Option<Shown>,
    published: oneshot::Sender<Outcome>,
}

impl Handed {
    fn hash(&self) -> StorePathHash {
        self.publication.registration.path.hash()
    }

    /// The first of the references that is in `set`; unless a program waits for the path.
    fn needs(&self, set: &HashSet<StorePathHash>) -> Option<StorePath> {
        let registration = &self.publication.registration;
        let mut references = registration.references.iter();
        let needs = references.find(|r| **r != registration.path && set.contains(&r.hash()));
        needs.filter(|_| !self.urgency.is_raised()).cloned()
    }

    fn fail(self, error: FetchError) {
        // Its flight may have ended with the runtime.
        let _ = self.published.send(Err(error));
    }
}

impl Paths {
    fn fail(&mut self, hash: StorePathHash) {
        if self.coming.remove(&hash) {
            self.failed.insert(hash);
        }
    }

    /// Sorts out what waits, until nothing more follows.
    fn settle(&mut self) {
        let mut more = true;
        while std::mem::take(&mut more) {
            for handed in std::mem::take(&mut self.waiting) {
                if let Some(missing) = handed.needs(&self.failed) {
                    self.fail(handed.hash());
                    handed.fail(FetchError::Reference(missing));
                } else if handed.needs(&self.coming).is_none() {
                    self.coming.remove(&handed.hash());
                    self.ready.push(handed);
                } else {
                    self.waiting.push(handed);
                    continue;
                }
                more = true;
            }
        }
        if self.waiting.len() == self.coming.len() {
            let circle = std::mem::take(&mut self.coming);
            for handed in std::mem::take(&mut self.waiting) {
                self.failed.insert(handed.hash());
                match handed.needs(&circle) {
                    Some(other) => handed.fail(FetchError::Circle(other)),
                    // A program has begun to wait for it.
                    None => self.ready.push(handed),
                }
            }
        }
    }
}

impl Publisher {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            paths: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            handed_in: Notify::new(),
        }
    }

    fn paths(&self) -> MutexGuard<'_, Paths> {
        sync::lock(&self.paths)
    }

    /// Has paths wait for those of their references that are `coming`, and fail for those that
    /// have `failed`.
    pub(super) fn expect(&self, coming: HashSet<StorePathHash>, failed: HashSet<StorePathHash>) {
        let mut paths = self.paths();
        (paths.coming, paths.failed) = (coming, failed);
    }

    /// One of `references` that has failed.
    pub(super) fn missing(&self, references: &[StorePath]) -> Option<StorePath> {
        let paths = self.paths();
        let mut references = references.iter();
        references
            .find(|r| paths.failed.contains(&r.hash()))
            .cloned()
    }

    /// Notes that a path is not coming.
    pub(super) fn fail(&self, hash: StorePathHash) {
        let mut paths = self.paths();
        paths.fail(hash);
        paths.settle();
    }

    /// Notes that a path is here, whoever brought it.
    pub(super) fn land(&self, hash: StorePathHash) {
        let mut paths = self.paths();
        paths.coming.remove(&hash);
        paths.settle();
    }

    /// Fails what waits for references.
    pub(super) fn stop(&self) {
        for handed in std::mem::take(&mut self.paths().waiting) {
            handed.fail(FetchError::Stopped);
        }
    }

    /// Paths that are handed in and not published.
    pub(super) fn unpublished(&self) -> usize {
        let paths = self.paths();
        paths.waiting.len() + paths.ready.len()
    }

    fn hand_in(
        &self,
        publication: Publication,
        urgency: &Arc<Urgency>,
        shown: Option<Shown>,
    ) -> oneshot::Receiver<Outcome> {
        let (sender, published) = oneshot::channel();
        let mut paths = self.paths();
        paths.waiting.push(Handed {
            publication,
            urgency: urgency.clone(),
            shown,
            published: sender,
        });
        paths.settle();
        self.handed_in.notify_one();
        published
    }

    /// Shows a path to programs that wait for it. What fails here fails when it is published.
    async fn show(&self, publication: Publication) -> Option<(Publication, Option<Shown>)> {
        let store = self.store.clone();
        let showing = tokio::task::spawn_blocking(move || {
            let shown = store.paths().show(&publication).unwrap_or_else(|e| {
                tracing::debug!("not shown before it is published: {e}");
                None
            });
            (publication, shown)
        });
        showing.await.ok()
    }

    /// Publishes the path of a flight; returns when all can see it, and it survives a power loss.
    pub(super) async fn publish(&self, publication: Publication, flight: &Flight) -> Outcome {
        let urgency = &flight.urgency;
        let (publication, shown) = match urgency.is_raised() {
            true => self.show(publication).await.ok_or(FetchError::Stopped)?,
            false => (publication, None),
        };
        if shown.is_some() {
            flight.show();
        }
        let mut published = self.hand_in(publication, urgency, shown);
        let is_urgent = || urgency.is_raised() || urgency.is_alone();
        let mut is_due = is_urgent() || self.store.contents().unflushed() >= BYTES;
        loop {
            if is_due {
                self.publish_ready().await;
            }
            tokio::select! {
                outcome = &mut published => return outcome.unwrap_or(Err(FetchError::Stopped)),
                () = urgency.raised(), if !urgency.is_raised() => {}
                () = tokio::time::sleep(TIME) => {}
            }
            is_due = true;
        }
    }

    /// Publishes what is ready, unless another one has meanwhile.
    async fn publish_ready(&self) {
        let _turn = self.turn.lock().await;
        let ready = self.take_ready();
        if ready.is_empty() {
            return;
        }
        let each = ready
            .into_iter()
            .map(|handed| (handed.publication, (handed.shown, handed.published)));
        let (group, ends): (Vec<_>, Vec<_>) = each.unzip();
        let (shown, senders): (Vec<_>, Vec<_>) = ends.into_iter().unzip();
        let store = self.store.clone();
        let publish = move || {
            let published = store.paths().publish(&group);
            // While the chunks are still held.
            drop(shown);
            published
        };
        let publishing = tokio::task::spawn_blocking(publish).await;
        let outcome = match publishing {
            Ok(Ok(())) => Ok(()),
            Ok(Err(e)) => Err(Arc::new(FetchError::Store(e))),
            Err(_) => Err(Arc::new(FetchError::Stopped)),
        };
        for sender in senders {
            // Its flight may have ended with the runtime.
            let _ = sender.send(outcome.clone().map_err(FetchError::Shared));
        }
        if let Err(error) = outcome {
            // What was handed in meanwhile may refer to these.
            for handed in self.take_ready() {
                handed.fail(error.clone().into());
            }
        }
    }

    fn take_ready(&self) -> Vec<Handed> {
        let mut paths = self.paths();
        // A program may have begun to wait for one.
        paths.settle();
        std::mem::take(&mut paths.ready)
    }
}

#[cfg(test)]
mod tests {
    use super::super::flights::{Flights, Need};
    use super::super::options::PrefetchPolicy;
    use super::super::priorities::Priorities;
    use super::super::{attempt::Attempt, receive};
    use super::*;
    use crate::nix::nar::Writer;
    use crate::store::{Contents, Origin, Registration, RootKind, StoreOptions};

    /// A directory with a file that has the name of the path in it, and what is registered of it.
    fn received(store: &Store, name: &str) -> Publication {
        let mut writer = Writer::new(Vec::new());
        writer.directory().unwrap();
        writer.entry(b"file").unwrap();
        writer.regular(false, name.len() as u64).unwrap();
        writer.contents(name.as_bytes()).unwrap();
        writer.end_directory().unwrap();
        let nar = writer.finish().unwrap();
        let attempt = Attempt::new(&Arc::default());
        let received = receive::unpack(store, &nar[..], &[], None, None, &attempt).unwrap();
        let base_name = format!("{}-{name}", "1".repeat(32));
        let publication = Publication {
            registration: Registration {
                path: StorePath::parse_base_name(base_name.as_bytes()).unwrap(),
                nar_hash: received.nar_hash,
                nar_size: received.nar_size,
                references: Vec::new(),
                deriver: None,
                signatures: Vec::new(),
                ca: None,
                vouched: false,
            },
            origin: Origin::Fetched,
            tree: received.unpacked.tree,
            hold: received.hold,
        };
        let said = (publication.registration.clone(), Some(RootKind::Directory));
        store.paths().register(&[said]).unwrap();
        publication
    }

    #[test]
    fn a_path_that_a_program_waits_for_is_read_while_it_is_being_published() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let store = Arc::new(Store::open(dir.path(), &options).unwrap());
        let publisher = Arc::new(Publisher::new(store.clone()));
        let (flights, priorities) = (
            Flights::default(),
            Priorities::for_programs(1, PrefetchPolicy::None),
        );
        let publication = received(&store, "urgent");
        let path = publication.registration.path.clone();
        let info = || store.paths().info(path.hash()).unwrap().unwrap();
        let ordinal = info().ordinal;
        let is_seen = || store.paths().serve(ordinal).unwrap().is_some();
        let need = Need::Contents(path.clone());
        let (waiting, _landing) = flights.join(&need, &priorities, &Arc::default());
        let flight = waiting.0.clone();
        flight.urgency.raise();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            // Nothing is published before this is given back.
            let turn = publisher.turn.lock().await;
            let publishing = tokio::spawn({
                let (publisher, flight) = (publisher.clone(), flight.clone());
                async move { publisher.publish(publication, &flight).await }
            });
            flight.shown().await;
            assert!(is_seen() && !publishing.is_finished());
            assert!(matches!(info().contents, Contents::Absent(_)));
            assert!(store.paths().all().unwrap().is_empty());
            drop(turn);
            publishing.await.unwrap().unwrap();
        });
        assert!(is_seen() && info().ordinal == ordinal);
        assert_eq!(store.paths().all().unwrap(), [path]);
    }

    #[test]
    fn what_is_fetched_ahead_is_seen_when_it_is_published() {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let store = Arc::new(Store::open(dir.path(), &options).unwrap());
        let publisher = Publisher::new(store.clone());
        let (flights, priorities) = (
            Flights::default(),
            Priorities::for_programs(1, PrefetchPolicy::None),
        );
        let publication = received(&store, "ahead");
        let need = Need::Contents(publication.registration.path.clone());
        let (waiting, _landing) = flights.join(&need, &priorities, &Arc::default());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let published = runtime.block_on(async {
            let published = publisher.publish(publication, &waiting.0).await;
            tokio::select! {
                biased;
                () = waiting.0.shown() => panic!("it was shown"),
                () = std::future::ready(()) => published,
            }
        });
        published.unwrap();
        assert_eq!(store.paths().all().unwrap().len(), 1);
    }
}
