//! Publishing in groups: one flush of the database for many paths that arrive together.
//!
//! Invariants: whoever hands in a path hears when it is published; a path that a program waits
//! for, or after which nothing more is arriving, is published at once, and takes along what waits.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::oneshot;

use super::FetchError;
use super::priorities::Urgency;
use crate::store::{Publication, Store};
use crate::sync;

/// A group is published when this many bytes of chunks wait for it: one flush then writes one
/// large file rather than one for each path.
const BYTES: u64 = 24 << 20;
/// … or when its first path has waited so long.
const TIME: Duration = Duration::from_secs(1);

type Outcome = Result<(), FetchError>;

/// See the module.
pub(super) struct Publisher {
    store: Arc<Store>,
    waiting: Mutex<Vec<(Publication, oneshot::Sender<Outcome>)>>,
    /// Held by whoever publishes; meanwhile the next group gathers.
    turn: tokio::sync::Mutex<()>,
}

impl Publisher {
    pub(super) fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }

    fn take(&self) -> Vec<(Publication, oneshot::Sender<Outcome>)> {
        let mut waiting = sync::lock(&self.waiting);
        std::mem::take(&mut waiting)
    }

    /// Publishes a path; returns when it can be seen.
    pub(super) async fn publish(&self, publication: Publication, urgency: &Urgency) -> Outcome {
        let (sender, mut published) = oneshot::channel();
        sync::lock(&self.waiting).push((publication, sender));
        let more = !urgency.is_raised() && !urgency.is_alone();
        if more && self.store.contents().unflushed() < BYTES {
            tokio::select! {
                outcome = &mut published => return outcome.unwrap_or(Err(FetchError::Stopped)),
                () = urgency.raised() => {}
                () = tokio::time::sleep(TIME) => {}
            }
        }
        let turn = self.turn.lock().await;
        // Another one may have taken it along meanwhile.
        let (group, senders): (Vec<_>, Vec<_>) = self.take().into_iter().unzip();
        if !group.is_empty() {
            let store = self.store.clone();
            let publishing =
                tokio::task::spawn_blocking(move || store.paths().publish(&group)).await;
            let outcome = match publishing {
                Ok(Ok(())) => Ok(()),
                Ok(Err(e)) => Err(Arc::new(FetchError::Store(e))),
                Err(_) => Err(Arc::new(FetchError::Stopped)),
            };
            for sender in senders {
                // Its flight may have ended with the runtime.
                let _ = sender.send(outcome.clone().map_err(FetchError::Shared));
            }
        }
        drop(turn);
        published.await.unwrap_or(Err(FetchError::Stopped))
    }
}
