//! The groups of commands in `narfs --help`.

use std::fmt::Write;

/// Groups and their commands; what new users need comes first.
const GROUPS: [(&str, &[&str]); 6] = [
    (
        "Mount",
        &["mount", "umount", "status", "daemon", "upgrade", "doctor"],
    ),
    (
        "Look",
        &[
            "path-info",
            "ls",
            "cat",
            "dump",
            "stats",
            "roots",
            "nix-db",
            "debug",
        ],
    ),
    (
        "Fetch and keep",
        &[
            "copy", "add", "prefetch", "pin", "unpin", "pins", "trace", "evict", "gc", "add-root",
            "verify", "forget", "key",
        ],
    ),
    ("Profiles", &["profile", "profiles", "apply", "channel"]),
    ("Containers", &["closure", "closures", "cdi"]),
    (
        "Watch and configure",
        &["top", "metrics", "serve", "config", "completions"],
    ),
];

/// Width of the column of names.
const NAMES: usize = 11;

/// Adds the groups to the help of the program.
pub(super) fn grouped(narfs: clap::Command) -> clap::Command {
    let mut text = String::from("{about-with-newline}\n{usage-heading} {usage}\n");
    for (group, commands) in GROUPS {
        let _ = write!(text, "\n{group}:\n");
        for name in commands {
            let command = narfs.find_subcommand(name);
            let about = command.and_then(clap::Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            let _ = writeln!(text, "  {name:NAMES$}  {about}");
        }
    }
    text.push_str(
        "\nSee `narfs COMMAND --help` for one command, and narfs(1) for all.\n\nOptions:\n{options}",
    );
    narfs.help_template(text)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn each_command_is_in_one_group() {
        let narfs = Cli::command();
        let shown = narfs.get_subcommands().filter(|c| !c.is_hide_set());
        let shown: BTreeSet<_> = shown.map(clap::Command::get_name).collect();
        let grouped: Vec<_> = GROUPS.iter().flat_map(|(_, commands)| *commands).collect();
        assert_eq!(grouped.len(), shown.len());
        let named: BTreeSet<_> = grouped.into_iter().copied().collect();
        assert_eq!(named, shown);
        assert!(shown.iter().all(|name| name.len() <= NAMES));
        let help = super::grouped(Cli::command()).render_help().to_string();
        let at = |text: &str| help.find(text).unwrap_or_else(|| panic!("{text}: {help}"));
        assert!(at("Mount:") < at("\n  mount ") && at("\n  mount ") < at("Profiles:"));
        assert!(at("Options:") > at("completions"));
    }
}
