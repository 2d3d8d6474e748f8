//! A configuration file that has every option at its default, with what it is for.

use super::description::Place;
use super::table::Settings;

/// What configuration files are.
pub(in crate::cli) const FILE: &str = "The configuration of narfs, read from /etc/narfs/config.toml (or what \
    --config FILE or NARFS_CONFIG name). Every option is here, at its default. A command line prevails over the \
    environment, and that over this file. Texts stand in quotes, and paths are absolute. `narfs config check` says what is wrong in it, `narfs config show` what is \
    in force and where that is from. A mount takes the settings of the moment at which it was started.";
/// What the table of mounts is.
pub(in crate::cli) const MOUNT: &str = "What `narfs mount` takes as `-o NAME=VALUE` too; where a value is true or false, \
    `-o NAME` alone says true.";

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
fn commented(text: &str) -> String {
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
