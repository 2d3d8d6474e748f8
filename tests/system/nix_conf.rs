//! Sources and keys that are taken from `nix.conf`, as real Nix reads it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::binary_cache::Cache;
use crate::on_demand::{directory, errno, key, plain};
use crate::support::{Sandbox, run, succeed};

fn write(sandbox: &Sandbox, name: &str, text: &str) -> PathBuf {
    let file = sandbox.dir().join(name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, text).unwrap();
    file
}

#[test]
fn a_mount_has_the_sources_and_keys_of_nix_conf_and_reads_them_again_at_an_upgrade() {
    let (cache, later) = (Cache::new(), Cache::new());
    let (first, second) = (directory("first", b"1"), directory("second", b"2"));
    cache.put(&first);
    later.put(&second);
    let (server, other) = (plain(&cache), plain(&later));
    let sandbox = Sandbox::empty();
    let text = format!(
        "substituters = s3://bucket {}\ninclude keys.conf\n",
        server.url
    );
    let conf = write(&sandbox, "nix.conf", &text);
    write(
        &sandbox,
        "keys.conf",
        &format!("trusted-public-keys = {}", key(&cache)),
    );
    let at = sandbox.at.to_str().unwrap();
    let option = format!("from-nix-conf={}", conf.display());
    let ran = run(&mut sandbox.command(&["mount", at, "-o", &option]), b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("nix.conf:1: s3://bucket is left out"),
        "{}",
        ran.stderr
    );
    let read = |offer: &crate::binary_cache::Offer| {
        fs::read(sandbox.store().join(offer.path().base_name()).join("file"))
    };
    assert_eq!(read(&first).unwrap(), b"1");
    assert_eq!(errno(read(&second)), Some(libc::ENOENT));

    write(
        &sandbox,
        "nix.conf",
        &format!("{text}extra-substituters = {}\n", other.url),
    );
    sandbox.narfs(&["upgrade"]);
    assert_eq!(read(&second).unwrap(), b"2");
    // One that is wrong does not end the daemon.
    write(&sandbox, "nix.conf", "substituters\n");
    sandbox.narfs(&["upgrade"]);
    let mistake = sandbox.json(&["status"])["configuration"].to_string();
    assert!(mistake.contains("nix.conf:1: "), "{mistake}");
    assert_eq!(read(&first).unwrap(), b"1");
}

#[test]
fn commands_take_their_sources_from_nix_conf_unless_they_name_others() {
    let (cache, other) = (Cache::new(), Cache::new());
    let (here, there) = (directory("here", b"1"), directory("there", b"2"));
    cache.put(&here);
    other.put(&there);
    let sandbox = Sandbox::empty();
    let text = format!(
        "substituters = {}\ntrusted-public-keys = {}",
        cache.url(),
        key(&cache)
    );
    let flag = format!(
        "--from-nix-conf={}",
        write(&sandbox, "nix.conf", &text).display()
    );
    let [here, there] = [&here, &there].map(|offer| offer.path().base_name());
    sandbox.narfs(&["copy", &flag, &here]);
    let ran = run(&mut sandbox.command(&["copy", &flag, &there]), b"");
    assert!(
        ran.code == Some(1) && ran.stderr.contains("in none of the sources"),
        "{ran:?}"
    );
    // The source is another one; the keys are still those of nix.conf.
    sandbox.narfs(&["copy", &flag, "--from", &other.url(), &there]);
    let said = sandbox.complaint(&["copy", "--from-nix-conf=/absent/nix.conf", &here]);
    assert!(
        said.contains("there is no nix.conf at /absent/nix.conf"),
        "{said}"
    );
    // What is imported is a configuration.
    let conf = sandbox.dir().join("nix.conf");
    let imported = sandbox.narfs(&["config", "import-nix", conf.to_str().unwrap()]);
    let file = write(&sandbox, "config.toml", &imported);
    let file = file.to_str().unwrap();
    sandbox.narfs(&["config", "check", file]);
    let state = sandbox.dir().join("another");
    let state = state.to_str().unwrap();
    sandbox.narfs(&["--config", file, "--state", state, "copy", &here]);
}

#[test]
fn the_sources_are_those_that_real_nix_finds_in_its_files() {
    let sandbox = Sandbox::empty();
    let user = write(
        &sandbox,
        "user/nix.conf",
        "extra-substituters = https://user # not https://c",
    );
    let etc = write(
        &sandbox,
        "etc/nix.conf",
        "substituters = https://a\t https://b\n!include absent.conf\ninclude more/more.conf\n\
         extra-binary-caches = https://after\n",
    );
    write(
        &sandbox,
        "etc/more/more.conf",
        "extra-substituters = https://more\ninclude last.conf",
    );
    write(
        &sandbox,
        "etc/more/last.conf",
        "extra-trusted-substituters = https://no\n",
    );
    let environment = |command: &mut Command| {
        command.env("NIX_CONF_DIR", etc.parent().unwrap());
        command.env("NIX_USER_CONF_FILES", &user);
        command.env(
            "NIX_CONFIG",
            "require-sigs = false\nextra-substituters = https://variable\n",
        );
    };
    let mut nix = Command::new("nix");
    environment(nix.args([
        "--extra-experimental-features",
        "nix-command",
        "show-config",
    ]));
    let settings = succeed(&mut nix);
    let of_nix = |name: &str| {
        let mut lines = settings.lines().filter_map(|line| line.split_once(" = "));
        let value = lines.find(|(n, _)| *n == name).unwrap().1;
        value.split(' ').map(str::to_owned).collect::<Vec<_>>()
    };
    let mut show = sandbox.command(&["config", "show", "--json"]);
    environment(show.env("NARFS_FROM_NIX_CONF", "true"));
    let ours: serde_json::Value = serde_json::from_str(&succeed(&mut show)).unwrap();
    assert_eq!(
        ours["from"]["value"],
        serde_json::json!(of_nix("substituters"))
    );
    assert_eq!(ours["from"]["origin"], "nix-conf");
    assert_eq!(
        ours["from"]["lines"].as_array().unwrap().len(),
        5,
        "{}",
        ours["from"]
    );
    assert_eq!(
        ours["require-sigs"]["value"].to_string(),
        of_nix("require-sigs")[0]
    );
    assert_eq!(ours["require-sigs"]["lines"][0]["file"], "NIX_CONFIG");
}
