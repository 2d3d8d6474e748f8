//! `mount -o remount`: the flags of a mount that is there.
//!
//! Flags are the kernel's, for each mount. Everything else is the superblock's or the daemon's, and
//! stays as it is. Invariant: what is asked for and would be another is named; what is so already,
//! or is not named, is not. So a remount with the options of the mount says nothing.

use std::collections::HashSet;
use std::path::Path;

use narfs_mounting::{PROFILES, PROFILES_TYPE};

use crate::daemon::{Answer, State};
use crate::failure::Failure;
use crate::mounting;
use crate::options::{Request, Subtree};
use crate::place::{Mounted, Place, mounts};

/// The directory that is shown of [`Subtree::Store`].
const STORE: &str = "/store";

/// Sets the flags of the mount, and says what else was asked for and cannot be.
///
/// # Errors
/// No such narfs is mounted there, or it was asked for what only a new mount can have.
pub fn remount(request: &Request) -> Result<(), Failure> {
    let (place, mounted) = Place::of_narfs(&request.mountpoint)?;
    let state = std::fs::canonicalize(&request.state);
    if Path::new(&mounted.source) != state.as_deref().unwrap_or(&request.state) {
        return Err(Failure::mount(format!(
            "remount: what is mounted at {} is the state {}",
            place.path.display(),
            mounted.source
        )));
    }
    if request.says_rw {
        return Err(Failure::usage(format!(
            "remount: narfs is a read-only file system; give ro: mount -o remount,ro,… {}",
            place.path.display()
        )));
    }
    if let Some(option) = other_mount(request, &place, &mounted)? {
        return Err(Failure::mount(format!(
            "remount: {option} cannot be had while it is mounted; unmount {}, and mount it again",
            place.path.display()
        )));
    }
    if request.fake {
        return Ok(());
    }
    mounting::remount(&place, request.flags.0)?;
    warn_of_labels(request, &place)?;
    let unheeded = unheeded(request)?;
    request.warn_of(&unheeded);
    Ok(())
}

/// An option of the mount that is not in force.
fn other_mount(
    request: &Request,
    place: &Place,
    mounted: &Mounted,
) -> Result<Option<&'static str>, Failure> {
    if request.subtree == Subtree::Store && mounted.root != Path::new(STORE) {
        return Ok(Some("subtree=store"));
    }
    if request.writable_profiles {
        let at = place.path.join(PROFILES);
        let mut all = mounts()?.into_iter();
        if !all.any(|m| m.kind == PROFILES_TYPE && m.at == at) {
            return Ok(Some("writable-profiles"));
        }
    }
    Ok(None)
}

/// Says which labels the superblock does not have.
///
/// # Errors
/// The kernel's list of mounts cannot be read.
pub fn warn_of_labels(request: &Request, place: &Place) -> Result<(), Failure> {
    if request.labels.is_empty() {
        return Ok(());
    }
    let (_, mounted) = Place::of_narfs(&place.path)?;
    for (name, label) in &request.labels {
        let has = |text: &str| mounted.options.contains(text);
        if !has(&format!("{name}={label}")) && !has(&format!("{name}=\"{label}\"")) {
            eprintln!(
                "mount.narfs: warning: the state {} is mounted already, and keeps its labels; {name}= \
                 changes nothing: unmount it everywhere first",
                request.state.display()
            );
        }
    }
    Ok(())
}

/// The options of a daemon that the one that serves the state was not started with, as far as its
/// command line tells: what is in its configuration may be the same.
fn unheeded(request: &Request) -> Result<Vec<&str>, Failure> {
    if request.at_start.is_empty() {
        return Ok(Vec::new());
    }
    let state = State::find(&request.state)?.filter(State::is_served);
    let serving = match state.map(|state| state.ask()).transpose()?.flatten() {
        Some(Answer::Serving { pid, .. }) => {
            std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()
        }
        _ => Vec::new(),
    };
    let said = said(&String::from_utf8_lossy(&serving));
    let unheeded = request.at_start.iter().filter(|(_, argument)| {
        let option = argument.strip_prefix("--options=").unwrap_or(argument);
        !said.contains(option)
    });
    Ok(unheeded.map(|(option, _)| option.as_str()).collect())
}

/// What a command line says, however it is cut: `--flag=value` in one argument or in two, `-o` with
/// one option or with several.
fn said(command_line: &str) -> HashSet<String> {
    let arguments: Vec<_> = command_line.split('\0').collect();
    let whole = arguments.iter().map(|a| (*a).to_owned());
    let options = arguments
        .iter()
        .flat_map(|a| a.split(','))
        .map(str::to_owned);
    let pairs = arguments.windows(2).map(|pair| pair.join("="));
    whole.chain(options).chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_line_says_the_same_however_it_is_cut() {
        for line in [
            "narfs\0--config=/c\0daemon\0-o\0budget=20G,prefetch=closure\0--from\0file:///a\0",
            "narfs\0--config\0/c\0daemon\0-o\0budget=20G\0-o\0prefetch=closure\0--from=file:///a",
        ] {
            let said = said(line);
            for word in [
                "--config=/c",
                "budget=20G",
                "prefetch=closure",
                "--from=file:///a",
            ] {
                assert!(said.contains(word), "{word}");
            }
            assert!(!said.contains("budget=2G") && !said.contains("--offline"));
        }
    }
}
