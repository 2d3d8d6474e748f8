//! The rules that `src/lib.rs` states, checked by reading the sources: imports point to lower
//! layers only, a few crates have one home each, and every file says what it is for.
//!
//! The checkers are pure functions of a path and a text. They know no types: a source is cut into
//! words, and what follows `crate::` or `super::` is resolved to the layer that it lies in.

mod circles;
mod counts;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;

/// From top to bottom. Layers of one row never import each other.
const LAYERS: &[&[&str]] = &[
    &["cli"],
    &["daemon", "doctor"],
    &["nix_worker"],
    &["engine", "control", "supervision"],
    &["command"],
    &["http"],
    &["fuse"],
    &["fs"],
    &["profile"],
    &["fetch"],
    &["store", "substituter"],
    &["tree"],
    &["chunk"],
    &["nix"],
    &["measure", "sync"],
];

/// These two stand above the layers: one starts the program, the other lists them.
const EXEMPT: &[&str] = &["src/main.rs", "src/lib.rs"];

/// A crate, and the only places that may name it.
const HOMES: &[(&str, &[&str])] = &[
    ("rocksdb", &["src/store/records/", "src/store/tests/"]),
    ("fuser", &["src/fuse/"]),
    ("axum", &["src/http/"]),
    ("http_body_util", &["src/http/"]),
    ("hyper", &["src/http/"]),
    ("hyper_util", &["src/http/"]),
    ("clap", &["src/cli/", "src/main.rs"]),
    ("anyhow", &["src/cli/", "src/main.rs"]),
    ("indicatif", &["src/cli/"]),
];

/// The HTTP client: whatever talks to servers shares its limits and deadlines, so one room has it.
const HTTP_CLIENT: &str = "reqwest";
const HTTP_ROOM: &str = "src/substituter/http/";

const ERRNO: &str = "E2BIG EACCES EAGAIN EBADF EBUSY ECONNABORTED ECONNREFUSED ECONNRESET EEXIST EFAULT \
    EFBIG EINTR EINVAL EIO EISDIR ELOOP EMFILE EMLINK ENAMETOOLONG ENODATA ENODEV ENOENT ENOMEM ENOSPC \
    ENOSYS ENOTCONN ENOTDIR ENOTEMPTY ENOTSUP ENOTTY ENXIO EOPNOTSUPP EOVERFLOW EPERM EPIPE ERANGE EROFS \
    ESTALE ETIMEDOUT EXDEV";

/// Names of files that have not found their room.
const NO_ROOM: &[&str] = &[
    "util", "utils", "common", "types", "helper", "helpers", "manager", "misc",
];

/// Limit of the lines of a file before its tests. A longer file says why: `// Long because: …`.
const LINES: usize = 600;

/// Limit of the length of a line, in characters; rustfmt breaks neither strings nor comments.
const COLUMNS: usize = 110;

// ---- Cutting a source into words ----

/// A source without its strings: code with comments blanked out, and comments with code blanked
/// out. Both keep the lines.
struct Parts {
    code: String,
    comments: String,
}

fn parts(source: &str) -> Parts {
    let chars: Vec<char> = source.chars().collect();
    let mut parts = Parts {
        code: String::new(),
        comments: String::new(),
    };
    let mut at = 0;
    while at < chars.len() {
        let (end, to) = match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => (line_end(&chars, at), Part::Comment),
            '/' if chars.get(at + 1) == Some(&'*') => (block_end(&chars, at), Part::Comment),
            '"' => (string_end(&chars, at), Part::Literal),
            '\'' => char_end(&chars, at).map_or((at + 1, Part::Code), |end| (end, Part::Literal)),
            c if is_word(c) => {
                let end = word_end(&chars, at);
                match raw_string_end(&chars, at, end) {
                    Some(end) => (end, Part::Literal),
                    None => (end, Part::Code),
                }
            }
            _ => (at + 1, Part::Code),
        };
        for &c in &chars[at..end] {
            let keep = |wanted| if c == '\n' || wanted { c } else { ' ' };
            parts.code.push(keep(to == Part::Code));
            parts.comments.push(keep(to == Part::Comment));
        }
        at = end;
    }
    parts
}

#[derive(PartialEq, Clone, Copy)]
enum Part {
    Code,
    Comment,
    Literal,
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word_end(chars: &[char], at: usize) -> usize {
    (at..chars.len())
        .find(|&i| !is_word(chars[i]))
        .unwrap_or(chars.len())
}

fn line_end(chars: &[char], at: usize) -> usize {
    (at..chars.len())
        .find(|&i| chars[i] == '\n')
        .unwrap_or(chars.len())
}

/// The end of a block comment; these nest.
fn block_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (at, depth) = (at + 2, depth + 1),
            ('*', Some('/')) => (at, depth) = (at + 2, depth - 1),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn string_end(chars: &[char], start: usize) -> usize {
    let mut at = start + 1;
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    chars.len()
}

/// The end of a character literal, or `None` for a lifetime.
fn char_end(chars: &[char], at: usize) -> Option<usize> {
    match (chars.get(at + 1)?, chars.get(at + 2)) {
        ('\\', _) => (at + 3..chars.len())
            .find(|&i| chars[i] == '\'')
            .map(|i| i + 1),
        (_, Some('\'')) => Some(at + 3),
        _ => None,
    }
}

/// The end of a raw string that starts with the word at `start..end` (`r`, `br` or `cr`).
fn raw_string_end(chars: &[char], start: usize, end: usize) -> Option<usize> {
    if !matches!(chars[start..end], ['r'] | ['b' | 'c', 'r']) {
        return None;
    }
    let quote = (end..chars.len()).find(|&i| chars[i] != '#')?;
    if chars[quote] != '"' {
        return None;
    }
    let hashes = quote - end;
    let closes = |i: usize| {
        chars[i] == '"'
            && chars
                .get(i + 1..=i + hashes)
                .is_some_and(|h| h.iter().all(|&c| c == '#'))
    };
    Some(
        (quote + 1..chars.len())
            .find(|&i| closes(i))
            .map_or(chars.len(), |i| i + 1 + hashes),
    )
}

#[derive(Clone, Copy)]
struct Word<'a> {
    line: usize,
    text: &'a str,
}

/// Identifiers, `::`, and single signs.
fn words(code: &str) -> Vec<Word<'_>> {
    let mut found = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let line = index + 1;
        let mut rest = text.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            found.push(Word {
                line,
                text: &rest[..length],
            });
            rest = rest[length..].trim_start();
        }
    }
    found
}

// ---- Imports ----

/// Something that a source names inside its own crate: the path from the crate's root.
#[derive(Debug, PartialEq)]
struct Reference {
    line: usize,
    path: Vec<String>,
}

fn module_of(file: &str) -> Vec<String> {
    let inner = file
        .strip_prefix("src/")
        .unwrap_or(file)
        .trim_end_matches(".rs");
    let mut module: Vec<String> = inner.split('/').map(str::to_owned).collect();
    if module.last().is_some_and(|last| last == "mod") {
        module.pop();
    }
    module
}

fn references(file: &str, code: &str) -> Vec<Reference> {
    let words = words(code);
    let text = |i: usize| words.get(i).map_or("", |w| w.text);
    let mut found = Vec::new();
    let mut inline: Vec<(usize, String)> = Vec::new();
    let mut depth = 0;
    let mut at = 0;
    while at < words.len() {
        match words[at].text {
            "{" => depth += 1,
            "}" => {
                inline.retain(|(opened, _)| *opened < depth);
                depth -= 1;
            }
            "mod" if text(at + 2) == "{" => {
                inline.push((depth + 1, text(at + 1).to_owned()));
            }
            "crate" | "super" | "self" if starts_a_path(&words, at) => {
                let mut module = module_of(file);
                module.extend(inline.iter().map(|(_, name)| name.clone()));
                at = read_path(&words, at, &module, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Whether `crate`, `super` or `self` here is the head of a path, or an import of the whole.
fn starts_a_path(words: &[Word], at: usize) -> bool {
    let text = |back: usize| at.checked_sub(back).map_or("", |i| words[i].text);
    let after = words.get(at + 1).map_or("", |w| w.text);
    // `pub(in crate::layer)` names who may see it.
    let is_visibility = text(1) == "in" && text(2) == "(" && text(3) == "pub";
    text(1) != "::" && !is_visibility && (after == "::" || text(1) == "use")
}

/// Reads one path, or a group of them, that starts at the word `at` and in the module `base`.
/// Returns the index of the first word behind it.
fn read_path(words: &[Word], mut at: usize, base: &[String], found: &mut Vec<Reference>) -> usize {
    let mut path = base.to_vec();
    while let Some(word) = words.get(at) {
        match word.text {
            "crate" => path.clear(),
            "super" => {
                path.pop();
            }
            "self" => {}
            "{" => {
                at += 1;
                while words.get(at).is_some_and(|w| w.text != "}") {
                    let next = read_path(words, at, &path, found);
                    at = next.max(at + 1);
                    // an alias, then the comma
                    while words.get(at).is_some_and(|w| !matches!(w.text, "," | "}")) {
                        at += 1;
                    }
                    if words.get(at).is_some_and(|w| w.text == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            name => path.push(name.to_owned()),
        }
        at += 1;
        if words.get(at).is_none_or(|w| w.text != "::") {
            found.push(Reference {
                line: word.line,
                path,
            });
            return at;
        }
        at += 1;
    }
    at
}

fn row(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|row| row.contains(&layer))
}

fn upward_imports(file: &str, source: &str) -> Vec<String> {
    if EXEMPT.contains(&file) {
        return Vec::new();
    }
    let own = module_of(file).remove(0);
    let Some(own_row) = row(&own) else {
        return vec![format!(
            "{file}: `{own}` is no layer: it belongs inside one"
        )];
    };
    let mut found = Vec::new();
    for Reference { line, path } in references(file, &parts(source).code) {
        let problem = match path.first().map(String::as_str) {
            None | Some("*") => "takes the crate's root as a whole: name the layer".to_owned(),
            Some(to) if to == own => continue,
            Some(to) => match row(to) {
                None => format!("names `crate::{to}`, which is no layer"),
                Some(to_row) if to_row > own_row => continue,
                Some(to_row) if to_row == own_row => {
                    format!("imports `{to}`, which stands beside `{own}`")
                }
                Some(_) => format!("imports `{to}`, which is above `{own}`"),
            },
        };
        found.push(format!("{file}:{line}: {problem}"));
    }
    found
}

// ---- Crates with one home ----

/// The lines that name a crate: `name::…`, `use name`, `extern crate name`.
fn names_crate(code: &str, name: &str) -> Vec<usize> {
    let words = words(code);
    let text = |i: Option<usize>| i.and_then(|i| words.get(i)).map_or("", |w| w.text);
    let mut lines = Vec::new();
    for (at, word) in words
        .iter()
        .enumerate()
        .filter(|(_, word)| word.text == name)
    {
        let before = text(at.checked_sub(1));
        let inside_a_path = before == "::" && text(at.checked_sub(2)).starts_with(is_word);
        let is_head = text(Some(at + 1)) == "::" || before == "use" || before == "crate";
        if is_head && !inside_a_path {
            lines.push(word.line);
        }
    }
    lines
}

fn strangers(file: &str, source: &str) -> Vec<String> {
    let code = parts(source).code;
    let mut found = Vec::new();
    for (name, homes) in HOMES {
        if homes.iter().any(|home| file.starts_with(home)) {
            continue;
        }
        for line in names_crate(&code, name) {
            found.push(format!(
                "{file}:{line}: `{name}` belongs in {}",
                homes.join(" and ")
            ));
        }
    }
    found
}

/// The first line that names an error number of the system.
fn names_errno(source: &str) -> Option<usize> {
    let code = parts(source).code;
    let words = words(&code);
    let is_value = |at: usize| {
        let after = |n: usize| words.get(at + n).map_or("", |w| w.text);
        let constant = |name: &str| {
            name.len() > 1
                && name
                    .chars()
                    .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        };
        ERRNO.split_whitespace().any(|name| name == words[at].text)
            || (words[at].text == "Errno" && after(1) == "::" && constant(after(2)))
    };
    (0..words.len())
        .find(|&at| is_value(at))
        .map(|at| words[at].line)
}

/// Rules about all files at once: one file has the HTTP client, and one of `fs` the error numbers,
/// beside the adapter that hands them to the kernel.
fn shared_homes(sources: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    let clients: Vec<&str> = sources
        .iter()
        .filter(|(file, _)| !file.starts_with(HTTP_ROOM))
        .filter(|(_, source)| !names_crate(&parts(source).code, HTTP_CLIENT).is_empty())
        .map(|(file, _)| file.as_str())
        .collect();
    if !clients.is_empty() {
        found.push(format!(
            "`{HTTP_CLIENT}` belongs in {HTTP_ROOM}, not in {}",
            clients.join(", ")
        ));
    }
    let mut in_fs = Vec::new();
    for (file, source) in sources
        .iter()
        .filter(|(file, _)| !file.starts_with("src/fuse/"))
    {
        match names_errno(source) {
            Some(line) if !file.starts_with("src/fs/") => {
                found.push(format!(
                    "{file}:{line}: error numbers belong in `fs` and `fuse`"
                ));
            }
            Some(_) => in_fs.push(file.as_str()),
            None => {}
        }
    }
    if in_fs.len() > 1 {
        found.push(format!(
            "one file of `fs` maps errors to numbers, not {}",
            in_fs.join(", ")
        ));
    }
    found
}

// ---- Each file ----

fn untidy(file: &str, source: &str) -> Vec<String> {
    let mut found = Vec::new();
    if !source.starts_with("//! ") {
        found.push(format!(
            "{file}: opens without `//!`, which says what it owns"
        ));
    }
    let name = module_of(file).pop().unwrap_or_default();
    if NO_ROOM.contains(&name.as_str()) {
        found.push(format!("{file}: `{name}` says nothing: what does it own?"));
    }
    let lines = source
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .count();
    let reason = source
        .lines()
        .any(|line| line.starts_with("// Long because: "));
    if lines > LINES && !reason && !file.starts_with("tests/") {
        found.push(format!(
            "{file}: {lines} lines, and no `// Long because: …`"
        ));
    }
    let wide = source.lines().enumerate();
    let wide = wide.filter(|(_, line)| line.chars().count() > COLUMNS);
    found.extend(wide.map(|(n, _)| format!("{file}:{}: longer than {COLUMNS} columns", n + 1)));
    found.extend(unfinished(file, source));
    found
}

fn unfinished(file: &str, source: &str) -> Vec<String> {
    let Parts { code, comments } = parts(source);
    let mut found = Vec::new();
    let words = words(&code);
    for three in words.windows(3) {
        let unwritten = matches!(three[0].text, "todo" | "unimplemented") && three[1].text == "!";
        let ignored = three[0].text == "#" && three[1].text == "[" && three[2].text == "ignore";
        if unwritten || ignored {
            let what: String = three.iter().map(|word| word.text).collect();
            found.push(format!(
                "{file}:{}: `{what}` is unfinished work",
                three[0].line
            ));
        }
    }
    let mark = concat!("FIX", "ME");
    for (index, line) in comments.lines().enumerate() {
        if line.contains(mark) {
            found.push(format!("{file}:{}: {mark} is unfinished work", index + 1));
        }
    }
    found
}

/// The layers that the table in `lib.rs` lists, in its order.
fn listed_layers(lib: &str) -> Vec<&str> {
    lib.lines()
        .filter_map(|line| {
            line.strip_prefix("//! | [`")?
                .split_once("`]")
                .map(|(name, _)| name)
        })
        .collect()
}

fn declared_modules(lib: &str) -> BTreeSet<&str> {
    lib.lines()
        .filter_map(|line| {
            line.strip_prefix("pub mod ")
                .or(line.strip_prefix("mod "))?
                .strip_suffix(';')
        })
        .collect()
}

// ---- The sources of this repository ----

fn sources_below(directory: &str) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    let read = read_sources(root, &root.join(directory), &mut found);
    assert!(
        read.is_ok() && !found.is_empty(),
        "no sources below {directory}: {read:?}"
    );
    found.sort();
    found
}

fn read_sources(
    root: &Path,
    directory: &Path,
    found: &mut Vec<(String, String)>,
) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() && !path.ends_with("target") {
            read_sources(root, &path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let file = path
                .strip_prefix(root)
                .unwrap_or(&path)
                .to_string_lossy()
                .into_owned();
            found.push((file, fs::read_to_string(&path)?));
        }
    }
    Ok(())
}

fn assert_none(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn imports_point_down() {
    let sources = sources_below("src");
    let problems: Vec<String> = sources
        .iter()
        .flat_map(|(file, source)| upward_imports(file, source))
        .collect();
    assert_none(&problems);
}

#[test]
fn every_layer_is_seen_and_listed_in_order() {
    let sources = sources_below("src");
    let lib = &sources
        .iter()
        .find(|(file, _)| file == "src/lib.rs")
        .expect("src/lib.rs")
        .1;
    let order: Vec<&str> = LAYERS.iter().flat_map(|row| row.iter().copied()).collect();
    let listed = listed_layers(lib);
    let expected: Vec<&str> = order
        .iter()
        .copied()
        .filter(|l| listed.contains(l))
        .collect();
    assert_eq!(
        listed, expected,
        "the table in src/lib.rs lists the layers from top to bottom"
    );
    assert_eq!(
        declared_modules(lib),
        listed.iter().copied().collect(),
        "each module has its line"
    );

    let mut downward: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (file, source) in sources
        .iter()
        .filter(|(file, _)| !EXEMPT.contains(&file.as_str()))
    {
        let own = module_of(file).remove(0);
        let to = references(file, &parts(source).code)
            .into_iter()
            .filter_map(|r| r.path.into_iter().next());
        downward
            .entry(own.clone())
            .or_default()
            .extend(to.filter(|to| *to != own));
    }
    let seen: BTreeSet<&str> = downward.keys().map(String::as_str).collect();
    assert_eq!(
        seen,
        listed.iter().copied().collect(),
        "each listed layer has sources"
    );
    let leaning = downward.values().filter(|to| !to.is_empty()).count();
    assert!(
        leaning * 2 > seen.len(),
        "most layers import something, but: {downward:?}"
    );
}

#[test]
fn crates_stay_in_their_homes() {
    let sources = sources_below("src");
    let mut problems: Vec<String> = sources
        .iter()
        .flat_map(|(file, source)| strangers(file, source))
        .collect();
    problems.extend(shared_homes(&sources));
    assert_none(&problems);
}

#[test]
fn every_file_is_tidy() {
    let problems: Vec<String> = ["src", "tests", "mount-helper/src", "bench/src"]
        .iter()
        .flat_map(|directory| sources_below(directory))
        .flat_map(|(file, source)| untidy(&file, &source))
        .collect();
    assert_none(&problems);
}

/// The checkers, on sources made up to break the rules.
mod checkers {
    use super::*;

    fn paths(file: &str, source: &str) -> Vec<String> {
        references(file, &parts(source).code)
            .iter()
            .map(|r| r.path.join("::"))
            .collect()
    }

    #[test]
    fn see_upward_sideward_and_unknown_imports() {
        let found = |file, source| upward_imports(file, source).join("\n");
        assert!(found("src/fs/read.rs", "use crate::fuse::Adapter;").contains("fuse"));
        assert!(found("src/store/mod.rs", "use crate::substituter::Http;").contains("beside"));
        assert!(
            found("src/substituter/mod.rs", "fn f() { crate::store::open() }").contains("beside")
        );
        assert!(
            found(
                "src/nix/nar.rs",
                "use crate::{nix::hash, chunk::{Digest, Chunk}};"
            )
            .contains(":1: imports `chunk`")
        );
        assert!(
            found("src/tree/mod.rs", "\n\nuse super::fetch::Fetch;")
                .contains(":3: imports `fetch`")
        );
        assert!(found("src/tree/node.rs", "use super::super::{cli, nix};").contains("cli"));
        assert!(
            found(
                "src/tree/node.rs",
                "mod tests { use super::super::super::daemon; }"
            )
            .contains("daemon")
        );
        assert!(found("src/tree/node.rs", "pub(crate) use crate::fs as lower;").contains("fs"));
        assert!(
            found(
                "src/chunk/mod.rs",
                "macro_rules! m { () => { $crate::store::x() } }"
            )
            .contains("store")
        );
        assert!(found("src/chunk/mod.rs", "use crate::*;").contains("whole"));
        assert!(found("src/chunk/mod.rs", "use crate as all;").contains("whole"));
        assert!(found("src/chunk/mod.rs", "use crate::{self as all, nix};").contains("whole"));
        assert!(found("src/chunk/mod.rs", "use crate::clock::Clock;").contains("no layer"));
        assert!(found("src/clock.rs", "").contains("no layer"));
    }

    #[test]
    fn accept_what_points_down_and_what_is_only_text() {
        let downward = "//! Below [`crate::cli`].\nuse crate::{nix::{self, hash}, chunk as c};\n\
            use super::builder::Builder;\n/* crate::fuse */ const S: &str = \"crate::fuse\";\n\
            fn f<'a>(x: &'a str) -> char { let _ = r#\"crate::cli \"quoted\" \"#; '\"' }\n\
            impl X { fn g(&self) { self.crate_; } }\nuse self::inner::Y;\n";
        assert_eq!(
            upward_imports("src/tree/node.rs", downward),
            Vec::<String>::new()
        );
        let seen = paths("src/tree/node.rs", downward);
        assert_eq!(
            seen,
            [
                "nix",
                "nix::hash",
                "chunk",
                "tree::builder::Builder",
                "tree::node::inner::Y"
            ]
        );
        assert!(upward_imports("src/main.rs", "use crate::cli;").is_empty());
    }

    #[test]
    fn follow_super_through_inline_modules() {
        let source = "mod a { mod b { use super::super::x; } use super::y; } use super::z;";
        assert_eq!(
            paths("src/fs/read.rs", source),
            ["fs::read::x", "fs::read::y", "fs::z"]
        );
        assert_eq!(paths("src/fs/mod.rs", "use super::store::x;"), ["store::x"]);
        assert_eq!(
            paths("src/fs.rs", "use super::{store::{x, y}, nix};"),
            ["store::x", "store::y", "nix"]
        );
    }

    #[test]
    fn see_crates_away_from_home() {
        let found = |file, source: &str| strangers(file, source).len();
        assert_eq!(
            found(
                "src/fs/mod.rs",
                "use rocksdb::DB;\nfn f() -> ::fuser::Errno { x }"
            ),
            2
        );
        assert_eq!(
            found("src/fetch/mod.rs", "use anyhow as oops; extern crate clap;"),
            2
        );
        assert_eq!(
            found("src/store/mod.rs", "use fuser::INodeNo; use rocksdb::DB;"),
            2
        );
        assert_eq!(
            found("src/store/records/mod.rs", "use rocksdb::DB; // fuser::x\n"),
            0
        );
        assert_eq!(
            found(
                "src/cli/mod.rs",
                "use clap::Parser; use {anyhow::Result, indicatif::Bar};"
            ),
            0
        );
        assert_eq!(
            found(
                "src/daemon/mod.rs",
                "let rocksdb = crate::store::rocksdb::open();"
            ),
            0
        );
    }

    #[test]
    fn see_a_second_http_client_and_scattered_error_numbers() {
        let made_up = |list: &[(&str, &str)]| {
            let owned: Vec<_> = list
                .iter()
                .map(|(f, s)| ((*f).to_owned(), (*s).to_owned()))
                .collect();
            shared_homes(&owned)
        };
        let client = "use reqwest::Client;";
        assert_eq!(made_up(&[("src/substituter/http/mod.rs", client)]).len(), 0);
        assert_eq!(
            made_up(&[
                ("src/substituter/http/mod.rs", client),
                ("src/fetch/mod.rs", client)
            ])
            .len(),
            1
        );
        let errno = "fn f() -> i32 { libc::ENOENT }";
        assert_eq!(
            made_up(&[("src/fs/errno.rs", errno), ("src/fuse/mod.rs", errno)]).len(),
            0
        );
        assert_eq!(
            made_up(&[
                ("src/fs/errno.rs", errno),
                ("src/fs/read.rs", "Errno::NOENT")
            ])
            .len(),
            1
        );
        assert_eq!(
            made_up(&[("src/store/mod.rs", "use libc::{EIO, ENOSPC};")]).len(),
            1
        );
        assert_eq!(
            made_up(&[("src/store/mod.rs", "// ENOENT\nfn f() { Errno::from(x) }")]).len(),
            0
        );
    }

    #[test]
    fn see_untidy_files() {
        let found = |file: &str, source: &str| untidy(file, source).join("\n");
        assert!(found("src/fs/mod.rs", "use x;").contains("opens without"));
        for name in ["util", "common/mod", "types", "helpers", "manager"] {
            assert!(
                found(&format!("src/fs/{name}.rs"), "//! X.").contains("says nothing"),
                "{name}"
            );
        }
        let long = "//! X.\n".to_owned() + &"\n".repeat(LINES);
        assert!(found("src/fs/mod.rs", &long).contains("601 lines"));
        assert!(
            found(
                "src/fs/mod.rs",
                &(long.clone() + "// Long because: one table.\n")
            )
            .is_empty()
        );
        let tested = "//! X.\n#[cfg(test)]\n".to_owned() + &"\n".repeat(LINES);
        assert!(found("src/fs/mod.rs", &tested).is_empty());
        let wide = format!("//! X.\n//{}\n", "ü".repeat(COLUMNS - 1));
        assert!(found("tests/x.rs", &wide).contains(":2: longer than 110 columns"));
        assert!(found("tests/x.rs", &wide.replacen('ü', "", 1)).is_empty());
        for source in [
            "fn f() { todo!() }",
            "fn f() { unimplemented!(\"x\") }",
            "#[ignore]\nfn f() {}",
            "#[ignore = \"slow\"]\nfn f() {}",
        ] {
            assert!(
                found("tests/x.rs", &format!("//! X.\n{source}")).contains(":2: "),
                "{source}"
            );
        }
        let mark = format!("//! X.\n// {}: later\n", concat!("FIX", "ME"));
        assert!(found("src/fs/mod.rs", &mark).contains("unfinished"));
        assert!(
            found(
                "src/fs/mod.rs",
                "//! X.\nconst A: &str = \"todo!()\"; // todo!() is not used"
            )
            .is_empty()
        );
    }

    #[test]
    fn read_the_table_of_layers() {
        let lib = "//! | [`cli`] | one |\n//! | [`nix`] | two |\n\npub mod cli;\nmod nix;\n";
        assert_eq!(listed_layers(lib), ["cli", "nix"]);
        assert_eq!(declared_modules(lib), BTreeSet::from(["cli", "nix"]));
    }
}
