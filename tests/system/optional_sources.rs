//! Sources marked as optional: a laptop away from the binary cache of its office works without it, and
//! has it again when it is back.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::binary_cache::{Cache, Offer, noise};
use crate::exposition::check;
use crate::on_demand::{SHORT, directory, errno, key, plain};
use crate::server::{Answer, Refusing, Server};
use crate::support::Sandbox;

/// How long a source that is back may stay unnoticed, on a loaded machine.
const NOTICED: Duration = Duration::from_secs(60);

fn read(sandbox: &Sandbox, offer: &Offer) -> std::io::Result<Vec<u8>> {
    fs::read(place(sandbox, offer).join("file"))
}

fn place(sandbox: &Sandbox, offer: &Offer) -> PathBuf {
    sandbox.store().join(offer.path().base_name())
}

fn is_absent(path: &Path) -> bool {
    errno(fs::metadata(path)) == Some(libc::ENOENT)
}

/// The public source of a cache: it has all but one path.
fn public(cache: &Cache, without: &Offer) -> Server {
    let hash = without.path().hash().to_string();
    Server::new(cache.dir().to_owned(), move |path, _| {
        if path.contains(&hash) {
            Answer::Status(404)
        } else {
            Answer::File
        }
    })
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < NOTICED, "waited in vain until {what}");
        sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_source_out_of_reach_is_as_if_it_did_not_have_the_path_until_it_is_back() {
    let cache = Cache::new();
    let (both, office) = (directory("both", b"both"), directory("office", b"office"));
    cache.put(&both);
    cache.put(&office);
    let server = public(&cache, &office);
    let sandbox = Sandbox::empty();
    let refusing = Refusing::new();
    let url = format!("{}?optional=1&priority=1", refusing.url);
    sandbox.mount_from(&[&server.url, &url], &key(&cache), SHORT);

    assert_eq!(read(&sandbox, &both).unwrap(), b"both");
    let absent = place(&sandbox, &office);
    assert!(is_absent(&absent));
    // It is known to be away by now, and holds up nobody.
    let start = Instant::now();
    for name in ["one", "two", "three"] {
        assert!(is_absent(&place(&sandbox, &directory(name, b""))));
    }
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );

    let status = sandbox.json(&["status"]);
    let sources = status["sources"].as_array().unwrap().iter();
    let source = sources.filter(|s| s["url"] == url).collect::<Vec<_>>();
    assert_eq!(
        (&source[0]["state"], &source[0]["optional"]),
        (&"away".into(), &true.into())
    );
    let text = sandbox.narfs(&["status"]);
    assert!(text.contains("not reachable, optional"), "{text}");
    let metrics = sandbox.narfs(&["metrics"]);
    check(&metrics);
    let up = format!("narfs_source_up{{source=\"{url}\",optional=\"true\"}} 0");
    assert!(metrics.contains(&up), "{metrics}");
    let found = crate::support::run(&mut sandbox.command(&["doctor", "--json"]), b"");
    let found: serde_json::Value = serde_json::from_slice(&found.stdout).unwrap();
    let of_source = |f: &&serde_json::Value| f["check"] == format!("source {url}");
    let finding = found.as_array().unwrap().iter().find(of_source).unwrap();
    assert_eq!(finding["verdict"], "note", "{finding}");

    // Who names it himself wants it.
    let path = office.path().base_name();
    let said = sandbox.complaint(&["copy", "--from", &url, &path]);
    assert!(said.contains("cannot connect"), "{said}");
    // Who does not is told why the path may be missing.
    let said = crate::support::run(&mut sandbox.command(&["copy", &path]), b"");
    assert_eq!(said.code, Some(1));
    assert!(
        said.stderr.contains("which is optional, cannot be reached"),
        "{}",
        said.stderr
    );
    let log = fs::read_to_string(sandbox.state.join("narfs.log")).unwrap();
    assert_eq!(
        log.matches("an optional source cannot be reached").count(),
        1,
        "{log}"
    );

    let _office = refusing.serve(cache.dir().to_owned(), |_, _| Answer::File);
    eventually("the source is back", || {
        read(&sandbox, &office).is_ok_and(|read| read == b"office")
    });
    assert!(!sandbox.narfs(&["status"]).contains("not reachable"));
}

#[test]
fn a_mount_whose_only_source_is_optional_says_enoent_for_what_it_has_not() {
    let cache = Cache::new();
    let offer = directory("only", b"only");
    cache.put(&offer);
    let sandbox = Sandbox::empty();
    let moved = sandbox.dir().join("disk");
    let url = format!("file://{}?optional=1", moved.display());
    sandbox.mount_from(&[&url], &key(&cache), SHORT);
    assert!(is_absent(&place(&sandbox, &offer)));
    std::os::unix::fs::symlink(cache.dir(), &moved).unwrap();
    eventually("the disk is there", || read(&sandbox, &offer).is_ok());
}

#[test]
fn what_breaks_off_comes_from_the_next_source_and_what_is_known_is_never_absent() {
    let cache = Cache::new();
    let both = directory("both", &noise(1, 300_000));
    let (office, later) = (directory("office", b"office"), directory("later", b"later"));
    for offer in [&both, &office, &later] {
        cache.put(offer);
        cache.put_listing(offer, "directory");
    }
    let breaks = Arc::new(AtomicBool::new(false));
    let broken = breaks.clone();
    let nar = format!("/{}", both.info.url);
    let optional = Server::new(cache.dir().to_owned(), move |path, _| {
        if broken.load(Ordering::Relaxed) {
            Answer::Hangup
        } else if path == nar {
            broken.store(true, Ordering::Relaxed);
            Answer::Half
        } else {
            Answer::File
        }
    });
    let server = public(&cache, &office);
    let url = format!("{}?optional=1&priority=1", optional.url);
    let sandbox = Sandbox::empty();
    // A source that breaks off is tried for some seconds before another one is.
    let options = SHORT.replace("contents-timeout=5", "contents-timeout=30");
    sandbox.mount_from(&[&server.url, &url], &key(&cache), &options);
    // Its root is known from now on; its contents are not here.
    assert!(place(&sandbox, &office).is_dir());
    assert_eq!(read(&sandbox, &both).unwrap(), noise(1, 300_000));
    assert!(breaks.load(Ordering::Relaxed));
    assert_eq!(errno(read(&sandbox, &office)), Some(libc::EIO));
    sandbox.unmount();
    sandbox.mount_from(&[&server.url, &url], &key(&cache), &options);
    // After a restart nothing is left of what the source said but the path info.
    assert!(place(&sandbox, &office).is_dir());
    assert_eq!(errno(read(&sandbox, &office)), Some(libc::EIO));
    assert_eq!(read(&sandbox, &later).unwrap(), b"later");
    breaks.store(false, Ordering::Relaxed);
    eventually("the source is back", || read(&sandbox, &office).is_ok());
}

#[test]
fn a_wrong_signature_of_an_optional_source_is_an_error_all_the_same() {
    let (cache, other) = (Cache::new(), Cache::new());
    let offer = directory("forged", b"forged");
    other.put(&offer.unsigned());
    let offer = directory("forged", b"forged");
    let (server, forger) = (plain(&cache), plain(&other));
    let url = format!("{}?optional=1", forger.url);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url, &url], &key(&cache), SHORT);
    assert_eq!(
        errno(fs::metadata(place(&sandbox, &offer))),
        Some(libc::EIO)
    );
    assert!(sandbox.narfs(&["status"]).contains("answers, optional"));
}
