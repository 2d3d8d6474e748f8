//! What the tests of a program share with the rest of the machine, and with each other: nothing that a
//! collection would take for a use, and nothing that is left behind.
//!
//! - The processes of a test program have a PID namespace with a /proc of its own. Collections read /proc, so
//!   that they see no other run of the tests; and whatever was started ends with the program, however that
//!   ends.
//! - Each test has a mount namespace of its own, which ends with the last of its processes.
//! - Each test may have descriptors of its own: otherwise a process that another test is about to start has,
//!   until it is started, what this test has open.

use std::cell::Cell;
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// Tells a process that it is in the namespace of the tests.
const INSIDE: &str = "NARFS_TEST_NAMESPACE";
/// The first process of the namespace: it waits for whatever loses its parent.
const INIT: &str = "\"$@\"; exit";

/// Called before `main`, while there is one thread: afterwards a process cannot enter such a namespace.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = own_processes;

/// Runs this program in a PID namespace, and with it everything that it starts. Who is not root, and so may
/// mount nothing either, stays.
extern "C" fn own_processes() {
    if std::env::var_os(INSIDE).is_some() || !rustix::process::geteuid().is_root() {
        return;
    }
    // A shell script has its background programs ignore these; tests send them to what they start.
    for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGHUP] {
        // SAFETY: nothing here handles signals.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "--mount-proc", "--pid", "--fork", "--kill-child"]);
    unshare.args(["sh", "-c", INIT, "sh"]);
    unshare.arg(std::env::current_exe().unwrap());
    unshare.args(std::env::args_os().skip(1)).env(INSIDE, "1");
    let error = unshare.exec();
    panic!("cannot run unshare(1) of util-linux: {error}");
}

/// Gives this thread, and what it starts, a mount namespace that nothing leaves; says whether it may have
/// one.
pub fn own_mounts() -> bool {
    // SAFETY: only the mount namespace, and with it root and working directory, are unshared; no
    // descriptor is.
    if unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }.is_err() {
        return false;
    }
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    rustix::mount::mount_change("/", private).unwrap();
    true
}

/// Gives this thread, and the threads that it starts, descriptors of its own: standard input and output to
/// begin with, so that the test must have nothing else open.
pub fn own_descriptors() {
    thread_local! {
        static IS_DONE: Cell<bool> = const { Cell::new(false) };
    }
    if IS_DONE.replace(true) {
        return;
    }
    let unshare = libc::CLOSE_RANGE_UNSHARE.cast_signed();
    // SAFETY: the descriptors stay open for the threads that have opened them, and this one has none.
    let done = unsafe { libc::close_range(3, libc::c_uint::MAX, unshare) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}
