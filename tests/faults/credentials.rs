//! Servers that want a name and a password, which netrc files have.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::binary_cache::{Cache, Offer, file};
use crate::program::{Ran, State};
use crate::server::{Answer, Server};

/// A cache behind a server for alice with the password `p w:#`.
struct World {
    cache: Cache,
    offer: Offer,
    server: Server,
    home: TempDir,
}

const PASSWORD: &str = "p w:#";

impl World {
    fn new() -> Self {
        let pair = data_encoding::BASE64.encode(format!("alice:{PASSWORD}").as_bytes());
        Self::answering(Answer::Password(pair.leak()))
    }

    fn answering(answer: Answer) -> Self {
        let cache = Cache::new();
        let offer = Offer::named("hello", file(b"hello"));
        cache.put(&offer);
        let server = Server::new(cache.dir().to_owned(), move |_, _| answer);
        Self {
            cache,
            offer,
            server,
            home: tempfile::tempdir().unwrap(),
        }
    }

    fn netrc(&self, name: &str, text: &str) -> PathBuf {
        let file = self.home.path().join(name);
        fs::write(&file, text).unwrap();
        file
    }

    fn copy(&self, url: &str, netrc: Option<&PathBuf>) -> Ran {
        let state = State::new();
        let mut arguments = vec!["copy".to_owned(), self.offer.path().base_name()];
        arguments.extend(self.cache.arguments_from(url));
        let mut command = state.command(&arguments);
        command.env("HOME", self.home.path());
        if let Some(file) = netrc {
            command.env("NETRC", file);
        }
        Ran::of(&mut command)
    }

    /// The server's URL with something before its host.
    fn url_with(&self, user: &str) -> String {
        self.server.url.replace("://", &format!("://{user}@"))
    }
}

#[test]
fn names_and_passwords_come_from_a_netrc_file() {
    let world = World::new();
    let url = &world.server.url;
    let text = format!("machine 127.0.0.1 login alice password \"{PASSWORD}\"");
    let named = world.netrc("named", &text);
    world.copy(url, Some(&named)).succeeds().counts(1, 0);
    // The name chooses the entry.
    let others = format!("machine 127.0.0.1 login bob password no\n{text}");
    let others = world.netrc("others", &others);
    let alice = world.url_with("alice");
    world.copy(&alice, Some(&others)).succeeds().counts(1, 0);
    world.netrc(".netrc", &text);
    world.copy(url, None).succeeds().counts(1, 0);
}

#[test]
fn a_password_without_a_name_is_sent_as_it_is() {
    let pair = data_encoding::BASE64.encode(b":token");
    let world = World::answering(Answer::Password(pair.leak()));
    let netrc = world.netrc("n", "machine 127.0.0.1 password token");
    let ran = world.copy(&world.server.url, Some(&netrc));
    ran.succeeds().counts(1, 0);
}

#[test]
fn a_server_that_wants_another_password_is_not_asked_again_and_says_where_it_comes_from() {
    let world = World::new();
    let url = &world.server.url;
    let ran = world.copy(url, None);
    ran.fails(&[url, "401", "netrc", "none was found"]);
    assert_eq!(world.server.log().len(), 1);
    let other = world.netrc("other", "machine example.org password secret");
    let name = other.display().to_string();
    let ran = world.copy(url, Some(&other));
    ran.fails(&[url, "401", &name, "none for this host"]);
    let wrong = world.netrc("wrong", "default login alice password secret");
    let name = wrong.display().to_string();
    let ran = world.copy(url, Some(&wrong));
    ran.fails(&[url, "401", &name, "does not accept"]);
    assert!(!ran.stderr().contains("secret"));
}

#[test]
fn a_password_in_a_url_is_used_before_all_others_and_never_shown() {
    let world = World::new();
    let netrc = world.netrc("n", "default login eve password no");
    let good = world.url_with("alice:p%20w%3A%23");
    world.copy(&good, Some(&netrc)).succeeds().counts(1, 0);
    let bad = world.url_with("alice:secret");
    let ran = world.copy(&bad, Some(&netrc));
    ran.fails(&["http://alice:***@127.0.0.1", "401", "in its URL"]);
    assert!(!ran.stderr().contains("secret"), "{}", ran.stderr());
    let log = world.server.log();
    let last = log.last().unwrap().header("authorization").unwrap();
    let sent = data_encoding::BASE64.encode(b"alice:secret");
    assert_eq!(last, format!("Basic {sent}"));
}

#[test]
fn a_redirection_to_another_host_does_not_take_the_password_there() {
    let world = World::new();
    let elsewhere = world.server.url.replace("127.0.0.1", "localhost");
    let first = World::answering(Answer::Elsewhere(elsewhere.leak()));
    let text = format!("machine 127.0.0.1 login alice password \"{PASSWORD}\"");
    let netrc = first.netrc("n", &text);
    let with_password = first.url_with("alice:p%20w%3A%23");
    for url in [&first.server.url, &with_password] {
        let ran = first.copy(url, Some(&netrc));
        assert_eq!(ran.output.status.code(), Some(1));
        assert!(ran.stderr().contains("401"), "{}", ran.stderr());
    }
    let asked = first.server.log();
    assert!(asked.iter().all(|a| a.header("authorization").is_some()));
    let asked = world.server.log();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|a| a.header("authorization").is_none()));
}

#[test]
fn a_host_of_a_redirection_gets_what_netrc_has_for_it() {
    let world = World::new();
    let elsewhere = world.server.url.replace("127.0.0.1", "localhost");
    let first = World::answering(Answer::Elsewhere(elsewhere.leak()));
    fs::copy(
        world.cache.narinfo_file(world.offer.path()),
        first.cache.narinfo_file(first.offer.path()),
    )
    .unwrap();
    let others = "machine 127.0.0.1 login bob password no";
    let own = format!("{others}\nmachine localhost login alice password \"{PASSWORD}\"");
    let netrc = first.netrc("n", &own);
    let ran = first.copy(&first.server.url, Some(&netrc));
    ran.succeeds().counts(1, 0);
    let bob = format!("Basic {}", data_encoding::BASE64.encode(b"bob:no"));
    for asked in first.server.log() {
        assert_eq!(asked.header("authorization"), Some(&*bob));
    }
    // The entry for any host is not meant for whom a source names.
    let any = format!("{others}\ndefault login alice password \"{PASSWORD}\"");
    let netrc = first.netrc("any", &any);
    let before = world.server.log().len();
    let ran = first.copy(&first.server.url, Some(&netrc));
    ran.fails(&["localhost", "401"]);
    let asked = &world.server.log()[before..];
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|a| a.header("authorization").is_none()));
}

#[test]
fn a_host_that_a_narinfo_names_gets_no_password() {
    let mut world = World::new();
    let open = Server::new(world.cache.dir().to_owned(), |_, _| Answer::File);
    let nar = world.offer.info.url.clone();
    let elsewhere = open.url.replace("127.0.0.1", "localhost");
    let mut moved = Offer::new(world.offer.path(), file(b"hello"));
    moved.info.url = format!("{elsewhere}/{nar}");
    let text = world.cache.text(&moved);
    fs::write(world.cache.narinfo_file(moved.path()), text).unwrap();
    world.offer = moved;
    let source = format!("machine 127.0.0.1 login alice password \"{PASSWORD}\"");
    for other in [
        "default login eve password secret",
        "machine localhost login eve password secret",
    ] {
        let netrc = world.netrc("n", &format!("{source}\n{other}"));
        world
            .copy(&world.server.url, Some(&netrc))
            .succeeds()
            .counts(1, 0);
    }
    let log = open.log();
    assert_eq!(log.len(), 2);
    assert!(
        log.iter()
            .all(|asked| asked.header("authorization").is_none())
    );
}

#[test]
fn a_malformed_netrc_file_is_named_with_the_line_but_not_its_contents() {
    let world = World::new();
    let netrc = world.netrc("n", "machine 127.0.0.1\nlogin alice\npassword my secret\n");
    let name = netrc.display().to_string();
    let ran = world.copy(&world.server.url, Some(&netrc));
    ran.fails(&[&name, "line 3", "double quotes"]);
    assert!(!ran.stderr().contains("secret"));
    assert_eq!(world.server.log().len(), 0);
}
