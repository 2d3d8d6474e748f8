//! Copies between a directory and a state, without the program.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::*;
use crate::nix::compression::Compression;
use crate::nix::hash::NarHash;
use crate::nix::nar::Writer;
use crate::nix::narinfo::NarInfo;
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::store::{Origin, Publication, Registration, Store, StoreOptions};

struct World {
    dir: TempDir,
    store: Arc<Store>,
    runtime: Runtime,
    progress: Arc<Progress>,
}

fn path(name: &str) -> StorePath {
    let digest = NarHash::of(name.as_bytes());
    let hash = StorePathHash::from_bytes(digest.as_bytes()[..20].try_into().unwrap());
    StorePath::new(hash, name).unwrap()
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("cache")).unwrap();
        fs::write(dir.path().join("cache/nix-cache-info"), "").unwrap();
        let options = StoreOptions {
            memory: 32 << 20,
            create: true,
            store_dir: None,
        };
        Self {
            store: Arc::new(Store::open(&dir.path().join("state"), &options).unwrap()),
            dir,
            runtime: Runtime::new().unwrap(),
            progress: Arc::default(),
        }
    }

    /// Offers a file that holds its own name; `flip` makes it another than NarHash says.
    fn offer(&self, name: &str, references: &[&str], flip: bool) {
        let mut writer = Writer::new(Vec::new());
        writer.regular(false, name.len() as u64).unwrap();
        writer.contents(name.as_bytes()).unwrap();
        let mut nar = writer.finish().unwrap();
        let info = NarInfo {
            store_path: path(name),
            url: format!("{name}.nar"),
            compression: Compression::None,
            further: Vec::new(),
            file_hash: None,
            file_size: None,
            nar_hash: NarHash::of(&nar),
            nar_size: nar.len() as u64,
            references: references.iter().map(|r| path(r)).collect(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            unknown_ca: None,
            guix_signature: None,
        };
        if flip {
            nar[96] ^= 1;
        }
        let cache = self.dir.path().join("cache");
        let narinfo = cache.join(format!("{}.narinfo", path(name).hash()));
        fs::write(narinfo, info.to_text(self.store.store_dir())).unwrap();
        fs::write(cache.join(info.url), nar).unwrap();
    }

    fn sources(&self) -> Sources {
        let url = format!("file://{}/cache", self.dir.path().display());
        let urls = [url];
        let opened = Sources::open(&urls, None, self.store.store_dir(), true);
        self.runtime.block_on(opened).unwrap()
    }

    fn fetcher(&self) -> Fetcher {
        let keep = Keep {
            rooted: Box::new(|| Ok(HashSet::new())),
            in_use: Box::new(|| Ok(HashSet::new())),
        };
        let to = Destination {
            store: self.store.clone(),
            runtime: self.runtime.handle().clone(),
            budget: Arc::new(Budget::new(self.store.clone(), None, keep)),
            flights: Arc::default(),
        };
        let trust = Trust {
            require_signatures: false,
            ..Trust::default()
        };
        Fetcher::for_copy(to, self.sources(), trust, 3)
    }

    fn copy(&self, recursive: bool) -> Result<Fetched, FetchError> {
        let fetcher = self.fetcher();
        let copy = fetcher.copy(&Wanted::All, recursive, &self.progress);
        self.runtime.block_on(copy)
    }

    fn published(&self) -> Vec<String> {
        let mut names: Vec<_> = self.store.paths().all().unwrap();
        names.sort_by_key(|p| p.name().to_owned());
        names.iter().map(|p| p.name().to_owned()).collect()
    }
}

/// The failures, by name.
fn failures(summary: &Fetched) -> Vec<(String, &FetchError)> {
    let named = summary.failures.iter().map(|f| {
        let name = f
            .path
            .as_ref()
            .map_or_else(String::new, |p| p.name().to_owned());
        (name, f.error.cause())
    });
    let mut all: Vec<_> = named.collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

#[test]
fn a_failure_inside_a_circle_is_the_reason_of_all_that_hang_on_it() {
    for _ in 0..10 {
        let world = World::new();
        world.offer("a", &["b"], false);
        world.offer("b", &["a", "broken"], false);
        world.offer("broken", &[], true);
        world.offer("top", &["a"], false);
        world.offer("other", &["other"], false);
        let summary = world.copy(true).unwrap();
        let failures = failures(&summary);
        let names: Vec<_> = failures.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b", "broken", "top"]);
        for (name, error) in &failures {
            match error {
                FetchError::Receive { .. } => assert_eq!(name, "broken"),
                FetchError::Reference(missing) => assert_ne!(missing.name(), name),
                other => panic!("{name}: {other}"),
            }
        }
        assert_eq!(world.published(), ["other"]);
    }
}

#[test]
fn without_recursion_no_path_waits_for_another() {
    let world = World::new();
    world.offer("a", &["b"], false);
    world.offer("b", &["a", "broken", "absent"], false);
    world.offer("broken", &[], true);
    let summary = world.copy(false).unwrap();
    assert_eq!((summary.fetched, summary.failures.len()), (2, 1));
    assert_eq!(world.published(), ["a", "b"]);
    // Now that they are wanted with all that they need, what is missing is.
    let summary = world.copy(true).unwrap();
    assert_eq!(
        (summary.fetched, summary.already, summary.failures.len()),
        (0, 2, 2)
    );
}

#[test]
fn progress_counts_what_was_published_and_nothing_else() {
    let world = World::new();
    world.offer("good", &[], false);
    world.offer("broken", &[], true);
    let summary = world.copy(true).unwrap();
    let seen = world.progress.snapshot();
    assert_eq!((seen.paths, seen.paths_done, seen.narinfos), (2, 1, 2));
    assert_eq!(seen.nar_bytes_done, summary.nar_bytes);
    assert!(seen.fetched_bytes > summary.nar_bytes);
    assert_eq!((summary.fetched, summary.already), (1, 0));
}

#[test]
fn a_copy_that_is_stopped_says_so_and_publishes_no_half() {
    let world = World::new();
    world.offer("a", &[], false);
    world.progress.stop.store(true, Ordering::Relaxed);
    assert!(matches!(world.copy(true), Err(FetchError::Stopped)));
    assert!(world.published().is_empty());
    world.progress.stop.store(false, Ordering::Relaxed);
    assert_eq!(world.copy(true).unwrap().fetched, 1);
}

#[test]
fn a_repair_takes_the_registered_nar_only() {
    let world = World::new();
    world.offer("a", &[], false);
    world.copy(true).unwrap();
    let info = world.store.paths().info(path("a").hash()).unwrap().unwrap();
    let trust = Trust {
        require_signatures: false,
        ..Trust::default()
    };
    let mend = |world: &World| {
        let handle = world.runtime.handle();
        repair(&world.store, handle, &world.sources(), &trust, &info)
    };
    mend(&world).unwrap();
    world.offer("a", &[], true);
    assert!(matches!(mend(&world), Err(FetchError::Receive { .. })));
    fs::remove_file(
        world
            .dir
            .path()
            .join(format!("cache/{}.narinfo", path("a").hash())),
    )
    .unwrap();
    assert!(matches!(mend(&world), Err(FetchError::Absent { .. })));
}

#[test]
fn what_is_added_is_refused_where_its_path_has_other_contents() {
    let (world, elsewhere) = (World::new(), World::new());
    let file = world.dir.path().join("file");
    fs::write(&file, "contents").unwrap();
    let path = add(&elsewhere.store, &file, "name").unwrap();
    let other_nar = {
        let mut writer = Writer::new(Vec::new());
        writer.regular(false, 5).unwrap();
        writer.contents(b"other").unwrap();
        writer.finish().unwrap()
    };
    let attempt = attempt::Attempt::new(&Arc::default());
    let received = receive::unpack(&world.store, &other_nar[..], &[], None, None, &attempt);
    let received = received.unwrap();
    let publication = Publication {
        registration: Registration {
            path: path.clone(),
            nar_hash: received.nar_hash,
            nar_size: received.nar_size,
            references: Vec::new(),
            deriver: None,
            signatures: Vec::new(),
            ca: None,
            vouched: false,
        },
        origin: Origin::Fetched,
        tree: received.unpacked.tree,
        hold: received.hold,
    };
    world.store.paths().publish(&[publication]).unwrap();
    let error = add(&world.store, &file, "name").unwrap_err();
    assert!(matches!(error, AddError::OtherContents { .. }), "{error}");
}
