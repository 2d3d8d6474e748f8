//! Closure views: what a container that has one at /nix/store sees, while the view changes.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Pid, Signal, kill_process};

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::on_demand::{SHORT, directory, errno, key, plain};
use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, run, succeed, wait_until, walk};

/// The store directory of a view.
fn view(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.at.join(".narfs/closures").join(name).join("store")
}

/// The names in a directory.
pub fn listing(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).unwrap();
    let names = entries.map(|e| e.unwrap().file_name().into_string().unwrap());
    names.collect()
}

/// The closure of a path, as the state says.
pub fn closure(sandbox: &Sandbox, path: &str) -> BTreeSet<String> {
    let infos = sandbox.json(&["path-info", "--closure", path]);
    let paths = infos.as_array().unwrap().iter();
    let names = paths.map(|i| i["path"].as_str().unwrap()["/nix/store/".len()..].to_owned());
    names.collect()
}

/// A directory of the sandbox where a view is bound, as a container has it.
fn bind(sandbox: &Sandbox, name: &str) -> PathBuf {
    let at = sandbox.make_dir(&format!("container-{name}"));
    rustix::mount::mount_bind(view(sandbox, name), &at).unwrap();
    at
}

fn is_gone<T>(result: std::io::Result<T>) -> bool {
    matches!(errno(result), Some(libc::ENOENT | libc::ESTALE))
}

#[test]
fn a_view_shows_a_closure_and_every_other_path_is_absent() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    let shown = sandbox.json(&["closure", "app", hello]);
    let expected = closure(&sandbox, hello);
    assert_eq!(shown["paths"], expected.len());
    let at = view(&sandbox, "app");
    assert_eq!(shown["store"], at.to_str().unwrap());
    assert_eq!(listing(&at), expected);
    let mut absent = 0;
    for path in World::all_paths() {
        let name = &path["/nix/store/".len()..];
        let (there, inside) = (at.join(name), sandbox.store().join(name));
        if expected.contains(name) {
            let all = |at: &Path| {
                let seen = walk(at).into_iter().map(|seen| {
                    let place = seen.path.strip_prefix(at).unwrap().to_owned();
                    let m = seen.metadata;
                    let number = if m.is_dir() { 0 } else { m.ino() };
                    (place, m.mode(), m.len(), number)
                });
                seen.collect::<Vec<_>>()
            };
            assert_eq!(all(&there), all(&inside), "{name}");
            continue;
        }
        absent += 1;
        // A name that leads to it in the store, so that it is known to the kernel there.
        let within = listing_of_any(&inside).unwrap_or_else(|| "bin".into());
        for place in [there.clone(), there.join(within)] {
            for result in [
                fs::symlink_metadata(&place).map(drop),
                File::open(&place).map(drop),
                fs::read_link(&place).map(drop),
                fs::read_dir(&place).map(drop),
            ] {
                assert_eq!(errno(result), Some(libc::ENOENT), "{}", place.display());
            }
        }
    }
    assert!(absent > 3, "{absent}");
    // Not even by `..`, nor by what is in the store's own directory.
    let bin = at.join(hello).join("bin");
    let up = |n: usize| bin.join(vec![".."; n].join("/"));
    let number = |place: &Path| fs::metadata(place).unwrap().ino();
    assert_eq!(number(&up(2)), number(&at));
    assert_eq!(listing(&up(3)), BTreeSet::from(["store".to_owned()]));
    assert!(is_gone(fs::metadata(at.join(".links"))));
    assert_eq!(errno(File::create(at.join("x"))), Some(libc::EROFS));
}

fn listing_of_any(path: &Path) -> Option<String> {
    let mut entries = fs::read_dir(path).ok()?;
    Some(entries.next()?.ok()?.file_name().into_string().unwrap())
}

#[test]
fn files_have_one_page_cache_and_a_warm_view_costs_no_request() {
    let sandbox = Sandbox::mounted();
    let bash = World::small().package("bash");
    sandbox.narfs(&["closure", "one", bash]);
    sandbox.narfs(&["closure", "two", bash]);
    let [one, two] = ["one", "two"].map(|name| view(&sandbox, name).join(bash));
    let inside = |at: &Path| at.join("bin/bash");
    let original = sandbox.store().join(bash);
    let has_no_read = |cost: &String| !cost.contains("read ");
    let cost = crate::support::undisturbed(has_no_read, || {
        let expected = fs::read(inside(&original)).unwrap();
        sandbox.requests_of(|| {
            for at in [&one, &two] {
                assert!(fs::read(inside(at)).unwrap() == expected);
            }
        })
    });
    assert!(has_no_read(&cost), "{cost}");
    let number = |place: &Path| fs::metadata(place).unwrap().ino();
    for at in [&one, &two] {
        assert_eq!(number(&inside(at)), number(&inside(&original)));
    }
    // Each has an address of its own, and shows the number of the store's.
    let directories = [&one, &two, &original].map(|at| number(&at.join("bin")));
    assert_eq!(BTreeSet::from(directories).len(), 1);
    let again = sandbox.requests_of_second("", || {
        crate::support::read_everything(&view(&sandbox, "one"));
    });
    assert_eq!(again, "");
}

#[test]
fn there_is_no_way_in_by_file_handles() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    sandbox.narfs(&["closure", "app", hello]);
    let bound = bind(&sandbox, "app");
    let place = bound.join(hello);
    let place = std::ffi::CString::new(place.to_str().unwrap()).unwrap();
    // struct file_handle: bytes, type, and the bytes.
    let mut handle = [0u32; 2 + 32];
    handle[0] = 128;
    let mut mount = 0;
    // SAFETY: the name ends with a zero, and the handle has room for as much as it says.
    let named = unsafe {
        libc::syscall(
            libc::SYS_name_to_handle_at,
            libc::AT_FDCWD,
            place.as_ptr(),
            handle.as_mut_ptr(),
            &raw mut mount,
            0,
        )
    };
    let refused = std::io::Error::last_os_error();
    assert_eq!(named, -1);
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP), "{refused}");
    // Handles of the form that FUSE gives, for every path of the store: FILEID_INO64_GEN.
    let directory = File::open(&bound).unwrap();
    for path in World::all_paths() {
        let outside = sandbox.store().join(&path["/nix/store/".len()..]);
        let number = fs::symlink_metadata(&outside).unwrap().ino();
        handle[..5].copy_from_slice(&[12, 0x81, (number >> 32) as u32, number as u32, 0]);
        // SAFETY: as above; the descriptor is open.
        let opened = unsafe {
            libc::syscall(
                libc::SYS_open_by_handle_at,
                std::os::fd::AsRawFd::as_raw_fd(&directory),
                handle.as_mut_ptr(),
                libc::O_PATH,
            )
        };
        assert_eq!(opened, -1, "{path}");
    }
}

#[test]
fn a_program_runs_with_a_view_as_its_store() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    sandbox.narfs(&["closure", "app", hello]);
    let nix = sandbox.make_dir("bound");
    fs::create_dir(nix.join("store")).unwrap();
    rustix::mount::mount_bind(view(&sandbox, "app"), nix.join("store")).unwrap();
    fs::create_dir_all("/nix").unwrap();
    rustix::mount::mount_bind_recursive(&nix, "/nix").unwrap();
    let program = format!("/nix/store/{hello}/bin/hello");
    assert_eq!(succeed(&mut Command::new(&program)), "Hello, world!\n");
    assert!(
        !Path::new("/nix/store")
            .join(World::small().package("coreutils"))
            .exists()
    );
    // Whoever has it mounted sees it change at once.
    sandbox.narfs(&["closure", "app", World::small().package("coreutils")]);
    assert_eq!(errno(fs::metadata(&program)), Some(libc::ENOENT));
    sandbox.narfs(&["closure", "app", hello]);
    assert_eq!(succeed(&mut Command::new(&program)), "Hello, world!\n");
}

#[test]
fn a_view_follows_a_profile_and_who_has_something_open_goes_on() {
    let sandbox = Sandbox::mounted();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["profile", "-p", "p", "install", bash]);
    sandbox.narfs(&["closure", "app", "--profile", "p"]);
    let at = bind(&sandbox, "app");
    let profile = |n: &str| {
        let link = sandbox.at.join("var/nix/profiles").join(n);
        let target = fs::read_link(link).unwrap().into_os_string();
        target.into_string().unwrap()["/nix/store/".len()..].to_owned()
    };
    let first = profile("p-1-link");
    assert!(at.join(&first).join("manifest.json").is_file());
    let open = File::open(at.join(bash).join("bin/bash")).unwrap();
    let expected = fs::read(sandbox.package(World::small(), "bash").join("bin/bash")).unwrap();
    assert!(!at.join(hello).exists());
    let before = listing(&at);
    sandbox.narfs(&["profile", "-p", "p", "set", hello]);
    let after = listing(&at);
    assert_eq!(after, closure(&sandbox, hello));
    assert_ne!(before, after);
    assert!(at.join(hello).join("bin/hello").is_file());
    for gone in [bash, &first] {
        assert_eq!(errno(fs::metadata(at.join(gone))), Some(libc::ENOENT));
    }
    rustix::fs::fadvise(&open, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut contents = Vec::new();
    std::io::Read::read_to_end(&mut { open }, &mut contents).unwrap();
    assert!(contents == expected);
    sandbox.narfs(&["profile", "-p", "p", "rollback"]);
    assert_eq!(listing(&at), before);
    assert!(at.join(&first).join("manifest.json").is_file());
    let complaint = sandbox.complaint(&["closure", "x", "--profile", "absent"]);
    assert!(complaint.contains("the profiles are: p"), "{complaint}");
}

#[test]
fn who_is_in_a_path_that_stays_is_not_disturbed() {
    let sandbox = Sandbox::mounted();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["closure", "app", hello]);
    let at = bind(&sandbox, "app");
    let directory = File::open(at.join(hello).join("bin")).unwrap();
    let sees = || rustix::fs::statat(&directory, "hello", rustix::fs::AtFlags::empty());
    sandbox.narfs(&["closure", "app", hello, bash]);
    assert!(sees().is_ok());
    assert!(at.join(bash).join("bin/bash").is_file());
    sandbox.narfs(&["closure", "app", bash]);
    assert!(is_gone(sees().map_err(std::io::Error::from)));
    assert!(is_gone(fs::metadata(at.join(hello))));
    sandbox.narfs(&["closure", "app", hello]);
    assert!(sees().is_ok());
    assert!(at.join(hello).join("bin/hello").is_file());
}

#[test]
fn a_view_that_is_deleted_while_it_is_bound_is_gone_for_everybody() {
    let sandbox = Sandbox::mounted();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["closure", "app", hello, bash]);
    let at = bind(&sandbox, "app");
    let program = at.join(hello).join("bin/hello");
    let open = File::open(at.join(bash).join("bin")).unwrap();
    let mut running = Command::new(sandbox.store().join(bash).join("bin/bash"));
    // In the view by its working directory, and reading from its terminal.
    running.current_dir(at.join(hello)).stdin(Stdio::piped());
    sandbox.bind_to_nix(&sandbox.at);
    let mut running = running.spawn().unwrap();
    assert!(program.is_file());
    sandbox.narfs(&["closure", "--delete", "app"]);
    assert!(is_gone(fs::metadata(&program)));
    assert!(is_gone(fs::metadata(at.join(hello))));
    assert!(is_gone(
        fs::read_dir(&at).and_then(|mut d| d.next().transpose())
    ));
    let bash_there = rustix::fs::statat(&open, "bash", rustix::fs::AtFlags::empty());
    assert!(is_gone(bash_there.map_err(std::io::Error::from)));
    assert_eq!(listing(&sandbox.at.join(".narfs/closures")).len(), 0);
    assert!(is_gone(fs::metadata(view(&sandbox, "app"))));
    // The name may be used again, and who had the old one does not see the new one.
    sandbox.narfs(&["closure", "app", hello]);
    assert!(
        view(&sandbox, "app")
            .join(hello)
            .join("bin/hello")
            .is_file()
    );
    assert!(is_gone(fs::metadata(&program)));
    drop(running.stdin.take());
    assert!(running.wait().unwrap().success());
    let complaint = sandbox.complaint(&["closure", "--delete", "other"]);
    assert!(complaint.contains("the views are: app"), "{complaint}");
}

#[test]
fn a_view_is_used_on_when_the_daemon_is_killed() {
    let sandbox = Sandbox::mounted();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["closure", "app", hello]);
    let at = bind(&sandbox, "app");
    let directory = File::open(at.join(hello).join("bin")).unwrap();
    let number = |place: &str| fs::metadata(at.join(place)).unwrap().ino();
    let before = [number(""), number(hello)];
    for shown in [bash, hello] {
        let pid = sandbox.pid();
        let process = Pid::from_raw(pid.cast_signed()).unwrap();
        kill_process(process, Signal::KILL).unwrap();
        // Answered by the next one.
        assert!(!at.join(bash).exists());
        assert_eq!([number(""), number(hello)], before);
        assert!(rustix::fs::statat(&directory, "hello", rustix::fs::AtFlags::empty()).is_ok());
        assert_ne!(sandbox.pid(), pid);
        sandbox.narfs(&["closure", "app", shown]);
        assert_eq!(listing(&at), closure(&sandbox, shown));
        sandbox.narfs(&["closure", "app", hello]);
    }
}

#[test]
fn a_change_of_which_the_kernel_was_not_told_is_seen_after_the_restart() {
    let sandbox = Sandbox::mounted();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    for name in ["changed", "deleted"] {
        sandbox.narfs(&["closure", name, hello]);
    }
    let [changed, deleted] = ["changed", "deleted"].map(|name| bind(&sandbox, name));
    for at in [&changed, &deleted] {
        assert!(at.join(hello).join("bin/hello").is_file());
        assert_eq!(listing(at), closure(&sandbox, hello));
    }
    // While no daemon is there to tell the kernel, the state is changed behind its back.
    let keeper = Pid::from_raw(sandbox.keeper().cast_signed()).unwrap();
    let pid = sandbox.pid();
    kill_process(keeper, Signal::STOP).unwrap();
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    wait_until("the daemon has ended", || !crate::support::is_alive(pid));
    let copy = sandbox.make_dir("copy");
    for part in ["db", "format"] {
        let mut cp = Command::new("cp");
        succeed(cp.arg("-a").arg(sandbox.state.join(part)).arg(&copy));
    }
    for change in [
        &["closure", "changed", bash][..],
        &["closure", "--delete", "deleted"],
    ] {
        succeed(sandbox.command(change).env("NARFS_STATE", &copy));
    }
    fs::remove_dir_all(sandbox.state.join("db")).unwrap();
    fs::rename(copy.join("db"), sandbox.state.join("db")).unwrap();
    kill_process(keeper, Signal::CONT).unwrap();
    wait_until("another daemon serves", || sandbox.pid() != pid);
    assert_eq!(listing(&changed), closure(&sandbox, bash));
    assert!(is_gone(fs::metadata(changed.join(hello))));
    assert!(is_gone(fs::metadata(deleted.join(hello))));
    assert_eq!(listing(&sandbox.at.join(".narfs/closures")).len(), 1);
}

#[test]
fn contents_come_on_demand_and_only_narinfos_when_a_view_is_made() {
    let cache = Cache::new();
    let library = directory("library", &noise(1, 100_000));
    let program = directory("program", &noise(2, 100_000)).referring(&[library.path()]);
    let plain_file = Offer::named("plain", file(b"plain")).referring(&[program.path()]);
    let other = directory("other", b"other");
    for offer in [&library, &program, &plain_file, &other] {
        cache.put(offer);
    }
    let away = Arc::new(AtomicBool::new(false));
    let is_away = away.clone();
    let server = Server::new(cache.dir().to_owned(), move |_, _| {
        match is_away.load(Ordering::Relaxed) {
            true => Answer::Stall,
            false => Answer::File,
        }
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let name = |offer: &Offer| offer.path().to_string();
    let shown = sandbox.json(&["closure", "app", &name(&plain_file)]);
    assert_eq!((&shown["paths"], &shown["missing"]), (&3.into(), &3.into()));
    let nars = |server: &Server| {
        let asked = server.all_requests().into_keys();
        asked
            .filter(|p| !p.ends_with(".narinfo") && !p.ends_with("-info"))
            .count()
    };
    assert_eq!(nars(&server), 0);
    let at = bind(&sandbox, "app");
    let all = [&library, &program, &plain_file].map(name);
    assert_eq!(listing(&at), BTreeSet::from(all));
    assert_eq!(nars(&server), 0);
    assert_eq!(
        fs::read(at.join(name(&library)).join("file")).unwrap(),
        noise(1, 100_000)
    );
    assert_eq!(fs::read(at.join(name(&plain_file))).unwrap(), b"plain");
    assert_eq!(server.requests(&format!("/{}", program.info.url)), 0);
    // What is not in the view is not asked for.
    assert_eq!(
        errno(fs::metadata(at.join(name(&other)))),
        Some(libc::ENOENT)
    );
    let narinfo = format!("/{}.narinfo", other.path().hash());
    assert_eq!(server.requests(&narinfo), 0);
    // What was dropped comes back; some metadata stays, which is said.
    run(&mut sandbox.command(&["evict", "--to", "0"]), b"");
    assert_eq!(sandbox.json(&["closures"])[0]["missing"], 3);
    let library_file = File::open(at.join(name(&library)).join("file")).unwrap();
    rustix::fs::fadvise(&library_file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    drop(library_file);
    assert_eq!(
        fs::read(at.join(name(&library)).join("file")).unwrap(),
        noise(1, 100_000)
    );
    // A source in trouble is an error and no absence, within the time that was set.
    away.store(true, Ordering::Relaxed);
    let inside = at.join(name(&program)).join("file");
    assert_eq!(errno(fs::read(&inside)), Some(libc::EIO));
    away.store(false, Ordering::Relaxed);
    wait_until("it is there", || fs::read(&inside).is_ok());
}

#[test]
fn a_closure_that_no_source_has_whole_is_an_error_and_changes_nothing() {
    let cache = Cache::new();
    let absent = directory("absent", b"absent");
    let broken = directory("broken", b"broken").referring(&[absent.path()]);
    let good = directory("good", b"good");
    for offer in [&broken, &good] {
        cache.put(offer);
    }
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), SHORT);
    let name = |offer: &Offer| offer.path().to_string();
    sandbox.narfs(&["closure", "app", &name(&good)]);
    let before = sandbox.json(&["closures"]);
    for path in [name(&broken), name(&absent)] {
        let complaint = sandbox.complaint(&["closure", "app", &path]);
        assert!(complaint.contains(&name(&absent)), "{complaint}");
        sandbox.complaint(&["closure", "new", &name(&good), &path]);
    }
    assert_eq!(sandbox.json(&["closures"]), before);
    assert_eq!(
        listing(&view(&sandbox, "app")),
        BTreeSet::from([name(&good)])
    );
    // Nor where there is nobody to ask.
    sandbox.unmount();
    let complaint = sandbox.complaint(&["closure", "app", &name(&broken), "--from", &cache.url()]);
    assert!(complaint.contains(&name(&absent)), "{complaint}");
    sandbox.mount();
    let complaint = sandbox.complaint(&["closure", "app", &name(&broken)]);
    assert!(complaint.contains("no source is configured"), "{complaint}");
    assert_eq!(sandbox.json(&["closures"])[0]["roots"], before[0]["roots"]);
}

#[test]
fn bad_names_are_refused_and_views_are_listed() {
    let sandbox = Sandbox::with_worlds();
    let hello = World::small().package("hello");
    let long = "x".repeat(200);
    for bad in ["", ".", "..", "a/b", "../a", "a\nb", "a b", &long] {
        let ran = run(&mut sandbox.command(&["closure", bad, hello]), b"");
        assert_eq!(ran.code, Some(1), "{bad:?}");
        assert!(
            ran.stderr.contains("no name for a closure view"),
            "{}",
            ran.stderr
        );
    }
    assert_eq!(
        run(&mut sandbox.command(&["closure", "a"]), b"").code,
        Some(2)
    );
    assert_eq!(sandbox.json(&["closures"]), serde_json::json!([]));
    sandbox.narfs(&["closure", "b", hello]);
    sandbox.narfs(&["closure", "a", hello, World::small().package("bash")]);
    let views = sandbox.json(&["closures"]);
    assert_eq!(
        (&views[0]["name"], &views[1]["name"]),
        (&"a".into(), &"b".into())
    );
    let infos = sandbox.json(&["path-info", "--closure", hello]);
    let sizes = infos
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["narSize"].as_u64().unwrap());
    assert_eq!(views[1]["size"], sizes.sum::<u64>());
    assert_eq!(
        views[1]["roots"],
        serde_json::json!([format!("/nix/store/{hello}")])
    );
    assert_eq!(views[1]["store"], serde_json::Value::Null);
    assert!(sandbox.narfs(&["closures"]).contains("not mounted"));
}

#[test]
fn what_a_view_names_is_kept_from_collections() {
    let sandbox = Sandbox::mounted();
    let [hello, bash] = ["hello", "bash"].map(|name| World::small().package(name));
    sandbox.narfs(&["closure", "app", hello]);
    let roots = sandbox.narfs(&["roots"]);
    assert!(roots.contains("closure view app"), "{roots}");
    sandbox.narfs(&["gc"]);
    let left = sandbox.listing().into_iter().collect::<BTreeSet<_>>();
    assert_eq!(left, closure(&sandbox, hello));
    assert_eq!(listing(&view(&sandbox, "app")), left);
    assert!(!left.contains(bash));
    sandbox.narfs(&["closure", "--delete", "app"]);
    sandbox.narfs(&["gc"]);
    assert!(sandbox.listing().is_empty());
}

#[test]
fn views_are_offered_as_devices() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    let file = sandbox.dir().join("cdi/narfs.json");
    let output = file.to_str().unwrap();
    let complaint = sandbox.complaint(&["cdi", "--output", output]);
    assert!(complaint.contains("no closure views yet"), "{complaint}");
    sandbox.narfs(&["closure", "web", hello]);
    sandbox.narfs(&["closure", "a+b", hello]);
    let complaint = sandbox.complaint(&["cdi", "--output", output]);
    assert!(complaint.contains("a+b"), "{complaint}");
    assert!(!file.exists());
    sandbox.narfs(&["cdi", "--output", output, "web"]);
    let text = fs::read_to_string(&file).unwrap();
    let written: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(written["kind"], "narfs.dev/store");
    let device = &written["devices"][0];
    assert_eq!(device["name"], "web");
    let mount = &device["containerEdits"]["mounts"][0];
    assert_eq!(mount["hostPath"], view(&sandbox, "web").to_str().unwrap());
    assert_eq!(mount["containerPath"], "/nix/store");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o644);
    assert_eq!(sandbox.narfs(&["cdi", "--output", "-", "web"]), text);
    sandbox.complaint(&["cdi", "--output", output, "absent"]);
    sandbox.unmount();
    let complaint = sandbox.complaint(&["cdi", "--output", output, "web"]);
    assert!(complaint.contains("not mounted"), "{complaint}");
}
