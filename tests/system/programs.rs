//! Programs run from the mount, with nothing of the machine around them; overlayfs works above it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::support::{Sandbox, World, run, succeed};

/// A root directory that has the mount at `/nix` and nothing else.
fn bare_root(sandbox: &Sandbox) -> PathBuf {
    let root = sandbox.make_dir("root");
    fs::create_dir(root.join("nix")).unwrap();
    rustix::mount::mount_bind(&sandbox.at, root.join("nix")).unwrap();
    root
}

#[test]
fn programs_run_where_there_is_nothing_but_the_mount() {
    let sandbox = Sandbox::mounted();
    let root = bare_root(&sandbox);
    for world in World::both() {
        let program =
            |package: &str, name: &str| format!("/nix/store/{}/bin/{name}", world.package(package));
        let run_inside = |arguments: &[&str]| {
            let mut command = Command::new("chroot");
            succeed(command.arg(&root).args(arguments))
        };
        let (hello, bash, ls) = (
            program("hello", "hello"),
            program("bash", "bash"),
            program("coreutils", "ls"),
        );
        assert_eq!(run_inside(&[&hello]), "Hello, world!\n");
        let script = format!("for i in 1 2 3; do echo \"$i $({hello})\"; done");
        let said = run_inside(&[&bash, "-c", &script]);
        assert_eq!(said, "1 Hello, world!\n2 Hello, world!\n3 Hello, world!\n");
        let store = run_inside(&[&ls, "/nix/store"]);
        let paths = World::all_paths().len();
        assert_eq!(store.lines().count(), paths);
        assert!(store.contains(world.package("hello")));
    }
}

#[test]
fn programs_find_their_libraries_in_the_store_only() {
    let sandbox = Sandbox::mounted();
    let root = bare_root(&sandbox);
    for world in World::both() {
        let mut print = Command::new("patchelf");
        let hello = sandbox.package(world, "coreutils").join("bin/ls");
        let loader = succeed(print.arg("--print-interpreter").arg(hello));
        let loader = loader.trim();
        assert!(loader.starts_with("/nix/store/"), "{loader}");
        for (package, name) in [("hello", "hello"), ("bash", "bash"), ("coreutils", "ls")] {
            let program = format!("/nix/store/{}/bin/{name}", world.package(package));
            let mut list = Command::new("chroot");
            let listed = succeed(list.arg(&root).args([loader, "--list", &program]));
            let libraries: Vec<_> = listed.lines().filter(|l| l.contains('/')).collect();
            assert!(!libraries.is_empty(), "{program}: {listed}");
            for library in libraries {
                let place = library.split("=> ").last().unwrap().trim();
                assert!(place.starts_with("/nix/store/"), "{program}: {library}");
            }
        }
    }
}

/// Mounts an overlay with the mounted store as its lower layer; the merged directory.
fn overlay(sandbox: &Sandbox, options: &str) -> PathBuf {
    let [upper, work, merged] = ["upper", "work", "merged"].map(|name| sandbox.make_dir(name));
    let layers = format!(
        "lowerdir={},upperdir={},workdir={}{options}",
        sandbox.store().display(),
        upper.display(),
        work.display()
    );
    let mut mount = Command::new("mount");
    mount.args(["-t", "overlay", "overlay", "-o", &layers]);
    succeed(mount.arg(&merged));
    merged
}

#[test]
fn an_overlay_above_the_mount_can_be_written_and_leaves_the_mount_as_it_was() {
    let sandbox = Sandbox::mounted();
    let hello = World::small().package("hello");
    let program = sandbox.store().join(hello).join("bin/hello");
    let before = fs::read(&program).unwrap();
    for options in ["", ",index=on,xino=on,redirect_dir=on"] {
        let merged = overlay(&sandbox, options);
        let above = merged.join(hello);
        assert_eq!(fs::read(above.join("bin/hello")).unwrap(), before);
        fs::write(merged.join("new"), "new").unwrap();
        fs::write(above.join("bin/hello"), "changed").unwrap();
        fs::rename(above.join("share"), above.join("other")).ok();
        fs::remove_dir_all(merged.join(World::small().package("bash"))).unwrap();
        assert_eq!(fs::read(above.join("bin/hello")).unwrap(), b"changed");
        assert!(!merged.join(World::small().package("bash")).exists());

        assert_eq!(fs::read(&program).unwrap(), before);
        assert!(!sandbox.store().join("new").exists());
        assert!(sandbox.package(World::small(), "bash").exists());
        succeed(Command::new("umount").arg(&merged));
        for layer in ["upper", "work"] {
            fs::remove_dir_all(sandbox.dir().join(layer)).unwrap();
        }
    }
}

#[test]
fn a_program_that_is_not_executable_in_the_store_cannot_be_run() {
    let sandbox = Sandbox::mounted();
    let plain = sandbox.package(World::small(), "coreutils");
    let plain = crate::support::walk(&plain);
    let plain = plain.iter().find(|s| {
        s.metadata.is_file() && std::os::unix::fs::MetadataExt::mode(&s.metadata) & 0o111 == 0
    });
    let plain = &plain.expect("a file without x bits").path;
    let refused = run(Command::new("sh").args(["-c", "\"$0\""]).arg(plain), b"");
    assert_eq!(refused.code, Some(126), "{}", refused.stderr);
}
