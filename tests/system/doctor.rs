//! Each trouble is named by `narfs doctor`, and mended where that is safe.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::server::{Answer, Refusing, Server};
use crate::support::{Sandbox, World, run};

/// The findings, by `--json`, and the exit status.
fn doctor(sandbox: &Sandbox, global: &[&str], own: &[&str]) -> (Vec<Value>, i32) {
    let arguments = [global, &["doctor", "--json"], own].concat();
    let ran = run(&mut sandbox.command(&arguments), b"");
    let findings = serde_json::from_slice(&ran.stdout).unwrap_or_else(|e| {
        panic!(
            "{e}: {}{}",
            String::from_utf8_lossy(&ran.stdout),
            ran.stderr
        )
    });
    (findings, ran.code.unwrap())
}

/// A configuration file with these lines.
fn configuration(sandbox: &Sandbox, text: &str) -> String {
    let file = sandbox.dir().join("config.toml");
    fs::write(&file, text).unwrap();
    file.to_str().unwrap().to_owned()
}

/// The finding of a check: verdict, what was seen, and the advice.
fn finding(findings: &[Value], check: &str) -> (String, String, String) {
    let found = findings.iter().find(|f| f["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {findings:#?}"));
    let text = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (text("verdict"), text("seen"), text("advice"))
}

/// A sandbox without the network, what is wrong in it, and how it is said.
fn expect(found: (String, String, String), verdict: &str, words: &[&str]) {
    let all = format!("{found:?}");
    assert_eq!(found.0, verdict, "{all}");
    for word in words {
        assert!(all.contains(word), "{word} is not in {all}");
    }
}

#[test]
fn a_good_machine_has_no_errors() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| Answer::File);
    let sandbox = Sandbox::mounted();
    let url = &server.url;
    let config = configuration(&sandbox, &format!("from = [\"{url}\"]\n"));
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    assert_eq!(status, 0, "{findings:#?}");
    for check in [
        "kernel",
        "/dev/fuse",
        "privileges",
        "keys",
        "daemon",
        "keeper",
        "dead mounts",
    ] {
        expect(finding(&findings, check), "ok", &[]);
    }
    expect(
        finding(&findings, &format!("source {url}")),
        "ok",
        &["it answers"],
    );
    expect(
        finding(&findings, "propagation"),
        "note",
        &["private", "make-rshared"],
    );
    let text = run(&mut sandbox.command(&["--config", &config, "doctor"]), b"");
    assert_eq!(text.code, Some(0));
    assert!(
        String::from_utf8(text.stdout)
            .unwrap()
            .contains("ok         kernel: Linux")
    );
}

#[test]
fn wrong_states_are_named_and_left_alone() {
    let config = |sandbox: &Sandbox| configuration(sandbox, "from = []\n");
    let sandbox = Sandbox::empty();
    let absent = config(&sandbox);
    let (findings, status) = doctor(&sandbox, &["--config", &absent], &["--fix"]);
    expect(finding(&findings, "state"), "note", &["there is none in"]);
    expect(
        finding(&findings, "sources"),
        "note",
        &["none is configured"],
    );
    assert_eq!(status, 0);
    assert!(!sandbox.state.exists());
    fs::create_dir(&sandbox.state).unwrap();
    fs::write(sandbox.state.join("thesis.tex"), "x").unwrap();
    let (findings, status) = doctor(&sandbox, &["--config", &absent], &["--fix"]);
    expect(
        finding(&findings, "state"),
        "error",
        &["is not a narfs state", "--state"],
    );
    assert_eq!(status, 1);
    fs::write(
        sandbox.state.join("format"),
        "narfs-state 99\nstore-dir /nix/store\n",
    )
    .unwrap();
    let (findings, _) = doctor(&sandbox, &["--config", &absent], &["--fix"]);
    expect(
        finding(&findings, "state"),
        "error",
        &["narfs-state 99", "newer narfs"],
    );
    fs::write(
        sandbox.state.join("format"),
        "narfs-state 4\nstore-dir /nix/store\nfeature tapes\n",
    )
    .unwrap();
    let (findings, _) = doctor(&sandbox, &["--config", &absent], &["--fix"]);
    expect(
        finding(&findings, "state"),
        "error",
        &["tapes", "newer narfs"],
    );
    assert_eq!(fs::read_dir(&sandbox.state).unwrap().count(), 2);
}

#[test]
fn a_state_that_others_can_write_is_closed_to_them() {
    let sandbox = Sandbox::with_worlds();
    let config = configuration(&sandbox, "from = []\n");
    fs::set_permissions(&sandbox.state, fs::Permissions::from_mode(0o777)).unwrap();
    let mode = || fs::metadata(&sandbox.state).unwrap().permissions().mode() & 0o7777;
    let (findings, _) = doctor(&sandbox, &["--config", &config], &[]);
    expect(
        finding(&findings, "permissions"),
        "warning",
        &["chmod go-w"],
    );
    assert_eq!(mode(), 0o777);
    let (findings, _) = doctor(&sandbox, &["--config", &config], &["--fix"]);
    expect(finding(&findings, "permissions"), "note", &["fixed"]);
    assert_eq!(mode(), 0o755);
}

#[test]
fn a_wrong_configuration_is_named_with_its_line_and_the_rest_is_looked_at() {
    let sandbox = Sandbox::with_worlds();
    let config = configuration(&sandbox, "\nfrom = 7\n");
    // Without its configuration it asks the default source: here, through a proxy that is not there.
    let mut command = sandbox.command(&["--config", &config, "doctor", "--json"]);
    let proxy = Refusing::new();
    command.env("https_proxy", &proxy.url);
    let ran = run(&mut command, b"");
    let findings: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    let status = ran.code.unwrap();
    assert_eq!(status, 1);
    expect(
        finding(&findings, "configuration"),
        "error",
        &["config.toml:2", "config check"],
    );
    expect(finding(&findings, "state"), "ok", &[]);
}

#[test]
fn sources_that_are_away_or_no_binary_caches_are_named_within_the_deadline() {
    let sandbox = Sandbox::empty();
    let nothing = sandbox.make_dir("nothing");
    let none = Server::new(nothing.clone(), |_, _| Answer::File);
    let stalls = Server::new(nothing.clone(), |_, _| Answer::Stall);
    let refusing = Refusing::new();
    let away = &refusing.url;
    let other = sandbox.make_dir("other");
    fs::write(other.join("nix-cache-info"), "StoreDir: /gnu/store\n").unwrap();
    let (none, stalls, other) = (
        &none.url,
        &stalls.url,
        format!("file://{}", other.display()),
    );
    let from = format!("from = [\"{none}\", \"{stalls}\", \"{away}\", \"{other}\"]\n");
    let config = configuration(&sandbox, &from);
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    assert_eq!(status, 1);
    let source = |url: &str| finding(&findings, &format!("source {url}"));
    expect(source(none), "error", &["is not a binary cache"]);
    expect(source(stalls), "error", &["no answer within 12 s"]);
    expect(source(away), "error", &["cannot connect", "proxy"]);
    expect(source(&other), "error", &["/gnu/store", "/nix/store"]);
}

#[test]
fn a_clock_that_differs_from_that_of_a_source_is_named() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| {
        Answer::Dated("Sun, 06 Nov 1994 08:49:37 GMT")
    });
    let sandbox = Sandbox::empty();
    let config = configuration(&sandbox, &format!("from = [\"{}\"]\n", server.url));
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    assert_eq!(status, 0);
    expect(
        finding(&findings, "clock"),
        "warning",
        &["ahead of that of", &server.url, "NTP"],
    );
}

#[test]
fn without_dev_fuse_it_says_what_to_do() {
    let sandbox = Sandbox::with_worlds();
    let config = configuration(&sandbox, "from = []\n");
    // In a mount namespace of the doctor's own, with an empty /dev but for what programs need.
    let script = "mount -t tmpfs none /dev && : > /dev/null && exec \"$@\"";
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, "sh"]);
    let narfs = sandbox.command(&["--config", &config, "doctor", "--json"]);
    unshare.arg(narfs.get_program()).args(narfs.get_args());
    unshare.env("NARFS_STATE", &sandbox.state);
    let ran = run(&mut unshare, b"");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let findings: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    expect(
        finding(&findings, "/dev/fuse"),
        "error",
        &["it is missing", "modprobe fuse", "--device"],
    );
}

#[test]
fn a_full_disk_is_named() {
    let sandbox = Sandbox::empty();
    let config = configuration(&sandbox, "from = []\n");
    fs::create_dir(&sandbox.state).unwrap();
    let mut mount = Command::new("mount");
    mount
        .args(["-t", "tmpfs", "-o", "size=50m", "none"])
        .arg(&sandbox.state);
    assert_eq!(run(&mut mount, b"").code, Some(0));
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    assert_eq!(status, 1);
    expect(
        finding(&findings, "disk"),
        "error",
        &["50 MiB free", "tmpfs", "96 MiB", "free space"],
    );
    rustix::mount::unmount(&sandbox.state, rustix::mount::UnmountFlags::DETACH).unwrap();
}

#[test]
fn a_dead_mount_is_named_and_taken_away() {
    let sandbox = Sandbox::mounted();
    let config = configuration(&sandbox, "from = []\n");
    let at = sandbox.at.to_str().unwrap().to_owned();
    sandbox.kill();
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    assert_eq!(status, 1);
    expect(finding(&findings, "dead mounts"), "error", &[&at, "--fix"]);
    expect(finding(&findings, "daemon"), "note", &["not running"]);
    let (findings, status) = doctor(&sandbox, &["--config", &config], &["--fix"]);
    assert_eq!(status, 0, "{findings:#?}");
    expect(
        finding(&findings, "dead mounts"),
        "note",
        &[&at, "unmounted"],
    );
    assert!(is_empty(&sandbox.at));
    sandbox.mount();
}

fn is_empty(dir: &Path) -> bool {
    fs::read_dir(dir).unwrap().next().is_none()
}

#[test]
fn an_owner_that_does_not_answer_is_named() {
    let sandbox = Sandbox::mounted();
    let config = configuration(&sandbox, "from = []\n");
    let pid = rustix::process::Pid::from_raw(sandbox.pid().cast_signed()).unwrap();
    // A daemon that hangs.
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    assert_eq!(status, 1);
    expect(
        finding(&findings, "daemon"),
        "error",
        &["no answer within 12 s"],
    );
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    sandbox.unmount();
    // Another process with the lock.
    let mut holder = Command::new("flock");
    let lock = sandbox.state.join("lock");
    // Which is there, whatever it is.
    let owner = format!("{} (something)", std::process::id());
    fs::write(&lock, &owner).unwrap();
    holder.arg(&lock).args(["sh", "-c", "echo; exec sleep 60"]);
    let mut holder = holder.stdout(Stdio::piped()).spawn().unwrap();
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let (findings, _) = doctor(&sandbox, &["--config", &config], &[]);
    expect(
        finding(&findings, "daemon"),
        "error",
        &[&owner, "does not answer"],
    );
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[test]
fn the_sources_of_the_daemon_that_runs_are_looked_at_beside_those_of_the_configuration() {
    let world = World::small();
    let server = Server::new(world.cache(), |_, _| Answer::File);
    let sandbox = Sandbox::empty();
    let refusing = Refusing::new();
    let (used, away) = (&server.url, &*refusing.url);
    sandbox.mount_from(&[used], &world.key(), "");
    let config = configuration(&sandbox, &format!("from = [\"{away}\"]\n"));
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    expect(
        finding(&findings, &format!("source {used}")),
        "ok",
        &["it answers"],
    );
    // It is not asked by anybody just now.
    expect(
        finding(&findings, &format!("source {away}")),
        "warning",
        &["the running daemon uses other sources"],
    );
    assert_eq!(status, 0, "{findings:#?}");
    sandbox.unmount();
    let (findings, status) = doctor(&sandbox, &["--config", &config], &[]);
    expect(finding(&findings, &format!("source {away}")), "error", &[]);
    assert_eq!(status, 1);
    sandbox.mount();
    let (findings, _) = doctor(&sandbox, &["--config", &config], &[]);
    expect(
        finding(&findings, "sources"),
        "note",
        &["the running daemon has none", "--offline"],
    );
}

/// A mount whose daemon reads every request and answers none but the first.
fn mount_of_a_daemon_that_hangs(state: &Path, at: &Path) {
    use std::io::{Read, Write};
    let new = narfs_mounting::NewSuperblock {
        state,
        kind: narfs_mounting::TYPE,
        read_only: true,
        labels: &[],
        flags: rustix::mount::MountFlags::empty(),
    };
    let new = new.make().unwrap();
    let place = narfs_mounting::place::Place::open(at).unwrap();
    new.mount.attach(&place).unwrap();
    let mut device = fs::File::from(new.device);
    let mut request = vec![0; 1 << 20];
    assert!(device.read(&mut request).unwrap() > 16);
    // The header of the answer to INIT (length, error, number of the request), and version 7.31 with
    // 64 KiB to write.
    let mut answer = [0; 16 + 64];
    answer[0] = 80;
    answer[8..16].copy_from_slice(&request[8..16]);
    (answer[16], answer[20]) = (7, 31);
    answer[16 + 22] = 1;
    device.write_all(&answer).unwrap();
    std::thread::spawn(move || while device.read(&mut request).is_ok() {});
}

#[test]
fn a_daemon_that_hangs_with_a_request_holds_up_no_command() {
    let sandbox = Sandbox::for_library();
    let at = sandbox.dir().join("hangs");
    fs::create_dir(&at).unwrap();
    mount_of_a_daemon_that_hangs(Path::new("/another/state"), &at);
    let config = configuration(&sandbox, "from = []\n");
    let (findings, _) = doctor(&sandbox, &["--config", &config], &[]);
    let dead = findings.iter().any(|f| f.to_string().contains("hangs"));
    assert!(!dead, "{findings:#?}");
    let at = at.to_str().unwrap();
    let complaint = sandbox.complaint(&["mount", at]);
    assert!(complaint.contains("something is mounted at"), "{complaint}");
    sandbox.narfs(&["umount", "--lazy", at]);
}
