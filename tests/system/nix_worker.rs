//! The worker socket: real Nix and a client of two versions of the protocol over a mount, while daemons come
//! and go.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::server::{Answer, Server};
use crate::support::{Ran, Sandbox, World, is_alive, run, sha256, succeed, wait_until};
use crate::volumes::with_descriptor;
use crate::worker_client::{Request, WorkerClient};

/// The versions of Nix 2.8 and 2.34.
const VERSIONS: [u64; 2] = [34, 38];

/// A mount with the small world behind a server, and a worker socket.
struct Served {
    sandbox: Sandbox,
    server: Server,
    socket: PathBuf,
}

impl Served {
    fn new() -> Self {
        Self::with(|_, _| Answer::File)
    }

    fn with(answer: impl Fn(&str, usize) -> Answer + Send + Sync + 'static) -> Self {
        let server = Server::new(World::small().cache(), answer);
        let sandbox = Sandbox::empty();
        let socket = sandbox.dir().join("run/nix.sock");
        let served = Self {
            sandbox,
            server,
            socket,
        };
        served.mount();
        served
    }

    fn mount(&self) {
        let at = self.sandbox.at.to_str().unwrap();
        let (url, key) = (&*self.server.url, World::small().key());
        let socket = self.socket.to_str().unwrap();
        let from = ["--from", url, "--trusted-public-key", &key];
        let worker = ["--nix-socket", socket, "-o", "lookup-timeout=6"];
        self.sandbox
            .narfs(&[&["mount", at], &from[..], &worker[..]].concat());
    }

    fn client(&self, minor: u64) -> WorkerClient {
        WorkerClient::connect(&self.socket, minor)
    }

    fn url(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// A command of real Nix with this store.
    fn nix<A: AsRef<str>>(&self, arguments: &[A]) -> Command {
        let mut nix = Command::new("nix");
        nix.args(["--extra-experimental-features", "nix-command"]);
        nix.args(arguments.iter().map(AsRef::as_ref));
        self.environment(&mut nix);
        nix
    }

    fn environment(&self, nix: &mut Command) {
        let dir = self.sandbox.make_dir("nix-home");
        nix.env("HOME", &dir).env("NIX_CONF_DIR", dir.join("etc"));
        nix.env("NIX_STATE_DIR", dir.join("var"))
            .env("NIX_STORE_DIR", "/nix/store");
        nix.env("NIX_REMOTE", self.url());
    }

    /// The bytes of NARs that came so far.
    fn fetched(&self) -> u64 {
        self.sandbox.json(&["stats"])["fetched_bytes"]
            .as_u64()
            .unwrap()
    }
}

fn hello() -> String {
    format!("/nix/store/{}", World::small().package("hello"))
}

/// The paths that `hello` needs, itself included.
fn closure() -> Vec<String> {
    let world = World::small();
    let mut closure = vec![hello()];
    let mut at = 0;
    while at < closure.len() {
        let references = world.narinfos[&closure[at]]["References"].split_whitespace();
        for reference in references.map(|name| format!("/nix/store/{name}")) {
            if !closure.contains(&reference) {
                closure.push(reference);
            }
        }
        at += 1;
    }
    closure.sort();
    closure
}

#[test]
fn from_an_empty_state_all_of_the_source_is_valid_and_nothing_is_fetched() {
    let world = World::small();
    for minor in VERSIONS {
        let served = Served::new();
        let mut client = served.client(minor);
        let mut asked: Vec<_> = world.paths().map(str::to_owned).collect();
        let absent = format!("/nix/store/{}-absent", "0".repeat(32));
        asked.push(absent.clone());
        let mut valid = client.valid(&asked);
        valid.sort();
        assert_eq!(valid, asked[..asked.len() - 1]);
        for (path, narinfo) in &world.narinfos {
            let info = client.info(path).unwrap();
            assert_eq!(info.nar_hash, world.nar_hashes[path]);
            assert_eq!(info.nar_size.to_string(), narinfo["NarSize"]);
            let names = info
                .references
                .iter()
                .map(|r| r.trim_start_matches("/nix/store/"));
            assert_eq!(names.collect::<Vec<_>>().join(" "), narinfo["References"]);
            assert_eq!(info.signatures, [&*narinfo["Sig"]]);
        }
        assert_eq!(client.info(&absent), None);
        assert_eq!(served.fetched(), 0);
        let hello = hello();
        client.of(38, &hello);
        let size: usize = world.narinfos[&hello]["NarSize"].parse().unwrap();
        assert_eq!(sha256(&client.bytes(size)), world.nar_hashes[&hello]);
        assert!(client.is_valid(&hello));
        assert!(served.fetched() > 0);
    }
}

#[test]
fn real_nix_uses_the_mount_as_a_store_from_an_empty_state() {
    let served = Served::new();
    served.sandbox.bind_to_nix(&served.sandbox.at);
    let (hello, url) = (hello(), served.url());
    let infos = ["path-info", "-r", "--json", "--store", &url, &hello];
    let infos: Vec<Value> = serde_json::from_str(&succeed(&mut served.nix(&infos))).unwrap();
    let mut paths: Vec<_> = infos.iter().map(|i| i["path"].as_str().unwrap()).collect();
    paths.sort_unstable();
    assert_eq!(paths, closure());
    assert!(
        infos
            .iter()
            .all(|info| info["signatures"].as_array().unwrap().len() == 1)
    );
    assert_eq!(served.fetched(), 0);

    let to = served.sandbox.make_dir("copied");
    let to_url = format!("file://{}", to.display());
    succeed(&mut served.nix(&["copy", "--from", &url, "--to", &to_url, &hello]));
    for path in closure() {
        assert!(
            to.join(format!("{}.narinfo", &path[11..43])).is_file(),
            "{path}"
        );
    }
    let mut nix_store = Command::new("nix-store");
    served.environment(&mut nix_store);
    let realised = succeed(nix_store.args(["-r", &hello]));
    assert_eq!(realised.trim(), hello);
    let shell = ["shell", "--store", &url, &hello, "--command", "hello"];
    assert_eq!(succeed(&mut served.nix(&shell)), "Hello, world!\n");
}

#[test]
fn real_nix_is_told_what_this_store_does_not_do() {
    let served = Served::new();
    served.sandbox.bind_to_nix(&served.sandbox.at);
    let file = served.sandbox.dir().join("file");
    fs::write(&file, "x").unwrap();
    let absent = format!("/nix/store/{}-absent", "0".repeat(32));
    let cases: [(&[&str], &str); 4] = [
        (&["--add", file.to_str().unwrap()], "read-only"),
        (&["--gc"], "narfs gc"),
        (&["--verify"], "narfs verify"),
        (&["-q", "--references", &absent], "is not valid"),
    ];
    for (arguments, expected) in cases {
        let mut nix = Command::new("nix-store");
        served.environment(&mut nix);
        let Ran { code, stderr, .. } = run(nix.args(arguments), b"");
        assert_eq!(code, Some(1), "{arguments:?}");
        assert!(stderr.contains(expected), "{arguments:?}: {stderr}");
    }
}

#[test]
fn a_source_that_is_away_is_named_and_what_is_known_stays_valid() {
    let is_away = Arc::new(AtomicBool::new(false));
    let away = is_away.clone();
    let served = Served::with(move |_, _| match away.load(Ordering::SeqCst) {
        true => Answer::Hangup,
        false => Answer::File,
    });
    let hello = hello();
    let mut client = served.client(38);
    assert!(client.is_valid(&hello));
    is_away.store(true, Ordering::SeqCst);
    let absent = format!("/nix/store/{}-absent", "0".repeat(32));
    for (operation, path) in [(1, &absent), (38, &hello)] {
        let said = client.complaint(operation, path);
        assert!(said.contains(&served.server.url), "{said}");
    }
    assert!(client.is_valid(&hello));
}

#[test]
fn the_socket_outlives_daemons_and_ends_with_the_mount() {
    let served = Served::new();
    let hello = hello();
    let there = served.socket.symlink_metadata().unwrap();
    assert!(there.file_type().is_socket());
    assert_eq!(there.mode() & 0o777, 0o666);
    let status = served.sandbox.json(&["status"]);
    assert_eq!(status["nix_socket"], served.socket.to_str().unwrap());
    for minor in VERSIONS {
        let mut before = served.client(minor);
        assert!(before.is_valid(&hello));
        let pid = served.sandbox.pid();
        kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        assert!(before.is_ended());
        // Who connects meanwhile waits for the next daemon.
        assert!(served.client(minor).is_valid(&hello));
        assert_ne!(served.sandbox.pid(), pid);
    }
    served.sandbox.narfs(&["upgrade"]);
    assert!(served.client(38).is_valid(&hello));
    let now = served.socket.symlink_metadata().unwrap();
    assert_eq!(now.ino(), there.ino());
    // A connection does not keep the daemon.
    let mut client = served.client(38);
    let pid = served.sandbox.pid();
    served.sandbox.unmount();
    assert!(client.is_ended());
    wait_until("the daemon has ended", || !is_alive(pid));
    assert!(!served.socket.exists());
}

#[test]
fn what_a_client_was_told_is_not_collected_while_it_is_connected() {
    let served = Served::new();
    let mut client = served.client(38);
    let hello = hello();
    assert!(client.is_valid(&hello));
    served.sandbox.narfs(&["gc"]);
    // It is still registered: the same since then.
    let first = client.info(&hello).unwrap();
    drop(client);
    let known = || {
        let mut client = served.client(38);
        client.ask(23, Request::default()).unwrap();
        client.strings().contains(&hello)
    };
    assert!(known() && first.registered > 0);
    wait_until("the connection is over", || {
        served.sandbox.narfs(&["gc"]);
        !known()
    });
}

#[test]
fn a_client_that_stops_in_the_middle_holds_up_nobody() {
    let served = Served::new();
    let hello = hello();
    let mut stopped: Vec<_> = (0..20).map(|_| served.client(38)).collect();
    for client in &mut stopped {
        client.send(&Request::default().number(1).number(60));
    }
    let silent: Vec<_> = (0..20)
        .map(|_| UnixStream::connect(&served.socket).unwrap())
        .collect();
    let mut client = served.client(38);
    assert!(client.is_valid(&hello));
    // They are cut off.
    for stream in silent {
        stream
            .set_read_timeout(Some(Duration::from_secs(120)))
            .unwrap();
        std::io::Read::read_to_end(&mut &stream, &mut Vec::new()).unwrap();
    }
    for client in &mut stopped {
        assert!(client.finish().is_err() && client.is_ended());
    }
    assert!(client.is_valid(&hello));
}

#[test]
fn a_socket_of_the_service_manager_is_answered_and_stays() {
    let sandbox = Sandbox::with_worlds();
    let socket = sandbox.dir().join("handed.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let start = |descriptor| with_descriptor(&sandbox, "nix", descriptor);
    let mut daemon = start(listener.as_raw_fd()).spawn().unwrap();
    let mut client = WorkerClient::connect(&socket, 38);
    assert!(client.is_valid(&hello()));
    let status = sandbox.json(&["status"]);
    assert_eq!(status["nix_socket"], socket.to_str().unwrap());
    sandbox.unmount();
    assert_eq!(daemon.wait().unwrap().code(), Some(0));
    assert!(socket.exists() && client.is_ended());
    // What is no listening unix socket is refused, and so is a place that something else has.
    let file = fs::File::open(&sandbox.state).unwrap();
    let ran = run(&mut start(file.as_raw_fd()), b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("worker for Nix"), "{}", ran.stderr);
    let at = sandbox.at.to_str().unwrap();
    let taken = [
        "mount",
        at,
        "--offline",
        "--nix-socket",
        socket.to_str().unwrap(),
    ];
    let said = sandbox.complaint(&taken);
    assert!(said.contains("another process listens"), "{said}");
}
