//! The log as JSON, from daemon, keeper and commands.

use std::fs;

use crate::binary_cache::Cache;
use crate::on_demand::{SHORT, directory, errno, key};
use crate::server::Refusing;
use crate::support::{Sandbox, is_alive, run, wait_until};

/// The objects of a log; each line has to be one.
fn objects(log: &str) -> Vec<serde_json::Value> {
    let parse = |line| match serde_json::from_str::<serde_json::Value>(line) {
        Ok(object) if object["timestamp"].is_string() && object["message"].is_string() => object,
        other => panic!("{line}: {other:?}"),
    };
    log.lines().map(parse).collect()
}

fn says(objects: &[serde_json::Value], level: &str, text: &str) -> bool {
    let mut found = objects.iter().filter(|o| o["level"] == level);
    found.any(|o| o["message"].as_str().unwrap().contains(text))
}

#[test]
fn daemon_keeper_and_the_daemons_after_them_log_objects() {
    let cache = Cache::new();
    let offer = directory("absent", b"");
    let sandbox = Sandbox::empty();
    let refusing = Refusing::new();
    let url = refusing.url.clone();
    let at = sandbox.at.to_str().unwrap();
    let key = key(&cache);
    let mount = [
        "mount",
        at,
        "--log-format",
        "json",
        "--from",
        &url,
        "-o",
        SHORT,
    ];
    sandbox.narfs(&[&mount[..], &["--trusted-public-key", &key]].concat());
    let log = || objects(&fs::read_to_string(sandbox.state.join("narfs.log")).unwrap());
    let looked_up = || {
        let place = sandbox.store().join(offer.path().base_name());
        assert_eq!(errno(fs::metadata(place)), Some(libc::EIO));
        log()
            .iter()
            .filter(|o| o["message"].to_string().contains("a source is away"))
            .count()
    };
    assert_eq!(looked_up(), 1);
    let away = log().into_iter().find(|o| o["source"] == *url).unwrap();
    assert_eq!(
        (&away["level"], &away["target"]),
        (&"WARN".into(), &"narfs::fetch::health".into())
    );

    let pid = sandbox.pid();
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    wait_until("the daemon is gone", || !is_alive(pid));
    wait_until("the next one serves", || sandbox.is_served());
    assert!(says(&log(), "ERROR", "the daemon ended"));
    assert_eq!(looked_up(), 2);
    sandbox.narfs(&["upgrade"]);
    assert_eq!(looked_up(), 3);
}

#[test]
fn commands_say_what_they_have_to_say_as_objects() {
    let sandbox = Sandbox::empty();
    let mut copy = sandbox.command(&[
        "--log-format=json",
        "copy",
        "--no-require-sigs",
        "x",
        "--from",
    ]);
    let ran = run(copy.arg("file:///absent"), b"");
    assert_eq!(ran.code, Some(1));
    let said = objects(&ran.stderr);
    assert!(says(&said, "WARN", "without signatures"), "{}", ran.stderr);
    assert!(says(&said, "ERROR", "\"x\""), "{}", ran.stderr);
    // The environment and the file say it, too.
    let file = sandbox.dir().join("config.toml");
    fs::write(&file, "log-format = \"json\"\n").unwrap();
    let named = ["--config", file.to_str().unwrap(), "status"];
    let ran = run(&mut sandbox.command(&named), b"");
    assert!(
        says(&objects(&ran.stderr), "ERROR", "no daemon"),
        "{}",
        ran.stderr
    );
    let ran = run(
        sandbox.command(&["status"]).env("NARFS_LOG_FORMAT", "json"),
        b"",
    );
    assert!(
        says(&objects(&ran.stderr), "ERROR", "no daemon"),
        "{}",
        ran.stderr
    );
    // A file that is wrong is told of as well as can be.
    fs::write(&file, "log-format = \"json\"\nx = 1\n").unwrap();
    let ran = run(
        &mut sandbox.command(&["--config", file.to_str().unwrap(), "stats"]),
        b"",
    );
    assert!(
        says(&objects(&ran.stderr), "ERROR", "config.toml:2"),
        "{}",
        ran.stderr
    );
}
