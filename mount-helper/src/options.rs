//! What mount(8) says, and what of it concerns whom.
//!
//! Invariant: every option is known by its name; what is neither ours nor one that mount(8) and systemd
//! give to every file system is an error, unless mount(8) asks to be sloppy.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};

use narfs_mounting::{DAEMON_OPTIONS, NOSYMFOLLOW, labels};
use rustix::mount::MountFlags;

use crate::failure::Failure;

/// What `-h` shows, but for the options of the daemon.
const HELP: &str = "\
usage: mount -t narfs STATE MOUNTPOINT [-o OPTIONS]
       mount.narfs STATE MOUNTPOINT [-fnsvVh] [-o OPTIONS]

STATE is the state directory; `none` stands for /var/lib/narfs. Options:
  from=URL, cache=URL    a binary cache (repeatable); key=KEY a key to trust (repeatable)
  offline                ask no source
  config=FILE            the configuration file of the daemon
  subtree=store          show only the store, for /nix/store
  nonempty               mount over a directory that has something in it
  DAEMON_OPTIONS
                         as narfs mount takes them
  unit=SERVICE           the systemd service to start where no daemon runs; none for no service
  writable-profiles      let programs such as nix-env change profiles
  noexec, nosymfollow, noatime, relatime, strictatime, nodiratime
                         flags of the mount, as for any file system
  context=LABEL, fscontext=LABEL, defcontext=LABEL, rootcontext=LABEL
                         labels of SELinux, which the kernel gets as they are
  remount                set the flags of a mount that is there, and nothing else
See mount.narfs(8).
";

/// What `-h` shows.
pub fn help() -> String {
    HELP.replace("DAEMON_OPTIONS", &DAEMON_OPTIONS.join(",\n  "))
}

/// The state directory that `none` stands for.
const STATE: &str = "/var/lib/narfs";
/// What else stands for it.
const NO_SOURCE: [&str; 2] = ["none", "narfs"];
/// The service of [`STATE`].
const UNIT: &str = "narfs-daemon.service";

/// Options of mount(8) and systemd that change nothing here. A store has no devices, no setuid
/// programs and no times that reading changes.
const INDIFFERENT: [&str; 31] = [
    "defaults",
    "ro",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "exec",
    "symfollow",
    "atime",
    "norelatime",
    "nostrictatime",
    "diratime",
    "lazytime",
    "nolazytime",
    "sync",
    "async",
    "dirsync",
    "silent",
    "loud",
    "_netdev",
    "_rnetdev",
    "nofail",
    "auto",
    "noauto",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "allow_other",
    "default_permissions",
];

/// Flags of each mount that the kernel heeds. A new one is noatime where none says otherwise.
const FLAGS: [(&str, MountFlags); 6] = [
    ("noexec", MountFlags::NOEXEC),
    ("nosymfollow", NOSYMFOLLOW),
    ("noatime", MountFlags::NOATIME),
    ("relatime", MountFlags::RELATIME),
    ("strictatime", MountFlags::STRICTATIME),
    ("nodiratime", MountFlags::NODIRATIME),
];

/// What mount(8) adds to `remount` from the kernel's list of mounts.
const OF_THE_KERNEL: [&str; 6] = [
    "fd", "rootmode", "user_id", "group_id", "max_read", "blksize",
];

/// What of the file system is to be seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subtree {
    /// All of it, for `/nix`.
    #[default]
    Whole,
    /// `store` only, for `/nix/store`.
    Store,
}

/// Flags of a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flags(pub MountFlags);

impl Default for Flags {
    fn default() -> Self {
        Self(MountFlags::empty())
    }
}

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Asked {
    /// `-h`
    Help,
    /// `-V`
    Version,
    /// A mount.
    Mount(Box<Request>),
}

/// A mount that is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The state directory, absolute.
    pub state: PathBuf,
    /// Absolute.
    pub mountpoint: PathBuf,
    /// What is to be seen.
    pub subtree: Subtree,
    /// Mount over a directory that has something in it.
    pub nonempty: bool,
    /// Flags of the mount, besides those that it always has.
    pub flags: Flags,
    /// Labels of SELinux, by the names of their options.
    pub labels: Vec<(&'static str, String)>,
    /// Only set the flags of a mount that is there.
    pub remount: bool,
    /// Let programs change profiles.
    pub writable_profiles: bool,
    /// Only look whether it could be mounted.
    pub fake: bool,
    /// Say what is done.
    pub verbose: bool,
    /// `rw` was given, by the user or by mount(8) itself.
    pub says_rw: bool,
    /// The configuration file of a daemon that is started.
    pub config: Option<String>,
    /// Arguments of `narfs daemon`, if one is started.
    pub daemon: Vec<String>,
    /// The service that is started if no daemon is there; none for a daemon of its own.
    pub unit: Option<String>,
    /// Options that only the start of a daemon heeds, as they were given; and the argument of `narfs
    /// daemon` that each became.
    pub at_start: Vec<(String, String)>,
}

impl Request {
    /// Says that what was given changes nothing.
    pub fn warn_of_unheeded(&self) {
        let given = self.at_start.iter().map(|(option, _)| option.as_str());
        self.warn_of(&given.collect::<Vec<_>>());
    }

    /// Says that some options change nothing, since a daemon serves the state.
    pub fn warn_of(&self, options: &[&str]) {
        if !options.is_empty() {
            eprintln!(
                "mount.narfs: warning: a daemon serves the state {} already, and goes on as it was \
                 started; these change nothing: {}",
                self.state.display(),
                options.join(",")
            );
        }
    }
}

/// Reads the arguments of `mount.narfs`: `STATE MOUNTPOINT [-fnsvVh] [-t TYPE] [-o OPTIONS]`.
///
/// # Errors
/// They make no sense.
pub fn read(given: &[OsString]) -> Result<Asked, Failure> {
    let mut places = Vec::new();
    let mut options = Vec::new();
    let mut request = Request::default();
    let mut sloppy = false;
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-h" | "--help") => return Ok(Asked::Help),
            Some("-V" | "--version") => return Ok(Asked::Version),
            Some("-o") => {
                let list = rest.next().and_then(|o| o.to_str());
                let list = list.ok_or_else(|| Failure::usage("-o needs options"))?;
                options.extend(labels::split_options(list).filter(|o| !o.is_empty()));
            }
            Some("-t") => {
                let kind = rest.next().and_then(|t| t.to_str());
                if !matches!(kind, Some("narfs" | "fuse.narfs")) {
                    return Err(Failure::usage("-t: the type is narfs"));
                }
            }
            Some("-N") => {
                return Err(Failure::usage(
                    "-N is not supported; enter the namespace first: nsenter --mount=NAMESPACE mount …",
                ));
            }
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                sloppy |= take_flags(&mut request, &flags[1..])?;
            }
            _ => places.push(PathBuf::from(argument)),
        }
    }
    request.remount = options.contains(&"remount");
    for option in options {
        take(&mut request, option, sloppy)?;
    }
    let [state, mountpoint] = places.as_slice() else {
        let text = if places.len() < 2 {
            "the source is missing: mount -t narfs STATE MOUNTPOINT, for example \
             mount -t narfs /var/lib/narfs /nix"
        } else {
            "too many arguments; see mount.narfs -h"
        };
        return Err(Failure::usage(text));
    };
    if request.writable_profiles && request.subtree == Subtree::Store {
        return Err(Failure::usage(
            "subtree=store shows no profiles, so that none can be writable; leave one of the two out",
        ));
    }
    let stands_for_default = NO_SOURCE.iter().any(|s| Path::new(s) == state);
    request.state = if stands_for_default {
        STATE.into()
    } else {
        checked("the state directory", state)?
    };
    request.mountpoint = checked("the mount point", mountpoint)?;
    request.unit = match request.unit.take() {
        Some(unit) if unit == "none" => None,
        None if request.state == Path::new(STATE) => Some(UNIT.to_owned()),
        unit => unit,
    };
    Ok(Asked::Mount(Box::new(request)))
}

/// Takes flags without values; whether mount(8) is to be sloppy.
fn take_flags(request: &mut Request, flags: &str) -> Result<bool, Failure> {
    let mut sloppy = false;
    for flag in flags.chars() {
        match flag {
            'f' => request.fake = true,
            'v' => request.verbose = true,
            's' => sloppy = true,
            // There is no table of mounts besides the kernel's.
            'n' | 'r' | 'w' => {}
            _ => {
                let text = format!("unknown flag -{flag}; see mount.narfs -h");
                return Err(Failure::usage(text));
            }
        }
    }
    Ok(sloppy)
}

/// A path that means the same to everybody.
fn checked(what: &str, path: &Path) -> Result<PathBuf, Failure> {
    let has_parents = path.components().any(|c| c == Component::ParentDir);
    if !path.is_absolute() || has_parents {
        return Err(Failure::usage(format!(
            "{what} {} must be an absolute path without `..`",
            path.display()
        )));
    }
    Ok(path.components().collect())
}

/// Takes one option of `-o`.
fn take(request: &mut Request, option: &str, sloppy: bool) -> Result<(), Failure> {
    let (name, value) = match option.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (option, None),
    };
    let needs = || Failure::usage(format!("the option {name} needs a value: {name}=…"));
    // In one word: what starts with a hyphen is a value all the same.
    let flag = |flag: &str| match value {
        Some(value) if !value.is_empty() => Ok(format!("--{flag}={value}")),
        _ => Err(needs()),
    };
    let argument = match (name, value) {
        ("from" | "cache", _) => flag("from")?,
        ("key", _) => flag("trusted-public-key")?,
        ("config", _) => {
            let config = flag("config")?;
            request.config = Some(config.clone());
            request.at_start.push((option.to_owned(), config));
            return Ok(());
        }
        ("offline", None) => "--offline".to_owned(),
        (name, None) if may_lack_value(name) => format!("--options={name}"),
        (name, _) if is_daemon_option(name) => {
            let value = value.filter(|v| !v.is_empty()).ok_or_else(needs)?;
            format!("--options={name}={value}")
        }
        _ => return take_other(request, option, name, value, sloppy),
    };
    request.daemon.push(argument.clone());
    request.at_start.push((option.to_owned(), argument));
    Ok(())
}

/// Whether the option of this name goes to the daemon that is started as it is.
fn is_daemon_option(name: &str) -> bool {
    let mut options = DAEMON_OPTIONS.iter();
    options.any(|option| option.split(['=', '[']).next() == Some(name))
}

/// Whether it may do so without a value.
fn may_lack_value(name: &str) -> bool {
    let mut options = DAEMON_OPTIONS.iter();
    options.any(|option| {
        let rest = option.strip_prefix(name);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('['))
    })
}

/// Takes an option that does not concern what is fetched.
fn take_other(
    request: &mut Request,
    option: &str,
    name: &str,
    value: Option<&str>,
    sloppy: bool,
) -> Result<(), Failure> {
    match (name, value) {
        ("subtree", Some("store")) => request.subtree = Subtree::Store,
        ("subtree", _) => return Err(Failure::usage("subtree: there is subtree=store")),
        ("nonempty", None) => request.nonempty = true,
        ("unit", Some(unit)) if is_unit(unit) => request.unit = Some(unit.to_owned()),
        ("unit", _) => {
            return Err(Failure::usage(
                "unit: name a systemd service, as in unit=narfs-daemon.service, or none",
            ));
        }
        ("rw", None) => request.says_rw = true,
        ("remount", None) => {}
        (name, Some(label)) if labels::option_name(name).is_some() => {
            let Some(label) = labels::parse(&format!("{name}={label}")) else {
                return Err(Failure::usage(format!("the option {name} needs a label")));
            };
            request.labels.push(label);
        }
        ("writable-profiles", None | Some("true")) => request.writable_profiles = true,
        ("writable-profiles", Some("false")) => request.writable_profiles = false,
        (name, None) if FLAGS.iter().any(|(flag, _)| *flag == name) => {
            let flags = FLAGS.iter().filter(|(flag, _)| *flag == name);
            request.flags.0 |= flags.map(|(_, flag)| *flag).collect();
        }
        (name, None) if INDIFFERENT.contains(&name) => {}
        (name, Some(_)) if request.remount && OF_THE_KERNEL.contains(&name) => {}
        ("comment", _) => {}
        (name, _) if name.starts_with("x-") || name.starts_with("X-") => {}
        _ if sloppy => {}
        _ => {
            return Err(Failure::usage(format!(
                "unknown option {option:?}; mount.narfs -h names those that there are"
            )));
        }
    }
    Ok(())
}

/// Whether a word can be the name of a service, and no flag of systemctl.
fn is_unit(word: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@".contains(c);
    !word.is_empty() && !word.starts_with('-') && word.chars().all(is_plain)
}

/// The arguments of `narfs` for those of umount(8): `MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE]`.
///
/// # Errors
/// They make no sense.
pub fn unmounting(given: &[OsString]) -> Result<Vec<OsString>, Failure> {
    let mut places = Vec::new();
    let mut lazy = false;
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-t") => drop(rest.next()),
            Some("-N") => {
                return Err(Failure::usage("enter the namespace first: nsenter --mount"));
            }
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                if !flags[1..].chars().all(|c| "flnrv".contains(c)) {
                    return Err(Failure::usage(format!("unknown option {flags}")));
                }
                lazy |= flags.contains('l');
            }
            _ => places.push(argument.clone()),
        }
    }
    let [mountpoint] = places.as_slice() else {
        return Err(Failure::usage("usage: umount.fuse.narfs MOUNTPOINT [-l]"));
    };
    let mut out = vec!["umount".into(), mountpoint.clone()];
    out.extend(lazy.then(|| "--lazy".into()));
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(given: &[&str]) -> Vec<OsString> {
        given.iter().map(Into::into).collect()
    }

    fn request(options: &str) -> Result<Request, Failure> {
        match read(&words(&["/s", "/m", "-o", options]))? {
            Asked::Mount(request) => Ok(*request),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn options_go_to_whom_they_concern() {
        let read = request(
            "ro,_netdev,x-a=b,from=https://a/?priority=1,cache=file:///b,key=a:B+/=,budget=20G,\
             config=/c,subtree=store,nonempty,offline",
        )
        .unwrap();
        let daemon = [
            "--from=https://a/?priority=1",
            "--from=file:///b",
            "--trusted-public-key=a:B+/=",
            "--options=budget=20G",
            "--offline",
        ];
        assert_eq!(read.daemon, daemon);
        assert_eq!(read.config.as_deref(), Some("--config=/c"));
        assert_eq!(read.subtree, Subtree::Store);
        assert!(read.nonempty && !read.says_rw && read.flags.0.is_empty());
        assert_eq!(read.at_start.len(), 6);
        assert!(request("rw").unwrap().says_rw);
    }

    #[test]
    fn what_the_kernel_gets_is_read() {
        let read = request(
            r#"context="system_u:object_r:nix_t:s0:c1,c2",rootcontext=a:b:c,noexec,relatime"#,
        )
        .unwrap();
        let labels = [
            ("context", "system_u:object_r:nix_t:s0:c1,c2".to_owned()),
            ("rootcontext", "a:b:c".to_owned()),
        ];
        assert_eq!(read.labels, labels);
        assert_eq!(read.flags.0, MountFlags::NOEXEC | MountFlags::RELATIME);
        assert!(!read.remount);
        let again = "ro,nosuid,nodev,noatime,user_id=0,group_id=0,default_permissions,allow_other";
        let read = request(&format!("{again},remount,nosymfollow")).unwrap();
        assert!(read.remount && !read.says_rw);
        assert_eq!(read.flags.0, MountFlags::NOATIME | NOSYMFOLLOW);
        assert_eq!(request(again).unwrap_err().status, 1);
    }

    #[test]
    fn the_service_is_that_of_the_default_state() {
        let of = |state: &str, options: &str| match read(&words(&[state, "/m", "-o", options]))
            .unwrap()
        {
            Asked::Mount(request) => (request.state, request.unit),
            other => panic!("{other:?}"),
        };
        let default = PathBuf::from(STATE);
        for state in [STATE, "none", "narfs", "/var//lib/./narfs/"] {
            assert_eq!(of(state, "ro"), (default.clone(), Some(UNIT.to_owned())));
        }
        assert_eq!(of("none", "unit=none"), (default, None));
        assert_eq!(of("/s", "ro"), ("/s".into(), None));
        assert_eq!(
            of("/s", "unit=a@b.service").1.as_deref(),
            Some("a@b.service")
        );
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "typo",
            "from",
            "key=",
            "offline=yes",
            "remount=1",
            "context",
            "context=",
            "fscontext=\"\"",
            "subtree",
            "subtree=x",
            "unit=",
            "unit=-x",
            "unit=a b",
            "nonempty=1",
            "ro=1",
            "subtree=store,writable-profiles",
        ] {
            assert_eq!(request(bad).unwrap_err().status, 1, "{bad}");
        }
        for bad in [
            &["/s"][..],
            &["/s", "/m", "/n"],
            &["s", "/m"],
            &["/s", "/m/.."],
        ] {
            assert_eq!(read(&words(bad)).unwrap_err().status, 1, "{bad:?}");
        }
        assert!(read(&words(&["/s", "/m", "-sf", "-o", "typo"])).is_ok());
    }

    #[test]
    fn umount_becomes_what_narfs_understands() {
        let run = |given: &[&str]| unmounting(&words(given));
        assert_eq!(run(&["/nix"]).unwrap(), words(&["umount", "/nix"]));
        let lazy = ["/nix", "-vl", "-t", "fuse.narfs"];
        assert_eq!(run(&lazy).unwrap(), words(&["umount", "/nix", "--lazy"]));
        for bad in [&[][..], &["/a", "/b"], &["/a", "-x"], &["/a", "-N", "1"]] {
            assert!(run(bad).is_err(), "{bad:?}");
        }
    }
}
