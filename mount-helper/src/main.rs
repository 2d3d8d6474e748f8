//! `mount.narfs`: what mount(8) calls for `mount -t narfs STATE MOUNTPOINT -o OPTIONS`.
//!
//! It checks nothing and holds no privilege of its own: it becomes `narfs mount`, which mount(8)
//! runs as root. Options that mean nothing to narfs are left out by their names, so that a
//! misspelt one is still an error there.
//!
//! Four options are flags of `narfs`: `from=URL` and `key=KEY` (both repeatable), `config=FILE` and
//! `offline`. Since mount(8) parts options at commas, a URL or a key with a comma in it cannot be
//! written there; the configuration file takes it.
//!
//! Called as `umount.fuse.narfs`, which umount(8) looks for, it becomes `narfs umount`: that takes what
//! narfs has mounted below the mount point along, which umount(8) takes for a user.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

/// mount(8): incorrect invocation.
const USAGE: u8 = 1;
/// mount(8): system error.
const SYSTEM: u8 = 2;

/// Where programs are: mount(8) and umount(8) call their helpers without a `PATH`.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Options of mount(8) and systemd that say nothing to the file system.
fn concerns_narfs(option: &str) -> bool {
    let foreign = [
        "ro",
        "nosuid",
        "nodev",
        "noatime",
        "exec",
        "_netdev",
        "nofail",
        "auto",
        "noauto",
        "user",
        "users",
        "defaults",
        "allow_other",
    ];
    !(option.is_empty() || foreign.contains(&option) || option.starts_with("x-"))
}

/// Options that are flags of `narfs`, with the flag, and whether it comes before the command.
const FLAGS: [(&str, &str, bool); 3] = [
    ("from", "--from", false),
    ("key", "--trusted-public-key", false),
    ("config", "--config", true),
];

/// The arguments of `narfs` for those of mount(8): `SOURCE MOUNTPOINT [-snv] [-o OPTIONS]`.
fn arguments(given: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut places = Vec::new();
    let mut options = Vec::new();
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => {
                let list = rest.next().and_then(|o| o.to_str());
                let list = list.ok_or("-o needs options")?;
                options.extend(list.split(',').filter(|o| concerns_narfs(o)));
            }
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                if !flags[1..].chars().all(|c| "snv".contains(c)) {
                    return Err(format!("unknown option {flags}"));
                }
            }
            _ => places.push(argument.clone()),
        }
    }
    let [source, mountpoint] = places.as_slice() else {
        return Err("usage: mount.narfs STATE MOUNTPOINT [-o OPTIONS]".to_owned());
    };
    let mut global: Vec<OsString> = vec!["--state".into(), source.clone()];
    let mut flags: Vec<OsString> = Vec::new();
    let mut remaining = Vec::new();
    for option in options {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match FLAGS.iter().find(|(known, _, _)| *known == name) {
            Some(_) if value.is_empty() => return Err(format!("the option {name} needs a value")),
            // In one word: what starts with a hyphen is a value all the same.
            Some((_, flag, true)) => global.push(format!("{flag}={value}").into()),
            Some((_, flag, false)) => flags.push(format!("{flag}={value}").into()),
            None if option == "offline" => flags.push("--offline".into()),
            None => remaining.push(option),
        }
    }
    let mut out = global;
    out.extend(["mount".into(), mountpoint.clone()]);
    out.extend(flags);
    if !remaining.is_empty() {
        out.extend(["-o".into(), remaining.join(",").into()]);
    }
    Ok(out)
}

/// The arguments of `narfs` for those of umount(8): `MOUNTPOINT [-flnrv] [-N NAMESPACE] [-t TYPE]`.
fn unmounting(given: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut places = Vec::new();
    let mut lazy = false;
    let mut rest = given.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-t") => drop(rest.next()),
            Some("-N") => return Err("enter the namespace first: nsenter --mount".to_owned()),
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {
                if !flags[1..].chars().all(|c| "flnrv".contains(c)) {
                    return Err(format!("unknown option {flags}"));
                }
                lazy |= flags.contains('l');
            }
            _ => places.push(argument.clone()),
        }
    }
    let [mountpoint] = places.as_slice() else {
        return Err("usage: umount.fuse.narfs MOUNTPOINT [-l]".to_owned());
    };
    let mut out = vec!["umount".into(), mountpoint.clone()];
    out.extend(lazy.then(|| "--lazy".into()));
    Ok(out)
}

fn main() -> ExitCode {
    let mut given = std::env::args_os();
    let name = given.next().unwrap_or_default();
    let given: Vec<_> = given.collect();
    let name = Path::new(&name).file_name().unwrap_or_default();
    let unmounts = name.to_string_lossy().starts_with("umount.");
    let read = if unmounts { unmounting } else { arguments };
    let name = name.to_string_lossy();
    match read(&given) {
        Ok(arguments) => {
            let mut narfs = Command::new("narfs");
            if std::env::var_os("PATH").is_none() {
                narfs.env("PATH", PATH);
            }
            let error = narfs.args(arguments).exec();
            eprintln!("{name}: cannot run narfs: {error}; is it in PATH?");
            ExitCode::from(SYSTEM)
        }
        Err(text) => {
            eprintln!("{name}: {text}");
            ExitCode::from(USAGE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(given: &[&str]) -> Result<String, String> {
        let given: Vec<OsString> = given.iter().map(Into::into).collect();
        let out = arguments(&given)?;
        let out: Vec<_> = out.iter().map(|a| a.to_string_lossy()).collect();
        Ok(out.join(" "))
    }

    #[test]
    fn what_mount_says_becomes_what_narfs_understands() {
        assert_eq!(
            run(&[
                "/var/lib/narfs",
                "/nix",
                "-o",
                "ro,_netdev,subtree=store,x-a=b"
            ])
            .unwrap(),
            "--state /var/lib/narfs mount /nix -o subtree=store"
        );
        assert_eq!(run(&["/s", "/m", "-n"]).unwrap(), "--state /s mount /m");
        assert!(
            run(&["/s", "/m", "-o", "ro,typo"])
                .unwrap()
                .ends_with("-o typo")
        );
    }

    #[test]
    fn sources_keys_and_the_configuration_file_become_flags() {
        assert_eq!(
            run(&[
                "/s",
                "/m",
                "-o",
                "from=https://a/?priority=1,key=a:B+/=,_netdev,from=file:///b,nonempty",
                "-o",
                "config=/etc/c.toml,prefetch=closure,budget=20G"
            ])
            .unwrap(),
            "--state /s --config=/etc/c.toml mount /m --from=https://a/?priority=1 \
             --trusted-public-key=a:B+/= --from=file:///b -o nonempty,prefetch=closure,budget=20G"
        );
        assert_eq!(
            run(&["/s", "/m", "-o", "ro,offline"]).unwrap(),
            "--state /s mount /m --offline"
        );
        // Only the bare word is the flag.
        assert_eq!(
            run(&["/s", "/m", "-o", "offline=yes"]).unwrap(),
            "--state /s mount /m -o offline=yes"
        );
    }

    #[test]
    fn umount_becomes_what_narfs_understands() {
        let run = |given: &[&str]| {
            let given: Vec<OsString> = given.iter().map(Into::into).collect();
            let out = unmounting(&given)?;
            let out: Vec<_> = out.iter().map(|a| a.to_string_lossy()).collect();
            Ok::<_, String>(out.join(" "))
        };
        assert_eq!(run(&["/nix"]).unwrap(), "umount /nix");
        let lazy = ["/nix", "-vl", "-t", "fuse.narfs"];
        assert_eq!(run(&lazy).unwrap(), "umount /nix --lazy");
        for bad in [&[][..], &["/a", "/b"], &["/a", "-x"], &["/a", "-N", "1"]] {
            assert!(run(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            &["/s"][..],
            &["/s", "/m", "-o"],
            &["/s", "/m", "-z"],
            &["/s", "/m", "-o", "from"],
            &["/s", "/m", "-o", "ro,key="],
            &[],
        ] {
            assert!(run(bad).is_err(), "{bad:?}");
        }
    }
}
