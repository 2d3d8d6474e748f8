//! Labels of SELinux, which a file system that has none itself is given when it is mounted.
//!
//! Invariant: the kernel alone judges them.

/// The names of the options.
const NAMES: [&str; 4] = ["context", "fscontext", "defcontext", "rootcontext"];

/// The name of an option of mount(8), if its value is a label.
pub fn option_name(name: &str) -> Option<&'static str> {
    NAMES.into_iter().find(|option| *option == name)
}

/// Name and label of an option of mount(8), `NAME=LABEL` or `NAME="LABEL"`, if it is one of a label.
pub fn parse(option: &str) -> Option<(&'static str, String)> {
    let (name, label) = option.split_once('=')?;
    let unquoted = label
        .strip_prefix('"')
        .and_then(|label| label.strip_suffix('"'));
    let label = unquoted.unwrap_or(label);
    let name = option_name(name)?;
    (!label.is_empty() && !label.contains('"')).then(|| (name, label.to_owned()))
}

/// The options of a list. A comma between double quotes is part of a label.
pub fn split_options(list: &str) -> impl Iterator<Item = &str> {
    let mut quoted = false;
    list.split(move |c| {
        quoted ^= c == '"';
        c == ',' && !quoted
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_what_selinux_calls_so() {
        let plain = parse("rootcontext=a:b:c");
        assert_eq!(plain, Some(("rootcontext", "a:b:c".to_owned())));
        assert_eq!(parse(r#"rootcontext="a:b:c""#), plain);
        for other in [
            "context",
            "context=",
            r#"context="a",b""#,
            "ro",
            "seclabel=a",
        ] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_comma_in_a_label_ends_no_option() {
        let options: Vec<_> = split_options(r#"ro,context="a:b:c:s0,c1",nodev"#).collect();
        assert_eq!(options, ["ro", r#"context="a:b:c:s0,c1""#, "nodev"]);
    }
}
