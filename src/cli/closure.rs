//! `narfs closure` and `narfs closures`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println};
use super::sources::Sources;
use crate::command::{ClosureReport, ClosureRequest, Report, Request};

/// Define a view of the store that shows some closures and nothing else, for containers
///
/// MOUNTPOINT/.narfs/closures/NAME/store is a store directory with the closures of these paths; a
/// container has it at /nix/store. It costs nothing but its list: files have one page cache with all
/// other views, and contents are fetched when they are used. All that the paths refer to must be
/// known, here or to a source. A view that is there already is replaced, and whoever has it mounted
/// sees the new one at once. What it names is kept from collections.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Show the closure of what this profile points to as well, and follow it; repeatable
    #[arg(long = "profile", value_name = "PROFILE")]
    profiles: Vec<String>,
    /// Remove the view; whoever has it mounted finds nothing there any more
    #[arg(long, conflicts_with_all = ["paths", "profiles", "json"])]
    delete: bool,
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Letters, digits and +-._=@
    name: String,
    /// Store paths: /nix/store/HASH-NAME, HASH-NAME or HASH; or packages of a channel: NAME or
    /// NAME-VERSION
    #[arg(value_name = "PATH", required_unless_present_any = ["delete", "profiles"])]
    paths: Vec<String>,
}

/// List the closure views: name, paths, size, and where it is mounted
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Which [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

impl Arguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let name = self.name;
        if self.delete {
            let request = ClosureRequest::Delete { name };
            global.run(Request::Closure(request), false)?;
            return Ok(Outcome::Good);
        }
        let request = ClosureRequest::Define {
            name,
            paths: self.paths,
            profiles: self.profiles,
            sources: self.sources.request(global),
        };
        let views = views(global, request, true)?;
        match views.first() {
            Some(view) if self.json => print_json(view)?,
            _ => show(&views)?,
        }
        Ok(Outcome::Good)
    }
}

impl ListArguments {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<Outcome> {
        let views = views(global, ClosureRequest::List { names: self.names }, false)?;
        if self.json {
            print_json(&views)?;
        } else {
            show(&views)?;
        }
        Ok(Outcome::Good)
    }
}

/// The views that a request is about.
pub(super) fn views(
    global: &Global,
    request: ClosureRequest,
    creates: bool,
) -> anyhow::Result<Vec<ClosureReport>> {
    match global.run(Request::Closure(request), creates)? {
        Report::Closures(views) => Ok(views),
        _ => bail!("the daemon gave another report than that of closure views"),
    }
}

fn show(views: &[ClosureReport]) -> anyhow::Result<()> {
    for view in views {
        let place = match &view.store {
            Some(store) => store.display().to_string(),
            None => "not mounted".to_owned(),
        };
        let (name, paths, size) = (&view.name, view.paths, bytes(view.size));
        println(&format!("{name}   {paths} paths, {size}   {place}"))?;
        let of = |what: &str, text: &str| println(&format!("    {what} {text}"));
        for root in &view.roots {
            of("path", root)?;
        }
        for profile in &view.profiles {
            of("profile", profile)?;
        }
        if view.unknown > 0 {
            let unknown = format!(
                "{} that the profile needs and nobody has told yet; the daemon asks until it knows",
                match view.unknown {
                    1 => "1 path".to_owned(),
                    n => format!("{n} paths"),
                }
            );
            of("incomplete:", &unknown)?;
            for unknown in &view.unknown_paths {
                let why = unknown.error.as_deref();
                let why = why.map_or_else(String::new, |why| format!(" ({why})"));
                of("unknown", &format!("{}{why}", unknown.path))?;
            }
        }
    }
    Ok(())
}
