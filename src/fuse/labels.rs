//! SELinux labels of a mount.
//!
//! Invariant: labels are passed to the kernel unchanged; only the kernel validates them.

use super::mount::MountError;

/// Names of the mount options.
const LABELS: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// The form of an option of mount(8) for the kernel, `NAME="LABEL"`, if it is a label. A comma in a
/// label is quoted.
pub fn label(option: &str) -> Option<String> {
    let (name, label) = option.split_once('=')?;
    let label = label
        .strip_prefix('"')
        .and_then(|l| l.strip_suffix('"'))
        .unwrap_or(label);
    let is_one = LABELS.contains(&name) && !label.is_empty() && !label.contains('"');
    is_one.then(|| format!("{name}=\"{label}\""))
}

/// The labels in a list of options. A comma within double quotes does not separate options.
pub(super) fn of(options: &str) -> Vec<String> {
    let mut quoted = false;
    let options = options.split(|c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    });
    options.filter_map(label).collect()
}

/// Adds to an error of mounting that labels may be the cause.
pub(super) fn explain(error: MountError, labels: &[String]) -> MountError {
    match error {
        MountError::System {
            what, at, source, ..
        } if !labels.is_empty() => MountError::System {
            what,
            at,
            hint: " with labels (they need a kernel with SELinux enabled, and a policy that defines them: \
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
