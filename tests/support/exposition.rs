//! A parser of the text format of Prometheus, which also checks the rules between lines.

use std::collections::HashSet;

/// A sample: name of the family with the suffix, labels, value.
pub type Sample = (String, Vec<(String, String)>, f64);

fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|c: char| c.is_ascii_digit())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// Splits `{name="value",…}` off the beginning.
fn labels(text: &str) -> (Vec<(String, String)>, &str) {
    let Some(mut rest) = text.strip_prefix('{') else {
        return (Vec::new(), text);
    };
    let mut labels = Vec::new();
    loop {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(is_name(name), "{text}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().unwrap() {
                (at, '"') => break at + 1,
                (_, '\\') => value.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("\\{c} in {text}"),
                }),
                (_, c) => value.push(c),
            }
        };
        labels.push((name.to_owned(), value));
        rest = &after[end..];
        match rest.as_bytes()[0] {
            b',' => rest = &rest[1..],
            b'}' => return (labels, &rest[1..]),
            _ => panic!("{text}"),
        }
    }
}

/// Checks every line, and returns the samples in order.
pub fn check(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n'));
    let (mut families, mut series) = (HashSet::new(), HashSet::new());
    let (mut family, mut kind) = ("", "");
    let mut samples = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').unwrap();
            assert!(is_name(name) && name.starts_with("narfs_"), "{line}");
            assert!(help.ends_with('.') && !help.contains("  "), "{line}");
            assert!(families.insert(name.to_owned()), "{line}");
            let of_kind = lines.next().unwrap().strip_prefix("# TYPE ").unwrap();
            (family, kind) = of_kind.split_once(' ').unwrap();
            assert_eq!(family, name);
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
            continue;
        }
        let name_end = line.find(['{', ' ']).unwrap();
        let (name, rest) = line.split_at(name_end);
        let (labels, value) = labels(rest);
        assert!(
            series.insert(line.rsplit_once(' ').unwrap().0.to_owned()),
            "{line}"
        );
        match name.strip_prefix(family).unwrap() {
            "" => assert_ne!(kind, "histogram", "{line}"),
            "_bucket" | "_sum" | "_count" => assert_eq!(kind, "histogram", "{line}"),
            _ => panic!("{line}"),
        }
        let value: f64 = value.strip_prefix(' ').unwrap().parse().unwrap();
        assert!(value.is_finite(), "{line}");
        samples.push((name.to_owned(), labels, value));
    }
    samples
}
