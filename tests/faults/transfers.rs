//! Transfers that break off and go on, and sources that want to be left alone.

use std::io::{self, Read};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use narfs::nix::compression::Compression;
use narfs::nix::store_path::StorePathHash;
use narfs::substituter::{self, BrokenOff, Options, Substituter};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;

use crate::binary_cache::{Cache, Offer, file, noise, path};
use crate::program::{Ran, State};
use crate::server::{Answer, Logged, Ranges, Server};
use crate::waiting::wait_until;

/// A source without the program around it, which gives up after half a second of silence.
struct Source {
    runtime: Runtime,
    substituter: Arc<dyn Substituter>,
}

impl Source {
    fn of(server: &Server) -> Self {
        let options = Options {
            stall: Duration::from_millis(500),
            netrc: None,
        };
        Self {
            runtime: Runtime::new().unwrap(),
            substituter: substituter::open(&server.url, &options).unwrap(),
        }
    }

    fn nar(&self) -> io::Result<Vec<u8>> {
        let asked = self.runtime.block_on(self.substituter.nar("nar/x.nar"));
        let mut bytes = Vec::new();
        asked.unwrap().unwrap().read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn has(&self, hash: StorePathHash) -> bool {
        let asked = self.runtime.block_on(self.substituter.narinfo(hash));
        asked.unwrap().is_some()
    }
}

/// A server of one file, `nar/x.nar`.
fn server(
    contents: &[u8],
    answer: impl Fn(usize) -> Answer + Send + Sync + 'static,
) -> (Server, Source) {
    let cache = Cache::new();
    std::fs::write(cache.dir().join("nar/x.nar"), contents).unwrap();
    let server = Server::new(cache.dir().to_owned(), move |_, before| {
        // Keeps the directory.
        let _ = &cache;
        answer(before)
    });
    let source = Source::of(&server);
    (server, source)
}

fn ranges(log: &[Logged]) -> Vec<Option<&str>> {
    log.iter().map(|asked| asked.header("range")).collect()
}

/// `narfs copy` of an offer from a server that answers requests for its NAR in this way.
fn copy(offer: &Offer, answer: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Copied {
    let cache = Cache::new();
    cache.put(offer);
    let server = Server::new(cache.dir().to_owned(), move |path, before| {
        if path.starts_with("/nar/") {
            answer(before)
        } else {
            Answer::File
        }
    });
    let state = State::new();
    let mut arguments = vec!["copy".to_owned(), offer.path().base_name()];
    arguments.extend(cache.arguments_from(&server.url));
    let ran = state.run(&arguments);
    Copied {
        log: server.log_of(&format!("/{}", offer.info.url)),
        ran,
        state,
    }
}

struct Copied {
    ran: Ran,
    state: State,
    log: Vec<Logged>,
}

#[test]
fn what_came_before_a_break_is_not_sent_again_where_ranges_are_offered() {
    let nar = file(&noise(1, 400_000));
    let offer = Offer::named("hello", nar.clone()).compressed(Compression::Xz);
    let length = offer.stored.len();
    let copied = copy(&offer, |before| match before {
        0 => Answer::Ranges(Ranges::end_after(100_000)),
        // It is asked for the same rest again.
        1 => Answer::Status(503),
        2 => Answer::Ranges(Ranges::end_after(150_000)),
        _ => Answer::Ranges(Ranges::GOOD),
    });
    copied.ran.succeeds().counts(1, 0);
    copied.state.gives_out(offer.path(), &nar);
    let expected = [
        None,
        Some("bytes=100000-"),
        Some("bytes=100000-"),
        Some("bytes=250000-"),
    ];
    assert_eq!(ranges(&copied.log), expected);
    let sent = copied.log.iter().filter(|a| a.sent > 10).map(|a| a.sent);
    assert_eq!(sent.sum::<usize>(), length);
    for resumed in &copied.log[1..] {
        assert_eq!(resumed.header("if-range"), Some("\"v1\""));
    }
}

#[test]
fn a_rest_that_says_it_is_not_encoded_is_taken() {
    let contents = noise(1, 300_000);
    for encoding in ["identity", "aws-chunked"] {
        let (server, source) = server(&contents, move |_| {
            Answer::Ranges(Ranges {
                encoding,
                ..Ranges::end_after(100_000)
            })
        });
        assert!(source.nar().unwrap() == contents);
        let expected = [None, Some("bytes=100000-"), Some("bytes=200000-")];
        assert_eq!(ranges(&server.log()), expected, "{encoding}");
    }
    // The rest of something else.
    let (_, source) = server(&contents, |_| {
        Answer::Ranges(Ranges {
            encoding: "gzip",
            ..Ranges::end_after(100_000)
        })
    });
    assert!(source.nar().is_err());
}

#[test]
fn a_transfer_that_stops_coming_goes_on_where_it_stopped() {
    let contents = noise(1, 300_000);
    let stall = Ranges {
        stall: true,
        ..Ranges::end_after(120_000)
    };
    let (server, source) = server(&contents, move |before| match before {
        0 => Answer::Ranges(stall),
        _ => Answer::Ranges(Ranges::GOOD),
    });
    assert!(source.nar().unwrap() == contents);
    let log = server.log();
    assert_eq!(ranges(&log), [None, Some("bytes=120000-")]);
    let now = source.substituter.traffic().snapshot();
    let counts = (now.requests, now.retries, now.failures, now.abandoned);
    assert_eq!(counts, (1, 1, 0, 0));
    assert_eq!(now.received_bytes, contents.len() as u64);
}

#[test]
fn as_long_as_there_is_progress_a_transfer_goes_on() {
    let contents = noise(1, 700_000);
    let (server, source) = server(&contents, |_| {
        Answer::Ranges(Ranges {
            // A weak tag does not speak of bytes.
            tag: "W/\"v1\"",
            ..Ranges::end_after(100_000)
        })
    });
    assert!(source.nar().unwrap() == contents);
    let log = server.log();
    assert_eq!(log.len(), 7);
    assert!(log.iter().all(|asked| asked.header("if-range").is_none()));
}

#[test]
fn without_progress_a_transfer_is_given_up() {
    let offer = Offer::named("hello", file(&noise(1, 300_000)));
    let (server, source) = server(&offer.stored, |_| Answer::Ranges(Ranges::end_after(10)));
    let error = source.nar().unwrap_err();
    assert!(BrokenOff::is_final(&error), "{error}");
    assert!(
        error.to_string().contains("broke off at byte 50"),
        "{error}"
    );
    assert_eq!(server.log().len(), 5);
    let now = source.substituter.traffic().snapshot();
    let counts = (now.requests, now.retries, now.failures, now.abandoned);
    assert_eq!(counts, (1, 4, 1, 0));
    assert!(now.last_failure.unwrap().text.contains("broke off"));
    // And is not begun anew either.
    let copied = copy(&offer, |_| Answer::Ranges(Ranges::end_after(10)));
    copied.ran.copies_but(0, &[(offer.path(), "broke off")]);
    assert_eq!(copied.log.len(), 5);
}

#[test]
fn what_is_not_surely_the_rest_begins_the_transfer_anew() {
    let nar = file(&noise(1, 300_000));
    let offer = Offer::named("hello", nar.clone());
    let good = Ranges::GOOD;
    let lies = [
        Answer::Ranges(Ranges {
            heeds: false,
            ..good
        }),
        Answer::Ranges(Ranges { early: 1, ..good }),
        Answer::Ranges(Ranges { longer: 1, ..good }),
        // Another file by now.
        Answer::Ranges(Ranges {
            tag: "\"v2\"",
            ..good
        }),
        Answer::Status(404),
        Answer::Status(416),
    ];
    for lie in lies {
        let copied = copy(&offer, move |before| match before {
            0 => Answer::Ranges(Ranges::end_after(100_000)),
            1 => lie,
            _ => Answer::Ranges(good),
        });
        copied.ran.succeeds().counts(1, 0);
        copied.state.gives_out(offer.path(), &nar);
        let expected = [None, Some("bytes=100000-"), None];
        assert_eq!(ranges(&copied.log), expected, "{lie:?}");
    }
}

#[test]
fn a_rest_that_is_longer_than_it_may_be_is_an_error() {
    let contents = noise(1, 300_000);
    let long = Ranges {
        surplus: 1,
        ..Ranges::GOOD
    };
    let (server, source) = server(&contents, move |before| match before {
        0 => Answer::Ranges(Ranges::end_after(100_000)),
        _ => Answer::Ranges(long),
    });
    let error = source.nar().unwrap_err();
    assert!(!BrokenOff::is_final(&error));
    let text = error.to_string();
    assert!(text.contains("more than its 300000 bytes"), "{text}");
    assert_eq!(server.log().len(), 2);
}

#[test]
fn without_an_offer_no_range_is_asked_for() {
    let nar = file(&noise(1, 300_000));
    let offer = Offer::named("hello", nar.clone());
    let copied = copy(&offer, |before| match before {
        0 => Answer::Half,
        _ => Answer::File,
    });
    copied.ran.succeeds().counts(1, 0);
    copied.state.gives_out(offer.path(), &nar);
    assert_eq!(ranges(&copied.log), [None, None]);
}

#[test]
fn a_reader_that_goes_away_ends_the_transfer() {
    let (server, source) = server(&noise(1, 3 << 20), |_| {
        Answer::Ranges(Ranges {
            stall: true,
            ..Ranges::end_after(1000)
        })
    });
    let asked = source.runtime.block_on(source.substituter.nar("nar/x.nar"));
    drop(asked.unwrap().unwrap());
    let now = || source.substituter.traffic().snapshot();
    wait_until("it has ended", || now().abandoned == 1);
    // By then it would have been asked for the rest.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(server.log().len(), 1);
    assert_eq!((now().failures, now().abandoned), (0, 1));
}

#[test]
fn a_source_that_wants_to_be_left_alone_is_left_alone_by_all_requests() {
    let cache = Cache::new();
    let [told, other, hasty] = ["told", "other", "hasty"].map(path);
    for path in [&told, &other, &hasty] {
        cache.put(&Offer::new(path, file(b"x")));
    }
    let name = |path: &narfs::nix::store_path::StorePath| format!("/{}.narinfo", path.hash());
    let busy = name(&told);
    let server = Server::new(cache.dir().to_owned(), move |path, before| {
        if path == busy && before == 0 {
            Answer::LaterByDate
        } else {
            Answer::File
        }
    });
    let source = Arc::new(Source::of(&server));
    let asking = {
        let (source, hash) = (source.clone(), told.hash());
        std::thread::spawn(move || source.has(hash))
    };
    let since = Instant::now();
    wait_until("the source has been heard", || {
        source.substituter.traffic().snapshot().retries == 1
    });
    // Whoever cannot wait goes away at once, and without having asked.
    let patience = Duration::from_millis(200);
    let hurried = source.runtime.block_on(async {
        tokio::time::timeout(patience, source.substituter.narinfo(hasty.hash())).await
    });
    assert!(hurried.is_err());
    assert!(source.has(other.hash()));
    assert!(since.elapsed() > Duration::from_millis(4900));
    assert!(asking.join().unwrap());
    assert_eq!(server.requests(&name(&told)), 2);
    assert_eq!(server.requests(&name(&other)), 1);
    assert_eq!(server.requests(&name(&hasty)), 0);
    let now = source.substituter.traffic().snapshot();
    let counts = (now.requests, now.retries, now.failures, now.abandoned);
    assert_eq!(counts, (3, 1, 0, 1));
}

#[test]
fn a_connection_serves_many_requests_whether_there_is_such_a_file_or_not() {
    let cache = Cache::new();
    let paths: Vec<_> = (0..40).map(|n| path(&format!("p{n}"))).collect();
    for path in paths.iter().step_by(2) {
        cache.put(&Offer::new(path, file(b"x")));
    }
    let server = Server::keeping_alive(cache.dir().to_owned(), |_, _| Answer::File);
    let source = Source::of(&server);
    let has: Vec<_> = paths.iter().map(|p| source.has(p.hash())).collect();
    assert_eq!(has.iter().filter(|has| **has).count(), 20);
    assert_eq!(server.log().len(), 40);
    // On a busy machine one may not be back in the pool when the next request begins.
    assert!(server.connections() <= 3, "{}", server.connections());
}

#[test]
fn a_copy_that_waits_for_a_first_byte_ends_as_soon_as_it_is_told_to() {
    for answer in [Answer::Stall, Answer::HalfAndStall] {
        let cache = Cache::new();
        let offer = Offer::named("hello", file(&noise(1, 300_000)));
        cache.put(&offer);
        let server = Server::new(cache.dir().to_owned(), move |path, _| {
            match path.starts_with("/nar/") {
                true => answer,
                false => Answer::File,
            }
        });
        let state = State::new();
        let mut arguments = vec!["copy".to_owned(), offer.path().base_name()];
        arguments.extend(cache.arguments_from(&server.url));
        let mut command = state.command(&arguments);
        let mut copy = command.stderr(Stdio::null()).spawn().unwrap();
        let nar = format!("/{}", offer.info.url);
        wait_until("the NAR is asked for", || server.requests(&nar) > 0);
        kill_process(Pid::from_child(&copy), Signal::INT).unwrap();
        // The source may take longer than this waits.
        wait_until("it has ended", || copy.try_wait().unwrap().is_some());
        state.has_exactly(&[]);
    }
}

#[test]
fn commands_take_from_a_second_source_what_the_first_is_slow_with() {
    let kinds = [
        Answer::Stall,
        Answer::HalfAndStall,
        Answer::Slow(100_000),
        Answer::Half,
        Answer::Flipped,
    ];
    let cache = Cache::new();
    let offers = (0..kinds.len() as u64).map(|n| {
        let offer = Offer::named(&format!("path-{n}"), file(&noise(n, 100_000)));
        cache.put(&offer);
        offer
    });
    let offers: Vec<_> = offers.collect();
    let urls: Vec<_> = offers.iter().map(|o| format!("/{}", o.info.url)).collect();
    for command in ["copy", "prefetch", "pin"] {
        for bad_is_first in [true, false] {
            let known = urls.clone();
            let bad = Server::new(cache.dir().to_owned(), move |path, _| {
                let at = known.iter().position(|url| url == path);
                at.map_or(Answer::File, |at| kinds[at])
            });
            let good = Server::new(cache.dir().to_owned(), |_, _| Answer::File);
            let [bad_priority, good_priority] = match bad_is_first {
                true => [10, 20],
                false => [20, 10],
            };
            let bad_url = format!("{}?priority={bad_priority}", bad.url);
            let good_url = format!("{}?priority={good_priority}", good.url);
            let state = State::new();
            let mut arguments = vec![command.to_owned(), "--from".into(), bad_url];
            arguments.extend(cache.arguments_from(&good_url));
            arguments.extend(offers.iter().map(|o| o.path().base_name()));
            state.run(&arguments).succeeds();
            assert_eq!(state.is_whole(), offers.len() as u64);
            for url in &urls {
                assert_eq!(good.requests(url), 1, "{command}");
                // On a busy machine the good one, too, may seem slow, so that the other is asked beside it.
                assert!(!bad_is_first || bad.requests(url) > 0, "{command}");
            }
        }
    }
}
