//! Checks of the daemon, its supervisor, and its mounts.

use std::fs;
use std::path::Path;

use super::finding::Finding;
use super::state;
use crate::command::{StatusReport, chain};
use crate::control;
use crate::fuse;

/// Checks the daemon of a state by its status.
pub(super) fn daemon(state: &Path, status: Option<&StatusReport>) -> Vec<Finding> {
    const NAME: &str = "daemon";
    let Some(status) = status else {
        return vec![match control::owner(state) {
            None => Finding::note(NAME, "not running; `narfs mount` starts one"),
            Some(owner) => Finding::error(
                NAME,
                format!("process {owner} owns the state but does not answer at its control socket"),
            )
            .advise(
                "wait if it is a running command or a starting daemon; otherwise end the process, \
                 and mount again",
            ),
        }];
    };
    let (pid, at) = (status.pid, status.mountpoints.len());
    let seen = format!("process {pid} answers; {at} mount point(s)");
    let mut findings = vec![Finding::ok(NAME, seen), keeper(status)];
    findings.extend(seen_by_others(status));
    findings.extend(state::damage(0, status.unreadable_paths));
    findings
}

fn keeper(status: &StatusReport) -> Finding {
    const NAME: &str = "keeper";
    match status.supervisor.as_deref() {
        Some("keeper") if is_kept(status.pid) => Finding::ok(NAME, "it supervises the daemon"),
        Some("keeper") => Finding::warning(
            NAME,
            "it is gone: if the daemon is killed now, programs get errors and the mount is dead",
        )
        .advise("the daemon starts a new one; if that fails, narfs.log has the reason"),
        Some(other) => Finding::ok(NAME, format!("none; the {other} supervises the daemon")),
        None => Finding::note(NAME, "nothing restarts the daemon if it is killed")
            .advise("mount without --foreground, or through a service manager"),
    }
}

/// Whether the parent of a process is a keeper.
fn is_kept(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The fields after the name, which may contain blanks: state, parent.
    let parent = stat.rsplit(") ").next().and_then(|s| s.split(' ').nth(1));
    let name = parent.and_then(|p| fs::read_to_string(format!("/proc/{p}/comm")).ok());
    name.is_some_and(|name| name.trim() == "narfs-keeper")
}

fn seen_by_others(status: &StatusReport) -> Vec<Finding> {
    const NAME: &str = "propagation";
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
    if namespace("self") != namespace(&status.pid.to_string()) {
        let seen = "the daemon is in another mount namespace: its mounts are not visible here";
        let enter = format!("enter it with `nsenter -m -t {}`", status.pid);
        return vec![Finding::note(NAME, seen).advise(enter)];
    }
    let mut findings = Vec::new();
    for at in &status.mountpoints {
        let shown = at.display();
        findings.push(match fuse::parent_mount(at) {
            Ok(Some((parent, true))) => {
                let parent = parent.display();
                let seen = format!(
                    "{shown} lies on {parent}, which is shared: containers with rslave see it"
                );
                Finding::ok(NAME, seen)
            }
            Ok(Some((parent, false))) => {
                let parent = parent.display();
                let seen = format!(
                    "{shown} lies on {parent}, which is private: running containers do not see it"
                );
                let advice = format!(
                    "to let them see it, run `mount --make-rshared {parent}` before mounting"
                );
                Finding::note(NAME, seen).advise(advice)
            }
            Ok(None) => Finding::warning(NAME, format!("nothing is mounted at {shown} any more")),
            Err(e) => Finding::warning(NAME, format!("the list of mounts cannot be read: {e}")),
        });
    }
    findings
}

pub(super) fn dead(fix: bool) -> Finding {
    const NAME: &str = "dead mounts";
    let dead = match fuse::dead_mounts() {
        Ok(dead) if dead.is_empty() => return Finding::ok(NAME, "none"),
        Ok(dead) => dead,
        Err(e) => return Finding::error(NAME, chain(&e)).advise("mount /proc"),
    };
    let at: Vec<_> = dead.iter().map(|at| at.display().to_string()).collect();
    let seen = format!("dead daemons have left mounts at {}", at.join(", "));
    let finding = Finding::error(NAME, seen);
    if !fix {
        return finding.advise("`narfs doctor --fix` unmounts them; so does `umount -l`");
    }
    let mut failed = dead.iter().filter_map(|at| fuse::unmount_dead(at).err());
    match failed.next() {
        None => finding.fixed("they were unmounted"),
        Some(e) => finding.advise(format!("they cannot be unmounted: {}", chain(&e))),
    }
}
