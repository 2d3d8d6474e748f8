//! Answers to unprivileged clients, computed once for all that ask at about the same time.
//!
//! Invariant: however many ask, one answer of a kind is computed at a time, and computing takes at most a
//! small share of the time.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::command::{Request, RequestError};
use crate::sync;

/// Time for which an answer is given again. Who looks on sees no difference.
const LIFETIME: Duration = Duration::from_millis(500);
/// Share of the time that computing takes at most: an answer that took long is given again for that much
/// longer. The status counts all paths, a million of them in a third of a second.
const SHARE: u32 = 10;
/// Longest time that follows from that.
const LONGEST: Duration = Duration::from_secs(30);

type Answer = Result<Arc<[u8]>, RequestError>;

/// The last answer of each kind.
#[derive(Debug, Default)]
pub(super) struct SharedAnswers {
    status: Mutex<Option<(Instant, Answer)>>,
    figures: Mutex<Option<(Instant, Answer)>>,
}

impl SharedAnswers {
    /// The answer to a request; of those that may be made, `Figures` is the other one.
    pub(super) fn get(
        &self,
        request: Request,
        compute: impl FnOnce(Request) -> Result<Vec<u8>, RequestError>,
    ) -> Answer {
        let last = match request {
            Request::Status => &self.status,
            _ => &self.figures,
        };
        let mut last = sync::lock(last);
        if let Some((expires, answer)) = &*last
            && Instant::now() < *expires
        {
            return answer.clone();
        }
        let began = Instant::now();
        let answer: Answer = compute(request).map(Into::into);
        let lifetime = LIFETIME.max((began.elapsed() * SHARE).min(LONGEST));
        *last = Some((Instant::now() + lifetime, answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn those_who_ask_together_share_an_answer_and_one_that_took_long_lasts_longer() {
        let (answers, computed) = (SharedAnswers::default(), AtomicU64::new(0));
        let ask = |request| {
            let compute = |_| {
                computed.fetch_add(1, Ordering::SeqCst);
                // It is given again for ten times as long.
                std::thread::sleep(Duration::from_secs(2));
                Ok(b"x".to_vec())
            };
            assert_eq!(&*answers.get(request, compute).unwrap(), b"x");
        };
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| ask(Request::Status));
            }
        });
        ask(Request::Status);
        assert_eq!(computed.load(Ordering::SeqCst), 1);
        ask(Request::Figures);
        assert_eq!(computed.load(Ordering::SeqCst), 2);
    }
}
