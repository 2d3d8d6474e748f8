//! The expressions in systemd/nix, evaluated by real Nix with a stand-in for nixpkgs.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Sandbox, run};

/// The directives of a unit: by section and name, its values.
type Directives = BTreeMap<String, Vec<String>>;

/// Settings of services.narfs with every unit that goes with a mount.
const ALL: &str = "{ enable = true; gc.enable = true; http.enable = true; volumePlugin.enable = true; \
     nixSocket.enable = true; }";

/// The value of an expression, or what Nix complains about.
fn evaluate(expression: &str) -> Result<Value, String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let expression = format!("(import {root}/tests/system/nix_stand_in.nix).{expression}");
    let mut nix = Command::new("nix-instantiate");
    nix.args(["--eval", "--strict", "--json", "--expr", &expression]);
    // Nothing is put into the store of this machine.
    nix.env("NIX_REMOTE", "dummy://");
    let ran = run(&mut nix, b"");
    match ran.code {
        Some(0) => Ok(serde_json::from_slice(&ran.stdout).unwrap()),
        _ => Err(ran.stderr),
    }
}

fn value(expression: &str) -> Value {
    evaluate(expression).unwrap()
}

fn complaint(expression: &str) -> String {
    evaluate(expression).unwrap_err()
}

/// What a unit file of the source says, with the programs and the mount point of the module.
fn of_source(name: &str) -> Directives {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("systemd")
        .join(name);
    let text = fs::read_to_string(path).unwrap();
    let text = text.replace("/usr/local/bin/", "/NARFS/bin/");
    let text = text.replace("=/bin/", "=/COREUTILS/bin/");
    let text = text
        .replace(" nix.mount", "")
        .replace(" /nix", " /srv/narfs");
    let (mut directives, mut section) = (Directives::new(), "");
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        match line.split_once('=') {
            None => section = line,
            Some((name, value)) => {
                let values = directives.entry(format!("{section}{name}")).or_default();
                values.push(value.to_owned());
            }
        }
    }
    directives
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// What a unit of NixOS says; `kind` is `service`, `timer` or `socket`.
fn of_module(unit: &Value, kind: &str) -> Directives {
    let mut directives = Directives::new();
    for (option, value) in unit.as_object().unwrap() {
        let name = match option.as_str() {
            "wantedBy" => "[Install]WantedBy",
            "startLimitIntervalSec" => "[Unit]StartLimitIntervalSec",
            "description" => "[Unit]Description",
            "documentation" => "[Unit]Documentation",
            "after" => "[Unit]After",
            "before" => "[Unit]Before",
            "conflicts" => "[Unit]Conflicts",
            "requires" => "[Unit]Requires",
            // What `nixos-rebuild switch` does.
            "restartTriggers" | "stopIfChanged" => continue,
            _ => "",
        };
        if !name.is_empty() {
            let words = value
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![value.clone()]);
            let words: Vec<_> = words.iter().map(text).collect();
            directives.insert(name.to_owned(), vec![words.join(" ")]);
            continue;
        }
        let section = match option.strip_suffix("Config") {
            Some("unit") => "[Unit]",
            Some("service") if kind == "service" => "[Service]",
            Some("timer") if kind == "timer" => "[Timer]",
            Some("socket") if kind == "socket" => "[Socket]",
            _ => panic!("what is {option}?"),
        };
        for (name, value) in value.as_object().unwrap() {
            let values = value
                .as_array()
                .cloned()
                .unwrap_or_else(|| vec![value.clone()]);
            let values = values.iter().map(text).collect();
            directives.insert(format!("{section}{name}"), values);
        }
    }
    directives
}

#[test]
fn the_nixos_module_has_the_units_of_the_source() {
    let mounted = value(&format!("module {ALL}"));
    let waiting = value("module { enable = true; mountPoint = null; }");
    let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
    let mut compared = 0;
    for entry in fs::read_dir(systemd).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let Some((name, kind @ ("service" | "timer" | "socket"))) = file.rsplit_once('.') else {
            continue;
        };
        let config = if name == "narfs-daemon" {
            &waiting
        } else {
            &mounted
        };
        let unit = &config["systemd"][format!("{kind}s")][name];
        assert!(unit.is_object(), "the module has no {file}");
        assert_eq!(of_module(unit, kind), of_source(&file), "{file}");
        compared += 1;
    }
    assert!(compared >= 7, "{compared}");
}

#[test]
fn every_setting_of_the_nixos_module_is_one_of_the_program() {
    let sandbox = Sandbox::empty();
    let example = sandbox.narfs(&["config", "example"]);
    let (top, mount) = example.split_once("\n[mount]\n").unwrap();
    let known =
        |text: &str, name: &str| text.lines().any(|l| l.starts_with(&format!("# {name} = ")));
    let settings = value("settings");
    for (name, inner) in settings.as_object().unwrap() {
        match inner.as_array() {
            None => assert!(known(top, name), "{name}"),
            Some(names) => {
                assert_eq!(name, "mount");
                for name in names {
                    assert!(known(mount, name.as_str().unwrap()), "mount.{name}");
                }
            }
        }
    }
    // The file that the module makes of them is one that the program takes.
    let given = r#"{ enable = true; settings = { from = [ "http://cache.lan" ]; memory = 128;
        mount = { budget = "20G"; prefetch = "closure"; absent-ttl = 3; }; }; }"#;
    let module = value(&format!("module {given}"));
    let made = &module["environment"]["etc"]["narfs/config.toml"]["source"];
    let write = |table: &Value| -> String {
        let entries = table.as_object().unwrap().iter();
        let values = entries.filter(|(_, v)| !v.is_object());
        values
            .map(|(name, value)| format!("{name} = {value}\n"))
            .collect()
    };
    let file = sandbox.dir().join("config.toml");
    fs::write(&file, write(made) + "[mount]\n" + &write(&made["mount"])).unwrap();
    let shown = sandbox.narfs(&["--config", file.to_str().unwrap(), "config", "show"]);
    for line in [
        "from = [\"http://cache.lan\"]",
        "budget = \"20G\"",
        "absent-ttl = 3",
    ] {
        assert!(shown.contains(line), "{line}: {shown}");
    }
}

#[test]
fn the_nixos_module_refuses_what_cannot_be() {
    let failing = |given: &str| -> Vec<String> {
        let module = value(&format!("module {given}"));
        let assertions = module["assertions"].as_array().unwrap().iter();
        let failing = assertions.filter(|a| a["assertion"] == false);
        failing.map(|a| text(&a["message"])).collect()
    };
    assert!(failing(ALL).is_empty());
    assert!(failing("{ enable = true; mountPoint = null; }").is_empty());
    for at in ["/nix", "/nix/store", "/"] {
        let said = failing(&format!("{{ enable = true; mountPoint = \"{at}\"; }}"));
        assert!(said[0].contains("its own /nix"), "{at}: {said:?}");
    }
    let said = failing(r#"{ enable = true; settings.state = "/srv/narfs/state"; }"#);
    assert!(said[0].contains("/srv/narfs/state"), "{said:?}");
    assert_eq!(value("module { }"), serde_json::json!({}));
    assert!(complaint("module { enable = 3; }").contains("services.narfs.enable"));
    assert!(complaint("module { enable = true; sources = [ ]; }").contains("no option"));
}

#[test]
fn the_nix_package_and_the_flake_evaluate() {
    let package = value("package");
    assert_eq!(package["version"], env!("CARGO_PKG_VERSION"));
    let flake = value("flake");
    for output in ["package", "check", "overlay"] {
        assert_eq!(flake[output], "narfs", "{output}");
    }
    assert!(Path::new(flake["module"].as_str().unwrap()).is_file());
    // The test in a virtual machine is of a configuration that the module takes.
    let services = flake["services"]["narfs"].to_string();
    let given = format!("(builtins.fromJSON ''{services}'')");
    assert!(value(&format!("module {given}"))["systemd"]["services"]["narfs"].is_object());
}
