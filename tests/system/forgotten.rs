//! Paths that are forgotten by hand.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};

use crate::binary_cache::{Cache, Offer, noise};
use crate::on_demand::{SHORT, directory, key, plain};
use crate::support::{Sandbox, run};

struct Scene {
    cache: Cache,
    sandbox: Sandbox,
    /// The first needs the second.
    needs: Offer,
    needed: Offer,
    other: Offer,
}

fn scene() -> Scene {
    let cache = Cache::new();
    let needed = directory("needed", &noise(1, 3000));
    let needs = directory("needs", &noise(2, 3000)).referring(&[needed.path()]);
    let other = directory("other", &noise(3, 3000));
    for offer in [&needed, &needs, &other] {
        cache.put(offer);
    }
    let sandbox = Sandbox::empty();
    let mut copy = vec!["copy".to_owned(), "--all".to_owned()];
    copy.extend(cache.arguments());
    sandbox.narfs(&copy);
    Scene {
        cache,
        sandbox,
        needs,
        needed,
        other,
    }
}

/// What a command says that fails for several paths.
fn failure(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let ran = run(&mut sandbox.command(arguments), b"");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    ran.stderr
}

#[test]
fn a_path_is_forgotten_once_nothing_keeps_it_and_then_the_sources_are_asked() {
    let Scene {
        cache,
        sandbox,
        other,
        ..
    } = scene();
    let server = plain(&cache);
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let base = other.path().base_name();
    let directory = sandbox.store().join(&base);
    let mut open = File::open(directory.join("file")).unwrap();

    sandbox.narfs(&["pin", &base]);
    let pinned = sandbox.complaint(&["forget", &base]);
    assert!(pinned.contains("it is kept by pin"), "{pinned}");
    sandbox.narfs(&["unpin", &base]);
    let used = sandbox.complaint(&["forget", "--force", &base]);
    assert!(
        used.contains("it is in use") || used.contains("kept by"),
        "{used}"
    );
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == noise(3, 3000));
    drop(open);

    let would = sandbox.narfs(&["forget", "--dry-run", &base]);
    assert!(
        would.contains(&format!("would forget /nix/store/{base}")),
        "{would}"
    );
    assert!(directory.join("file").exists());
    let narinfo = format!("/{}.narinfo", other.path().hash());
    let asked = server.requests(&narinfo);
    let forgot = sandbox.narfs(&["forget", &base]);
    assert!(
        forgot.contains(&format!("forgot /nix/store/{base}")),
        "{forgot}"
    );
    assert!(!sandbox.listing().contains(&base));
    assert!(fs::read(directory.join("file")).unwrap() == noise(3, 3000));
    assert_eq!(server.requests(&narinfo), asked + 1);

    // What no source has any more is absent then.
    fs::remove_file(cache.narinfo_file(other.path())).unwrap();
    sandbox.narfs(&["forget", &base]);
    sandbox.unmount();
    sandbox.mount();
    assert_eq!(
        fs::metadata(&directory).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let absent = sandbox.complaint(&["forget", &base]);
    assert!(absent.contains("not in the state"), "{absent}");
}

#[test]
fn what_others_need_and_what_was_added_here_is_forgotten_only_with_force() {
    let Scene {
        sandbox,
        needs,
        needed,
        ..
    } = scene();
    let tree = sandbox.make_dir("tree");
    fs::write(tree.join("file"), "here only").unwrap();
    let added = sandbox.add(&tree);
    let [needs, needed] = [needs, needed].map(|offer| offer.path().base_name());
    let refused = failure(&sandbox, &["forget", &needed, &added]);
    assert!(
        refused.contains(&format!("{needs} refers to it")),
        "{refused}"
    );
    assert!(
        refused.contains("it was added on this machine"),
        "{refused}"
    );
    let report = sandbox.json(&["forget", "--force", &needed, &added]);
    assert_eq!(report["paths"].as_array().unwrap().len(), 2);
    assert!(report["freed_bytes"].as_u64().unwrap() > 3000);
    let left = sandbox.narfs(&["path-info"]);
    assert!(left.contains(&needs) && !left.contains(&needed), "{left}");
    // Together they go without.
    sandbox.narfs(&["forget", &needs]);
    sandbox.narfs(&["verify"]);
}
