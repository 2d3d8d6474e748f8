//! `narfs config`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::choices::{MOUNT, Origin, Setting, TOP};
use super::file::ConfigFile;
use super::settings::Settings;
use crate::cli::global::Global;
use crate::cli::outcome::Outcome;
use crate::cli::output::{print_json, println};

/// Show the settings in force, or check a configuration file
///
/// A setting is what the command line says, else the environment, else the configuration file, else
/// what is built in. Only trusted keys add up.
#[derive(Debug, Args)]
pub(in crate::cli) struct Arguments {
    #[command(subcommand)]
    command: Configurations,
}

#[derive(Debug, Subcommand)]
enum Configurations {
    /// Print each option with its value in force and where that is from, in the form of the file
    Show {
        /// Print as JSON
        #[arg(long)]
        json: bool,
    },
    /// Say what is wrong in a configuration file, all of it
    Check {
        /// The file [default: the one that is in force]
        file: Option<PathBuf>,
    },
}

impl Arguments {
    /// Whether the command judges the configuration file, which may thus be wrong.
    pub(in crate::cli) fn judges(&self) -> bool {
        matches!(self.command, Configurations::Check { .. })
    }

    pub(in crate::cli) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let file = &global.decided.file;
        match self.command {
            Configurations::Show { json: true } => {
                print_json(&as_json(file, &global.decided.settings))?;
                Ok(Outcome::Good)
            }
            Configurations::Show { json: false } => {
                println(&as_text(file, &global.decided.settings))?;
                Ok(Outcome::Good)
            }
            Configurations::Check { file: named } => {
                let path = match named {
                    Some(path) => Setting::flag(std::path::absolute(path)?),
                    None => file.path.clone(),
                };
                check(&ConfigFile::read(path)?)
            }
        }
    }
}

fn check(file: &ConfigFile) -> anyhow::Result<Outcome> {
    let path = file.path.value.display();
    for mistake in &file.mistakes {
        eprintln!("narfs: {mistake}");
    }
    if !file.mistakes.is_empty() {
        return Ok(Outcome::Failed);
    }
    if file.present {
        println(&format!("{path} is good"))?;
    } else {
        println(&format!("{path} does not exist, and need not"))?;
    }
    Ok(Outcome::Good)
}

impl Settings {
    /// Each option by its name (those of `[mount]` after the others), with its value as JSON, or
    /// null where there is none.
    pub(super) fn entries(&self) -> Vec<(&'static str, Value, &Origin)> {
        let seconds = |s: &Setting<std::time::Duration>| json!(s.value.as_secs());
        let path = |p: &std::path::Path| json!(p.to_string_lossy());
        let store_dir = self.store_dir.value.as_ref();
        let listen = self.listen.value.as_ref();
        let path_or_none = |setting: &Setting<Option<PathBuf>>| {
            let value = setting.value.as_deref();
            value.map_or_else(|| json!("none"), path)
        };
        let budget = self.budget.value.map(|size| size.to_string());
        let values = [
            (path(&self.state.value), &self.state.origin),
            (
                store_dir.map_or(Value::Null, |s| json!(s.as_str())),
                &self.store_dir.origin,
            ),
            (json!(self.memory.value), &self.memory.origin),
            (json!(self.from.value), &self.from.origin),
            (
                json!(self.trusted_public_keys.value),
                &self.trusted_public_keys.origin,
            ),
            (json!(self.require_sigs.value), &self.require_sigs.origin),
            (path_or_none(&self.netrc_file), &self.netrc_file.origin),
            (json!(self.jobs.value), &self.jobs.origin),
            (
                listen.map_or_else(|| json!("none"), |at| json!(at)),
                &self.listen.origin,
            ),
            (
                path_or_none(&self.volume_plugin),
                &self.volume_plugin.origin,
            ),
            (seconds(&self.lookup_timeout), &self.lookup_timeout.origin),
            (
                seconds(&self.contents_timeout),
                &self.contents_timeout.origin,
            ),
            (seconds(&self.absent_ttl), &self.absent_ttl.origin),
            (json!(self.prefetch.value.name()), &self.prefetch.origin),
            (
                budget.map_or_else(|| json!("none"), |size| json!(size)),
                &self.budget.origin,
            ),
            (
                json!(self.writable_profiles.value),
                &self.writable_profiles.origin,
            ),
            (json!(self.file_handles.value), &self.file_handles.origin),
        ];
        let names = TOP.into_iter().chain(MOUNT);
        names
            .zip(values)
            .map(|(name, (value, origin))| (name, value, origin))
            .collect()
    }
}

fn entry_as_json(value: Value, origin: &Origin) -> Value {
    match origin {
        Origin::Flag => json!({"value": value, "origin": "flag"}),
        Origin::Environment(name) => {
            json!({"value": value, "origin": "environment", "variable": name})
        }
        Origin::File { path, line } => {
            let path = path.to_string_lossy();
            json!({"value": value, "origin": "file", "file": path, "line": line})
        }
        Origin::Default => json!({"value": value, "origin": "default"}),
    }
}

pub(super) fn as_json(file: &ConfigFile, settings: &Settings) -> Value {
    let path = file.present.then(|| file.path.value.to_string_lossy());
    let mut top = serde_json::Map::new();
    let mut mount = serde_json::Map::new();
    top.insert(
        "config".to_owned(),
        entry_as_json(json!(path), &file.path.origin),
    );
    for (name, value, origin) in settings.entries() {
        let table = if MOUNT.contains(&name) {
            &mut mount
        } else {
            &mut top
        };
        table.insert(name.to_owned(), entry_as_json(value, origin));
    }
    top.insert("mount".to_owned(), mount.into());
    top.into()
}

/// A configuration file that means what is in force.
pub(super) fn as_text(file: &ConfigFile, settings: &Settings) -> String {
    let is = if file.present { "" } else { " does not exist" };
    let head = format!("# {}{is}", file.path.value.display());
    let entries = settings.entries();
    let line = |(name, value, _): &(&str, Value, &Origin)| match value {
        Value::Null => format!("# {name}: that of the state"),
        // Strings, lists and numbers are written alike in JSON and TOML, but for one character.
        value => format!("{name} = {value}").replace('\u{7f}', "\\u007f"),
    };
    let lines: Vec<_> = entries.iter().map(line).collect();
    let width = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    let mut out = vec![head];
    for ((name, _, origin), line) in entries.iter().zip(lines) {
        if *name == MOUNT[0] {
            out.extend([String::new(), "[mount]".to_owned()]);
        }
        out.push(format!("{line:width$}  # {origin}"));
    }
    out.join("\n")
}
