//! Mounts that map owners, as engines make them for containers in user namespaces.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::mount::{MoveMountFlags, OpenTreeFlags};

use crate::support::{Sandbox, World, read_everything, succeed, wait_until};

/// Root of the user namespace, outside of it.
const ROOT: u32 = 100_000;

/// A user namespace, as long as it lives.
struct Namespace(Child);

impl Namespace {
    fn new() -> Self {
        let mut sleep = Command::new("unshare");
        let sleep = sleep.args(["--user", "sleep", "60"]).stdin(Stdio::null());
        let namespace = Self(sleep.spawn().unwrap());
        let of = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
        let pid = namespace.0.id().to_string();
        wait_until("there is a user namespace", || of(&pid) != of("self"));
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{pid}/{map}"), format!("0 {ROOT} 65536")).unwrap();
        }
        namespace
    }

    /// Binds `from` to `to`, with owners mapped.
    fn bind(&self, from: &Path, to: &Path) -> io::Result<()> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree: OwnedFd = rustix::mount::open_tree(rustix::fs::CWD, from, flags)?;
        let namespace = fs::File::open(format!("/proc/{}/ns/user", self.0.id()))?;
        let attributes = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_IDMAP,
            attr_clr: 0,
            propagation: 0,
            userns_fd: namespace.as_raw_fd().try_into().unwrap(),
        };
        // SAFETY: the pointers are to a string that ends and to a structure of the given length.
        let done = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attributes,
                size_of_val(&attributes),
            )
        };
        if done != 0 {
            return Err(io::Error::last_os_error());
        }
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        Ok(rustix::mount::move_mount(
            &tree,
            "",
            rustix::fs::CWD,
            to,
            flags,
        )?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the kernel has it: FUSE since Linux 6.12.
fn kernel_has_it() -> bool {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(6), Some(12))
}

#[test]
fn owners_are_mapped_for_containers_in_user_namespaces() {
    if !kernel_has_it() {
        eprintln!("this kernel has no such mounts of FUSE");
        return;
    }
    let sandbox = Sandbox::mounted();
    let namespace = Namespace::new();
    let at = sandbox.make_dir("mapped");
    namespace.bind(&sandbox.store(), &at).unwrap();
    let hello = World::small().package("hello");
    for place in [at.clone(), at.join(hello), at.join(hello).join("bin/hello")] {
        let m = fs::metadata(&place).unwrap();
        assert_eq!((m.uid(), m.gid()), (ROOT, ROOT), "{}", place.display());
    }
    assert_eq!(
        fs::metadata(sandbox.package(World::small(), "hello"))
            .unwrap()
            .uid(),
        0
    );
    // Cold, by somebody whom the kernel does not name to the daemon.
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
    let mut find = Command::new("nsenter");
    find.args(["--user", "--preserve-credentials", "--target"]);
    find.arg(namespace.0.id().to_string());
    let listed = succeed(find.args(["find"]).arg(at.join(hello)).args(["-uid", "0"]));
    assert!(listed.contains("bin/hello"), "{listed}");
    assert!(read_everything(&at.join(hello)) > 0);
    let written = fs::write(at.join("x"), "").unwrap_err();
    assert_eq!(written.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn writable_profiles_are_mapped_along() {
    if !kernel_has_it() {
        return;
    }
    let sandbox = Sandbox::with_worlds();
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", "writable-profiles"]);
    sandbox.narfs(&["profile", "set", World::small().package("hello")]);
    let namespace = Namespace::new();
    let mapped = sandbox.make_dir("mapped");
    let profiles = sandbox.at.join("var/nix/profiles");
    namespace.bind(&profiles, &mapped).unwrap();
    let link = fs::symlink_metadata(mapped.join("default")).unwrap();
    assert_eq!((link.uid(), link.gid()), (ROOT, ROOT));
    assert_eq!(
        fs::read_link(mapped.join("default")).unwrap(),
        Path::new("default-1-link")
    );
}
