//! Labels of SELinux, which a file system that has none itself is given when it is mounted.
//!
//! Invariant: they go to the kernel as they are; it alone judges them.

use super::mount::MountError;

/// The names of the options.
const LABELS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// An option of mount(8) as the kernel gets it, `NAME="LABEL"`, if it is a label. A comma in it stands
/// between quotes.
pub fn label(option: &str) -> Option<String> {
    let (name, label) = option.split_once('=')?;
    let label = label
        .strip_prefix('"')
        .and_then(|l| l.strip_suffix('"'))
        .unwrap_or(label);
    let is_one = LABELS.contains(&name) && !label.is_empty() && !label.contains('"');
    is_one.then(|| format!("{name}=\"{label}\""))
}

/// Those in a list of options. A comma between double quotes is no end of one.
pub(super) fn of(options: &str) -> Vec<String> {
    let mut quoted = false;
    let options = options.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    options.filter_map(label).collect()
}

/// An error of mounting, where labels may be why.
pub(super) fn explain(error: MountError, labels: &[String]) -> MountError {
    match error {
        MountError::System {
            what, at, source, ..
        } if !labels.is_empty() => MountError::System {
            what,
            at,
            hint: " with labels (they need a kernel with SELinux that is enabled, and that knows them: \
                   see getenforce(8))",
            source,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_selinux_calls_so() {
        let plain = label("rootcontext=a:b:c");
        assert_eq!(plain.as_deref(), Some(r#"rootcontext="a:b:c""#));
        assert_eq!(label(r#"rootcontext="a:b:c""#), plain);
        for other in [
            "context",
            "context=",
            r#"context="a",b""#,
            "ro",
            "seclabel=a",
        ] {
            assert_eq!(label(other), None, "{other}");
        }
    }
}
