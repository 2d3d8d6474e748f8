//! `narfs manual` and `narfs completions`: what `make install` makes from the definitions of the
//! commands, so that it never says anything else than `--help`.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;

use super::config::{self, Place, Settings};
use super::outcome::Outcome;

/// The page of mount.narfs, with a line for each of [`OPTIONS`].
const MOUNT_NARFS: &str = include_str!("../../mount-helper/mount.narfs.8");
/// Lines that stand for options: those of the daemon, and those of each mount.
const OPTIONS: [(&str, bool); 2] = [
    (".\\\" OPTIONS OF THE DAEMON\n", false),
    (".\\\" OPTIONS OF EACH MOUNT\n", true),
];

/// What has a page of its own besides the commands: name, what it is, its text.
const FORMATS: [(&str, &str, &str); 2] = [
    ("narfs-config", "the configuration file of narfs", ""),
    (
        "narfs-apply-file",
        "profiles that are declared for narfs apply",
        include_str!("manual/apply-file.roff"),
    ),
];

/// Write the manual pages, one for each command and format, into a directory
#[derive(Debug, Args)]
pub(super) struct ManualArguments {
    /// It is made where it is missing
    directory: PathBuf,
}

impl ManualArguments {
    pub(super) fn run(self, narfs: clap::Command) -> anyhow::Result<Outcome> {
        let dir = &self.directory;
        let failed = || format!("cannot write manual pages into {}", dir.display());
        std::fs::create_dir_all(dir).with_context(failed)?;
        clap_mangen::generate_to(narfs, dir).with_context(failed)?;
        for (name, what, text) in FORMATS {
            let text = match text {
                "" => configuration(),
                text => text.to_owned(),
            };
            let page = format!(
                ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n.TH {name} 5 \"\" \"narfs {}\"\n.SH NAME\n{} \\- {what}\n{text}",
                env!("CARGO_PKG_VERSION"),
                name.replace('-', "\\-"),
            );
            std::fs::write(dir.join(format!("{name}.5")), page).with_context(failed)?;
        }
        std::fs::write(dir.join("mount.narfs.8"), mount_narfs()).with_context(failed)?;
        Ok(Outcome::Good)
    }
}

/// The page of the configuration file.
fn configuration() -> String {
    let mut page = format!(".SH DESCRIPTION\n{}\n", escape(config::FILE));
    let mut place = Place::Top;
    for entry in Settings::decide(&[]).entries() {
        if entry.description.place != place {
            let _ = writeln!(page, ".SH TABLE MOUNT\n{}", escape(config::MOUNT));
            place = entry.description.place;
        }
        page += &topic(&entry.line(), &entry.explained());
    }
    page + ".SH SEE ALSO\n.BR narfs (1),\n.BR narfs-mount (1)\n"
}

/// An option and what it is for.
fn topic(option: &str, text: &str) -> String {
    format!(".TP\n.B {}\n{}\n", escape(option), escape(text))
}

/// The page of mount.narfs, with the options that are settings.
fn mount_narfs() -> String {
    let mut page = MOUNT_NARFS.to_owned();
    for (line, of_each_mount) in OPTIONS {
        let options = config::mount_options(of_each_mount).into_iter();
        let options = options.map(|(option, help)| topic(&option, &help));
        page = page.replace(line, &options.collect::<String>());
    }
    page
}

/// What roff would take for its own.
fn escape(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('-', "\\-");
    match text.chars().next() {
        Some('.' | '\'') => format!("\\&{text}"),
        _ => text,
    }
}

/// Print what a shell needs to complete the commands of narfs
#[derive(Debug, Args)]
pub(super) struct CompletionArguments {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

impl CompletionArguments {
    pub(super) fn run(self, narfs: clap::Command) -> anyhow::Result<Outcome> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut narfs.clone(), "narfs", &mut script);
        std::io::Write::write_all(&mut std::io::stdout(), &script)?;
        Ok(Outcome::Good)
    }
}

/// The file name of a page; for the tests.
#[cfg(test)]
fn page(dir: &std::path::Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    /// Every option of the configuration file at its default, with its comment.
    const EXAMPLE: &str = include_str!("../../systemd/config.toml");

    #[test]
    fn every_command_and_every_option_of_the_configuration_is_in_the_manual() {
        let dir = tempfile::tempdir().unwrap();
        let directory = dir.path().join("man");
        ManualArguments {
            directory: directory.clone(),
        }
        .run(Cli::command())
        .unwrap();
        for command in Cli::command()
            .get_subcommands()
            .filter(|c| !c.is_hide_set())
        {
            let text = page(&directory, &format!("narfs-{}.1", command.get_name()));
            assert!(text.contains(".SH NAME"), "{}", command.get_name());
        }
        let config = page(&directory, "narfs-config.5");
        for option in ["state", "netrc\\-file", "lookup\\-timeout", "budget"] {
            assert!(config.contains(&format!(".B {option} = ")), "{option}");
        }
        assert!(config.contains(".SH TABLE MOUNT"));
        // Nothing of the file is lost.
        let words = EXAMPLE.split_whitespace().filter(|w| *w != "#");
        for word in words.filter(|w| !w.starts_with('[')) {
            assert!(config.contains(&escape(word)), "{word}");
        }
        let mount = page(&directory, "mount.narfs.8");
        for (option, help) in [false, true].map(config::mount_options).concat() {
            assert_eq!(mount.matches(&topic(&option, &help)).count(), 1, "{option}");
        }
        assert!(!mount.contains(OPTIONS[0].0) && !mount.contains(OPTIONS[1].0));
        assert!(page(&directory, "narfs-apply-file.5").contains("packages"));
    }

    #[test]
    fn lines_that_begin_like_a_request_are_text() {
        assert_eq!(escape(".TH x-y"), "\\&.TH x\\-y");
        assert_eq!(escape("a\\b"), "a\\\\b");
    }
}
