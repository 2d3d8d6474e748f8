//! The command line: one file per command. Only this layer uses clap, anyhow and progress bars.
//!
//! Invariant: results go to stdout, everything else to stderr; the exit status is 0, 1 for a
//! failure, 2 for an invalid command line, or 78 for a daemon whose mount point is occupied.

mod add;
mod apply;
mod cat;
mod cdi;
mod channel;
mod closure;
mod config;
mod copy;
mod daemon_command;
mod debug;
mod doctor;
mod dump;
mod evict;
mod forget;
mod gc;
mod global;
mod groups;
mod keeper;
mod key;
mod log;
mod ls;
mod manual;
mod metrics;
mod mount;
mod nix_db;
mod outcome;
mod output;
mod path_info;
mod pins;
mod prefetch;
mod profile;
mod profiles;
mod progress;
mod roots;
mod run;
mod serve;
mod serving;
mod size;
mod sources;
mod stats;
mod status;
mod top;
mod trace;
mod umount;
mod upgrade;
mod verify;

use std::ffi::OsStr;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};

use crate::command::chain;
use crate::daemon::{self, ServeError, ServeRequest, Startup};
use config::Reading;
use global::{Global, GlobalFlags};
use outcome::{OCCUPIED, Outcome, USAGE, Usage};
use progress::show_fetches;

/// Mounts a Nix store that you have not downloaded: verified, deduplicated, read-only.
#[derive(Debug, Parser)]
#[command(name = "narfs", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    Mount(mount::Arguments),
    Daemon(daemon_command::Arguments),
    Serve(serve::Arguments),
    Umount(umount::Arguments),
    #[command(hide = true)]
    Keeper(keeper::Arguments),
    Upgrade(upgrade::Arguments),
    Copy(copy::Arguments),
    Add(add::Arguments),
    PathInfo(path_info::Arguments),
    Ls(ls::Arguments),
    Cat(cat::Arguments),
    Dump(dump::Arguments),
    Stats(stats::Arguments),
    Verify(verify::Arguments),
    Debug(debug::Arguments),
    Prefetch(prefetch::Arguments),
    Pin(prefetch::PinArguments),
    Unpin(pins::UnpinArguments),
    Pins(pins::Arguments),
    Evict(evict::Arguments),
    Gc(gc::Arguments),
    Forget(forget::Arguments),
    Roots(roots::Arguments),
    AddRoot(roots::AddArguments),
    Trace(trace::Arguments),
    Profile(profile::Arguments),
    Profiles(profiles::Arguments),
    Apply(apply::Arguments),
    Channel(channel::Arguments),
    NixDb(nix_db::Arguments),
    Closure(closure::Arguments),
    Closures(closure::ListArguments),
    Cdi(cdi::Arguments),
    Status(status::Arguments),
    Metrics(metrics::Arguments),
    Top(top::Arguments),
    Doctor(doctor::Arguments),
    Key(key::Arguments),
    Config(config::Arguments),
    Completions(manual::CompletionArguments),
    #[command(hide = true)]
    Manual(manual::ManualArguments),
}

pub fn run() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|e| {
        if e.use_stderr() && e.kind() != ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            e.exit();
        }
        // Help is built separately, since only this command line needs the groups.
        groups::grouped(Cli::command()).get_matches();
        e.exit()
    });
    log::start(cli.global.verbose, cli.global.log_format());
    match execute(cli) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(e) if is_closed_pipe(&e) => ExitCode::FAILURE,
        Err(e) => {
            log::error(&chain(e.as_ref()));
            match e.downcast_ref::<ServeError>() {
                Some(refused) if refused.is_occupied() => ExitCode::from(OCCUPIED),
                _ if e.is::<Usage>() => ExitCode::from(USAGE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

impl Subcommands {
    /// Whether this process is to become a daemon.
    fn serves_here(&self) -> bool {
        match self {
            Self::Mount(a) => a.serves_here(),
            Self::Daemon(a) => a.serves_here(),
            _ => false,
        }
    }

    /// How the command treats the configuration file.
    fn reading(&self) -> Reading {
        match self {
            Self::Config(a) if a.judges() => Reading::Unread,
            Self::Key(a) if !a.changes_a_state() => Reading::Unread,
            Self::Completions(_) | Self::Manual(_) | Self::Umount(_) => Reading::Unread,
            Self::Status(_)
            | Self::Metrics(_)
            | Self::Top(_)
            | Self::Upgrade(_)
            | Self::Serve(_) => Reading::AsFarAsItGoes,
            _ => Reading::Whole,
        }
    }
}

/// Runs a daemon in this process: with the serve request of the previous daemon, or that of the
/// command line and the configuration.
fn serve(cli: Cli) -> anyhow::Result<Outcome> {
    let mut startup = Startup::find()?;
    let request = match startup.resumed_request() {
        Some(request) => request,
        None => match requested(cli, &mut startup) {
            Ok(request) => request,
            Err(e) => {
                let Some(previous) = startup.previous_request() else {
                    startup.failed(&chain(e.as_ref()));
                    return Err(e);
                };
                startup.set_config_error(chain(e.as_ref()));
                previous
            }
        },
    };
    daemon::serve(startup, &request, show_fetches())?;
    Ok(Outcome::Good)
}

/// The serve request of the command line and the configuration.
fn requested(cli: Cli, startup: &mut Startup) -> anyhow::Result<ServeRequest> {
    let cli = match startup.flags() {
        // These include secrets, which are not in the arguments of this process.
        Some(flags) => {
            let flags = flags.iter().map(|flag| &**flag);
            Cli::try_parse_from(std::iter::once(OsStr::new("narfs")).chain(flags))?
        }
        None => {
            let flags: Vec<_> = std::env::args_os().skip(1).collect();
            startup.set_command(keeper::without_secrets(&flags), flags);
            cli
        }
    };
    let global = Global::decide(&cli.global, Reading::Whole)?;
    match cli.command {
        Subcommands::Mount(a) => a.serve_request(&global),
        Subcommands::Daemon(a) => a.serve_request(&global),
        _ => Err(Usage::error(
            "only mount and daemon serve a state".to_owned(),
        )),
    }
}

/// Runs a command with its settings.
fn execute(cli: Cli) -> anyhow::Result<Outcome> {
    if cli.command.serves_here() {
        return serve(cli);
    }
    let flags = cli.global;
    match cli.command {
        // It needs no settings.
        Subcommands::Keeper(a) => return a.run(&flags),
        Subcommands::Doctor(a) => return a.run(&flags),
        _ => {}
    }
    let global = &Global::decide(&flags, cli.command.reading())?;
    match cli.command {
        Subcommands::Keeper(_) | Subcommands::Doctor(_) => Ok(Outcome::Good),
        Subcommands::Mount(a) => a.run(global),
        Subcommands::Daemon(a) => a.run(global),
        Subcommands::Serve(a) => a.run(global),
        Subcommands::Umount(a) => a.run(),
        Subcommands::Upgrade(a) => a.run(global),
        Subcommands::Copy(a) => a.run(global),
        Subcommands::Add(a) => a.run(global),
        Subcommands::PathInfo(a) => a.run(global),
        Subcommands::Ls(a) => a.run(global),
        Subcommands::Cat(a) => a.run(global),
        Subcommands::Dump(a) => a.run(global),
        Subcommands::Stats(a) => a.run(global),
        Subcommands::Verify(a) => a.run(global),
        Subcommands::Debug(a) => a.run(global),
        Subcommands::Prefetch(a) => a.run(global),
        Subcommands::Pin(a) => a.run(global),
        Subcommands::Unpin(a) => a.run(global),
        Subcommands::Pins(a) => a.run(global),
        Subcommands::Evict(a) => a.run(global),
        Subcommands::Gc(a) => a.run(global),
        Subcommands::Forget(a) => a.run(global),
        Subcommands::NixDb(a) => a.run(global),
        Subcommands::Roots(a) => a.run(global),
        Subcommands::AddRoot(a) => a.run(global),
        Subcommands::Trace(a) => a.run(global),
        Subcommands::Profile(a) => a.run(global),
        Subcommands::Profiles(a) => a.run(global),
        Subcommands::Apply(a) => a.run(global),
        Subcommands::Channel(a) => a.run(global),
        Subcommands::Closure(a) => a.run(global),
        Subcommands::Closures(a) => a.run(global),
        Subcommands::Cdi(a) => a.run(global),
        Subcommands::Status(a) => a.run(global),
        Subcommands::Metrics(a) => a.run(global),
        Subcommands::Top(a) => a.run(global),
        Subcommands::Key(a) => a.run(global),
        Subcommands::Config(a) => a.run(global),
        Subcommands::Completions(a) => a.run(Cli::command()),
        Subcommands::Manual(a) => a.run(Cli::command()),
    }
}

/// A closed pipe, as in `narfs dump … | head`, needs no error message.
fn is_closed_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
