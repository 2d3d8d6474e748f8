//! What mounts make of paths that rest on the word of a source, and of secrets in the URLs of sources.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::binary_cache::{Cache, Offer, Tree, nar};
use crate::on_demand::{SHORT, directory, errno, key, plain};
use crate::support::{Sandbox, wait_until};

/// A source that signs, one that does not and says that `x` needs nothing, and what both have.
struct Sources {
    signing: Cache,
    other: Cache,
    lib: Offer,
    x: Offer,
}

impl Sources {
    fn new(name: &str) -> Self {
        let (signing, other) = (Cache::new(), Cache::new());
        let lib = directory(&format!("lib-{name}"), b"42");
        let target = lib.path().to_full(&signing.store_dir);
        let tree = nar(&Tree::Directory(vec![
            ("file", Tree::File(b"x")),
            ("lib", Tree::Link(&target)),
        ]));
        let x = Offer::named(&format!("x-{name}"), tree).referring(&[lib.path()]);
        signing.put(&lib);
        signing.put(&x);
        other.put(&Offer::new(x.path(), x.stored.clone()).unsigned());
        Self {
            signing,
            other,
            lib,
            x,
        }
    }

    /// A state with `x` and a view of it, as the source without signatures says.
    fn believed(&self, sandbox: &Sandbox) {
        let (url, x) = (self.other.url(), self.x.path().base_name());
        let from = ["--from", &url, "--no-require-sigs", &x];
        sandbox.narfs(&[&["copy"], &from[..]].concat());
        sandbox.narfs(&[&["closure", "v"], &from[..]].concat());
    }
}

fn info(sandbox: &Sandbox, offer: &Offer) -> Value {
    let path = offer.path().base_name();
    sandbox.json(&["path-info", &path])[0].take()
}

#[test]
fn a_mount_that_requires_signatures_asks_for_what_was_believed_without_one() {
    let (sandbox, sources) = (Sandbox::empty(), Sources::new("asked"));
    sources.believed(&sandbox);
    assert_eq!(info(&sandbox, &sources.x)["unsigned"], true);
    let server = plain(&sources.signing);
    sandbox.mount_from(&[&server.url], &key(&sources.signing), SHORT);
    let [x, lib] = [&sources.x, &sources.lib].map(|offer| offer.path().base_name());
    let view = sandbox.at.join(".narfs/closures/v/store");
    assert_eq!(errno(fs::metadata(view.join(&lib))), Some(libc::ENOENT));
    // The program does not wait for it.
    assert_eq!(
        fs::read(sandbox.store().join(&x).join("file")).unwrap(),
        b"x"
    );
    wait_until("its references are those that are signed", || {
        info(&sandbox, &sources.x)["unsigned"] == false
    });
    let lib_path = sources.lib.path().to_full(&sources.signing.store_dir);
    assert_eq!(info(&sandbox, &sources.x)["references"], json!([lib_path]));
    wait_until("the view shows what it needs", || {
        fs::read(view.join(&lib).join("file")).is_ok_and(|read| read == b"42")
    });
    let target = fs::read_link(sandbox.store().join(&x).join("lib")).unwrap();
    assert_eq!(target.to_str(), Some(&*lib_path));
    assert_eq!(sandbox.json(&["verify"])["failures"], json!([]));
}

#[test]
fn without_its_sources_a_mount_gives_out_what_was_believed_and_says_so() {
    let (sandbox, sources) = (Sandbox::empty(), Sources::new("offline"));
    sources.believed(&sandbox);
    sandbox.mount_from(&["http://127.0.0.1:1"], &key(&sources.signing), SHORT);
    let x = sources.x.path().base_name();
    let file = sandbox.store().join(&x).join("file");
    assert_eq!(fs::read(&file).unwrap(), b"x");
    let prefetched = sandbox.json(&["prefetch", &x]);
    assert_eq!(
        (&prefetched["complete"], &prefetched["unsigned"]),
        (&json!(true), &json!(1))
    );
    assert_eq!(fs::read(&file).unwrap(), b"x");
    let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
    assert!(log.contains("taken without a signature"), "{log}");
}

#[test]
fn contents_that_are_not_those_that_are_signed_are_no_longer_found() {
    let (sandbox, sources) = (Sandbox::empty(), Sources::new("forged"));
    let x = sources.x.path();
    sources.other.put(&directory_of(x, b"forged").unsigned());
    sources.believed(&sandbox);
    let server = plain(&sources.signing);
    sandbox.mount_from(&[&server.url], &key(&sources.signing), SHORT);
    let said = sandbox.complaint(&["prefetch", &x.base_name()]);
    assert!(said.contains("not those that"), "{said}");
    let found = fs::metadata(sandbox.store().join(x.base_name()));
    assert_eq!(errno(found), Some(libc::EIO));
}

fn directory_of(path: &narfs::nix::store_path::StorePath, contents: &[u8]) -> Offer {
    let tree = Tree::Directory(vec![("file", Tree::File(contents))]);
    Offer::new(path, nar(&tree))
}

#[test]
fn a_key_is_forgotten_by_a_daemon_while_programs_use_what_it_has_signed() {
    let (sandbox, sources) = (Sandbox::empty(), Sources::new("forgotten"));
    let server = plain(&sources.signing);
    sandbox.mount_from(&[&server.url], &key(&sources.signing), SHORT);
    let [x, lib] = [&sources.x, &sources.lib].map(|offer| offer.path().base_name());
    sandbox.narfs(&["profile", "install", &x]);
    sandbox.narfs(&["prefetch", &x]);
    let file = sandbox.store().join(&x).join("file");
    assert_eq!(fs::read(&file).unwrap(), b"x");
    let forgot = sandbox.json(&["key", "forget", &key(&sources.signing)]);
    assert_eq!(forgot["still_trusted"], true);
    let lost = |report: &Value| report["lost"].as_array().unwrap().len();
    assert_eq!((lost(&forgot), &forgot["vouched_again"]), (2, &json!([])));
    assert_eq!(forgot["unvouched"].as_array().unwrap().len(), 2);
    assert_eq!(info(&sandbox, &sources.x)["signatures"], json!([]));
    // It stays, and the profile with it. The mount trusts the key still, and believes it again.
    assert_eq!(fs::read(&file).unwrap(), b"x");
    assert!(fs::read_link(sandbox.at.join("var/nix/profiles/default")).is_ok());
    sandbox.narfs(&["prefetch", &x]);
    for offer in [&sources.x, &sources.lib] {
        assert_eq!(info(&sandbox, offer)["unsigned"], false);
    }
    assert!(fs::metadata(sandbox.store().join(&lib)).is_ok());
}

#[test]
fn tokens_in_the_urls_of_sources_are_told_to_nobody() {
    let (sandbox, sources) = (Sandbox::empty(), Sources::new("token"));
    let server = plain(&sources.signing);
    let host = server.url.strip_prefix("http://").unwrap();
    let url = format!("http://{host}?token=sekret1&priority=7#sekret2");
    let away = "http://sekret3@127.0.0.1:1/?X-Amz-Signature=sekret4";
    let http = sandbox.dir().join("http.sock");
    let at = sandbox.at.to_str().unwrap();
    let (key, listen) = (key(&sources.signing), format!("unix:{}", http.display()));
    let mut mount = vec![
        "mount",
        at,
        "--trusted-public-key",
        &key,
        "--listen",
        &listen,
    ];
    mount.extend(["--from", &url, "--from", away, "-o", SHORT]);
    sandbox.narfs(&mount);
    let x = sources.x.path().base_name();
    assert_eq!(
        fs::read(sandbox.store().join(&x).join("file")).unwrap(),
        b"x"
    );
    let nowhere = sandbox
        .store()
        .join(Offer::named("nowhere", Vec::new()).path().base_name());
    assert_eq!(errno(fs::metadata(nowhere)), Some(libc::EIO));
    let mut told = vec![
        sandbox.narfs(&["status"]),
        sandbox.narfs(&["status", "--json"]),
        sandbox.narfs(&["metrics"]),
        fs::read_to_string(sandbox.state.join("narfs.log")).unwrap(),
    ];
    for endpoint in ["status", "metrics"] {
        let mut stream = UnixStream::connect(&http).unwrap();
        let ask = format!("GET /{endpoint} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        told.push(answer);
    }
    for pid in [sandbox.pid(), sandbox.keeper()] {
        told.push(fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap());
    }
    for text in told {
        assert!(!text.contains("sekret"), "{text}");
    }
    assert!(sandbox.narfs(&["status"]).contains("token=***&priority=7"));
}
