//! Contents of the file that declares profiles.

use std::path::Path;

use super::file::parse;
use crate::command::{DeclaredPackage, DeclaredProfile, DeclaredTarget};

const A: &str = "00000000000000000000000000000000-a-1";
const B: &str = "/nix/store/11111111111111111111111111111111-b-1";

fn profiles(text: &str) -> Vec<DeclaredProfile> {
    let (profiles, mistakes) = parse(Path::new("f.toml"), text.as_bytes());
    assert!(mistakes.is_empty(), "{mistakes:?}");
    profiles
}

fn mistakes(text: &str) -> Vec<String> {
    let (_, mistakes) = parse(Path::new("f.toml"), text.as_bytes());
    mistakes.iter().map(ToString::to_string).collect()
}

#[test]
fn profiles_have_packages_or_are_set() {
    let read = profiles(&format!(
        "[profile.default]\npackages = [\"{A}\", {{ path = \"{B}\", priority = -2 }}]\n\
         [profile.\"per-user/ann/profile\"]\nset = \"{B}\"\n[profile.empty]\npackages = []\n"
    ));
    let package = |path: &str, priority| DeclaredPackage {
        path: path.into(),
        priority,
    };
    let expected = [
        (
            "default",
            DeclaredTarget::Packages(vec![package(A, None), package(B, Some(-2))]),
        ),
        ("empty", DeclaredTarget::Packages(vec![])),
        ("per-user/ann/profile", DeclaredTarget::Path(B.into())),
    ];
    let expected = expected.map(|(name, target)| DeclaredProfile {
        name: name.into(),
        target,
    });
    assert_eq!(read, expected);
    assert!(profiles("").is_empty());
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, line, part) in [
        ("x = 1", 1, "\"x\" is not known"),
        ("\nprofile = 3", 2, "3 is not a table"),
        ("[profile]\na = 1", 2, "1 is not a table"),
        ("[profile.a]\n", 1, "is empty"),
        ("[profile.a]\npackages = 1", 2, "1 is not a list"),
        ("[profile.a]\npackages = [\n1]", 3, "1 is not a package"),
        (
            "[profile.a]\npackages = [\n\n\"hello\"]",
            4,
            "\"hello\" is not a store path",
        ),
        ("[profile.a]\npackages = [{}]", 2, "there is no path"),
        ("[profile.a]\npackages = [{path = 1}]", 2, "1 is not a text"),
        (
            "[profile.a]\npackages = [{path = \"@\", priority = 1.5}]",
            2,
            "1.5 is not a whole number",
        ),
        (
            "[profile.a]\npackages = [{path = \"@\", prio = 1}]",
            2,
            "\"prio\" is not known",
        ),
        ("[profile.a]\npackages = [\"@\",\n\"@\"]", 3, "listed twice"),
        ("[profile.a]\nset = []", 2, "a list is not a text"),
        (
            "[profile.a]\nset = \"@\"\npackages = []",
            1,
            "write one of them",
        ),
        ("[profile.a]\nsets = \"@\"", 2, "write packages or set"),
        ("[profile.per-user.ann]\nset = \"@\"", 1, "in quotes"),
        ("[profile.\"a/../b\"]\nset = \"@\"", 1, "begins with '.'"),
        ("[profile.\"a/\"]\nset = \"@\"", 1, "ends with '/'"),
        (
            "[profile.a]\nset = \"@\"\n[profile.\"a/b\"]\nset = \"@\"",
            3,
            "a directory and a link",
        ),
        ("[profile.a]\nset = \n", 2, "this is not TOML"),
        (
            "[profile.a]\nset = \"@\"\nset = \"@\"",
            3,
            "this is not TOML",
        ),
    ] {
        let text = text.replace('@', A);
        let found = mistakes(&text);
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        let place = format!("f.toml:{line}: ");
        assert!(
            found[0].starts_with(&place) && found[0].contains(part),
            "{text}: {found:?}"
        );
    }
    let (_, not_utf8) = parse(Path::new("f"), b"\n\xff");
    assert_eq!(not_utf8[0].to_string(), "f:2: this is not UTF-8");
}
