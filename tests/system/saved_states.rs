//! A state that is saved as an archive and restored elsewhere, as CI does between jobs (docs/ci.md).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, read_everything, run, succeed};

/// Archives a state as CI systems do, with its owner changed to the one who runs the jobs.
fn save(sandbox: &Sandbox, archive: &Path) {
    let mut chown = Command::new("chown");
    succeed(chown.args(["-R", "1000:1000"]).arg(&sandbox.state));
    let mut tar = Command::new("tar");
    succeed(
        tar.arg("-C")
            .arg(&sandbox.state)
            .arg("-cf")
            .arg(archive)
            .arg("."),
    );
}

/// Another machine, to which the archive was restored.
fn restored(archive: &Path) -> Sandbox {
    let mut sandbox = Sandbox::empty();
    sandbox.state = sandbox.make_dir("restored/below/another/path");
    let mut tar = Command::new("tar");
    // A cut archive is tar's failure; what it leaves is ours to judge.
    run(
        tar.arg("-C").arg(&sandbox.state).arg("-xf").arg(archive),
        b"",
    );
    sandbox
}

/// Files of the database with an extension, the largest first.
fn files(state: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(state.join("db")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths
        .filter(|p| p.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort_by_key(|path| std::cmp::Reverse(fs::metadata(path).unwrap().len()));
    paths
}

#[test]
fn the_recipe_for_ci_has_the_next_job_fetch_nothing_again() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| Answer::File);
    let archive = tempfile::NamedTempFile::new().unwrap();
    {
        // The first job.
        let job = Sandbox::empty();
        job.mount_from(&[&server.url], &world.key(), "");
        job.narfs(&["trace", "start", "tests"]);
        read_everything(&job.package(world, "hello"));
        job.narfs(&["trace", "stop", "tests"]);
        read_everything(&job.package(world, "coreutils"));
        job.narfs(&["evict", "--to", "1G"]);
        job.unmount();
        // The state is whole as soon as it is unmounted.
        save(&job, archive.path());
    }
    let nars = |server: &Server| {
        let requests = server.all_requests().into_iter();
        requests
            .filter(|(path, _)| path.contains("/nar/"))
            .map(|(_, n)| n)
            .sum::<usize>()
    };
    let before = nars(&server);
    assert!(before > 0);

    let job = restored(archive.path());
    job.mount_from(&[&server.url], &world.key(), "");
    job.narfs(&["prefetch", "--trace", "tests"]);
    read_everything(&job.package(world, "hello"));
    read_everything(&job.package(world, "coreutils"));
    assert_eq!(nars(&server), before);
    assert_eq!(
        job.json(&["verify"])["failures"].as_array().unwrap().len(),
        0
    );
    // What is too much is dropped before it is saved again, and fetched again when it is used.
    job.narfs(&["evict", "--to", "1M"]);
    job.unmount();
    save(&job, archive.path());
    let length = fs::metadata(archive.path()).unwrap().len();
    assert!(length < 6 << 20, "{length}");

    let job = restored(archive.path());
    job.mount();
    assert!(!job.listing().is_empty());
    job.unmount();
    job.mount_from(&[&server.url], &world.key(), "");
    read_everything(&job.package(world, "hello"));
    assert!(nars(&server) > before);
}

#[test]
fn a_state_that_is_not_whole_is_refused_with_advice_and_never_taken_for_an_empty_one() {
    let sandbox = Sandbox::with_worlds();
    let archive = tempfile::NamedTempFile::new().unwrap();
    save(&sandbox, archive.path());
    let whole = fs::read(archive.path()).unwrap();
    let refused = |state: &Sandbox, what: &str| {
        let at = state.at.to_str().unwrap();
        // An attempt must not make it look like a new one.
        for arguments in [&["stats"][..], &["mount", at, "--offline"], &["stats"]] {
            let said = state.complaint(arguments);
            assert!(said.contains("a part of it is missing"), "{what}: {said}");
            assert!(
                said.contains(state.state.to_str().unwrap()),
                "{what}: {said}"
            );
        }
        assert!(state.mounts().is_empty());
    };
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 2] = [
        ("without CURRENT", |state| {
            fs::remove_file(state.join("db/CURRENT")).unwrap()
        }),
        ("with a manifest that is cut off", |state| {
            let entries = fs::read_dir(state.join("db")).unwrap().flatten();
            let mut manifests =
                entries.filter(|e| e.file_name().to_string_lossy().starts_with("MANIFEST-"));
            let manifest = fs::File::options()
                .write(true)
                .open(manifests.next().unwrap().path());
            manifest.unwrap().set_len(100).unwrap();
        }),
    ];
    for (what, damage) in damages {
        let state = restored(archive.path());
        damage(&state.state);
        refused(&state, what);
    }
    // Without one of its tables it lacks what was in that, and says so.
    let state = restored(archive.path());
    fs::remove_file(&files(&state.state, "sst")[0]).unwrap();
    let ran = run(&mut state.command(&["stats"]), b"");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let is_said = ran.stderr.contains("a table of the database is damaged");
    assert!(is_said, "{ran:?}");
    assert_eq!(state.narfs(&["path-info"]), sandbox.narfs(&["path-info"]));
    // An archive that is cut off has a whole database, or is refused; or it has no format yet.
    for parts in 1..8 {
        fs::write(archive.path(), &whole[..whole.len() * parts / 8]).unwrap();
        let state = restored(archive.path());
        let ran = run(&mut state.command(&["verify"]), b"");
        let is_known = [
            "a part of it is missing",
            "is not a narfs state",
            "there is no narfs state",
        ];
        let is_refused = is_known.iter().any(|known| ran.stderr.contains(known));
        let names_paths = ran.code == Some(1) && ran.stderr.contains("/nix/store/");
        assert!(is_refused || names_paths, "{parts}/8: {ran:?}");
    }
}

#[test]
fn a_blob_file_that_is_missing_is_repaired_from_the_sources() {
    let world = World::small();
    let sandbox = Sandbox::empty();
    sandbox.copy(world, world.package("hello"));
    let blobs = files(&sandbox.state, "blob");
    sandbox.copy(world, world.package("coreutils"));
    fs::remove_file(&blobs[0]).unwrap();
    let ran = run(&mut sandbox.command(&["verify"]), b"");
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("is damaged"), "{}", ran.stderr);
    let (url, key) = (world.url(), world.key());
    sandbox.narfs(&[
        "verify",
        "--repair",
        "--from",
        &url,
        "--trusted-public-key",
        &key,
    ]);
    let report = sandbox.json(&["verify"]);
    assert_eq!(report["failures"].as_array().unwrap().len(), 0, "{report}");
}
