//! `narfs cdi`

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::json;

use super::closure::views;
use super::global::Global;
use super::outcome::Outcome;
use super::output::println;
use crate::command::{ClosureReport, ClosureRequest};

/// Version of the CDI specification: old enough for old engines, with all that is used here.
const VERSION: &str = "0.5.0";
/// Vendor and class of the devices.
const KIND: &str = "narfs.dev/store";

/// Offer closure views to container engines, as devices of the Container Device Interface
///
/// A container started with `--device narfs.dev/store=NAME` has the closure view NAME at
/// /nix/store, read-only. The file contains the current mount point: write it again when a view is
/// created or deleted, or when the state is mounted elsewhere. The contents of a view may change
/// without that.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The file to write, `-` for the standard output
    #[arg(long, value_name = "FILE", default_value = "/etc/cdi/narfs.json")]
    output: PathBuf,
    /// Path of the view within containers
    #[arg(long, value_name = "DIR", default_value = "/nix/store")]
    at: PathBuf,
    /// Views to offer [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        if !self.at.is_absolute() {
            bail!("--at {}: give an absolute path", self.at.display());
        }
        let names = self.names;
        let views = views(global, ClosureRequest::List { names }, false)?;
        if views.is_empty() {
            bail!("there are no closure views yet; `narfs closure` defines one");
        }
        let devices: anyhow::Result<Vec<_>> = views.iter().map(|v| device(v, &self.at)).collect();
        let file = json!({ "cdiVersion": VERSION, "kind": KIND, "devices": devices? });
        let text = serde_json::to_string_pretty(&file)?;
        if self.output == Path::new("-") {
            println(&text)?;
        } else {
            let write = || format!("cannot write {}", self.output.display());
            replace(&self.output, &text).with_context(write)?;
        }
        Ok(Outcome::Good)
    }
}

fn device(view: &ClosureReport, at: &Path) -> anyhow::Result<serde_json::Value> {
    let name = &view.name;
    let Some(store) = &view.store else {
        bail!("the state is not mounted as a whole: `narfs mount MOUNTPOINT` first");
    };
    if !is_device_name(name) {
        bail!(
            "the closure view {name:?} is not a valid device name, which consists of letters, digits and \
             _-. and ends with a letter or a digit; give the names of other views, or define it under \
             another name"
        );
    }
    Ok(json!({
        "name": name,
        "containerEdits": {
            "mounts": [{
                "hostPath": store,
                "containerPath": at,
                "options": ["ro", "nosuid", "nodev", "rbind", "rslave"],
            }],
        },
    }))
}

/// Whether engines accept it as a device name. The names of views begin with a letter or a digit
/// anyway.
fn is_device_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
    let ends_well = name
        .bytes()
        .last()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    ends_well && name.bytes().all(good)
}

/// Replaces a file atomically, since engines may read it at any time.
fn replace(file: &Path, text: &str) -> anyhow::Result<()> {
    let directory = file.parent().filter(|d| !d.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    fs::create_dir_all(directory)?;
    let mut draft = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644))
        .tempfile_in(directory)?;
    writeln!(draft, "{text}")?;
    draft.persist(file)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_names_that_engines_take() {
        for good in ["a", "web.1", "a_b-c", "9"] {
            assert!(is_device_name(good), "{good}");
        }
        for bad in ["", "a.", "a+b", "a@b", "a=b", "a-"] {
            assert!(!is_device_name(bad), "{bad}");
        }
    }
}
