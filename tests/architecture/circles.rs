//! No circle of files inside a layer.
//!
//! A file depends on the files whose items it names. An item that a `mod.rs` only passes on (`pub use`)
//! belongs to the file that has it; a `mod.rs` does not depend on what it passes on.

use std::collections::{BTreeMap, BTreeSet};

use super::{EXEMPT, assert_none, module_of, parts, references, sources_below, words};

/// Layers that still have circles, which are to go.
const NOT_YET: &[&str] = &["fetch", "fs", "fuse", "nix", "profile", "substituter"];

/// The words that begin an item with a name.
const ITEMS: &str = "fn struct enum trait const static type mod union";

struct Source {
    /// The code that counts: without tests.
    code: String,
    /// Names that are defined here.
    defines: BTreeSet<String>,
    /// Names that are imported, with the paths that they come from.
    imports: BTreeMap<String, Vec<String>>,
}

/// Code without the tests in it.
pub fn without_tests(code: &str) -> String {
    let mut kept = Vec::new();
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let next_is_module = lines.peek().is_some_and(|l| l.starts_with("mod "));
        if line.trim() == "#[cfg(test)]" && next_is_module {
            let is_elsewhere = lines.next().is_some_and(|l| l.ends_with(';'));
            if !is_elsewhere {
                lines.by_ref().find(|inner| *inner == "}");
            }
        } else {
            kept.push(line);
        }
    }
    kept.join("\n")
}

/// The `use` statements of some code, whether they are public, and the rest.
pub fn imports(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut statements, mut rest) = (Vec::new(), String::new());
    let mut open: Option<(bool, String)> = None;
    for line in code.lines() {
        let text = line.trim_start();
        let public = text.starts_with("pub") && text.contains(" use ");
        if open.is_none() && (public || text.starts_with("use ")) {
            let at = text.find("use ").unwrap_or(0);
            open = Some((public, text[at..].to_owned()));
        } else if let Some((_, statement)) = &mut open {
            statement.push_str(line);
        } else {
            rest.push_str(line);
        }
        rest.push('\n');
        if open.as_ref().is_some_and(|(_, s)| s.ends_with(';')) {
            statements.extend(open.take());
        }
    }
    (statements, rest)
}

fn read(file: &str, source: &str) -> Source {
    let code = without_tests(&parts(source).code);
    let found = words(&code);
    let items = found
        .windows(2)
        .filter(|w| ITEMS.split(' ').any(|i| i == w[0].text));
    let defines = items.map(|w| w[1].text.to_owned()).collect();
    let (statements, mut rest) = imports(&code);
    let mut imports = BTreeMap::new();
    for (public, statement) in statements {
        // What is passed on comes from a module below, without `self`.
        let children = statement.replacen("use ", "use self::", 1);
        let starts_below = !["crate", "super", "self", "std"]
            .iter()
            .any(|head| statement.starts_with(&format!("use {head}")));
        let whole = if public && starts_below {
            &children
        } else {
            &statement
        };
        for reference in references(file, whole) {
            if let Some(name) = reference.path.last() {
                imports.insert(name.clone(), reference.path.clone());
            }
        }
        if !public {
            rest.push_str(&statement);
            rest.push('\n');
        }
    }
    Source {
        code: rest,
        defines,
        imports,
    }
}

struct Files {
    sources: BTreeMap<String, Source>,
    by_module: BTreeMap<Vec<String>, String>,
}

impl Files {
    fn new(sources: &[(String, String)]) -> Self {
        let kept = sources
            .iter()
            .filter(|(file, _)| !EXEMPT.contains(&file.as_str()) && !file.contains("/tests"));
        let kept: Vec<_> = kept.collect();
        let by_module = kept.iter().map(|(f, _)| (module_of(f), f.clone()));
        Self {
            by_module: by_module.collect(),
            sources: kept.iter().map(|(f, s)| (f.clone(), read(f, s))).collect(),
        }
    }

    /// The file that has what a path names.
    fn home(&self, path: &[String], depth: usize) -> Option<String> {
        let length = (1..=path.len())
            .rev()
            .find(|n| self.by_module.contains_key(&path[..*n]))?;
        let file = &self.by_module[&path[..length]];
        let source = &self.sources[file];
        match path.get(length) {
            Some(name) if !source.defines.contains(name) && depth < 8 => {
                match source.imports.get(name) {
                    Some(from) if from != path => self.home(from, depth + 1),
                    _ => Some(file.clone()),
                }
            }
            _ => Some(file.clone()),
        }
    }

    /// The files of the same layer that each file depends on.
    fn dependencies(&self) -> BTreeMap<String, BTreeSet<String>> {
        let each = self.sources.iter().map(|(file, source)| {
            let layer = module_of(file).swap_remove(0);
            let mut found: Vec<_> = references(file, &source.code)
                .into_iter()
                .map(|r| r.path)
                .collect();
            // `child::Item` in the file of the module above.
            let all = words(&source.code);
            for pair in all.windows(2).filter(|p| p[1].text == "::") {
                let mut child = module_of(file);
                child.push(pair[0].text.to_owned());
                if self.by_module.contains_key(&child) {
                    found.push(child);
                }
            }
            let found = found.iter().filter(|p| p.first() == Some(&layer));
            let homes = found
                .filter_map(|path| self.home(path, 0))
                .filter(|home| home != file);
            (file.clone(), homes.collect())
        });
        each.collect()
    }
}

/// The files that are on a circle, by their layer.
fn circles(sources: &[(String, String)]) -> BTreeMap<String, BTreeSet<String>> {
    let graph = Files::new(sources).dependencies();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in graph.keys() {
        let mut reached = BTreeSet::new();
        let mut open: Vec<_> = graph[file].iter().collect();
        while let Some(next) = open.pop() {
            if reached.insert(next) {
                open.extend(graph.get(next).into_iter().flatten());
            }
        }
        if reached.contains(file) {
            let layer = module_of(file).swap_remove(0);
            found.entry(layer).or_default().insert(file.clone());
        }
    }
    found
}

#[test]
fn no_files_of_a_layer_import_each_other_in_a_circle() {
    let found = circles(&sources_below("src"));
    let problems: Vec<_> = found
        .iter()
        .filter(|(layer, _)| !NOT_YET.contains(&layer.as_str()))
        .map(|(layer, files)| format!("{layer}: {files:?} are on circles"))
        .collect();
    assert_none(&problems);
    for layer in NOT_YET {
        assert!(
            found.contains_key(*layer),
            "{layer} has no circle any more: take it off the list"
        );
    }
}

/// Rooms of the store, from the bottom: none names one of a later row.
const ROOMS: &[&[&str]] = &[
    &["records"],
    &["contents"],
    &["paths"],
    &["profiles", "views", "tables", "roots", "traces", "channels"],
    &["upkeep"],
];

/// What a file of a room names of rooms above.
fn rooms_above(file: &str, source: &str) -> Vec<String> {
    let row = |module: &[String]| {
        let room = module.get(1).filter(|_| module[0] == "store")?;
        ROOMS.iter().position(|row| row.contains(&room.as_str()))
    };
    let Some(own) = row(&module_of(file)) else {
        return Vec::new();
    };
    let named = references(file, &without_tests(&parts(source).code)).into_iter();
    let above = named.filter(|r| row(&r.path).is_some_and(|row| row > own));
    above
        .map(|r| format!("{file}: names {}", r.path.join("::")))
        .collect()
}

#[test]
fn rooms_of_the_store_know_only_rooms_below() {
    let sources = sources_below("src/store");
    let found = sources.iter().flat_map(|(f, s)| rooms_above(f, s));
    assert_none(&found.collect::<Vec<_>>());
    let up = "use crate::store::upkeep::Upkeep;";
    assert_eq!(rooms_above("src/store/paths/find.rs", up).len(), 1);
    assert_eq!(rooms_above("src/store/upkeep/sizes.rs", up).len(), 0);
}

#[test]
fn circles_are_seen_through_what_is_passed_on() {
    let made_up = |list: &[(&str, &str)]| {
        let owned: Vec<_> = list
            .iter()
            .map(|(f, s)| ((*f).to_owned(), (*s).to_owned()))
            .collect();
        circles(&owned)
    };
    let facade = (
        "src/fs/mod.rs",
        "mod a;\nmod b;\npub use a::{A, X};\npub use b::B;\n",
    );
    let circle = made_up(&[
        facade,
        ("src/fs/a.rs", "use super::B;\npub struct A;\n"),
        ("src/fs/b.rs", "use crate::fs::A;\npub struct B;\n"),
    ]);
    assert_eq!(circle["fs"].len(), 2, "{circle:?}");
    let none = made_up(&[
        facade,
        ("src/fs/a.rs", "use super::b::B;\npub struct A;\n"),
        (
            "src/fs/b.rs",
            "pub struct B;\n#[cfg(test)]\nmod tests {\n use crate::fs::A;\n}\n",
        ),
    ]);
    assert!(none.is_empty(), "{none:?}");
    let own = made_up(&[
        (
            "src/fs/mod.rs",
            "mod a;\npub struct S;\nfn f() { a::g() }\n",
        ),
        ("src/fs/a.rs", "use super::S;\npub fn g() {}\n"),
    ]);
    assert_eq!(own["fs"].len(), 2, "{own:?}");
}
