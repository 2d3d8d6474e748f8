//! What a configuration file may say, what is said of one that is wrong, and who prevails.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::Duration;

use super::decided::config_path;
use super::example::example;
use super::file::{ConfigFile, Mistake, parse};
use super::settings::MountSettings;
use super::table::names;
use super::value::FromNixConf;
use super::*;
use crate::cli::log::LogFormat;
use crate::cli::outcome::Usage;
use crate::cli::size::Size;
use crate::fetch::{Deadlines, PrefetchPolicy};
use crate::nix::store_path::StoreDir;

/// The documented example, which `make install` installs.
const EXAMPLE: &str = include_str!("../../../systemd/config.toml");
const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

fn choices(text: &str) -> Choices {
    let (choices, mistakes) = parse(Path::new("/c.toml"), text.as_bytes());
    assert_eq!(mistakes, [], "{text}");
    choices
}

fn mistakes(text: &str) -> Vec<String> {
    let (_, mistakes) = parse(Path::new("/c.toml"), text.as_bytes());
    mistakes.iter().map(Mistake::to_string).collect()
}

fn in_file<T>(value: T, line: usize) -> Option<Setting<T>> {
    let path = Path::new("/c.toml").into();
    let origin = Origin::File { path, line };
    Some(Setting { value, origin })
}

/// A value for each option, none of them the default.
fn full() -> String {
    format!(
        "state = \"/s\"\nstore-dir = \"/gnu/store\"\nmemory = 64\nlog-format = \"json\"\n\
         from = [\"file:///a\", \"https://b\"]\ntrusted-public-keys = [\"{KEY}\"]\n\
         require-sigs = false\nnetrc-file = \"/n\"\nfrom-nix-conf = \"/nix.conf\"\njobs = 3\n\
         listen = \"127.0.0.1:9464\"\nvolume-plugin = \"/v\"\nnix-socket = \"/x\"\n[mount]\n\
         lookup-timeout = 1\ncontents-timeout = 2\nabsent-ttl = 3\nhead-start = 4\nprefetch = \"closure\"\n\
         budget = \"20G\"\nwritable-profiles = true\nfile-handles = true\n"
    )
}

#[test]
fn every_option_is_read_with_its_line() {
    let seconds = Duration::from_secs;
    let expected = Choices {
        state: in_file("/s".into(), 1),
        store_dir: in_file(Some(StoreDir::parse("/gnu/store").unwrap()), 2),
        memory: in_file(64, 3),
        log_format: in_file(LogFormat::Json, 4),
        from: in_file(vec!["file:///a".into(), "https://b".into()], 5),
        trusted_public_keys: in_file(vec![KEY.into()], 6),
        require_sigs: in_file(false, 7),
        netrc_file: in_file(Some("/n".into()), 8),
        from_nix_conf: in_file(FromNixConf::File("/nix.conf".into()), 9),
        jobs: in_file(3, 10),
        listen: in_file(Some("127.0.0.1:9464".parse().unwrap()), 11),
        volume_plugin: in_file(Some("/v".into()), 12),
        nix_socket: in_file(Some("/x".into()), 13),
        lookup_timeout: in_file(seconds(1), 15),
        contents_timeout: in_file(seconds(2), 16),
        absent_ttl: in_file(seconds(3), 17),
        head_start: in_file(Duration::from_millis(4), 18),
        prefetch: in_file(PrefetchPolicy::Closure, 19),
        budget: in_file(Some(Size(20 << 30)), 20),
        writable_profiles: in_file(true, 21),
        file_handles: in_file(true, 22),
    };
    assert_eq!(choices(&full()), expected);
}

#[test]
fn values_may_be_written_in_more_than_one_way() {
    assert_eq!(choices(""), Choices::default());
    assert_eq!(choices("from = []").from, in_file(vec![], 1));
    assert_eq!(
        choices("mount.budget = 1_000").budget,
        in_file(Some(Size(1000)), 1)
    );
    assert_eq!(
        choices("mount = {budget = \"none\"}").budget,
        in_file(None, 1)
    );
    assert_eq!(choices("memory = 0x40").memory, in_file(64, 1));
    assert_eq!(
        choices("netrc-file = \"none\"").netrc_file,
        in_file(None, 1)
    );
    assert_eq!(choices("listen = \"none\"").listen, in_file(None, 1));
    let socket = "unix:/run/narfs.sock";
    let listen = choices(&format!("listen = {socket:?}")).listen;
    assert_eq!(listen, in_file(socket.parse().ok(), 1));
    let plugin = choices("volume-plugin = \"none\"").volume_plugin;
    assert_eq!(plugin, in_file(None, 1));
    for (text, from) in [("true", FromNixConf::Usual), ("false", FromNixConf::No)] {
        let file = choices(&format!("from-nix-conf = {text}"));
        assert_eq!(file.from_nix_conf, in_file(from, 1));
    }
    let windows = "# x\r\n\r\n[mount]\r\nprefetch = 'none'\r\n";
    assert_eq!(choices(windows).prefetch, in_file(PrefetchPolicy::None, 4));
}

/// A file that is wrong, and how what is said of it begins.
const WRONG: &[(&str, &str)] = &[
    (
        "state = 1",
        "/c.toml:1: state: 1 is no text; write /DIRECTORY/… in quotes",
    ),
    (
        "state = \"s\"",
        "/c.toml:1: state: \"s\" is no absolute path; write /DIRECTORY/…",
    ),
    (
        "\nstore-dir = \"nix\"",
        "/c.toml:2: store-dir: \"nix\" is no store directory",
    ),
    (
        "memory = 31",
        "/c.toml:1: memory: 31 is no number of MiB; give 32 or more",
    ),
    (
        "memory = \"64\"",
        "/c.toml:1: memory: \"64\" is no number of MiB",
    ),
    (
        "memory = 99999999999999999999",
        "/c.toml:1: memory: 99999999999999999999 is no",
    ),
    (
        "memory = 64.5",
        "/c.toml:1: memory: 64.5 is no number of MiB",
    ),
    (
        "from = \"https://a\"",
        "/c.toml:1: from: \"https://a\" is no list; write [",
    ),
    (
        "from = [\n\"https://a\",\n\"ftp://b\"]",
        "/c.toml:3: from: \"ftp://b\" is no source: a source is file:///",
    ),
    (
        "from = [\"/dir\"]",
        "/c.toml:1: from: \"/dir\" is no source: write a directory as file:///",
    ),
    ("from = [\n1]", "/c.toml:2: from: 1 is no text; write ["),
    (
        "trusted-public-keys = [\n\n\"abc\"]",
        "/c.toml:3: trusted-public-keys: \"abc\" is no public key (",
    ),
    (
        "trusted-public-keys = true",
        "/c.toml:1: trusted-public-keys: true is no list; write [\"NAME:BASE64\"]",
    ),
    (
        "require-sigs = \"no\"",
        "/c.toml:1: require-sigs: \"no\" is neither true nor false",
    ),
    (
        "netrc-file = \"netrc\"",
        "/c.toml:1: netrc-file: \"netrc\" is no absolute path; write",
    ),
    (
        "netrc-file = false",
        "/c.toml:1: netrc-file: false is no text; write",
    ),
    (
        "listen = \":9464\"",
        "/c.toml:1: listen: \":9464\" is not an address to listen at (it does not say to whom); give \
         127.0.0.1:9464",
    ),
    (
        "listen = 9464",
        "/c.toml:1: listen: 9464 is no text; write ADDRESS:PORT or none",
    ),
    (
        "jobs = -1",
        "/c.toml:1: jobs: -1 is no number of jobs; give 1 or more, or 0",
    ),
    (
        "jobs = 1979-05-27",
        "/c.toml:1: jobs: 1979-05-27 is no number of jobs",
    ),
    (
        "volume-plugin = \"narfs.sock\"",
        "/c.toml:1: volume-plugin: \"narfs.sock\" is no absolute path; write /DIRECTORY/FILE or none",
    ),
    (
        "volume-plugin = true",
        "/c.toml:1: volume-plugin: true is no text; write",
    ),
    (
        "mount = 1",
        "/c.toml:1: mount: 1 is no table; write [mount]",
    ),
    (
        "[mount]\nlookup-timeout = 0",
        "/c.toml:2: mount.lookup-timeout: 0 is no number of seconds; give 1 or more",
    ),
    (
        "[mount]\n\ncontents-timeout = 1.5",
        "/c.toml:3: mount.contents-timeout: 1.5 is no number of seconds",
    ),
    (
        "[mount]\nabsent-ttl = \"10\"",
        "/c.toml:2: mount.absent-ttl: \"10\" is no number of seconds",
    ),
    (
        "[mount]\nprefetch = \"all\"",
        "/c.toml:2: mount.prefetch: \"all\" is no policy; write none or closure",
    ),
    (
        "[mount]\nprefetch = []",
        "/c.toml:2: mount.prefetch: a list is no policy; write",
    ),
    (
        "[mount]\nbudget = \"20Q\"",
        "/c.toml:2: mount.budget: \"20Q\" is no size; write 500M, 20G or none",
    ),
    (
        "[mount]\nbudget = 0",
        "/c.toml:2: mount.budget: 0 is no size; write",
    ),
    (
        "[mount]\nbudget = -5",
        "/c.toml:2: mount.budget: -5 is no size; write",
    ),
    (
        "[mount]\nbudget = {}",
        "/c.toml:2: mount.budget: a table is no size; write",
    ),
    (
        "jbos = 1",
        "/c.toml:1: \"jbos\" is no option; there are state, store-dir, memory,",
    ),
    ("[mounts]\nx = 1", "/c.toml:1: \"mounts\" is no option;"),
    (
        "[mount]\n\nttl = 1",
        "/c.toml:3: \"mount.ttl\" is no option; [mount] has lookup-timeout,",
    ),
    (
        "budget = \"1G\"",
        "/c.toml:1: budget: write it below [mount]",
    ),
    (
        "[mount]\nfrom = []",
        "/c.toml:2: mount.from: write from above [mount]",
    ),
    (
        "log-format = \"xml\"",
        "/c.toml:1: log-format: \"xml\" is no format of the log; write text or json",
    ),
    ("jobs = 1\njobs = 2", "/c.toml:2: this is not TOML: "),
    ("jobs = 1\n= 2", "/c.toml:2: this is not TOML: "),
    ("jobs", "/c.toml:1: this is not TOML: "),
];

#[test]
fn what_is_wrong_is_named_with_its_line_and_what_is_expected() {
    for (text, expected) in WRONG {
        let said = mistakes(text);
        assert!(said[0].starts_with(expected), "{text:?}: {said:?}");
        assert_eq!(said[0].lines().count(), 1, "{said:?}");
    }
    let (_, said) = parse(Path::new("/c.toml"), b"jobs = 1\n# \xff");
    assert_eq!(said[0].to_string(), "/c.toml:2: this is not UTF-8");
}

#[test]
fn all_mistakes_are_found_from_top_to_bottom() {
    let said =
        mistakes("state = 1\nmemory = 1\nfrom = 1\njobs = \"\"\n[mount]\nbudget = 0\nx = 1\n");
    let lines = said.iter().map(|m| m.split(':').nth(1).unwrap());
    assert_eq!(lines.collect::<Vec<_>>(), ["1", "2", "3", "4", "6", "7"]);
}

fn environment(said: &[(&str, &str)]) -> Choices {
    let find = |name: &str| said.iter().find(|(n, _)| *n == name);
    Choices::of_environment(|name| find(name).map(|(_, value)| value.into())).unwrap()
}

/// Choices of the command line, a value for each option.
fn flags() -> Choices {
    let mut flags = Choices {
        state: Some(Setting::flag("/f".into())),
        store_dir: Some(Setting::flag(Some(StoreDir::parse("/f/store").unwrap()))),
        memory: Some(Setting::flag(128)),
        log_format: Some(Setting::flag(LogFormat::Json)),
        from: Some(Setting::flag(vec!["file:///f".into()])),
        trusted_public_keys: Some(Setting::flag(vec!["flag".into()])),
        require_sigs: Some(Setting::flag(false)),
        netrc_file: Some(Setting::flag(Some("/f/netrc".into()))),
        from_nix_conf: Some(Setting::flag(FromNixConf::File("/f/nix.conf".into()))),
        jobs: Some(Setting::flag(9)),
        listen: Some(Setting::flag("[::1]:9999".parse().ok())),
        volume_plugin: Some(Setting::flag(Some("/f/v.sock".into()))),
        nix_socket: Some(Setting::flag(Some("/f/n.sock".into()))),
        ..Choices::default()
    };
    for option in [
        "lookup-timeout=91",
        "contents-timeout=92",
        "absent-ttl=93",
        "head-start=94",
        "prefetch=closure",
        "budget=9G",
        "writable-profiles",
        "file-handles",
    ] {
        assert!(is_mount_option(option));
        flags.take_mount_option(option).unwrap();
    }
    flags
}

/// Each option with what `entries` says, as a text.
fn shown(settings: &Settings) -> Vec<(&'static str, String, String)> {
    let entries = settings.entries().into_iter();
    entries
        .map(|e| {
            (
                e.description.name,
                e.value.json().to_string(),
                e.origin.to_string(),
            )
        })
        .collect()
}

#[test]
fn flags_prevail_over_the_environment_that_over_the_file_and_that_over_what_is_built_in() {
    let (flags, nothing) = (flags(), Choices::default());
    let environment = environment(&[("NARFS_STATE", "/e"), ("NARFS_MEMORY", "99")]);
    let file = choices(&full());
    let by_default = shown(&Settings::decide(&[&nothing, &nothing, &nothing]));
    let by_file = shown(&Settings::decide(&[&nothing, &nothing, &file]));
    let by_environment = shown(&Settings::decide(&[&nothing, &environment, &file]));
    let by_flag = shown(&Settings::decide(&[&flags, &environment, &file]));

    let shown: Vec<_> = by_default.iter().map(|(name, ..)| *name).collect();
    assert_eq!(shown, [names(Place::Top), names(Place::Mount)].concat());
    for (i, name) in shown.iter().enumerate() {
        let [default, file, environment, flag] =
            [&by_default, &by_file, &by_environment, &by_flag].map(|all| &all[i]);
        assert_eq!(default.2, "default", "{name}");
        assert!(file.2.starts_with("/c.toml:"), "{name}: {}", file.2);
        assert_ne!(file.1, default.1, "{name}");
        if ["state", "memory"].contains(name) {
            assert!(environment.2.starts_with("environment, NARFS_"), "{name}");
            assert_ne!(environment.1, file.1, "{name}");
        } else {
            assert_eq!(environment, file, "{name}");
        }
        assert_eq!(flag.2, "command line", "{name}");
        // These are of two values only.
        let two = [
            "log-format",
            "require-sigs",
            "prefetch",
            "writable-profiles",
            "file-handles",
        ];
        if !two.contains(name) {
            assert_ne!(flag.1, environment.1, "{name}");
        }
    }
    let keys = by_flag
        .iter()
        .find(|(name, ..)| *name == "trusted-public-keys");
    assert_eq!(keys.unwrap().1, format!("[\"{KEY}\",\"flag\"]"), "added up");
}

#[test]
fn flags_that_are_given_again_choose_the_same() {
    #[derive(clap::Parser)]
    struct Every {
        #[command(flatten)]
        flags: Flags<{ EVERY | FETCHING | COPYING | SERVING }>,
    }
    let chosen = Choices {
        from: Some(Setting::flag(vec!["file:///a".into(), "file:///b".into()])),
        state: Some(Setting::flag(OsString::from_vec(b"/\xff".into()).into())),
        ..flags()
    };
    let given = chosen.flags().into_iter();
    let given = given.flat_map(|(flag, argument)| [Some(flag.into()), argument]);
    let words = std::iter::once("narfs".into()).chain(given.flatten());
    let again = <Every as clap::Parser>::try_parse_from(words).unwrap();
    let values = |choices: &Choices| shown(&Settings::decide(&[choices]));
    // Options of mounts have no flags of their own.
    let top = names(Place::Top).len();
    assert_eq!(values(&again.flags.choices)[..top], values(&chosen)[..top]);
    assert_eq!(again.flags.choices.state, chosen.state);
    let nothing = <Every as clap::Parser>::try_parse_from(["narfs"]).unwrap();
    assert_eq!(nothing.flags.choices, Choices::default());
}

#[test]
fn a_flag_that_believes_without_signatures_overrides_a_file_that_needs_them() {
    let file = choices("require-sigs = true");
    let flags = Choices {
        require_sigs: Some(Setting::flag(false)),
        ..Choices::default()
    };
    let decided = Settings::decide(&[&flags, &file]).require_sigs;
    assert_eq!(decided, Setting::flag(false));
}

#[test]
fn an_environment_that_makes_no_sense_is_refused() {
    for (name, value) in [
        ("NARFS_STATE", ""),
        ("NARFS_MEMORY", "31"),
        ("NARFS_MEMORY", "64M"),
        ("NARFS_MEMORY", ""),
    ] {
        let get = |n: &str| (n == name).then(|| value.into());
        let said = Choices::of_environment(get).unwrap_err();
        assert!(
            said.is::<Usage>() && said.to_string().contains(name),
            "{said}"
        );
    }
    assert!(config_path(None, |_| Some(OsString::new())).is_err());
}

#[test]
fn a_configuration_file_is_named_by_flag_environment_or_not_at_all() {
    let get = |name: &str| (name == "NARFS_CONFIG").then(|| "/e.toml".into());
    let by_flag = config_path(Some(Path::new("/f.toml")), get).unwrap();
    assert_eq!(by_flag, Setting::flag("/f.toml".into()));
    let by_environment = config_path(None, get).unwrap();
    assert_eq!(by_environment.value, Path::new("/e.toml"));
    assert_eq!(by_environment.origin, Origin::Environment("NARFS_CONFIG"));
    let by_default = config_path(None, |_| None).unwrap();
    assert_eq!(by_default.value, Path::new("/etc/narfs/config.toml"));
    assert_eq!(by_default.origin, Origin::Default);
    let relative = config_path(Some(Path::new("f.toml")), get).unwrap();
    assert!(relative.value.is_absolute());
}

#[test]
fn only_a_file_that_nobody_named_may_be_absent() {
    let read = |origin| {
        let value = "/no/such/file.toml".into();
        ConfigFile::read(Setting { value, origin })
    };
    let absent = read(Origin::Default).unwrap();
    assert!(!absent.present && absent.choices == Choices::default());
    assert_eq!(absent.to_name_again(), Path::new("/dev/null"));
    for origin in [Origin::Flag, Origin::Environment("NARFS_CONFIG")] {
        let said = read(origin).unwrap_err().to_string();
        assert!(said.contains("/no/such/file.toml"), "{said}");
    }
    let said = ConfigFile::read(Setting::flag("/".into())).unwrap_err();
    assert!(said.to_string().contains("cannot read"), "{said}");
}

#[test]
fn mount_options_that_make_no_sense_are_refused_by_name() {
    for (option, expected) in [
        (
            "lookup-timeout=0",
            "lookup-timeout: \"0\" is no number of seconds",
        ),
        (
            "contents-timeout=",
            "contents-timeout: \"\" is no number of seconds",
        ),
        (
            "head-start=0.2",
            "head-start: \"0.2\" is no number of milliseconds; give 0 or more",
        ),
        (
            "absent-ttl=1s",
            "absent-ttl: \"1s\" is no number of seconds",
        ),
        (
            "prefetch=all",
            "prefetch: \"all\" is no policy; write none or closure",
        ),
        (
            "budget=20Q",
            "budget: \"20Q\" is no size; write 500M, 20G or none",
        ),
        ("budget=0", "budget: \"0\" is no size"),
        (
            "writable-profiles=yes",
            "writable-profiles: \"yes\" is neither true nor false",
        ),
    ] {
        let said = Choices::default().take_mount_option(option).unwrap_err();
        assert!(said.starts_with(expected), "{said}");
    }
    assert!(!is_mount_option("budget") && !is_mount_option("size=1"));
}

#[test]
fn what_is_decided_for_a_mount_is_one_value() {
    let settings = Settings::decide(&[&flags()]);
    let deadlines = Deadlines {
        lookup: Duration::from_secs(91),
        contents: Duration::from_secs(92),
        absent: Duration::from_secs(93),
        head_start: Duration::from_millis(94),
    };
    let expected = MountSettings {
        deadlines,
        prefetch: PrefetchPolicy::Closure,
        budget: Some(9 << 30),
        writable_profiles: true,
        file_handles: true,
    };
    assert_eq!(settings.mount(), expected);
}

/// The example with each option in force, and the names of the options.
fn uncommented() -> (String, BTreeSet<String>) {
    let mut names = BTreeSet::new();
    let mut text = String::new();
    for line in EXAMPLE.lines() {
        let option = line.strip_prefix("# ").and_then(|l| {
            let (name, _) = l.split_once(" = ")?;
            let is_name = name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
            is_name.then(|| (name.to_owned(), l))
        });
        match option {
            Some((name, option)) => {
                assert!(names.insert(name), "{option} stands there twice");
                text.push_str(option);
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    (text, names)
}

#[test]
fn the_example_is_what_the_table_gives() {
    let advice = "`narfs config example >systemd/config.toml` writes it";
    assert_eq!(EXAMPLE, example(), "{advice}");
}

#[test]
fn mount_narfs_passes_on_what_the_table_has_for_a_daemon() {
    let passed_on = narfs_mounting::DAEMON_OPTIONS.join(", ");
    assert_eq!(named_options(false), passed_on);
}

#[test]
fn the_example_names_every_option_at_its_default() {
    assert_eq!(choices(EXAMPLE), Choices::default());
    let (text, named) = uncommented();
    let all = [names(Place::Top), names(Place::Mount)].concat();
    assert_eq!(named, all.into_iter().map(str::to_owned).collect());
    let said = Settings::decide(&[&choices(&text)]);
    let built_in = Settings::decide(&[]);
    for (said, built_in) in shown(&said).iter().zip(shown(&built_in)) {
        // A state keeps its own; this is for a new one.
        if said.0 == "store-dir" {
            assert_eq!(said.1, format!("{:?}", StoreDir::default().as_str()));
        } else {
            assert_eq!(said.1, built_in.1, "{}", said.0);
        }
    }
}

#[test]
fn what_is_shown_is_a_file_that_means_the_same() {
    let (file, nothing) = (choices(&full()), Choices::default());
    let place = ConfigFile::unread(config_path(None, |_| None).unwrap());
    for said in [&file, &flags(), &nothing] {
        let said = Choices {
            trusted_public_keys: None,
            ..said.clone()
        };
        let settings = Settings::decide(&[&said]);
        let text = command::as_text(&place, &settings);
        let again = Settings::decide(&[&choices(&text)]);
        let values = |s: &Settings| {
            shown(s)
                .into_iter()
                .map(|(n, v, _)| (n, v))
                .collect::<Vec<_>>()
        };
        assert_eq!(values(&again), values(&settings), "{text}");
    }
}
