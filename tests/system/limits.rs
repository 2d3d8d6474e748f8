//! Limits of the system and those that users set.

use std::fs;
use std::process::Command;
use std::thread::scope;

use crate::binary_cache::{Cache, Offer, file, noise};
use crate::on_demand::{key, plain};
use crate::support::{Sandbox, run, succeed};

/// A command under a limit that `ulimit` of the shell sets.
fn limited(sandbox: &Sandbox, limit: &str, arguments: &[&str]) -> Command {
    let plain = sandbox.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("ulimit {limit} && exec \"$@\""), "sh"]);
    shell.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

/// The soft and the hard limit of the files that a process may open.
fn open_files(pid: u32) -> (String, String) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find(|l| l.starts_with("Max open files"));
    let mut words = line.unwrap().split_whitespace().skip(3);
    let mut word = || words.next().unwrap().to_owned();
    (word(), word())
}

#[test]
fn too_few_descriptors_are_an_error_that_says_what_to_do() {
    let sandbox = Sandbox::empty();
    let at = sandbox.at.to_str().unwrap();
    let tree = sandbox.dir().join("tree");
    fs::write(&tree, "x").unwrap();
    for arguments in [
        &["mount", at, "--offline"][..],
        &["mount", at, "--offline", "--foreground"],
        &["add", tree.to_str().unwrap()],
    ] {
        let ran = run(&mut limited(&sandbox, "-n 64", arguments), b"");
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(ran.stderr.contains("may open 64 files"), "{}", ran.stderr);
        assert!(ran.stderr.contains("ulimit -n 256"), "{}", ran.stderr);
    }
    assert!(sandbox.mounts().is_empty());
    assert!(!sandbox.state.exists());
}

#[test]
fn the_limit_of_descriptors_is_raised_as_far_as_it_goes() {
    let cache = Cache::new();
    let offers: Vec<_> = (0..60)
        .map(|n| Offer::named(&format!("path-{n}"), file(&noise(n, 30_000))))
        .collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    let (at, key) = (sandbox.at.to_str().unwrap(), key(&cache));
    let mut mount = vec!["mount", at, "--from", &server.url];
    mount.extend(["--trusted-public-key", &key]);
    succeed(&mut limited(&sandbox, "-Sn 40 && ulimit -Hn 256", &mount));
    let soft_and_hard = ("256".to_owned(), "256".to_owned());
    assert_eq!(open_files(sandbox.pid()), soft_and_hard);
    // With so few it goes on under load, and so does the next daemon.
    for _ in 0..2 {
        scope(|scope| {
            for offer in &offers {
                let path = sandbox.store().join(offer.path().base_name());
                scope.spawn(move || assert_eq!(fs::read(path).unwrap().len(), 30_000));
            }
        });
        let pid = rustix::process::Pid::from_raw(sandbox.pid().cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        succeed(Command::new("ls").arg(sandbox.store()));
        sandbox.narfs(&["evict", "--to", "1M"]);
        assert_eq!(open_files(sandbox.pid()), soft_and_hard);
    }
}

#[test]
fn memory_is_within_its_bound_however_many_programs_arrive_at_once() {
    const SIZE: usize = 24 << 20;
    let cache = Cache::new();
    // Programs are cut at their sections, whose table comes last.
    let mut program = vec![0; SIZE];
    program[..4].copy_from_slice(b"\x7fELF");
    let offers: Vec<_> = (0..16u8)
        .map(|n| {
            program[SIZE - 1] = n;
            Offer::named(&format!("program-{n}"), file(&program))
        })
        .collect();
    offers.iter().for_each(|offer| cache.put(offer));
    let server = plain(&cache);
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &key(&cache), "lookup-timeout=120");
    scope(|scope| {
        for (n, offer) in (0..).zip(&offers) {
            let path = sandbox.store().join(offer.path().base_name());
            scope.spawn(move || assert_eq!(fs::read(path).unwrap()[SIZE - 1], n));
        }
    });
    let status = fs::read_to_string(format!("/proc/{}/status", sandbox.pid())).unwrap();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|l| l.trim().strip_suffix(" kB")).unwrap();
    let mebibytes = peak.parse::<u64>().unwrap() / 1024;
    assert!(mebibytes < 256, "{mebibytes} MiB");
}

#[test]
fn memory_that_the_machine_has_not_is_refused() {
    let sandbox = Sandbox::empty();
    let at = sandbox.at.to_str().unwrap();
    let said = run(
        &mut sandbox.command(&["--memory", "99999999", "mount", at, "--offline"]),
        b"",
    );
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    assert!(said.stderr.contains("of this machine"), "{}", said.stderr);
    assert!(!sandbox.state.exists());
}
