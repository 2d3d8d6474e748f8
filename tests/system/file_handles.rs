//! Files that are opened by their handles, as servers of NFS and of virtiofs do it.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::{Sandbox, World, wait_until};

/// Longest handle that there is (MAX_HANDLE_SZ).
const LONGEST: usize = 128;

/// `struct file_handle` with room for one.
#[repr(C)]
#[derive(Clone, Debug)]
struct Handle {
    length: u32,
    kind: i32,
    bytes: [u8; LONGEST],
}

fn handle_of(path: &Path) -> io::Result<Handle> {
    let mut handle = Handle {
        length: LONGEST as u32,
        kind: 0,
        bytes: [0; LONGEST],
    };
    let name = CString::new(path.as_os_str().as_bytes()).unwrap();
    let mut mount = 0;
    // SAFETY: the name ends, and the structure has the room that it says.
    let done = unsafe {
        libc::name_to_handle_at(
            libc::AT_FDCWD,
            name.as_ptr(),
            (&raw mut handle).cast(),
            &raw mut mount,
            0,
        )
    };
    if done == 0 {
        Ok(handle)
    } else {
        Err(io::Error::last_os_error())
    }
}

fn open(mount: &File, handle: &Handle) -> io::Result<File> {
    let mut handle = handle.clone();
    // SAFETY: the structure has the room that it says; what is opened is nobody else's.
    unsafe {
        let flags = libc::O_RDONLY | libc::O_CLOEXEC;
        let opened = libc::open_by_handle_at(mount.as_raw_fd(), (&raw mut handle).cast(), flags);
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(File::from_raw_fd(opened))
    }
}

fn mounted(sandbox: &Sandbox) {
    let at = sandbox.at.to_str().unwrap();
    sandbox.narfs(&["mount", at, "--offline", "-o", "file-handles"]);
}

fn drop_caches() {
    fs::write("/proc/sys/vm/drop_caches", "3").unwrap();
}

#[test]
fn a_handle_opens_its_file_whatever_the_kernel_has_forgotten() {
    let sandbox = Sandbox::with_worlds();
    mounted(&sandbox);
    let bash = sandbox.package(World::small(), "bash");
    let [file, directory] = [bash.join("bin/bash"), bash.join("bin")];
    let expected = fs::read(&file).unwrap();
    let number = fs::metadata(&directory).unwrap().ino();
    let [of_file, of_directory] = [&file, &directory].map(|p| handle_of(p).unwrap());
    let top = File::open(&sandbox.at).unwrap();
    let check = || {
        let mut contents = Vec::new();
        open(&top, &of_file)
            .unwrap()
            .read_to_end(&mut contents)
            .unwrap();
        assert!(contents == expected);
        let opened = open(&top, &of_directory).unwrap();
        assert_eq!(opened.metadata().unwrap().ino(), number);
        // The kernel asks for what is above.
        let place = fs::read_link(format!("/proc/thread-self/fd/{}", opened.as_raw_fd())).unwrap();
        assert_eq!(place, directory);
        assert!(fs::exists(format!("/proc/thread-self/fd/{}/bash", opened.as_raw_fd())).unwrap());
    };
    check();
    drop_caches();
    check();
    let pid = sandbox.pid();
    let daemon = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(daemon, rustix::process::Signal::KILL).unwrap();
    wait_until("another daemon serves", || {
        sandbox.is_served() && sandbox.pid() != pid
    });
    drop_caches();
    check();
    // What is not there any more is stale.
    drop(top);
    let added = sandbox.make_dir("added");
    fs::write(added.join("file"), "x").unwrap();
    let gone = sandbox.store().join(sandbox.add(&added)).join("file");
    let handle = handle_of(&gone).unwrap();
    sandbox.narfs(&["gc"]);
    drop_caches();
    let top = File::open(&sandbox.at).unwrap();
    let said = open(&top, &handle).unwrap_err();
    assert_eq!(said.raw_os_error(), Some(libc::ESTALE));
}

#[test]
fn there_are_handles_or_views_but_never_both() {
    let sandbox = Sandbox::with_worlds();
    let at = sandbox.at.to_str().unwrap();
    let hello = World::small().package("hello");
    sandbox.mount();
    let said = handle_of(&sandbox.store()).unwrap_err();
    assert_eq!(said.raw_os_error(), Some(libc::EOPNOTSUPP));
    sandbox.narfs(&["closure", "web", hello]);
    sandbox.unmount();
    let said = sandbox.complaint(&["mount", at, "--offline", "-o", "file-handles"]);
    assert!(
        said.contains("\"web\"") && said.contains("closure --delete"),
        "{said}"
    );
    assert!(sandbox.mounts().is_empty());
    sandbox.narfs(&["closure", "--delete", "web"]);

    mounted(&sandbox);
    let said = sandbox.complaint(&["closure", "web", hello]);
    assert!(said.contains("file-handles"), "{said}");
    assert_eq!(sandbox.json(&["closures"]).as_array().unwrap().len(), 0);
    sandbox.unmount();
    sandbox.mount();
    sandbox.narfs(&["closure", "web", hello]);
}
