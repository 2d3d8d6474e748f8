//! Nothing can be written, by root neither: every attempt is EROFS.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Access, AtFlags, CWD, FileType, Gid, Mode, OFlags, Timestamps, Uid, XattrFlags};
use rustix::io::{Errno, Result};

use crate::support::{Sandbox, World, run};

fn is_refused(what: &str, at: &Path, outcome: Result<()>) {
    assert_eq!(outcome, Err(Errno::ROFS), "{what} {}", at.display());
}

/// Attempts to change what is there.
fn change(at: &Path) {
    let now = Timestamps {
        last_access: rustix::fs::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        },
        last_modification: rustix::fs::Timespec {
            tv_sec: 5,
            tv_nsec: 0,
        },
    };
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let is_link = fs::symlink_metadata(at).unwrap().is_symlink();
    if !is_link {
        let mode = Mode::from_raw_mode(0o777);
        is_refused("chmod", at, rustix::fs::chmod(at, mode));
        let set = rustix::fs::setxattr(at, "user.x", b"x", XattrFlags::empty());
        is_refused("setxattr", at, set);
        is_refused("removexattr", at, rustix::fs::removexattr(at, "user.x"));
        let trusted = rustix::fs::setxattr(at, "trusted.x", b"x", XattrFlags::empty());
        is_refused("setxattr trusted", at, trusted);
        is_refused("access W_OK", at, rustix::fs::access(at, Access::WRITE_OK));
    }
    let owner = rustix::fs::chownat(
        CWD,
        at,
        Some(Uid::from_raw(7)),
        Some(Gid::from_raw(7)),
        nofollow,
    );
    is_refused("chown", at, owner);
    is_refused(
        "utimensat",
        at,
        rustix::fs::utimensat(CWD, at, &now, nofollow),
    );
    let aside = at.with_file_name("aside");
    is_refused("rename", at, rustix::fs::rename(at, &aside));
    is_refused("link", at, rustix::fs::link(at, &aside));
}

/// Attempts to make something in a directory.
fn make_in(directory: &Path) {
    let new = directory.join("new");
    let mode = Mode::from_raw_mode(0o644);
    let create = OFlags::CREATE | OFlags::WRONLY;
    let opened = rustix::fs::open(&new, create, mode).map(drop);
    is_refused("create", directory, opened);
    let exclusive = rustix::fs::open(&new, create | OFlags::EXCL, mode).map(drop);
    is_refused("create exclusively", directory, exclusive);
    let nameless = rustix::fs::open(directory, OFlags::TMPFILE | OFlags::WRONLY, mode).map(drop);
    assert!(nameless.is_err(), "O_TMPFILE {}", directory.display());
    is_refused("mkdir", directory, rustix::fs::mkdir(&new, mode));
    is_refused("symlink", directory, rustix::fs::symlink("target", &new));
    for kind in [
        FileType::RegularFile,
        FileType::Fifo,
        FileType::Socket,
        FileType::CharacterDevice,
    ] {
        let made = rustix::fs::mknodat(CWD, &new, kind, mode, 0);
        is_refused("mknod", directory, made);
    }
}

/// Attempts to write to a file.
fn write_to(file: &Path) {
    for flags in [
        OFlags::WRONLY,
        OFlags::RDWR,
        OFlags::WRONLY | OFlags::TRUNC,
        OFlags::RDONLY | OFlags::TRUNC,
        OFlags::WRONLY | OFlags::APPEND,
        OFlags::WRONLY | OFlags::CREATE,
    ] {
        let opened = rustix::fs::open(file, flags, Mode::empty()).map(drop);
        is_refused(&format!("open {flags:?}"), file, opened);
    }
    let path = std::ffi::CString::new(file.to_str().unwrap()).unwrap();
    // SAFETY: the path ends with NUL.
    let truncated = unsafe { libc::truncate(path.as_ptr(), 0) };
    let error = std::io::Error::last_os_error().raw_os_error();
    assert_eq!((truncated, error), (-1, Some(libc::EROFS)), "truncate");
    is_refused("unlink", file, rustix::fs::unlink(file));
}

#[test]
fn every_attempt_of_root_to_write_is_refused_as_read_only() {
    let sandbox = Sandbox::mounted();
    let libc = sandbox.package(World::small(), "libc6");
    let bash = sandbox.package(World::small(), "bash");
    let contents = fs::read(bash.join("bin/bash")).unwrap();
    let link = bash.join("bin/sh");
    for at in [&libc, &bash.join("bin"), &bash.join("bin/bash"), &link] {
        change(at);
    }
    for directory in [
        &sandbox.at,
        &sandbox.store(),
        &sandbox.store().join(".links"),
        &sandbox.at.join("var/nix/profiles"),
        &libc,
        &bash.join("bin"),
    ] {
        make_in(directory);
    }
    write_to(&bash.join("bin/bash"));
    is_refused("unlink", &link, rustix::fs::unlink(&link));
    for directory in [&libc, &bash.join("bin"), &sandbox.store().join(".links")] {
        is_refused("rmdir", directory, rustix::fs::rmdir(directory));
    }
    assert_eq!(fs::read(bash.join("bin/bash")).unwrap(), contents);
    assert!(!libc.join("new").exists());
}

#[test]
fn an_open_that_the_kernel_no_longer_asks_about_is_refused_as_well() {
    let sandbox = Sandbox::mounted();
    let bash = sandbox.package(World::small(), "bash").join("bin/bash");
    // From here on the kernel knows that OPEN means nothing.
    fs::read(&bash).unwrap();
    write_to(&bash);
}

#[test]
fn the_superblock_itself_is_read_only_and_stays_so() {
    let sandbox = Sandbox::mounted();
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let at = sandbox.at.to_str().unwrap();
    let line = table
        .lines()
        .find(|l| l.split(' ').nth(4) == Some(at))
        .unwrap();
    let (mount, superblock) = line.split_once(" - ").unwrap();
    let options: Vec<_> = mount.split(' ').nth(5).unwrap().split(',').collect();
    for option in ["ro", "nosuid", "nodev", "noatime"] {
        assert!(options.contains(&option), "{line}");
    }
    let fields: Vec<_> = superblock.split(' ').collect();
    assert_eq!(fields[0], "fuse.narfs", "{line}");
    assert_eq!(fields[1], sandbox.state.to_str().unwrap(), "{line}");
    assert!(fields[2].split(',').any(|o| o == "ro"), "{line}");
    // What a writable bind mount of it would do, as Nix makes one.
    let bound = sandbox.make_dir("bound");
    rustix::mount::mount_bind(&sandbox.at, &bound).unwrap();
    let flags = rustix::mount::MountFlags::BIND;
    rustix::mount::mount_remount(&bound, flags, "").unwrap();
    is_refused(
        "mkdir",
        &bound,
        rustix::fs::mkdir(bound.join("x"), Mode::RWXU),
    );
}

#[test]
fn other_users_read_and_run_everything_and_command_nothing() {
    const NOBODY: u32 = 65534;
    let sandbox = Sandbox::mounted();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(sandbox.dir(), open).unwrap();
    sandbox.bind_to_nix(&sandbox.at);
    let hello = format!("/nix/store/{}", World::small().package("hello"));
    let as_nobody = |program: &str, arguments: &[&str]| {
        let mut command = Command::new(program);
        run(command.args(arguments).uid(NOBODY).gid(NOBODY), b"")
    };
    let greeting = as_nobody(&format!("{hello}/bin/hello"), &[]);
    assert_eq!(greeting.stdout, b"Hello, world!\n", "{}", greeting.stderr);
    let found = as_nobody("find", &["/nix", "-ls"]);
    assert_eq!(found.code, Some(0), "{}", found.stderr);
    let copied = as_nobody("tar", &["-cf", "-", &hello]);
    assert_eq!(copied.code, Some(0), "{}", copied.stderr);
    let touched = as_nobody("touch", &[&format!("{hello}/bin/hello")]);
    assert_eq!(touched.code, Some(1), "{}", touched.stderr);

    let file = sandbox.dir().join("file");
    fs::write(&file, "").unwrap();
    let mut add = sandbox.command(&["add", file.to_str().unwrap()]);
    let refused = run(add.uid(NOBODY).gid(NOBODY), b"");
    assert_eq!(refused.code, Some(1));
    assert_eq!(refused.stderr.lines().count(), 1, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("only root may make this request"),
        "{}",
        refused.stderr
    );
}
