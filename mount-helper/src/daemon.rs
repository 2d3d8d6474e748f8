//! The daemon of a state: the few words that are said to it over its control socket, and its start.
//!
//! A frame is one byte of kind, four of length (little-endian), and JSON; `A` hands over, with
//! `/dev/fuse` as SCM_RIGHTS with the first byte, `R` is an answer, `E` an error text.
//! `src/daemon/mounts.rs` of narfs has the other end. Invariant: only root is spoken to.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use narfs_mounting::passing;

use crate::failure::Failure;
use crate::mounting::{self, Mount};
use crate::options::Request;
use crate::place::{Place, by_descriptor};

/// Longest answer, in bytes; an error text may be long.
pub const LIMIT: u32 = 64 << 10;
/// A daemon that was killed is started again by whoever looks after it, and answers then. A keeper gives
/// up after two minutes.
const PATIENCE: Duration = Duration::from_secs(125);
/// Where programs are: mount(8) calls its helpers without a `PATH`. The last is NixOS's.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:\
                    /run/current-system/sw/bin";
/// That this exists says that systemd runs (sd_booted(3)).
const SYSTEMD: &str = "/run/systemd/system";
/// Exit status of narfs for arguments that it does not understand.
const NARFS_USAGE: i32 = 2;
/// Exit status of `systemctl start` for a unit that is not there (LSB: not installed).
const NO_UNIT: i32 = 5;

/// What a daemon says that it serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Nothing; it takes what is handed over.
    Nothing,
    /// What was handed over.
    Taken,
    /// Something else.
    Serving {
        /// Its superblock, by its device number (0:NUMBER).
        superblock: u32,
        /// The serving process.
        pid: u32,
    },
}

/// A state directory that is root's.
#[derive(Debug)]
pub struct State {
    directory: OwnedFd,
    path: PathBuf,
}

impl State {
    /// Opens the state directory; `None` if there is none.
    ///
    /// # Errors
    /// Others than root could change what is in it.
    pub fn find(at: &Path) -> Result<Option<Self>, Failure> {
        let Some(directory) = mounting::open_state(at)? else {
            return Ok(None);
        };
        let status = rustix::fs::fstat(&directory).map_err(|e| Failure::call("look at", at, e))?;
        if status.st_uid != 0 || status.st_mode & 0o022 != 0 {
            return Err(Failure::usage(format!(
                "the state directory {} must belong to root, and nobody else may write to it: \
                 chown root, chmod go-w",
                at.display()
            )));
        }
        let place = Place::of(directory).map_err(|e| Failure::call("name", at, e))?;
        Ok(Some(Self {
            directory: place.directory,
            path: place.path,
        }))
    }

    /// Absolute and without links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a directory in it, if it is not there.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn make_directory(&self, name: &str) -> Result<Place, Failure> {
        mounting::private_place(&self.directory, name, &self.path)
    }

    fn connect(&self) -> io::Result<UnixStream> {
        // The name of a socket must be short, that of a state need not be.
        UnixStream::connect(by_descriptor(&self.directory).join("control.sock"))
    }

    /// Whether a daemon listens.
    pub fn is_served(&self) -> bool {
        self.connect().is_ok()
    }

    /// Asks what is served; `None` if the daemon went away.
    ///
    /// # Errors
    /// It is no daemon, or none of root.
    pub fn ask(&self) -> Result<Option<Answer>, Failure> {
        self.say(r#""Ask""#, None)
    }

    /// Hands a new superblock over; `None` if the daemon went away.
    ///
    /// # Errors
    /// It is not served.
    pub fn hand_over(&self, mount: &Mount) -> Result<Option<Answer>, Failure> {
        let text = format!(r#"{{"Take":{{"superblock":{}}}}}"#, mount.superblock);
        self.say(&text, Some(mount.device.as_fd()))
    }

    /// Has programs change profiles where something was just mounted, in a mount of the daemon's own.
    ///
    /// # Errors
    /// The daemon cannot.
    pub fn make_profiles_writable(&self, place: &Place) -> Result<(), Failure> {
        // As numbers: a path may have any byte.
        let bytes = place.path.as_os_str().as_bytes();
        let text = format!(r#"{{"WritableProfiles":{{"mountpoint":{bytes:?}}}}}"#);
        match self.say(&text, None)? {
            Some(_) => Ok(()),
            None => Err(not_come_up(&self.path, None)),
        }
    }

    fn say(&self, text: &str, device: Option<BorrowedFd<'_>>) -> Result<Option<Answer>, Failure> {
        let Ok(mut stream) = self.connect() else {
            return Ok(None);
        };
        let failed = |e| Failure::call("speak to the daemon of", &self.path, e);
        let peer = rustix::net::sockopt::socket_peercred(&stream).map_err(failed)?;
        if !peer.uid.is_root() {
            return Err(Failure::mount(format!(
                "the daemon of the state {} is not root's, but that of user {}",
                self.path.display(),
                peer.uid.as_raw()
            )));
        }
        let said = stream
            .set_read_timeout(Some(PATIENCE))
            .and_then(|()| send(&mut stream, text.as_bytes(), device))
            .and_then(|()| receive(&mut stream));
        let Ok((kind, answer)) = said else {
            return Ok(None);
        };
        let answer = String::from_utf8_lossy(&answer);
        if kind != b'R' {
            return Err(Failure::mount(answer));
        }
        let strange = || {
            Failure::mount(format!(
                "the daemon says {answer:?}; is it another version of narfs?"
            ))
        };
        read(&answer).ok_or_else(strange).map(Some)
    }
}

fn send(stream: &mut UnixStream, text: &[u8], device: Option<BorrowedFd<'_>>) -> io::Result<()> {
    passing::send(stream.as_fd(), b"A", device)?;
    let length = u32::try_from(text.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_le_bytes(), text].concat())
}

fn receive(stream: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut header = [0; 5];
    stream.read_exact(&mut header)?;
    let [kind, l0, l1, l2, l3] = header;
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    if length > LIMIT {
        return Err(io::Error::other("the answer is too long"));
    }
    let mut payload = vec![0; length as usize];
    stream.read_exact(&mut payload)?;
    Ok((kind, payload))
}

/// Reads an answer, which has no other form.
fn read(answer: &str) -> Option<Answer> {
    match answer {
        r#""Nothing""# => return Some(Answer::Nothing),
        r#""Taken""# => return Some(Answer::Taken),
        _ => {}
    }
    let numbers = answer.strip_prefix(r#"{"Serving":{"superblock":"#)?;
    let (superblock, pid) = numbers.strip_suffix("}}")?.split_once(r#","pid":"#)?;
    Some(Answer::Serving {
        superblock: superblock.parse().ok()?,
        pid: pid.parse().ok()?,
    })
}

/// Has a daemon started for a state: the service, where there is one, else one in the background
/// that ends when it is unmounted. `true`, once it was started.
///
/// # Errors
/// It cannot be.
pub fn start(request: &Request) -> Result<bool, Failure> {
    if let Some(unit) = &request.unit
        && Path::new(SYSTEMD).is_dir()
        && start_service(unit)?
    {
        request.warn_of_unheeded();
        return Ok(true);
    }
    let mut narfs = program("narfs")?;
    narfs
        .args(&request.config)
        .arg("--state")
        .arg(&request.state);
    narfs.args(["daemon", "--background"]).args(&request.daemon);
    narfs.stdin(Stdio::null());
    let output = narfs.output();
    let output = output.map_err(|e| Failure::system(format!("cannot run narfs: {e}")))?;
    let served = State::find(&request.state)?.is_some_and(|s| s.is_served());
    let said = String::from_utf8_lossy(&output.stderr);
    match output.status.code() {
        Some(0) => {
            eprint!("{said}");
            Ok(true)
        }
        // Another call was faster.
        _ if served => Ok(true),
        Some(NARFS_USAGE) => Err(Failure::usage(said.trim())),
        _ => Err(Failure::mount(format!(
            "no daemon could be started: {}",
            said.trim()
        ))),
    }
}

/// Has systemd start a service: what is forked here would be in the control group of the mount
/// unit, which nobody starts again. `false` if there is none.
fn start_service(unit: &str) -> Result<bool, Failure> {
    let mut systemctl = program("systemctl")?;
    systemctl
        .args(["start", "--quiet", "--", unit])
        .stdin(Stdio::null());
    let output = systemctl.output();
    let output = output.map_err(|e| Failure::system(format!("cannot run systemctl: {e}")))?;
    match output.status.code() {
        Some(0) => Ok(true),
        Some(NO_UNIT) => Ok(false),
        _ => Err(Failure::mount(format!(
            "{unit} does not start; `systemctl status {unit}` says why: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))),
    }
}

/// Unmounts, with what narfs has mounted below the mount point.
///
/// # Errors
/// There is no narfs; else it does not return.
pub fn unmount(arguments: &[OsString]) -> Result<(), Failure> {
    let error = program("narfs")?.args(arguments).exec();
    Err(Failure::system(format!("cannot run narfs: {error}")))
}

/// A program, by its absolute path.
fn program(name: &str) -> Result<Command, Failure> {
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
    let mut directories = std::env::split_paths(&path).filter(|d| d.is_absolute());
    let found = directories.find_map(|d| {
        let file = d.join(name);
        rustix::fs::access(&file, rustix::fs::Access::EXEC_OK)
            .is_ok()
            .then_some(file)
    });
    let found = found.ok_or_else(|| {
        Failure::system(format!(
            "the program {name} is missing; it must be in one of {}",
            path.display()
        ))
    })?;
    let mut command = Command::new(found);
    command.env("PATH", path);
    Ok(command)
}

/// Why nobody answers though a daemon was started.
pub fn not_come_up(state: &Path, unit: Option<&str>) -> Failure {
    let unit = unit.filter(|_| Path::new(SYSTEMD).is_dir());
    Failure::mount(match unit {
        Some(unit) => format!(
            "{unit} runs, but does not serve the state {}; is that its state? -o unit=none starts \
             a daemon without a service",
            state.display()
        ),
        None => format!(
            "the daemon of the state {} does not answer; {} may say why",
            state.display(),
            state.join("narfs.log").display()
        ),
    })
}

/// What is mounted is to be seen in another namespace only.
pub fn elsewhere(state: &Path, pid: u32) -> Failure {
    Failure::mount(format!(
        "the state {} is served by process {pid}, but it is mounted nowhere in this mount \
         namespace; mount it in that of the process: nsenter --mount --target {pid} mount …",
        state.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_the_daemon_are_read_and_nothing_else() {
        assert_eq!(read(r#""Nothing""#), Some(Answer::Nothing));
        assert_eq!(read(r#""Taken""#), Some(Answer::Taken));
        let serving = Answer::Serving {
            superblock: 98,
            pid: 7,
        };
        let said = r#"{"Serving":{"superblock":98,"pid":7}}"#;
        assert_eq!(read(said), Some(serving));
        for bad in [
            "",
            "null",
            r#""Done""#,
            &said[1..],
            &said[..20],
            &said.replace("98", "-1"),
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_or_too_short_is_refused() {
        let frame = |length: u32, payload: &[u8]| {
            let frame = [b"R", &length.to_le_bytes()[..], payload].concat();
            receive(&mut frame.as_slice())
        };
        assert_eq!(frame(2, b"ab").unwrap(), (b'R', b"ab".to_vec()));
        assert!(frame(3, b"ab").is_err());
        assert!(frame(LIMIT + 1, b"").is_err());
        assert!(receive(&mut &b"R\0"[..]).is_err());
    }
}
