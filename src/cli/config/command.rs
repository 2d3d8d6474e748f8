//! `narfs config`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::description::{Entry, Place};
use super::example::{commented, example};
use super::file::ConfigFile;
use super::nix_conf::NixConf;
use super::origin::{Origin, Setting};
use super::shown::Shown;
use super::table::{Choices, Settings};
use super::value::FromNixConf;
use crate::cli::global::Global;
use crate::cli::log;
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
    /// Print a file with the sources, keys, require-sigs and netrc-file of nix.conf, and with what is left
    /// out, as in `narfs config import-nix > /etc/narfs/config.toml`
    ImportNix {
        /// The file [default: what Nix reads: /etc/nix/nix.conf, those of the user, NIX_CONFIG]
        file: Option<PathBuf>,
    },
    /// Print a file that has every option at its default, with what it is for
    Example,
}

impl Arguments {
    /// Whether the command needs no configuration that is right.
    pub(in crate::cli) fn judges(&self) -> bool {
        !matches!(self.command, Configurations::Show { .. })
    }

    pub(in crate::cli) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let file = &global.decided.file;
        match self.command {
            Configurations::Show { json: true } => {
                global.decided.warn_left_out(&Choices::default())?;
                print_json(&as_json(file, &global.decided.settings))?;
                Ok(Outcome::Good)
            }
            Configurations::Show { json: false } => {
                global.decided.warn_left_out(&Choices::default())?;
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
            Configurations::ImportNix { file } => {
                let from = match file {
                    Some(file) => FromNixConf::File(std::path::absolute(file)?),
                    None => FromNixConf::Usual,
                };
                let conf = from.read(|name| std::env::var_os(name))?;
                println(imported(&conf).trim_end())?;
                Ok(Outcome::Good)
            }
            Configurations::Example => {
                println(example().trim_end())?;
                Ok(Outcome::Good)
            }
        }
    }
}

fn check(file: &ConfigFile) -> anyhow::Result<Outcome> {
    let path = file.path.value.display();
    for mistake in &file.mistakes {
        log::error(&mistake.to_string());
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

/// A configuration file that says what a `nix.conf` says.
pub(super) fn imported(conf: &NixConf) -> String {
    let files: Vec<_> = conf.files.iter().map(|f| f.display().to_string()).collect();
    let head = format!("From {}.", files.join(", "));
    let mut text = commented(&head);
    let settings = Settings::decide(&[&conf.choices]);
    for entry in settings.entries() {
        if let origin @ Origin::NixConf(_) = entry.origin {
            text += &format!("\n{}{}\n", commented(&origin.to_string()), entry.line());
        }
    }
    for (title, lines) in [
        ("Left out:", &conf.left_out),
        ("Passed over:", &conf.passed_over),
    ] {
        if !lines.is_empty() {
            text += &format!("\n# {title}\n");
            text.extend(lines.iter().map(|line| commented(line)));
        }
    }
    text
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
        Origin::NixConf(lines) => {
            let lines = lines
                .iter()
                .map(|l| json!({"file": l.path.to_string_lossy(), "line": l.line}));
            json!({"value": value, "origin": "nix-conf", "lines": lines.collect::<Vec<_>>()})
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
    for entry in settings.entries() {
        let table = match entry.description.place {
            Place::Top => &mut top,
            Place::Mount => &mut mount,
        };
        let name = entry.description.name.to_owned();
        table.insert(name, entry_as_json(entry.value.json(), entry.origin));
    }
    top.insert("mount".to_owned(), mount.into());
    top.into()
}

/// A configuration file that means what is in force.
pub(super) fn as_text(file: &ConfigFile, settings: &Settings) -> String {
    let is = if file.present { "" } else { " does not exist" };
    let head = format!("# {}{is}", file.path.value.display());
    let entries = settings.entries();
    let line = |entry: &Entry<'_>| match entry.value {
        Shown::Unset => format!("# {}: that of the state", entry.description.name),
        _ => entry.line(),
    };
    let lines: Vec<_> = entries.iter().map(line).collect();
    let width = lines.iter().map(|l| l.chars().count()).max().unwrap_or(0);
    let mut out = vec![head];
    let mut before = Place::Top;
    for (entry, line) in entries.iter().zip(lines) {
        if before != entry.description.place {
            out.extend([String::new(), "[mount]".to_owned()]);
        }
        before = entry.description.place;
        out.push(format!("{line:width$}  # {}", entry.origin));
    }
    out.join("\n")
}
