//! What whoever watches a daemon sees: figures that say what happened, and never go back.

use std::collections::BTreeMap;
use std::fs;

use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, read_everything, run, wait_until};

/// The series of a scrape, by their names with labels.
fn scrape(sandbox: &Sandbox) -> BTreeMap<String, f64> {
    let text = sandbox.narfs(&["metrics"]);
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let samples = samples.map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series.to_owned(), value.parse().unwrap())
    });
    samples.collect()
}

/// Whether a series only grows.
fn is_counter(series: &str) -> bool {
    let name = series.split('{').next().unwrap();
    ["_total", "_bucket", "_count", "_sum"]
        .iter()
        .any(|end| name.ends_with(end))
}

fn answered(figures: &BTreeMap<String, f64>, operation: &str) -> f64 {
    let series = format!("narfs_fuse_request_duration_seconds_count{{operation=\"{operation}\"}}");
    figures.get(&series).copied().unwrap_or(0.0)
}

#[test]
fn without_a_daemon_there_are_no_figures() {
    let sandbox = Sandbox::with_worlds();
    for command in ["metrics", "top"] {
        let complaint = sandbox.complaint(&[command]);
        assert!(
            complaint.contains("no daemon serves the state"),
            "{complaint}"
        );
        assert!(complaint.contains("narfs mount"), "{complaint}");
    }
}

#[test]
fn every_request_is_counted_and_timed_whoever_answers_it() {
    let world = World::small();
    // Slow enough to be seen in the times, and answered by threads that wait for the network.
    let server = Server::new(world.cache(), |path, _| {
        if path.contains("nar/") {
            Answer::Slow(2)
        } else {
            Answer::File
        }
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &world.key(), "");
    let package = sandbox.package(world, "hello");
    let before = scrape(&sandbox);
    let read = read_everything(&package);
    assert!(read > 0);
    fs::metadata(
        sandbox
            .store()
            .join("00000000000000000000000000000000-none"),
    )
    .unwrap_err();
    wait_until("all are answered", || {
        scrape(&sandbox)["narfs_fuse_requests_waiting"] == 0.0
    });
    let after = scrape(&sandbox);
    for (series, value) in &before {
        if is_counter(series) {
            assert!(after[series] >= *value, "{series} went back");
        }
    }
    for operation in ["lookup", "read", "readdirplus"] {
        let counted = after[&format!("narfs_fuse_requests_total{{operation=\"{operation}\"}}")];
        assert_eq!(answered(&after, operation), counted, "{operation}");
    }
    assert!(after["narfs_served_bytes_total"] >= read as f64);
    // The first look inside waited for its NAR, for more than the server's pause.
    let slowest = after
        .iter()
        .filter(|(series, _)| series.starts_with("narfs_fuse_request_duration_seconds_sum"));
    assert!(slowest.map(|(_, sum)| sum).sum::<f64>() > 0.2);
    let source = |result: &str| {
        let (url, name) = (&server.url, "narfs_source_requests_total");
        after[&format!("{name}{{source=\"{url}\",result=\"{result}\"}}")]
    };
    assert!(source("hit") > 0.0);
    assert_eq!(source("error"), 0.0);
    assert!(source("miss") >= 1.0);
    let fetched = |kind: &str, result: &str| {
        let labels = format!("kind=\"{kind}\",purpose=\"program\",result=\"{result}\"");
        after[&format!("narfs_fetches_total{{{labels}}}")]
    };
    assert!(fetched("contents", "ok") >= 1.0);
    assert_eq!(fetched("root", "absent"), 1.0);
    assert!(after["narfs_fetched_bytes_total"] > 0.0);
    assert_eq!(after["narfs_restarts_total"], 0.0);
    assert!(after["narfs_resident_memory_bytes"] > 1e6);
    assert!(after["narfs_open_descriptors"] > 3.0);
}

#[test]
fn what_is_stored_is_counted_once_and_then_follows() {
    let sandbox = Sandbox::mounted();
    wait_until("the state is counted", || {
        scrape(&sandbox).contains_key("narfs_chunks")
    });
    let same = || {
        let (figures, stats) = (scrape(&sandbox), sandbox.json(&["stats"]));
        for name in ["stored_bytes", "unique_bytes", "chunks"] {
            let counted = stats[name].as_f64().unwrap();
            assert_eq!(figures[&format!("narfs_{name}")], counted, "{name}");
        }
        figures["narfs_unique_bytes"]
    };
    let at_first = same();
    let tree = sandbox.make_dir("tree");
    fs::write(tree.join("new"), "something that is not in any world").unwrap();
    sandbox.add(&tree);
    let more = same();
    assert!(more > at_first);
    // What was added stays, and so the command says that it is not all.
    run(&mut sandbox.command(&["evict", "--to", "0"]), b"");
    let less = same();
    assert!(less < more);
    let figures = scrape(&sandbox);
    assert!(figures["narfs_evicted_paths_total"] > 0.0);
    assert!(figures["narfs_evicted_bytes_total"] > 0.0);
    sandbox.narfs(&["gc"]);
    assert!(same() <= less);
}

#[test]
fn a_daemon_that_was_started_again_says_so() {
    let sandbox = Sandbox::mounted();
    let pid = sandbox.pid();
    assert_eq!(scrape(&sandbox)["narfs_restarts_total"], 0.0);
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    wait_until("another daemon serves", || {
        sandbox.is_served() && sandbox.pid() != pid
    });
    assert_eq!(scrape(&sandbox)["narfs_restarts_total"], 1.0);
}

#[test]
fn top_needs_no_terminal_and_shows_what_waits() {
    let world = World::small();
    let server = Server::new(world.cache(), |path, _| {
        if path.contains("nar/") {
            Answer::Stall
        } else {
            Answer::File
        }
    });
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &world.key(), "contents-timeout=4");
    let package = sandbox.package(world, "hello");
    let reading = std::thread::spawn(move || {
        let entries = fs::read_dir(package)?;
        entries.collect::<Result<Vec<_>, _>>()
    });
    let shown = |arguments: &[&str]| sandbox.narfs(&[&["top"], arguments].concat());
    wait_until("a fetch is shown", || {
        let once = shown(&["--once"]);
        once.contains("fetching    ") && once.contains("1 waiting")
    });
    let twice = shown(&["-n", "2", "--interval", "0.1"]);
    assert_eq!(twice.matches("process     ").count(), 2, "{twice}");
    assert!(
        twice.contains("over its lifetime") && twice.contains("over the last 0."),
        "{twice}"
    );
    assert!(
        twice.contains(&format!("source      {}: answers", server.url)),
        "{twice}"
    );
    assert!(twice.contains("p99") && twice.contains("lookup"), "{twice}");
    assert!(!twice.contains('\x1b'));
    reading.join().unwrap().unwrap_err();
    let complaint = sandbox.misuse(&["top", "--interval", "0"]);
    assert!(complaint.contains("--interval"), "{complaint}");
}

#[test]
fn the_journal_gets_priorities_and_no_times() {
    use std::os::unix::fs::MetadataExt;
    let world = World::small();
    let sandbox = Sandbox::empty();
    let log = |stream: &dyn Fn(&fs::Metadata) -> String| {
        let path = sandbox.dir().join("log");
        let file = fs::File::create(&path).unwrap();
        let (url, key) = (world.url(), world.key());
        let copy = [
            "-v",
            "copy",
            "--all",
            "--from",
            &url,
            "--trusted-public-key",
            &key,
        ];
        let mut command = sandbox.command(&copy);
        command.env("JOURNAL_STREAM", stream(&file.metadata().unwrap()));
        let command = command.stdout(std::process::Stdio::null());
        assert!(command.stderr(file).status().unwrap().success());
        fs::remove_dir_all(&sandbox.state).unwrap();
        fs::read_to_string(path).unwrap()
    };
    let journal = log(&|file| format!("{}:{}", file.dev(), file.ino()));
    assert!(journal.lines().count() > 3, "{journal}");
    for line in journal.lines() {
        assert!(line.starts_with("<6>") && !line.contains('\x1b'), "{line}");
        assert!(!line.contains("INFO") && !line.contains("Z "), "{line}");
    }
    // The variable of a service whose stderr is another one now.
    let file = log(&|file| format!("{}:{}", file.dev(), file.ino() + 1));
    assert!(file.lines().all(|line| line.contains(" INFO ")), "{file}");
}
