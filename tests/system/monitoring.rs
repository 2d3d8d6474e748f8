//! The alert rules and the dashboard that come with narfs: they use metrics that a daemon has.

use std::collections::BTreeSet;
use std::process::Command;

use crate::exposition::check;
use crate::server::{Answer, Server};
use crate::support::{Sandbox, World, run, wait_until};

const RULES: &str = "systemd/examples/monitoring/narfs.rules.yml";
const DASHBOARD: &str = "systemd/examples/monitoring/grafana-dashboard.json";

/// The names of metrics in a text, in expressions and elsewhere.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("narfs_")).collect()
}

fn example(file: &str) -> String {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()))
}

#[test]
fn alerts_and_dashboard_use_metrics_that_a_daemon_has() {
    let world = World::small();
    // With the time of the source, so that there is a metric of the difference.
    let date = "Thu, 01 Jan 2026 00:00:00 GMT";
    let server = Server::new(world.cache(), move |_, _| Answer::Dated(date));
    let sandbox = Sandbox::empty();
    sandbox.mount_from(&[&server.url], &world.key(), "budget=1G");
    std::fs::read_dir(sandbox.package(world, "hello")).unwrap();
    let mut exposition = String::new();
    // The size of the state is computed after the first question.
    wait_until("all metrics are there", || {
        exposition = sandbox.narfs(&["metrics"]);
        exposition.contains("narfs_stored_bytes ")
    });
    let there: BTreeSet<_> = check(&exposition)
        .into_iter()
        .map(|(name, ..)| name)
        .collect();
    for file in [RULES, DASHBOARD] {
        let text = example(file);
        let used = metrics(&text);
        assert!(used.len() > 5, "{file}: {used:?}");
        for name in used {
            assert!(
                there.contains(name),
                "{file} uses {name}, which no daemon has"
            );
        }
    }
}

#[test]
fn the_rules_are_those_of_prometheus_and_the_dashboard_is_whole() {
    let dashboard: serde_json::Value = serde_json::from_str(&example(DASHBOARD)).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len());
    for panel in panels {
        let targets = panel["targets"].as_array().unwrap();
        assert!(
            targets.iter().all(|t| t["expr"].is_string()),
            "{}",
            panel["title"]
        );
    }
    let rules = example(RULES);
    let count = |text: &str| rules.matches(text).count();
    assert!(count("- alert: ") >= 8);
    for part in [
        "    expr: ",
        "      severity: ",
        "      summary: ",
        "      description: ",
    ] {
        assert_eq!(count(part), count("- alert: "), "{part}");
    }
    // Not among what the tests need, but where it is, it judges.
    let there = Command::new("promtool").arg("--version").output();
    if there.is_ok() {
        let mut promtool = Command::new("promtool");
        promtool.current_dir(env!("CARGO_MANIFEST_DIR"));
        let ran = run(promtool.args(["check", "rules", RULES]), b"");
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    }
}
