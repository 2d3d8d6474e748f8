//! Connections of clients, without a mount; the sources are binary caches in directories.

use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use super::accept::serve_one;
use super::client::Client;
use super::worker_client::{Request, WorkerClient};
use crate::command::SourceRequest;
use crate::control::Places;
use crate::engine::Engine;
use crate::engine::binary_cache::{Cache, Offer, Tree, nar, path};
use crate::fetch;
use crate::nix::hash::{Hash, NarHash};
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::{StoreDir, StorePath};
use crate::store::{MemoryBackend, Store, StoreOptions};
use crate::sync::Pace;

/// The versions of Nix 2.3, 2.8, Lix and 2.34.
const VERSIONS: [u64; 4] = [21, 34, 35, 38];

struct State {
    cache: Cache,
    dir: tempfile::TempDir,
    engine: Arc<Engine>,
}

fn full(path: &StorePath) -> String {
    path.to_full(&StoreDir::default())
}

impl State {
    /// With the cache as its source.
    fn new() -> Self {
        let cache = Cache::new();
        let url = cache.url();
        Self::from(cache, &[&url])
    }

    fn from(cache: Cache, urls: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            create: true,
            ..StoreOptions::default()
        };
        let state = dir.path().join("state");
        let store = Store::open_in_memory(&state, &options, MemoryBackend::default()).unwrap();
        let sources = SourceRequest {
            from: urls.iter().map(|url| (*url).to_owned()).collect(),
            trusted_public_keys: vec![cache.key.to_public().to_string()],
            ..SourceRequest::default()
        };
        let engine = Arc::new(Engine::new(Arc::new(store), sources, None));
        Self { cache, dir, engine }
    }

    /// A connection of a client, and the thread that answers it.
    fn connection(&self, is_trusted: bool, is_admitted: bool) -> (UnixStream, JoinHandle<()>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let engine = self.engine.clone();
        let client = Client {
            is_trusted,
            is_admitted,
            costly: Arc::new(Pace::new(1000)),
        };
        let place = Places::new(1, 1)
            .take(1, theirs.try_clone().unwrap())
            .unwrap();
        let answer = move || serve_one(&engine, &theirs, &client, &place);
        (ours, std::thread::spawn(answer))
    }

    fn client(&self, minor: u64) -> WorkerClient {
        WorkerClient::greet(self.connection(true, true).0, minor).unwrap()
    }

    fn put(&self, name: &str, contents: &[u8]) -> NarInfo {
        let offer = Offer::named(name, nar(&Tree::File(contents)));
        self.put_offer(offer)
    }

    fn put_offer(&self, offer: Offer) -> NarInfo {
        self.cache.put(&offer);
        offer.info
    }

    /// A path with a deriver, and the one that it refers to.
    fn put_pair(&self) -> (NarInfo, NarInfo) {
        let b = self.put("b", b"b");
        let mut a = Offer::named("a", nar(&Tree::Program(b"a"))).referring(&[&b.store_path]);
        a.info.deriver = Some(path("a.drv"));
        (self.put_offer(a), b)
    }

    fn add(&self, name: &str) -> String {
        let file = self.dir.path().join(name);
        std::fs::write(&file, name).unwrap();
        full(&fetch::add(&self.engine.store, &file, name).unwrap())
    }

    /// A derivation, with an output that is there, one that is not, and one whose path is not known: the
    /// paths of the first two, that of the derivation, and what is there.
    fn derivation(&self) -> (String, String, String, NarInfo) {
        let out = self.put("out", b"out");
        let (built, unbuilt) = (full(&out.store_path), full(&path("unbuilt")));
        let outputs = [("out", &*built), ("doc", &unbuilt), ("floating", "")];
        let each = outputs.map(|(name, path)| format!("(\"{name}\",\"{path}\",\"\",\"\")"));
        let text = format!("Derive([{}],[],[],\"x\",\"/bin/sh\",[],[])", each.join(","));
        let drv = full(&self.put("x.drv", text.as_bytes()).store_path);
        (built, unbuilt, drv, out)
    }

    fn is_local(&self, path: &StorePath) -> bool {
        let paths = self.engine.store.paths();
        let info = paths.info(path.hash()).unwrap();
        info.is_some_and(|info| paths.has_contents(&info).unwrap())
    }
}

#[test]
fn what_a_source_or_the_state_has_is_valid_for_each_version() {
    for minor in VERSIONS {
        let state = State::new();
        let (a, b) = state.put_pair();
        let local = state.add("local");
        let mut client = state.client(minor);
        let shown = (minor >= 33).then(|| concat!("narfs ", env!("CARGO_PKG_VERSION")).to_owned());
        assert_eq!(client.program, shown);
        assert_eq!(client.trusted, (minor >= 35).then_some(1));
        // Settings change nothing.
        let settings = (0..12).fold(Request::default(), |out, _| out.number(1));
        let settings = settings.number(1).string("cores").string("0");
        client.ask(19, settings).unwrap();

        let (a_full, absent) = (full(&a.store_path), full(&path("absent")));
        assert!(client.is_valid(&a_full) && client.is_valid(&local));
        assert!(!client.is_valid(&absent));
        let b_full = full(&b.store_path);
        let valid = client.valid(&[&a_full, &local, &absent, &b_full]);
        assert_eq!(valid, [&*a_full, &*local, &*b_full]);
        let info = client.info(&a_full).unwrap();
        let hex = Hash::from(a.nar_hash).to_hex();
        assert_eq!(info.nar_hash, hex.trim_start_matches("sha256:"));
        assert_eq!(info.nar_size, a.nar_size);
        assert_eq!(info.references, [full(&b.store_path)]);
        assert_eq!(info.deriver, full(&path("a.drv")));
        assert_eq!(
            (info.signatures.len(), info.ultimate, &*info.ca),
            (1, 0, "")
        );
        assert!(info.registered > 0);
        assert!(
            client
                .info(&local)
                .unwrap()
                .ca
                .starts_with("fixed:r:sha256:")
        );
        assert_eq!(client.info(&absent), None);
        // Under another name it is another path.
        let renamed = a_full.replace("-a", "-c");
        assert_eq!(
            (client.is_valid(&renamed), client.info(&renamed)),
            (false, None)
        );

        // None of that has brought contents.
        assert!(!state.is_local(&a.store_path) && !state.is_local(&b.store_path));
    }
}

#[test]
fn what_is_known_of_paths_is_told_each_version() {
    for minor in VERSIONS {
        let state = State::new();
        let (a, b) = state.put_pair();
        let (a_full, absent) = (full(&a.store_path), full(&path("absent")));
        let mut client = state.client(minor);
        assert_eq!(client.valid(&[&a_full, &full(&b.store_path)]).len(), 2);
        client.of(29, &a.store_path.hash().to_string());
        assert_eq!(client.string(), a_full);
        client.of(29, &path("absent").hash().to_string());
        assert_eq!(client.string(), "");
        client
            .ask(32, Request::default().strings(&[&a_full, &absent]))
            .unwrap();
        assert_eq!(client.strings(), [&*a_full]);
        client.of(21, &a_full);
        assert_eq!(client.number(), 1);
        assert_eq!(
            (client.string(), client.strings().len()),
            (full(&path("a.drv")), 1)
        );
        assert_eq!([client.number(), client.number()], [0, a.nar_size]);
        client.ask(23, Request::default()).unwrap();
        assert_eq!(client.strings().len(), 2);
        client.of(6, &full(&b.store_path));
        assert_eq!(client.strings(), [&*a_full]);
        client.of(33, &a_full);
        assert_eq!(client.strings(), [""; 0]);
        client.of(18, &a_full);
        assert_eq!(client.string(), full(&path("a.drv")));
        client
            .ask(43, Request::default().string("sha256:0!out"))
            .unwrap();
        assert_eq!(client.number(), 0);
        // None of that has brought contents.
        assert!(!state.is_local(&a.store_path) && !state.is_local(&b.store_path));
    }
}

#[test]
fn contents_come_when_they_are_asked_for() {
    let state = State::new();
    let (a, b, c) = (
        state.put("a", b"a"),
        state.put("b", b"b"),
        state.put("c", b"c"),
    );
    let mut client = state.client(38);
    client.of(38, &full(&a.store_path));
    let sent = client.bytes(a.nar_size as usize);
    assert_eq!(NarHash::of(&sent), a.nar_hash);
    client.of(10, &full(&b.store_path));
    assert_eq!(client.number(), 1);
    let targets = [full(&c.store_path)];
    client
        .ask(9, Request::default().strings(&targets).number(0))
        .unwrap();
    assert_eq!(client.number(), 1);
    for info in [a, b, c] {
        assert!(state.is_local(&info.store_path));
    }
    let absent = full(&path("absent"));
    for operation in [10, 38] {
        let said = client.complaint(operation, &absent);
        assert!(
            said.starts_with(&format!("path '{absent}' is not valid")),
            "{said}"
        );
    }
    // A NAR that is not there.
    let d = state.put("d", b"d");
    std::fs::remove_dir_all(state.cache.dir().join("nar")).unwrap();
    let said = client.complaint(38, &full(&d.store_path));
    assert!(said.contains("-d"), "{said}");
    assert!(client.is_valid(&full(&d.store_path)));
}

#[test]
fn what_was_built_is_an_outcome() {
    for minor in [29, 34, 37, 38] {
        let state = State::new();
        let (built, unbuilt, drv, out) = state.derivation();
        let mut client = state.client(minor);
        client.of(41, &drv);
        let mut outputs = (0..client.number()).map(|_| (client.string(), client.string()));
        assert_eq!(outputs.next().unwrap(), ("out".into(), built.clone()));
        assert_eq!(outputs.next().unwrap(), ("doc".into(), unbuilt.clone()));
        assert_eq!(outputs.next().unwrap(), ("floating".into(), String::new()));
        assert!(outputs.next().is_none());
        client.of(28, &drv);
        assert_eq!(client.strings(), ["out", "doc", "floating"]);
        client.of(22, &drv);
        assert_eq!(client.strings(), [&*built, &*unbuilt]);

        let targets = [format!("{drv}!out"), built.clone()];
        client
            .ask(46, Request::default().strings(&targets).number(0))
            .unwrap();
        assert_eq!((client.number(), client.string()), (2, targets[0].clone()));
        let outcome = client.outcome();
        assert_eq!(outcome.len(), 1);
        assert!(outcome[0].0.ends_with("!out"), "{outcome:?}");
        let value: serde_json::Value = serde_json::from_str(&outcome[0].1).unwrap();
        assert_eq!(
            (&value["id"], &value["outPath"]),
            (
                &outcome[0].0.clone().into(),
                &out.store_path.to_string().into()
            )
        );
        assert_eq!(
            (client.string(), client.outcome()),
            (built.clone(), Vec::new())
        );
        assert!(state.is_local(&out.store_path));
    }
}

#[test]
fn what_was_not_built_names_the_overlay() {
    for minor in [29, 34, 37, 38] {
        let state = State::new();
        let (built, unbuilt, drv, _) = state.derivation();
        let mut client = state.client(minor);
        let wholly = [format!("{drv}!*")];
        let said = client
            .ask(46, Request::default().strings(&wholly).number(0))
            .unwrap_err();
        assert!(
            said.contains(&unbuilt) && said.contains("local-overlay"),
            "{said}"
        );
        let unnamed = [format!("{drv}!lib")];
        let said = client
            .ask(9, Request::default().strings(&unnamed).number(0))
            .unwrap_err();
        assert!(said.contains("has no output 'lib'"), "{said}");
        let absent = full(&path("absent"));
        client
            .ask(
                40,
                Request::default().strings(&[&format!("{drv}!out"), &wholly[0], &absent]),
            )
            .unwrap();
        assert_eq!(client.strings(), [&*drv]);
        assert_eq!(
            (client.strings(), client.strings()),
            (Vec::new(), vec![absent])
        );
        assert_eq!([client.number(), client.number()], [0, 0]);
        // A client that brings the derivation.
        let bring = |path: &str| {
            let request = Request::default().string(&full(&self::path("y.drv")));
            let request = request
                .number(1)
                .string("out")
                .string(path)
                .string("")
                .string("");
            let request = request.number(0).string("x86_64-linux").string("/bin/sh");
            request.number(0).number(0).number(0)
        };
        client.ask(36, bring(&built)).unwrap();
        assert_eq!(client.outcome().len(), 1);
        let said = client.ask(36, bring(&unbuilt)).unwrap_err();
        assert!(said.contains("nothing is built here"), "{said}");
        let said = client.complaint(41, &built);
        assert!(said.contains("is not a derivation"), "{said}");
    }
}

#[test]
fn what_would_write_is_refused_and_the_connection_goes_on() {
    let state = State::new();
    let a = full(&state.put("a", b"a").store_path);
    let mut client = state.client(38);
    let none: [&str; 0] = [];
    let frames = |request: Request| {
        let request = request.number(3);
        Request([request.0, b"abc".to_vec()].concat()).number(0)
    };
    let add = Request::default()
        .string("x")
        .string("text:sha256")
        .strings(&none)
        .number(0);
    let nar = Request::default()
        .string(&a)
        .string("")
        .string("00")
        .strings(&none);
    let nar = nar
        .number(0)
        .number(0)
        .number(0)
        .strings(&none)
        .string("")
        .number(0)
        .number(0);
    let garbage = (0..5).fold(Request::default().number(2).strings(&none), |r, _| {
        r.number(0)
    });
    let requests = [
        (7, frames(add), "read-only"),
        (
            8,
            Request::default().string("x").string("text").strings(&none),
            "local-overlay",
        ),
        (20, garbage, "narfs gc"),
        (34, Request::default(), "nothing to optimise"),
        (35, Request::default().number(0).number(0), "narfs verify"),
        (
            37,
            Request::default().string(&a).strings(&["k:s"]),
            "AddSignatures",
        ),
        (39, frames(nar), "AddToStoreNar"),
        (42, Request::default().string("{}"), "read-only"),
        (
            44,
            frames(Request::default().number(0).number(0)),
            "AddMultipleToStore",
        ),
        (45, frames(Request::default().string(&a)), "AddBuildLog"),
        (
            47,
            Request::default().string(&a).string("/r"),
            "AddPermRoot",
        ),
    ];
    for (operation, request, expected) in requests {
        let said = client.ask(operation, request).unwrap_err();
        assert!(said.contains(expected), "{operation}: {said}");
        assert!(client.is_valid(&a), "{operation}");
    }
    // Without a length it cannot.
    let mut old = state.client(24);
    let said = old.ask(7, Request::default()).unwrap_err();
    assert!(said.contains("read-only") && old.is_ended(), "{said}");
}

#[test]
fn what_is_not_well_formed_ends_the_connection_with_a_reason() {
    let state = State::new();
    let wrong: [(u64, Request, &str); 5] = [
        (
            1,
            Request::default().string("/tmp/x"),
            "'/tmp/x' is not in the Nix store",
        ),
        (1, Request::default().number(1 << 63), "at most 8192"),
        (29, Request::default().number(u64::MAX), "at most 65536"),
        (99, Request::default(), "invalid operation 99"),
        (
            46,
            Request::default().number(1).string("/nix/store/x!"),
            "neither",
        ),
    ];
    for (operation, request, expected) in wrong {
        for minor in [25, 38] {
            let mut client = state.client(minor);
            let request = Request(request.0.clone());
            let said = client.ask(operation, request).unwrap_err();
            assert!(said.contains(expected), "{operation}: {said}");
            assert!(client.is_ended());
        }
    }
    let mut client = state.client(38);
    let said = client.complaint(29, "not-a-hash");
    assert!(
        said.contains("hash part") && client.is_valid(&state.add("x")),
        "{said}"
    );
    // A greeting that is none.
    let (mut stream, ended) = state.connection(true, true);
    std::io::Write::write_all(&mut stream, b"GET / HTTP/1.0\r\n\r\n").unwrap();
    ended.join().unwrap();
}

#[test]
fn a_source_that_is_away_is_an_error_and_one_that_is_not_believed_a_warning() {
    let cache = Cache::new();
    let (url, away) = (cache.url(), "http://127.0.0.1:1");
    let state = State::from(cache, &[&url, away]);
    let a = state.put("a", b"a");
    let mut client = state.client(38);
    assert!(client.is_valid(&full(&a.store_path)));
    let absent = full(&path("absent"));
    for operation in [1, 10, 26] {
        let said = client.complaint(operation, &absent);
        assert!(said.contains(away), "{said}");
    }
    let asked = Request::default()
        .strings(&[&full(&a.store_path), &absent])
        .number(0);
    let said = client.ask(31, asked).unwrap_err();
    assert!(said.contains(away), "{said}");

    let state = State::new();
    let offer = Offer::named("unsigned", nar(&Tree::File(b"x"))).unsigned();
    let unsigned = full(&state.put_offer(offer).store_path);
    let mut client = state.client(38);
    assert!(!client.is_valid(&unsigned));
    let warning = client.messages.pop().unwrap();
    assert!(warning.contains("signature"), "{warning}");
    let said = client.complaint(10, &unsigned);
    assert!(said.contains("signature"), "{said}");
    // Without sources the state alone says what is valid.
    let state = State::from(Cache::new(), &[]);
    let local = state.add("local");
    let mut client = state.client(38);
    assert_eq!(client.valid(&[&absent, &local]), [&*local]);
}

#[test]
fn what_a_client_was_told_is_kept_as_long_as_its_connection() {
    let state = State::new();
    let roots = || {
        let store = &state.engine.store;
        store.roots().temporary_count()
    };
    let (a, b) = (full(&state.put("a", b"a").store_path), full(&path("b")));
    let (stream, ended) = state.connection(true, true);
    let mut client = WorkerClient::greet(stream, 38).unwrap();
    assert!(client.is_valid(&a) && !client.is_valid(&b));
    assert_eq!(roots(), 1);
    client.of(11, &b);
    assert_eq!((client.number(), roots()), (1, 2));
    drop(client);
    ended.join().unwrap();
    assert_eq!(roots(), 0);
}

#[test]
fn only_who_is_trusted_adds_roots_and_sees_whose_they_are() {
    let state = State::new();
    let local = state.add("local");
    let link = state.dir.path().join("result");
    std::os::unix::fs::symlink(&local, &link).unwrap();
    let link = link.to_str().unwrap();
    let (stream, _) = state.connection(false, true);
    let mut other = WorkerClient::greet(stream, 38).unwrap();
    assert_eq!(other.trusted, Some(2));
    let said = other.complaint(12, link);
    assert!(said.contains("only root"), "{said}");
    let mut client = state.client(38);
    client.of(12, link);
    assert_eq!(client.number(), 1);
    let said = client.complaint(12, "result");
    assert!(said.contains("absolute"), "{said}");
    for (client, shown) in [(&mut client, link), (&mut other, "{censored}")] {
        client.ask(13, Request::default()).unwrap();
        assert_eq!(client.number(), 1);
        client.ask(14, Request::default()).unwrap();
        let count = client.number();
        let roots: Vec<_> = (0..count)
            .map(|_| (client.string(), client.string()))
            .collect();
        assert!(
            roots.contains(&(shown.to_owned(), local.clone())),
            "{roots:?}"
        );
    }
    assert!(Path::new(link).is_symlink());
}

#[test]
fn who_has_no_place_is_told() {
    let state = State::new();
    let (stream, ended) = state.connection(false, false);
    let said = WorkerClient::greet(stream, 38).err().unwrap();
    assert!(said.contains("too many clients"), "{said}");
    ended.join().unwrap();
}
