//! `narfs doctor`

use clap::Args;

use super::config::Reading;
use super::global::{Global, GlobalFlags};
use super::outcome::Outcome;
use super::output::{print_json, println};
use super::sources;
use crate::command::chain;
use crate::doctor::{self, Examination, Finding, Verdict};

/// Diagnose problems, and say what to do about them
///
/// Checks the kernel, /dev/fuse, privileges, limits, the state and its disk, the configuration, the
/// sources, the clock, the daemon and its mounts. Exit status 1 if there is an error.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Repair what is safe to repair: load the fuse module, unmount dead mounts, remove write
    /// permission of others from the state
    #[arg(long)]
    fix: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    pub(super) fn run(self, flags: &GlobalFlags) -> anyhow::Result<Outcome> {
        let (global, configuration) = decide(flags)?;
        let settings = &global.decided.settings;
        let mut findings = vec![configuration];
        findings.extend(doctor::examine(&Examination {
            state: global.state()?,
            store_dir: settings.store_dir.value.clone(),
            sources: sources::in_force(settings),
            fix: self.fix,
        }));
        if self.json {
            print_json(&findings)?;
        } else {
            println(&text(&findings))?;
        }
        let failed = findings.iter().any(|f| f.verdict == Verdict::Error);
        Ok(if failed {
            Outcome::Failed
        } else {
            Outcome::Good
        })
    }
}

/// The settings; without the configuration file if that is invalid.
fn decide(flags: &GlobalFlags) -> anyhow::Result<(Global, Finding)> {
    const NAME: &str = "configuration";
    match Global::decide(flags, Reading::Whole) {
        Ok(global) => {
            let file = &global.decided.file;
            let path = file.path.value.display();
            let seen = if file.present {
                format!("{path} is valid")
            } else {
                format!("{path} does not exist, and need not")
            };
            Ok((global, Finding::new(NAME, Verdict::Ok, seen)))
        }
        Err(wrong) => {
            let global = Global::decide(flags, Reading::Unread)?;
            let seen = chain(wrong.as_ref());
            let advice = "correct it; `narfs config check` lists all errors. What follows \
                          was checked without it";
            let finding = Finding::new(NAME, Verdict::Error, seen).advise(advice);
            Ok((global, finding))
        }
    }
}

fn text(findings: &[Finding]) -> String {
    let lines = findings.iter().map(|f| {
        let verdict = match f.verdict {
            _ if f.fixed => "fixed",
            Verdict::Ok => "ok",
            Verdict::Note => "note",
            Verdict::Warning => "warning",
            Verdict::Error => "error",
        };
        let advice = f.advice.as_deref();
        let advice = advice.map_or(String::new(), |a| format!("\n           {a}"));
        format!("{verdict:<9}  {}: {}{advice}", f.check, f.seen)
    });
    lines.collect::<Vec<_>>().join("\n")
}
