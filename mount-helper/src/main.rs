//! `mount.narfs`: what mount(8) calls for `mount -t narfs STATE MOUNTPOINT -o OPTIONS`.
//!
//! It opens `/dev/fuse`, makes a superblock that is mounted nowhere, hands the descriptor to the daemon
//! of the state over its control socket, moves the mount to its place once the daemon has begun to serve
//! it, and ends. Where no daemon listens, it has one started. Invariant: what is to be seen at the mount
//! point at any moment is what was there before, or a file system that answers.
//!
//! # Threat model
//!
//! **Who calls it**: root, by mount(8), fstab or systemd. It is made to run with the privileges of its
//! caller and to have none of its own: where the real and the effective user differ, or the
//! kernel says that the program is privileged (setuid, capabilities of the file), it refuses. It is
//! not to be made setuid: its options start programs and name files that root reads.
//!
//! **What it trusts**: its arguments as far as root means them (whoever writes fstab is root), the
//! kernel, `narfs` and `systemctl` as `PATH` finds them (only absolute directories), and a daemon of root.
//!
//! * *Control of the options* chooses sources and keys, and so what programs in the store are. That
//!   is the power of whoever writes fstab, and of nobody else: users cannot mount (`user` in fstab
//!   has mount(8) give its privileges up, and then this refuses). Options go to `narfs` as single
//!   arguments `--flag=value`, through no shell, and are known by name; an unknown one is an error.
//! * *Control of a directory above the mount point*: the mount point is opened once; what is checked
//!   (a directory, empty, nothing mounted there) and what is mounted on is that descriptor, not its
//!   name. Whoever exchanges directories or links meanwhile moves nothing to another place than the
//!   one that was checked; links that were there before are followed, as mount(8) does. Only a dead
//!   mount of narfs is taken away by its name, without following a link at its end; the worst is
//!   that another mount of the same name is detached.
//! * *Control of the state directory* would be control of the database and the socket, and so of the
//!   programs that everybody runs. So it must belong to root, and nobody else may write to it; it
//!   is opened once, and the socket, `mnt` and the checks go through that descriptor. Directories
//!   above it are not checked: whoever may rename in there can show another directory, but must
//!   have one of root's.
//! * *Control of the socket*: who answers must be root (SO_PEERCRED), else nothing is handed over.
//!   Answers are at most [`daemon::LIMIT`] bytes, are one of a few fixed texts, and are waited for
//!   with a bound. A daemon of root that lies can show what it wants; it can do so anyway.
//! * *Denial of service*: a daemon that takes the connection and never answers holds the call for
//!   as long as that bound; since the mount is not at its place until the daemon has begun, nobody
//!   else waits for it.

mod daemon;
mod failure;
mod options;
mod remounting;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use narfs_mounting::place::{self, Checked, Place};
use narfs_mounting::{NewSuperblock, PRIVATE, Superblock, TYPE};

use daemon::{Answer, State};
use failure::Failure;
use options::{Asked, Request, Subtree};

/// A daemon that just ends, or just starts, is done with it within this.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it.
const PAUSE: Duration = Duration::from_millis(50);

/// Mounts as `request` says.
fn mount(request: &Request) -> Result<(), Failure> {
    let place = free_place(request)?;
    let say = |text: &str| {
        if request.verbose {
            eprintln!("mount.narfs: {text}");
        }
    };
    if request.says_rw {
        eprintln!(
            "mount.narfs: narfs is a read-only file system, and mounted so, whatever rw says; with \
             -o ro this is not said"
        );
    }
    if request.fake {
        State::find(&request.state)?;
        say("nothing is mounted: -f");
        return Ok(());
    }
    let mut started = false;
    let began = Instant::now();
    loop {
        let waits = began.elapsed() < PATIENCE;
        let state = State::find(&request.state)?.filter(State::is_served);
        let outcome = match &state {
            Some(state) => meet(request, &place, state)?,
            None if !started => {
                say("no daemon serves the state; starting one");
                started = daemon::start(request)?;
                continue;
            }
            None => Outcome::Gone,
        };
        match outcome {
            Outcome::Mounted(how) => {
                say(how);
                if let (true, Some(state)) = (request.writable_profiles, &state) {
                    state
                        .make_profiles_writable(&place)
                        .inspect_err(|_| drop(place::detach(&place.path)))?;
                }
                if !started {
                    request.warn_of_unheeded();
                    remounting::warn_of_labels(request, &place)?;
                }
                return Ok(());
            }
            Outcome::Overtaken if waits => {}
            // It just ends, or is just started again.
            Outcome::Gone | Outcome::Elsewhere(_) if waits => std::thread::sleep(PAUSE),
            Outcome::Elsewhere(pid) => return Err(daemon::elsewhere(&request.state, pid)),
            Outcome::Gone | Outcome::Overtaken => {
                return Err(daemon::not_come_up(&request.state, request.unit.as_deref()));
            }
        }
    }
}

/// Opens the mount point. Dead mounts of ours are detached first, unless it is all pretended.
fn free_place(request: &Request) -> Result<Place, Failure> {
    loop {
        match Place::check(&request.mountpoint, request.nonempty, None)? {
            Checked::Dead(place) if !request.fake => {
                eprintln!(
                    "mount.narfs: taking away the dead mount at {}, whose daemon is gone",
                    place.path.display()
                );
                let path = place.path.clone();
                drop(place);
                place::detach(&path)?;
            }
            Checked::Free(place) | Checked::Dead(place) => return Ok(place),
        }
    }
}

/// What came of a talk with a daemon.
enum Outcome {
    /// In words.
    Mounted(&'static str),
    /// It went away.
    Gone,
    /// Another call handed it something meanwhile.
    Overtaken,
    /// This process serves something that is not to be seen here.
    Elsewhere(u32),
}

/// Has a daemon serve a new mount, or shows what it serves already.
fn meet(request: &Request, place: &Place, state: &State) -> Result<Outcome, Failure> {
    let (store_only, flags) = (request.subtree == Subtree::Store, request.flags.0);
    Ok(match state.ask()? {
        Some(Answer::Nothing) => {
            let new = NewSuperblock {
                state: state.path(),
                kind: TYPE,
                read_only: true,
                labels: &request.labels,
                flags,
            };
            let new = new.make()?;
            match state.hand_over(&new)? {
                Some(Answer::Taken) => {
                    attach(&new, place, request, state)?;
                    Outcome::Mounted("the daemon serves a new mount")
                }
                Some(_) => Outcome::Overtaken,
                None => Outcome::Gone,
            }
        }
        Some(Answer::Serving { superblock, pid }) => {
            match narfs_mounting::mounted_copy(superblock, store_only, flags, state.path())? {
                Some(again) => {
                    again.attach(place)?;
                    Outcome::Mounted("the daemon's mount is shown at one more place")
                }
                None => Outcome::Elsewhere(pid),
            }
        }
        Some(Answer::Taken) => return Err(Failure::mount("the daemon's answer makes no sense")),
        None => Outcome::Gone,
    })
}

/// Attaches a new mount, which is served now, to the mount point.
fn attach(new: &Superblock, at: &Place, request: &Request, state: &State) -> Result<(), Failure> {
    let answered = new.mount.answers();
    answered.map_err(|e| Failure::call("get an answer from the daemon of", state.path(), e))?;
    new.mount.open_once();
    match request.subtree {
        Subtree::Whole => new.mount.attach(at)?,
        Subtree::Store => {
            let private = state.make_directory(PRIVATE)?;
            new.mount.attach_store(&private, at, request.flags.0)?;
        }
    }
    Ok(())
}

/// Refuses to run for somebody who is not root.
fn check_caller() -> Result<(), Failure> {
    // SAFETY: it reads a number that the kernel has put there.
    let is_privileged = unsafe { libc::getauxval(libc::AT_SECURE) } != 0;
    if is_privileged || rustix::process::getuid() != rustix::process::geteuid() {
        return Err(Failure::usage(
            "it must not be setuid, nor have capabilities as a file: its options are for root alone",
        ));
    }
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::usage(
            "only root can mount; become root, or use sudo",
        ));
    }
    Ok(())
}

/// Has an interruption end the process with its own exit status; a mount that is at no place yet
/// is gone with it.
fn end_when_interrupted() {
    extern "C" fn end(_signal: libc::c_int) {
        // SAFETY: async-signal-safe.
        unsafe { libc::_exit(failure::INTERRUPTED.into()) }
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only ends the process.
        unsafe { libc::signal(signal, end as *const () as libc::sighandler_t) };
    }
}

fn run(name: &str, given: Vec<OsString>) -> Result<(), Failure> {
    if name.starts_with("umount.") {
        return daemon::unmount(&options::unmounting(&given)?);
    }
    match options::read(&given)? {
        Asked::Help => print!("{}", options::help()),
        Asked::Version => println!("mount.narfs {}", env!("CARGO_PKG_VERSION")),
        Asked::Mount(request) => {
            check_caller()?;
            end_when_interrupted();
            if request.remount {
                remounting::remount(&request)?;
            } else {
                mount(&request)?;
            }
        }
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut given = std::env::args_os();
    let name = given.next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default();
    let name = name.to_string_lossy().into_owned();
    let given = given.collect();
    match std::panic::catch_unwind(|| run(&name, given)) {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            eprintln!("{name}: {}", failure.text);
            ExitCode::from(failure.status)
        }
        Err(_) => ExitCode::from(failure::INTERNAL),
    }
}
