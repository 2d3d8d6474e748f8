//! The command line: one file a command. The only home of clap, anyhow and progress bars.
//!
//! Invariant: results go to stdout, everything else to stderr; the exit status is 0, 1 for a
//! failure, 2 for a command that cannot be understood.

mod add;
mod apply;
mod cat;
mod cdi;
mod channel;
mod closure;
mod config;
mod copy;
mod daemon_command;
mod doctor;
mod dump;
mod evict;
mod gc;
mod keeper;
mod key;
mod log;
mod ls;
mod manual;
mod metrics;
mod mount;
mod path_info;
mod pins;
mod prefetch;
mod profile;
mod profiles;
mod progress;
mod roots;
mod serve;
mod serving;
mod size;
mod stats;
mod status;
mod top;
mod trace;
mod umount;
mod upgrade;
mod verify;
mod volume_plugin;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::daemon::{self, Command, CommandError, Report};
use crate::nix::store_path::StoreDir;
use crate::store::StoreOptions;
use config::{Choices, Decided, Setting};
use progress::Terminal;

/// Mounts a Nix store that you have not downloaded: verified, deduplicated, read-only.
#[derive(Debug, Parser)]
#[command(name = "narfs", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: GlobalFlags,
    #[command(subcommand)]
    command: Subcommands,
}

/// What every command takes.
#[derive(Clone, Debug, Args)]
struct GlobalFlags {
    /// Configuration file [env: NARFS_CONFIG] [default: /etc/narfs/config.toml, which may be absent]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory with the database; one process owns it at a time [env: NARFS_STATE] [default:
    /// /var/lib/narfs]
    #[arg(long, global = true, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Store directory of the paths, for a new state [default: /nix/store]
    #[arg(long, global = true, value_name = "DIR")]
    store_dir: Option<String>,
    /// Bound of the daemon's memory, in MiB, from 32 to what the machine has [env: NARFS_MEMORY]
    /// [default: 256]
    #[arg(long, global = true, value_name = "MIB", value_parser = config::memory_of)]
    memory: Option<u32>,
    /// Log more (twice for all); NARFS_LOG takes a filter such as narfs::fetch=debug
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

/// What every command knows.
#[derive(Debug)]
struct Global {
    decided: Decided,
    verbose: u8,
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
    Prefetch(prefetch::Arguments),
    Pin(prefetch::PinArguments),
    Unpin(pins::UnpinArguments),
    Pins(pins::Arguments),
    Evict(evict::Arguments),
    Gc(gc::Arguments),
    Roots(roots::Arguments),
    AddRoot(roots::AddArguments),
    Trace(trace::Arguments),
    Profile(profile::Arguments),
    Profiles(profiles::Arguments),
    Apply(apply::Arguments),
    Channel(channel::Arguments),
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

/// Exit status for a command line that cannot be understood; clap's too.
const USAGE: u8 = 2;

/// How a command ends when nothing broke.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Good,
    /// Some of it failed; said already.
    Failed,
}

/// A command line that clap accepts and that makes no sense all the same.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

impl Usage {
    fn error(text: String) -> anyhow::Error {
        Self(text).into()
    }
}

impl Global {
    /// Decides what is in force; of a configuration file that the command judges, nothing is.
    fn decide(flags: GlobalFlags, judges: bool) -> anyhow::Result<Self> {
        let store_dir = flags
            .store_dir
            .as_deref()
            .map(StoreDir::parse)
            .transpose()?;
        let state = flags
            .state
            .as_deref()
            .map(std::path::absolute)
            .transpose()?;
        let choices = Choices {
            state: state.map(Setting::flag),
            store_dir: store_dir.map(Setting::flag),
            memory: flags.memory.map(Setting::flag),
            ..Choices::default()
        };
        Ok(Self {
            decided: Decided::read(flags.config.as_deref(), choices, judges)?,
            verbose: flags.verbose,
        })
    }

    fn options(&self, create: bool) -> anyhow::Result<StoreOptions> {
        let settings = &self.decided.settings;
        Ok(StoreOptions {
            memory: (settings.memory.value as usize) << 20,
            create,
            store_dir: settings.store_dir.value.clone(),
        })
    }

    /// The state directory, absolute, so that a daemon and a mount name it alike.
    fn state(&self) -> anyhow::Result<PathBuf> {
        Ok(std::path::absolute(&self.decided.settings.state.value)?)
    }

    /// Runs a command on the state, which it makes if `create`.
    fn run(&self, command: Command, create: bool) -> anyhow::Result<Report> {
        let mut terminal = Terminal::new();
        let state = self.state()?;
        let defaults = copy::in_force(&self.decided.settings);
        let options = self.options(create)?;
        let report = daemon::run(&state, &options, &defaults, command, &mut terminal);
        terminal.finish();
        let report = report.map_err(|e| self.explain(e))?;
        // What does not reach its reader is a failure of this command.
        std::io::Write::flush(&mut std::io::stdout())?;
        Ok(report)
    }
}

impl Global {
    /// Says which line of the configuration left a command without sources.
    fn explain(&self, error: CommandError) -> anyhow::Error {
        let origin = &self.decided.settings.from.origin;
        match (&error, origin) {
            (CommandError::Nobody, config::Origin::File { .. }) => anyhow::anyhow!(
                "{origin}: from = [] says that nobody is asked; name a source with --from"
            ),
            _ => error.into(),
        }
    }
}

/// Runs the program.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    log::start(cli.global.verbose);
    match execute(cli) {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::FAILURE,
        Err(e) if reader_went_away(&e) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("narfs: {}", daemon::chain(e.as_ref()));
            if e.is::<Usage>() {
                ExitCode::from(USAGE)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Runs a command, with what is in force for it.
fn execute(cli: Cli) -> anyhow::Result<Outcome> {
    let flags = cli.global.clone();
    let judges = matches!(&cli.command, Subcommands::Doctor(_))
        || matches!(&cli.command, Subcommands::Config(a) if a.judges());
    let global = &Global::decide(cli.global, judges)?;
    match cli.command {
        Subcommands::Mount(a) => a.run(global),
        Subcommands::Daemon(a) => a.run(global),
        Subcommands::Serve(a) => a.run(global),
        Subcommands::Umount(a) => a.run(),
        Subcommands::Keeper(a) => a.run(global),
        Subcommands::Upgrade(a) => a.run(global),
        Subcommands::Copy(a) => a.run(global),
        Subcommands::Add(a) => a.run(global),
        Subcommands::PathInfo(a) => a.run(global),
        Subcommands::Ls(a) => a.run(global),
        Subcommands::Cat(a) => a.run(global),
        Subcommands::Dump(a) => a.run(global),
        Subcommands::Stats(a) => a.run(global),
        Subcommands::Verify(a) => a.run(global),
        Subcommands::Prefetch(a) => a.run(global),
        Subcommands::Pin(a) => a.run(global),
        Subcommands::Unpin(a) => a.run(global),
        Subcommands::Pins(a) => a.run(global),
        Subcommands::Evict(a) => a.run(global),
        Subcommands::Gc(a) => a.run(global),
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
        Subcommands::Doctor(a) => a.run(flags),
        Subcommands::Key(a) => a.run(),
        Subcommands::Config(a) => a.run(global),
        Subcommands::Completions(a) => a.run(),
        Subcommands::Manual(a) => a.run(),
    }
}

/// `narfs dump … | head` is no mistake that wants a message.
fn reader_went_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// Prints a report as JSON.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    println(&serde_json::to_string_pretty(value)?)
}

/// Prints a line; a reader that went away is an error, not a panic.
fn println(line: &str) -> anyhow::Result<()> {
    use std::io::Write;
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// A number of bytes as people read it.
fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}
