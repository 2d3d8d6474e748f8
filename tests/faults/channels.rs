//! Channels: lists that are good, bad or out of reach, and packages that they name.

use std::fs;
use std::path::PathBuf;

use narfs::nix::compression::Compression;
use serde_json::Value;
use tempfile::TempDir;

use crate::binary_cache::{Cache, Offer, compress, file, path};
use crate::program::{Ran, State};
use crate::server::{Answer, Refusing, Server};

/// A cache with two packages, one of them in two versions, and lists of them in a directory.
struct World {
    cache: Cache,
    state: State,
    lists: TempDir,
}

const NAMES: [&str; 4] = ["hello-2.12", "hello-2.12-doc", "zlib-1.2", "zlib-1.3"];

fn list(names: &[&str]) -> Vec<u8> {
    let lines = names.iter().map(|n| format!("/nix/store/{}\n", path(n)));
    lines.collect::<String>().into_bytes()
}

impl World {
    fn new() -> Self {
        let cache = Cache::new();
        for name in NAMES {
            cache.put(&Offer::named(name, file(name.as_bytes())));
        }
        Self {
            cache,
            state: State::new(),
            lists: tempfile::tempdir().unwrap(),
        }
    }

    fn put(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let file = self.lists.path().join(name);
        fs::write(&file, bytes).unwrap();
        file
    }

    fn channel(&self, arguments: &[&str]) -> Ran {
        let mut all = vec!["channel"];
        all.extend(arguments);
        self.state.run(&all)
    }

    /// Adds the channel `all`, of everything.
    fn add(&self) -> PathBuf {
        let file = self.put("store-paths", &list(&NAMES));
        let ran = self.channel(&["add", "all", file.to_str().unwrap()]);
        ran.succeeds();
        file
    }

    fn fetch(&self, command: &str, what: &[&str]) -> Ran {
        let mut arguments = vec![command.to_owned()];
        arguments.extend(self.cache.arguments());
        arguments.extend(what.iter().map(|w| (*w).to_owned()));
        self.state.run(&arguments)
    }

    /// Names of the channels and their numbers of paths.
    fn channels(&self) -> Vec<(String, Option<u64>)> {
        let ran = self.channel(&["list", "--json"]);
        ran.succeeds();
        let list: Vec<Value> = serde_json::from_str(&ran.stdout()).unwrap();
        let each = list.iter().map(|c| {
            let name = c["name"].as_str().unwrap().to_owned();
            assert_eq!(c["paths"].is_null(), c["updated"].is_null());
            (name, c["paths"].as_u64())
        });
        each.collect()
    }
}

#[test]
fn packages_are_fetched_by_their_names() {
    let world = World::new();
    world.add();
    assert_eq!(world.channels(), [("all".to_owned(), Some(4))]);
    world.fetch("prefetch", &["hello"]).succeeds();
    world.state.has_exactly(&[&path("hello-2.12")]);
    world.fetch("copy", &["zlib-1.2"]).succeeds();
    world.fetch("pin", &["hello-2.12-doc"]).succeeds();
    let all = [
        &path("hello-2.12"),
        &path("zlib-1.2"),
        &path("hello-2.12-doc"),
    ];
    world.state.has_exactly(&all);
    // By path as ever.
    let base = path("zlib-1.3").base_name();
    world.fetch("prefetch", &[&base]).succeeds();
}

#[test]
fn packages_are_installed_by_their_names() {
    let world = World::new();
    world.add();
    let install = |what: &str| {
        let mut arguments = vec!["profile".to_owned(), "install".to_owned()];
        arguments.extend(world.cache.arguments());
        arguments.push(what.to_owned());
        world.state.run(&arguments)
    };
    install("zlib").fails(&["zlib", "ambiguous"]);
    install("nothing-like-it").fails(&["nothing-like-it", "channels all"]);
    // It is a file, which has nothing to link; what matters here is that it was found.
    let ran = install("hello");
    let by_path = install(&path("hello-2.12").base_name());
    assert_eq!(ran.output.status.code(), by_path.output.status.code());
    let said = format!("{}{}", ran.stdout(), ran.stderr());
    assert!(said.contains(&path("hello-2.12").base_name()), "{said}");
}

#[test]
fn names_that_mean_nothing_or_several_paths_are_refused_with_a_choice() {
    let world = World::new();
    let ran = world.fetch("prefetch", &["hello"]);
    ran.fails(&["hello", "HASH-NAME", "narfs channel add"]);
    world.add();
    let ran = world.fetch("prefetch", &["zlib"]);
    ran.fails(&["ambiguous", "zlib-1.3", "zlib-1.2", "version"]);
    let text = ran.stderr();
    assert!(text.find("zlib-1.3") < text.find("zlib-1.2"), "{text}");
    let ran = world.fetch("prefetch", &["helo"]);
    ran.fails(&["\"helo\"", "channels all", "similar names are hello"]);
    let ran = world.fetch("pin", &["hello-3"]);
    ran.fails(&["hello-3", "similar names are hello-2.12"]);
    world
        .fetch("prefetch", &["hello/bin"])
        .fails(&["hello/bin"]);
    world.state.has_exactly(&[]);
}

#[test]
fn channels_are_added_once_and_removed() {
    let world = World::new();
    let file = world.add();
    let url = file.to_str().unwrap();
    world.channel(&["add", "all", url]).succeeds();
    let other = world.channel(&["add", "all", "/somewhere/else"]);
    other.fails(&["all", "already", url]);
    world
        .channel(&["add", "a/b", url])
        .fails(&["a/b", "letters"]);
    let ran = world.channel(&["add", "x", "ftp://host/list"]);
    ran.fails(&["ftp://host/list", "https://"]);
    world.channel(&["update", "none"]).fails(&["none", "all"]);
    world.channel(&["remove", "none"]).fails(&["none", "all"]);
    let ran = world.channel(&["add", "later", "--no-update", "relative"]);
    ran.succeeds();
    assert!(ran.stdout().contains("no list yet"), "{}", ran.stdout());
    let expected = [("all".to_owned(), Some(4)), ("later".to_owned(), None)];
    assert_eq!(world.channels(), expected);
    world.channel(&["remove", "all"]).succeeds();
    let ran = world.fetch("prefetch", &["hello"]);
    ran.fails(&["later", "no lists yet", "narfs channel update"]);
}

#[test]
fn a_bad_list_is_refused_with_its_line_and_the_old_one_stays() {
    let world = World::new();
    let good = list(&NAMES);
    let add = |name: &str, file: &PathBuf| world.channel(&["add", name, file.to_str().unwrap()]);
    let html = world.put("html", b"<html>\n");
    add("html", &html).fails(&["html", "line 1", "<html>", "not added"]);
    let empty = world.put("empty", b"\n");
    add("empty", &empty).fails(&["empty", "no store paths"]);
    let gone = world.lists.path().join("gone");
    add("gone", &gone).fails(&["gone", "no such file"]);
    let torn = compress(Compression::Xz, &good);
    let torn = world.put("torn.xz", &torn[..torn.len() / 2]);
    add("torn", &torn).fails(&["torn.xz", "cannot be read to its end"]);
    let odd = world.put("odd.lzma", &good[1..]);
    add("odd", &odd).fails(&["odd.lzma", "lzma"]);
    assert!(world.channels().is_empty());

    let file = world.add();
    let mut bad = good;
    bad.extend_from_slice(b"\n/gnu/store/x\n");
    fs::write(file, bad).unwrap();
    world.put("fine", &list(&NAMES[..1]));
    let fine = world.lists.path().join("fine");
    add("fine", &fine).succeeds();
    let ran = world.channel(&["update"]);
    ran.fails(&["narfs: all: ", "line 6", "/gnu/store/x"]);
    assert!(ran.stdout().starts_with("fine   1 paths"));
    assert_eq!(world.channels()[0], ("all".to_owned(), Some(4)));
    world.fetch("prefetch", &["hello"]).succeeds();
}

#[test]
fn compressed_lists_are_read_and_bombs_are_not() {
    let world = World::new();
    let good = list(&NAMES);
    for (ending, method) in [
        ("xz", Compression::Xz),
        ("bz2", Compression::Bzip2),
        ("zst", Compression::Zstd),
    ] {
        let file = world.put(&format!("list.{ending}"), &compress(method, &good));
        let ran = world.channel(&["add", ending, file.to_str().unwrap()]);
        ran.succeeds();
    }
    let expected = ["bz2", "xz", "zst"].map(|e| (e.to_owned(), Some(4)));
    assert_eq!(world.channels(), expected);
    // In three channels, and one path all the same.
    world.fetch("prefetch", &["hello"]).succeeds();
    let bomb = world.put(
        "bomb.zst",
        &compress(Compression::Zstd, &vec![b'\n'; 257 << 20]),
    );
    let ran = world.channel(&["add", "bomb", bomb.to_str().unwrap()]);
    ran.fails(&["bomb.zst", "longer than the limit of 256 MiB"]);
}

#[test]
fn a_list_behind_a_server_is_fetched_again_and_stays_while_the_server_is_away() {
    let world = World::new();
    let packed = compress(Compression::Xz, &list(&NAMES));
    world.put("store-paths.xz", &packed);
    let server = Server::new(world.lists.path().to_owned(), |path, before| {
        match (path, before) {
            // The head, the body, and then an answer.
            ("/store-paths.xz", 0) => Answer::Status(503),
            ("/store-paths.xz", 1) => Answer::Half,
            ("/store-paths.xz", 2) => Answer::File,
            ("/encoded", _) => Answer::Encoded,
            ("/torn", _) => Answer::Half,
            _ => Answer::Status(404),
        }
    });
    let url = format!("{}/store-paths.xz", server.url);
    world.channel(&["add", "all", &url]).succeeds();
    assert_eq!(server.requests("/store-paths.xz"), 3);
    let ran = world.channel(&["update"]);
    ran.fails(&["narfs: all: ", &url, "no such file"]);
    world.put("encoded", &list(&NAMES[..2]));
    let encoded = format!("{}/encoded", server.url);
    world.channel(&["add", "encoded", &encoded]).succeeds();
    world.put("torn", &list(&NAMES));
    let torn = format!("{}/torn", server.url);
    world.channel(&["add", "torn", &torn]).fails(&[&torn]);
    let refusing = Refusing::new();
    let away = format!("{}/store-paths", refusing.url);
    let ran = world.channel(&["add", "away", "--no-update", &away]);
    ran.succeeds();
    let ran = world.channel(&["update", "away"]);
    ran.fails(&["narfs: away: ", &away, "cannot connect"]);
    let expected = [
        ("all".to_owned(), Some(4)),
        ("away".to_owned(), None),
        ("encoded".to_owned(), Some(2)),
    ];
    assert_eq!(world.channels(), expected);
    world.fetch("prefetch", &["hello"]).succeeds();
}

#[test]
fn a_server_that_wants_a_password_gets_that_of_the_netrc_file() {
    let world = World::new();
    world.put("list", &list(&NAMES));
    let pair: &'static str = data_encoding::BASE64.encode(b"alice:secret").leak();
    let server = Server::new(world.lists.path().to_owned(), move |_, _| {
        Answer::Password(pair)
    });
    let netrc = world.put("netrc", b"machine 127.0.0.1 login alice password secret\n");
    let netrc = netrc.to_str().unwrap();
    let url = format!("{}/list", server.url);
    world.channel(&["add", "all", &url]).fails(&[&url, "401"]);
    let ran = world.channel(&["add", "all", "--netrc-file", netrc, &url]);
    ran.succeeds();
    let with_password = url.replace("http://", "http://alice:secret@");
    let ran = world.channel(&["add", "other", "--json", &with_password]);
    ran.succeeds();
    assert!(!ran.stdout().contains("secret"), "{}", ran.stdout());
}
