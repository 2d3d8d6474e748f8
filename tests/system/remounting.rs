//! `mount -o remount`, as administrators, systemd's reload and NixOS use it; and labels of SELinux.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::mount_helper::{OURS, helper, installed, mount, refusal};
use crate::support::{Sandbox, World, read_everything, run, succeed};

/// The flags of the mount at a place.
fn flags(at: &Path) -> BTreeSet<String> {
    let mut findmnt = Command::new("findmnt");
    findmnt.args(["-n", "-o", "VFS-OPTIONS", "-M"]);
    let shown = succeed(findmnt.arg(at));
    shown.trim().split(',').map(str::to_owned).collect()
}

fn has(at: &Path, flag: &str) -> bool {
    flags(at).contains(flag)
}

/// Remounts with what must be taken; what was said.
fn remount(sandbox: &Sandbox, options: &str) -> String {
    let options = format!("remount,{options}");
    let ran = run(&mut mount(sandbox, &sandbox.at, &options), b"");
    assert_eq!(ran.code, Some(0), "{options}: {}", ran.stderr);
    ran.stderr
}

#[test]
fn a_remount_sets_the_flags_of_the_mount_and_nothing_else() {
    let sandbox = installed();
    succeed(&mut mount(&sandbox, &sandbox.at, OURS));
    let (pid, before) = (sandbox.pid(), flags(&sandbox.at));
    // What systemctl reload does.
    assert_eq!(remount(&sandbox, OURS), "");
    assert_eq!(flags(&sandbox.at), before);
    assert_eq!(remount(&sandbox, &format!("{OURS},noexec")), "");
    assert!(has(&sandbox.at, "noexec"));
    let hello = sandbox.package(World::small(), "hello").join("bin/hello");
    let refused = Command::new(&hello).output().unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::PermissionDenied);
    assert_eq!(remount(&sandbox, &format!("{OURS},relatime")), "");
    assert!(has(&sandbox.at, "relatime") && !has(&sandbox.at, "noexec"));
    assert_eq!(remount(&sandbox, "ro,noatime,suid,dev"), "");
    assert_eq!(flags(&sandbox.at), before);
    // Without a type and a source, with what the kernel says of the mount.
    succeed(
        Command::new("mount")
            .args(["-o", "remount,noexec"])
            .arg(&sandbox.at),
    );
    assert!(has(&sandbox.at, "noexec") && has(&sandbox.at, "noatime"));
    assert_eq!(sandbox.pid(), pid);
    assert!(read_everything(&sandbox.package(World::small(), "hello")) > 0);
}

#[test]
fn what_a_remount_cannot_change_is_named() {
    let sandbox = installed();
    succeed(&mut mount(&sandbox, &sandbox.at, OURS));
    let before = flags(&sandbox.at);
    let refused = |options: &str, status, reason: &str| {
        let mut mount = mount(&sandbox, &sandbox.at, &format!("remount,noexec,{options}"));
        let said = refusal(&mut mount, status);
        assert!(said.contains(reason), "{said}");
        assert_eq!(flags(&sandbox.at), before, "{options}");
    };
    refused("ro,subtree=store", 32, "subtree=store cannot be had");
    refused(
        "ro,writable-profiles",
        32,
        "writable-profiles cannot be had",
    );
    refused("rw", 1, "read-only");
    // Of the daemon's options only those that it was not started with.
    let said = remount(&sandbox, &format!("{OURS},budget=20G,from=file:///a"));
    assert!(
        said.contains("change nothing: budget=20G,from=file:///a"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");

    let elsewhere = sandbox.make_dir("elsewhere");
    let mut command = mount(&sandbox, &elsewhere, "remount,ro");
    let said = refusal(&mut command, 32);
    assert!(said.contains("elsewhere"), "{said}");
    let mut other = Command::new(helper());
    other.arg(sandbox.make_dir("other-state")).arg(&sandbox.at);
    let said = refusal(other.args(["-o", "remount,ro"]), 32);
    assert!(said.contains(sandbox.state.to_str().unwrap()), "{said}");
}

#[test]
fn what_a_mount_has_can_be_named_when_it_is_remounted() {
    let sandbox = installed();
    let store = sandbox.make_dir("only/store");
    let options = format!("{OURS},subtree=store");
    succeed(&mut mount(&sandbox, &store, &options));
    let again = format!("remount,{options},noexec");
    succeed(&mut mount(&sandbox, &store, &again));
    assert!(has(&store, "noexec"));
}

/// Whether labels can be had here.
fn has_selinux() -> bool {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    known.lines().any(|l| l.ends_with("selinuxfs"))
}

#[test]
fn labels_of_selinux_go_to_the_kernel() {
    let label = "system_u:object_r:container_file_t:s0:c1,c2";
    let sandbox = installed();
    for name in ["context", "fscontext", "defcontext", "rootcontext"] {
        let option = format!("ro,{name}=\"{label}\"");
        let mut by_helper = Command::new(helper());
        by_helper.arg(&sandbox.state).arg(&sandbox.at);
        by_helper.args(["-o", &format!("{option},offline,config=/dev/null")]);
        let mut by_narfs = sandbox.command(&["mount", sandbox.at.to_str().unwrap()]);
        by_narfs.args(["--offline", "-o", &option]);
        for command in [&mut by_helper, &mut by_narfs] {
            let ran = run(command, b"");
            if ran.code == Some(0) {
                assert!(has_selinux());
                sandbox.unmount();
                continue;
            }
            // The kernel's own word, whole, with what it is about.
            assert!(ran.stderr.contains("Invalid argument"), "{}", ran.stderr);
            assert!(ran.stderr.contains("SELinux"), "{}", ran.stderr);
            assert!(!ran.stderr.contains("unknown"), "{}", ran.stderr);
            assert!(sandbox.mounts().is_empty());
        }
    }
}
