//! The configuration file: what is wrong in it is named, and what it says is in force.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::binary_cache::{Cache, Offer, file as nar_of};
use crate::program::{Ran, State};

/// Commands to which the configuration matters, with arguments that they could work on.
const COMMANDS: [&[&str]; 11] = [
    &["mount", "/nowhere"],
    &["copy", "--all"],
    &["add", "/nowhere"],
    &["path-info"],
    &["ls", "x"],
    &["cat", "x"],
    &["dump", "x"],
    &["stats"],
    &["verify"],
    &["config", "show"],
    &["config", "check"],
];

struct File {
    state: State,
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("narfs.toml");
        std::fs::write(&path, text).unwrap();
        let (state, _dir) = (State::new(), dir);
        Self { state, _dir, path }
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        let mut command = self.state.command(arguments);
        Ran::of(command.arg("--config").arg(&self.path))
    }
}

#[test]
fn a_wrong_file_makes_every_command_fail_with_its_line() {
    let file = File::new("# sizes\n\n[mount]\nbudget = \"20Q\"\n");
    let line = format!(
        "narfs: {}:4: mount.budget: \"20Q\" is no size; write 500M, 20G or none\n",
        file.path.display()
    );
    for command in COMMANDS {
        let ran = file.run(command);
        ran.fails(&["20Q"]);
        assert_eq!(ran.stderr(), line, "{command:?}");
        assert_eq!(ran.stdout(), "", "{command:?}");
    }
    assert!(!file.state.dir().exists());
}

#[test]
fn commands_that_must_work_do_so_with_a_wrong_file() {
    let file = File::new("[mount]\nbudget = \"20Q\"\n");
    let line = format!("{}:2: mount.budget", file.path.display());
    let state = file.state.dir().display().to_string();
    // A warning that names the line, and what the command has to say.
    let warned = |ran: &Ran, said: &[&str]| {
        let lines = ran.stderr();
        assert_eq!(ran.output.status.code(), Some(1), "{lines}");
        assert!(lines.starts_with("narfs: warning: "), "{lines}");
        assert!(said.iter().all(|part| lines.contains(part)), "{lines}");
    };
    for command in ["status", "metrics", "upgrade"] {
        warned(&file.run(&[command]), &[&line, "no daemon serves", &state]);
    }
    file.run(&["umount", "/nowhere"])
        .fails(&["no narfs is mounted at /nowhere"]);
    file.run(&["key", "generate", "name-1"]).succeeds();
    // The state is where the file says, as far as it can be read.
    let named = File::new("state = \"/that/one\"\nno-such-setting = 3\n");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_narfs"));
    command.arg("--config").arg(&named.path).arg("status");
    let ran = Ran::of(command.env_remove("NARFS_STATE"));
    warned(&ran, &[":2: ", "no-such-setting", "/that/one"]);
}

#[test]
fn a_named_file_that_is_absent_is_an_error() {
    let state = State::new();
    let absent = "/no/such/narfs.toml";
    for command in COMMANDS {
        let mut by_flag = state.command(command);
        let ran = Ran::of(by_flag.args(["--config", absent]));
        ran.fails(&[absent, "the command line names"]);
        let mut by_environment = state.command(command);
        let ran = Ran::of(by_environment.env("NARFS_CONFIG", absent));
        ran.fails(&[absent, "NARFS_CONFIG names"]);
    }
}

#[test]
fn a_check_names_every_mistake_and_looks_at_no_other_file() {
    let wrong = File::new("memory = 1\njobs = \"x\"\n");
    let good = File::new("memory = 64\n");
    let [wrong_path, good_path] = [&wrong, &good].map(|f| f.path.to_str().unwrap());
    for ran in [
        wrong.run(&["config", "check"]),
        good.run(&["config", "check", wrong_path]),
    ] {
        assert_eq!(ran.output.status.code(), Some(1));
        let (first, second) = (format!("{wrong_path}:1: "), format!("{wrong_path}:2: "));
        let stderr = ran.stderr();
        let lines: Vec<_> = stderr.lines().collect();
        assert!(
            lines[0].contains(&first) && lines[1].contains(&second),
            "{stderr}"
        );
        assert_eq!(lines.len(), 2, "{stderr}");
    }
    for ran in [
        good.run(&["config", "check"]),
        wrong.run(&["config", "check", good_path]),
    ] {
        ran.succeeds();
        assert_eq!(ran.stdout(), format!("{good_path} is good\n"));
    }
    let absent = good.run(&["config", "check", "/no/such/narfs.toml"]);
    absent.fails(&["/no/such/narfs.toml"]);
}

#[test]
fn the_installed_example_is_good() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/config.toml");
    let ran = State::new().run(&["config", "check", example.to_str().unwrap()]);
    ran.succeeds();
}

#[test]
fn settings_are_shown_with_where_they_are_from() {
    let file = File::new("memory = 64\njobs = 2\nfrom = []\n[mount]\nbudget = \"20G\"\n");
    let path = file.path.to_str().unwrap();
    let text = file.run(&["config", "show"]);
    text.succeeds();
    let text = text.stdout();
    let line = |name: &str| {
        let found = text.lines().find(|l| l.starts_with(name));
        found.unwrap_or_else(|| panic!("no {name} in {text}"))
    };
    assert!(line("state = ").ends_with("  # command line"), "{text}");
    assert!(
        line("memory = 64 ").ends_with(&format!("  # {path}:1")),
        "{text}"
    );
    assert!(
        line("from = [] ").ends_with(&format!("  # {path}:3")),
        "{text}"
    );
    assert!(
        line("budget = \"20G\" ").ends_with(&format!("  # {path}:5")),
        "{text}"
    );
    assert!(line("absent-ttl = 10 ").ends_with("  # default"), "{text}");

    let mut command = file
        .state
        .command(&["config", "show", "--json", "--config", path]);
    let json = Ran::of(command.env("NARFS_MEMORY", "96"));
    json.succeeds();
    let json: Value = serde_json::from_str(&json.stdout()).unwrap();
    assert_eq!(json["config"]["value"], path);
    assert_eq!(json["config"]["origin"], "flag");
    assert_eq!(json["state"]["value"], file.state.dir().to_str().unwrap());
    assert_eq!(json["state"]["origin"], "flag");
    assert_eq!(json["memory"]["value"], 96);
    assert_eq!(json["memory"]["origin"], "environment");
    assert_eq!(json["memory"]["variable"], "NARFS_MEMORY");
    assert_eq!(json["jobs"]["value"], 2);
    assert_eq!(json["jobs"]["file"], path);
    assert_eq!(json["jobs"]["line"], 2);
    assert_eq!(json["mount"]["budget"]["value"], "20G");
    assert_eq!(json["mount"]["budget"]["origin"], "file");
    assert_eq!(json["mount"]["budget"]["line"], 5);
    assert_eq!(json["mount"]["lookup-timeout"]["value"], 10);
    assert_eq!(json["mount"]["lookup-timeout"]["origin"], "default");
}

#[test]
fn an_environment_that_makes_no_sense_is_a_usage_error() {
    let state = State::new();
    let ran = Ran::of(state.command(&["stats"]).env("NARFS_MEMORY", "16"));
    assert_eq!(ran.output.status.code(), Some(2));
    assert!(ran.stderr().contains("NARFS_MEMORY"), "{}", ran.stderr());
}

#[test]
fn a_copy_takes_sources_keys_and_the_state_from_the_file() {
    let cache = Cache::new();
    let offer = Offer::named("configured", nar_of(b"contents"));
    cache.put(&offer);
    let [_, url, _, key] = cache.arguments().try_into().unwrap();
    let state = State::new();
    let text = format!(
        "state = {:?}\nfrom = [\"{url}\"]\ntrusted-public-keys = [\"{key}\"]\n",
        state.dir()
    );
    let file = File::new(&text);
    let path = file.path.to_str().unwrap();
    let mut copy = std::process::Command::new(env!("CARGO_BIN_EXE_narfs"));
    copy.env_remove("NARFS_STATE").env_remove("NARFS_MEMORY");
    let ran = Ran::of(copy.args(["copy", "--config", path, "--all"]));
    ran.succeeds().counts(1, 0);
    state.has_exactly(&[offer.path()]);

    // A source of the command line comes in place of that.
    let ran = file.run(&["copy", "--all", "--from", "file:///no/such/cache"]);
    ran.fails(&["file:///no/such/cache"]);
}

#[test]
fn a_file_that_believes_without_signatures_is_warned_of_loudly() {
    let cache = Cache::new();
    let offer = Offer::named("unsigned", nar_of(b"contents")).unsigned();
    cache.put(&offer);
    let file = File::new(&format!(
        "from = [\"{}\"]\n\nrequire-sigs = false\n",
        cache.url()
    ));
    let ran = file.run(&["copy", "--all"]);
    ran.succeeds().counts(1, 0);
    let said = ran.stderr();
    let place = format!("warning: {}:3: require-sigs = false", file.path.display());
    assert!(
        said.contains(&place) && said.contains("without signatures"),
        "{said}"
    );
}

#[test]
fn a_file_that_asks_nobody_leaves_a_copy_without_sources() {
    let file = File::new("# nobody\nfrom = []\n");
    let place = format!("{}:2: from = []", file.path.display());
    let ran = file.run(&["copy", "--all"]);
    ran.fails(&[&place, "--from"]);
}
