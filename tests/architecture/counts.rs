//! What is counted: fields of what must stay small, and public items without a user.

use std::collections::{BTreeMap, BTreeSet};

use super::circles::without_tests;
use super::{EXEMPT, assert_none, parts, sources_below, words};

/// Fields that an engine may have.
const ENGINE: usize = 9;

/// Types of a serving daemon, which no field of an engine may have.
const ONLY_SERVING: &[&str] = &[
    "Supervisor",
    "Listener",
    "PluginSocket",
    "ProfilesSession",
    "Session",
    "Sender",
];

/// The fields of a struct, each with its type.
fn fields(source: &str, name: &str) -> Vec<(String, String)> {
    let code = parts(source).code;
    let head = format!("pub struct {name} {{");
    let Some((_, body)) = code.split_once(&head) else {
        return Vec::new();
    };
    let body = body.split_once("\n}").map_or("", |(body, _)| body);
    let each = body.lines().filter_map(|line| line.trim().split_once(": "));
    let each = each.map(|(name, kind)| {
        let name = name.rsplit(' ').next().unwrap_or(name);
        (name.to_owned(), kind.trim_end_matches(',').to_owned())
    });
    each.collect()
}

#[test]
fn an_engine_has_few_fields_and_none_of_a_daemon() {
    let sources = sources_below("src");
    let state = sources
        .iter()
        .find(|(file, _)| file == "src/engine/state.rs");
    let fields = fields(&state.expect("src/engine/state.rs").1, "Engine");
    assert!((1..=ENGINE).contains(&fields.len()), "{fields:?}");
    for (name, kind) in &fields {
        let words = words(kind);
        let daemons = words.iter().find(|w| ONLY_SERVING.contains(&w.text));
        assert!(
            daemons.is_none(),
            "{name}: {kind} matters only while a daemon serves"
        );
    }
}

/// Public methods that a store may have over all its impls: its rooms have the others.
const STORE: usize = 20;

/// The public methods that the impls of a type have in a source, and the traits that it implements there.
fn interface(source: &str, name: &str) -> (Vec<String>, Vec<String>) {
    let code = without_tests(&parts(source).code);
    let (mut methods, mut traits) = (Vec::new(), Vec::new());
    for block in code.split("\nimpl").skip(1) {
        let (head, body) = block.split_once('{').unwrap_or((block, ""));
        let (of_trait, of) = match head.split_once(" for ") {
            Some((of_trait, of)) => (Some(of_trait.trim()), of.trim()),
            None => (None, head.trim()),
        };
        if of.rsplit("::").next() != Some(name) {
            continue;
        }
        traits.extend(of_trait.map(str::to_owned));
        let body = body.split_once("\n}").map_or(body, |(body, _)| body);
        let all = words(body);
        for at in (0..all.len()).filter(|at| all[*at].text == "pub") {
            let text = |n: usize| all.get(at + n).map_or("", |w| w.text);
            // `pub(…)` is not public.
            if let Some(n) = (1..4).find(|n| text(*n) == "fn").filter(|_| text(1) != "(") {
                methods.push(text(n + 1).to_owned());
            }
        }
    }
    (methods, traits)
}

#[test]
fn a_store_has_few_methods_and_is_nothing_else() {
    let (mut methods, mut traits) = (Vec::new(), Vec::new());
    for (_, source) in sources_below("src/store") {
        let (more, other) = interface(&source, "Store");
        methods.extend(more);
        traits.extend(other);
    }
    assert!((1..=STORE).contains(&methods.len()), "{methods:?}");
    let derefs = traits.iter().filter(|name| name.contains("Deref"));
    assert_eq!(derefs.count(), 0, "{traits:?}");
}

#[test]
fn methods_are_counted_over_all_impls() {
    let source = "struct S;\n\nimpl S {\n    pub fn a() {}\n    fn b() {}\n    pub(super) fn c() {}\n}\n\n\
        impl T {\n    pub fn d() {}\n}\n\nimpl super::S {\n    pub const fn e() {}\n}\n\n\
        impl std::ops::Deref for S {\n    fn f() {}\n}\n";
    let (methods, traits) = interface(source, "S");
    assert_eq!(methods, ["a", "e"]);
    assert_eq!(traits, ["std::ops::Deref"]);
}

/// Public functions and constants that no other file names, and public types that neither another
/// file nor another public item names.
fn unused(sources: &[(String, String)]) -> Vec<String> {
    let codes: Vec<_> = sources
        .iter()
        .map(|(file, source)| (file, parts(source).code))
        .collect();
    let names: BTreeMap<&String, BTreeSet<&str>> = codes
        .iter()
        .map(|(file, code)| (*file, words(code).iter().map(|w| w.text).collect()))
        .collect();
    let mut found = Vec::new();
    for (file, code) in &codes {
        if !file.starts_with("src/") || EXEMPT.contains(&file.as_str()) || file.contains("/tests") {
            continue;
        }
        let tests_of_this = file.replace(".rs", "/tests");
        let code = without_tests(code);
        let all = words(&code);
        for (at, word) in all.iter().enumerate().filter(|(_, w)| w.text == "pub") {
            let text = |n: usize| all.get(at + n).map_or("", |w| w.text);
            let skipped = (1..4)
                .find(|n| !["async", "unsafe", "const"].contains(&text(*n)) || text(n + 1) != "fn");
            let first = skipped.unwrap_or(1);
            let (kind, name) = (text(first), text(first + 1));
            let is_value = ["fn", "const", "static"].contains(&kind);
            if !is_value && !["struct", "enum", "trait", "type"].contains(&kind) {
                continue;
            }
            let others = names
                .iter()
                .filter(|(f, _)| **f != *file && !f.starts_with(&tests_of_this));
            let passes_on = |f: &str| f.ends_with("/mod.rs");
            let is_used = others
                .clone()
                .any(|(f, n)| !passes_on(f) && n.contains(name))
                || others.clone().any(|(f, n)| {
                    passes_on(f) && n.contains(name) && is_named_by_code(sources, f, name)
                });
            let mentions = all.iter().filter(|w| w.text == name).count();
            if !is_used && (is_value || mentions < 2) {
                found.push(format!(
                    "{file}:{}: pub {kind} {name} has no user outside",
                    word.line
                ));
            }
        }
    }
    found
}

/// Whether a `mod.rs` names something outside of what it passes on.
fn is_named_by_code(sources: &[(String, String)], file: &str, name: &str) -> bool {
    let source = sources.iter().find(|(f, _)| f == file);
    source.is_some_and(|(_, source)| {
        let (_, rest) = super::circles::imports(&parts(source).code);
        words(&rest).iter().any(|w| w.text == name)
    })
}

#[test]
fn what_is_public_has_a_user_outside_of_its_file() {
    let mut sources = Vec::new();
    for top in ["src", "tests", "bench/src", "mount-helper/src"] {
        sources.extend(sources_below(top));
    }
    assert_none(&unused(&sources));
}

#[test]
fn unused_public_items_are_seen() {
    let made_up = |list: &[(&str, &str)]| {
        let owned: Vec<_> = list
            .iter()
            .map(|(f, s)| ((*f).to_owned(), (*s).to_owned()))
            .collect();
        unused(&owned).join("\n")
    };
    let item = (
        "src/fs/a.rs",
        "pub fn f() {}\npub const fn g() {}\npub struct S;\npub const C: u8 = 1;\n",
    );
    let found = made_up(&[item, ("src/fs/mod.rs", "pub use a::{f, S};\n")]);
    for name in ["fn f", "fn g", "struct S", "const C"] {
        assert!(found.contains(name), "{found}");
    }
    let user = ("src/fs/b.rs", "use super::a::{S, f};\nfn x() { g(C) }\n");
    assert_eq!(made_up(&[item, user]), "");
}
