//! `narfs closure` and `narfs closures`

use anyhow::bail;
use clap::Args;

use super::global::Global;
use super::outcome::Outcome;
use super::output::{bytes, print_json, println};
use super::sources::Sources;
use crate::command::{ClosureReport, ClosureRequest, Report, Request};

/// Define a view of the store that shows only some closures, for containers
///
/// MOUNTPOINT/.narfs/closures/NAME/store is a store directory with the closures of these paths, to
/// be bound at /nix/store in a container. A view costs only its list: files share the page cache
/// with all other views, and contents are fetched on access. The closures must be known to the
/// state or to a source. An existing view is replaced, and containers that use it see the new
/// contents at once. The paths of a view are kept from garbage collection.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// Include the closure of this profile's current generation, and follow the profile; repeatable
    #[arg(long = "profile", value_name = "PROFILE")]
    profiles: Vec<String>,
    /// Remove the view; containers that use it find an empty directory
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

/// List the closure views: name, paths, size, and mount point
#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Print as JSON
    #[arg(long)]
    json: bool,
    /// Views to list [default: all]
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
            sources: self.sources.request(global)?,
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

/// Requests the reports of views.
pub(super) fn views(
    global: &Global,
    request: ClosureRequest,
    creates: bool,
) -> anyhow::Result<Vec<ClosureReport>> {
    match global.run(Request::Closure(request), creates)? {
        Report::Closures(views) => Ok(views),
        _ => bail!("the daemon sent an unexpected report instead of closure views"),
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
        if view.unsigned > 0 {
            let rests = format!("{} of its paths, which nobody vouches for", view.unsigned);
            of("rests on the word of a source:", &rests)?;
        }
        if view.unknown > 0 {
            let unknown = format!(
                "{} of the profile's closure not known yet; the daemon is querying the sources",
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
