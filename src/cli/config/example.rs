//! A configuration file that has every option at its default, with what it is for.

use super::description::Place;
use super::table::Settings;

/// What a configuration file is.
pub(in crate::cli) const FILE: &str = "Configuration of narfs, read from /etc/narfs/config.toml (or \
    from --config FILE, or NARFS_CONFIG). Every option is listed with its default. The command line \
    overrides the environment, and that overrides this file. Texts are quoted, and paths are absolute. \
    `narfs config check` reports errors in it, `narfs config show` the effective values and their \
    origins. A mount uses the settings at the time when it is started.";
/// What the table of mounts is.
pub(in crate::cli) const MOUNT: &str = "Options that `narfs mount` also takes as `-o NAME=VALUE`; of one \
    that is true or false, `-o NAME` alone means true.";

/// Columns of a comment.
const COLUMNS: usize = 104;

/// The file.
pub(in crate::cli) fn example() -> String {
    let mut file = commented(FILE);
    let mut place = Place::Top;
    for entry in Settings::first(&[]).entries() {
        if entry.description.place != place {
            file += &format!("\n{}[mount]\n", commented(MOUNT));
            place = entry.description.place;
        }
        file += &format!("\n{}# {}\n", commented(&entry.explained()), entry.line());
    }
    file
}

/// A text in lines of comment.
pub(super) fn commented(text: &str) -> String {
    let mut lines = String::from("#");
    let mut columns = 1;
    for word in text.split(' ') {
        columns += 1 + word.chars().count();
        if columns > COLUMNS {
            lines.push_str("\n#");
            columns = 2 + word.chars().count();
        }
        lines.push(' ');
        lines.push_str(word);
    }
    lines + "\n"
}
