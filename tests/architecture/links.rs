//! The documentation: what its links lead to and the files that it names are there, and the commands that it
//! shows are those of the program.
//!
//! The checkers are pure functions of texts; whoever calls them says which files there are and what the
//! help of a command is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use super::assert_none;

/// Pages at the top of the repository; those in `docs` come besides.
const TOP: [&str; 4] = [
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
];
/// Limit of the lines of the README: what is longer is a page of its own.
const README_LINES: usize = 200;
/// Directories whose files are named by their paths.
const NAMED: &[&str] = &[
    "src/",
    "tests/",
    "bench/",
    "systemd/",
    "mount-helper/",
    "docs/",
];
/// The page that tells of what was: the files that it names may be gone.
const HISTORY: &str = "CHANGELOG.md";
/// Words after which a command may follow: prompts, and commands that run another one.
const BEFORE: &[&str] = &["$", "#", "sudo", "exec", "time", "if", "then", "do", "!"];
/// Words that end a command.
const AFTER: &[&str] = &["|", "||", "&&", ";", "&", "#"];

// ---- Cutting a page ----

/// A line of a page, which is prose or within a fence.
struct Line<'a> {
    number: usize,
    text: &'a str,
    fenced: bool,
}

fn lines(page: &str) -> Vec<Line<'_>> {
    let mut fenced = false;
    let mut all = Vec::new();
    for (at, text) in page.lines().enumerate() {
        if text.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        let number = at + 1;
        all.push(Line {
            number,
            text,
            fenced,
        });
    }
    all
}

/// The paragraphs, lists, tables and headings, each as one text, with the number of its first line.
fn paragraphs(page: &str) -> Vec<(usize, String)> {
    let mut all: Vec<(usize, String)> = Vec::new();
    let mut next = 0;
    for line in lines(page) {
        if line.fenced || line.text.trim().is_empty() {
            next = 0;
            continue;
        }
        match all.last_mut() {
            Some((_, text)) if line.number == next => {
                text.push(' ');
                text.push_str(line.text);
            }
            _ => all.push((line.number, line.text.to_owned())),
        }
        next = line.number + 1;
    }
    all
}

/// Separates what stands between backticks from the rest, which is left with blanks in its place.
fn without_code(text: &str) -> (String, Vec<String>) {
    let (mut rest, mut code) = (String::new(), Vec::new());
    for (at, part) in text.split('`').enumerate() {
        if at % 2 == 0 {
            rest.push_str(part);
        } else {
            rest.push(' ');
            code.push(part.to_owned());
        }
    }
    (rest, code)
}

/// The anchors of a page's headings, as GitHub makes them.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    for line in lines(page).iter().filter(|line| !line.fenced) {
        let heading = line.text.trim_start_matches('#');
        if heading.len() == line.text.len() || !heading.starts_with(' ') {
            continue;
        }
        let anchor: String = without_targets(heading.trim())
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
            .map(|c| if c == ' ' { '-' } else { c })
            .collect();
        let before = used.entry(anchor.clone()).or_default();
        anchors.insert(match *before {
            0 => anchor,
            n => format!("{anchor}-{n}"),
        });
        *before += 1;
    }
    anchors
}

/// A heading with the texts of its links alone.
fn without_targets(heading: &str) -> String {
    let mut parts = heading.split("](");
    let mut text = parts.next().unwrap_or_default().replace('[', "");
    for part in parts {
        let rest = part.split_once(')').map_or("", |(_, rest)| rest);
        text.push_str(&rest.replace('[', ""));
    }
    text
}

// ---- Links ----

/// The targets of links, each with its line or that of its paragraph.
fn targets(page: &str) -> Vec<(usize, String)> {
    let mut all = Vec::new();
    for (number, text) in paragraphs(page) {
        let (text, _) = without_code(&text);
        for part in text.split("](").skip(1) {
            if let Some((target, _)) = part.split_once(')') {
                all.push((number, target.trim().to_owned()));
            }
        }
    }
    all
}

/// A path from the directory of `file`, from the top of the repository; `None` if it leads out of it.
fn resolve(file: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = file.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

/// Where a link within the repository leads: a file, and an anchor in it.
fn destination(file: &str, target: &str) -> Option<(String, String)> {
    let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
    let path = match path {
        "" => file.to_owned(),
        path => resolve(file, path)?,
    };
    Some((path, anchor.to_owned()))
}

fn is_outside(target: &str) -> bool {
    ["http://", "https://", "mailto:"]
        .iter()
        .any(|scheme| target.starts_with(scheme))
}

/// The links of a page that lead nowhere. `read` has the text of a page, or an empty one for what is there
/// and no page.
fn broken_links(file: &str, page: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (line, target) in targets(page) {
        if is_outside(&target) {
            continue;
        }
        let place = format!("{file}:{line}: the link to {target}");
        let Some((path, anchor)) = destination(file, &target) else {
            problems.push(format!("{place} leads out of the repository"));
            continue;
        };
        match read(&path) {
            None => problems.push(format!("{place}: there is no {path}")),
            Some(text) if !anchor.is_empty() && !anchors(&text).contains(&anchor) => {
                problems.push(format!("{place}: {path} has no heading with that anchor"));
            }
            Some(_) => {}
        }
    }
    problems
}

/// Files of the repository that a page names between backticks, and that are not there.
fn missing_files(file: &str, page: &str, read: &dyn Fn(&str) -> Option<String>) -> Vec<String> {
    let mut problems = Vec::new();
    for (line, text) in paragraphs(page) {
        for code in without_code(&text).1 {
            let is_path = code
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            let is_named = is_path && NAMED.iter().any(|directory| code.starts_with(directory));
            if is_named && read(code.trim_end_matches('/')).is_none() {
                problems.push(format!("{file}:{line}: there is no {code}"));
            }
        }
    }
    problems
}

/// Pages of `docs` that no other page links to.
fn unreachable(pages: &BTreeMap<String, String>) -> Vec<String> {
    let mut linked = BTreeSet::new();
    for (file, page) in pages {
        let to = targets(page).into_iter().filter(|(_, t)| !is_outside(t));
        let to = to.filter_map(|(_, target)| destination(file, &target));
        linked.extend(to.map(|(path, _)| path).filter(|path| path != file));
    }
    let docs = pages.keys().filter(|file| file.starts_with("docs/"));
    docs.filter(|file| !linked.contains(*file))
        .map(|file| format!("{file}: no other page links to it"))
        .collect()
}

// ---- Commands ----

/// What the help of a command says that it takes.
#[derive(Clone, Default)]
struct Usage {
    subcommands: BTreeSet<String>,
    /// Long flags, and whether a value follows.
    flags: BTreeMap<String, bool>,
}

impl Usage {
    fn parse(help: &str) -> Self {
        let mut usage = Self::default();
        let mut in_commands = false;
        for line in help.lines() {
            if !line.starts_with(' ') {
                in_commands = line == "Commands:";
            }
            let line = line.trim();
            if in_commands && let Some(name) = line.split(' ').next() {
                usage.subcommands.insert(name.to_owned());
            }
            // `-v, --verbose...`, `--state <DIR>`
            let option = line.split_once(", ").map_or(line, |(short, long)| {
                if short.starts_with('-') { long } else { line }
            });
            if let Some(flag) = flag(option) {
                let value = option[flag.len()..]
                    .trim_start()
                    .starts_with(['<', '[', '=']);
                usage.flags.insert(flag, value);
            }
        }
        usage.subcommands.remove("");
        usage
    }
}

/// The long flag that a text begins with.
fn flag(text: &str) -> Option<String> {
    let name = text.strip_prefix("--")?;
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let name: String = name.chars().take_while(|c| is_name(*c)).collect();
    let name = name.trim_end_matches('-');
    (!name.is_empty()).then(|| format!("--{name}"))
}

/// The words that follow `narfs`, wherever it is a command, up to the end of that.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let text = text.replace("$(", " ; ").replace(';', " ; ");
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut all = Vec::new();
    let mut may_follow = true;
    let mut at = 0;
    while at < words.len() {
        let word = words[at];
        at += 1;
        if word == "#" && at > 1 {
            break;
        }
        if may_follow && word == "narfs" {
            let rest = words[at..].iter();
            let rest = rest.take_while(|w| !AFTER.contains(w) && !w.starts_with(['<', '>']));
            let rest: Vec<_> = rest
                .map(|w| w.trim_matches(['[', ']', '(', ')', ',', '`']).to_owned())
                .collect();
            at += rest.len();
            all.push(rest);
            may_follow = false;
            continue;
        }
        let is_assignment = word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.chars().all(|c| c.is_ascii_uppercase() || c == '_')
        });
        may_follow =
            AFTER.contains(&word) || may_follow && (BEFORE.contains(&word) || is_assignment);
    }
    all
}

/// All of the program's command lines on a page, each with its line or that of its paragraph.
fn mentions(page: &str) -> Vec<(usize, Vec<String>)> {
    let mut all = Vec::new();
    let mut joined = String::new();
    for line in lines(page).iter().filter(|line| line.fenced) {
        joined.push_str(line.text.trim_end_matches('\\'));
        if line.text.ends_with('\\') {
            continue;
        }
        let found = command_lines(&joined).into_iter();
        all.extend(found.map(|words| (line.number, words)));
        joined.clear();
    }
    for (number, text) in paragraphs(page) {
        for code in without_code(&text).1 {
            let found = command_lines(&code).into_iter();
            all.extend(found.map(|words| (number, words)));
        }
    }
    all
}

fn is_command_word(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_lowercase())
        && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// What is wrong with the words after `narfs`. `usage` has the help of a command, given by its words;
/// `None` if there is no such command.
fn misuse(words: &[String], usage: &dyn Fn(&[String]) -> Option<Usage>) -> Option<String> {
    let mut known = usage(&[])?;
    let mut path: Vec<String> = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        if let Some(flag) = flag(word) {
            let Some(value) = known.flags.get(&flag) else {
                let command = path.join(" ");
                return Some(format!("`narfs {command}` has no flag {flag}"));
            };
            // Before a command, its value must not be taken for one.
            if *value && !word.contains('=') && path.is_empty() {
                words.next();
            }
            continue;
        }
        if !is_command_word(word) || !path.is_empty() && known.subcommands.is_empty() {
            // A value or a placeholder; without a command before it, what follows is no command line.
            if path.is_empty() && !word.starts_with('-') {
                return None;
            }
            continue;
        }
        path.push(word.clone());
        match usage(&path) {
            Some(found) => known = found,
            None => return Some(format!("there is no command `narfs {}`", path.join(" "))),
        }
    }
    None
}

fn misuses(file: &str, page: &str, usage: &dyn Fn(&[String]) -> Option<Usage>) -> Vec<String> {
    let each = mentions(page).into_iter();
    each.filter_map(|(line, words)| {
        let what = misuse(&words, usage)?;
        Some(format!("{file}:{line}: {what}"))
    })
    .collect()
}

// ---- This repository ----

fn pages() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).into_iter().flatten();
    let docs = docs.flatten().map(|entry| entry.file_name());
    let docs = docs.map(|name| format!("docs/{}", name.to_string_lossy()));
    let docs = docs.filter(|file| file.ends_with(".md"));
    let top = TOP.iter().map(|file| (*file).to_owned());
    top.chain(docs)
        .map(|file| {
            let text = fs::read_to_string(root.join(&file));
            assert!(text.is_ok(), "{file} cannot be read: {text:?}");
            (file, text.unwrap_or_default())
        })
        .collect()
}

/// The text of a page of the repository, or an empty one for another file or directory.
fn read(path: &str) -> Option<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if path.is_dir() {
        return Some(String::new());
    }
    fs::read(path)
        .ok()
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// What the program says of a command, asked for once.
fn ask(path: &[String]) -> Option<Usage> {
    let mut narfs = Command::new(env!("CARGO_BIN_EXE_narfs"));
    let help = narfs.args(path).arg("--help").output().ok()?;
    let text = String::from_utf8_lossy(&help.stdout);
    let usage = Usage::parse(&text);
    help.status.success().then_some(usage)
}

#[test]
fn links_and_files_are_there_and_every_page_is_linked() {
    let pages = pages();
    let mut problems = unreachable(&pages);
    for (file, page) in &pages {
        problems.extend(broken_links(file, page, &read));
        if file != HISTORY {
            problems.extend(missing_files(file, page, &read));
        }
    }
    assert_none(&problems);
}

#[test]
fn the_readme_is_short() {
    let lines = pages()["README.md"].lines().count();
    assert!(
        lines <= README_LINES,
        "README.md has {lines} lines; what is more than {README_LINES} belongs to a page in docs"
    );
}

#[test]
fn commands_and_flags_in_the_documentation_are_those_of_the_program() {
    let known = std::cell::RefCell::new(BTreeMap::new());
    let usage = |path: &[String]| -> Option<Usage> {
        let mut known = known.borrow_mut();
        let usage = known.entry(path.to_vec()).or_insert_with(|| ask(path));
        usage.clone()
    };
    let pages = pages();
    let each = pages.iter();
    let problems: Vec<_> = each
        .flat_map(|(file, page)| misuses(file, page, &usage))
        .collect();
    assert_none(&problems);
    let found: usize = pages.values().map(|page| mentions(page).len()).sum();
    assert!(found > 100, "only {found} commands were seen");
}

/// The checkers, on pages made up to be wrong.
mod checkers {
    use super::*;

    fn made_up(path: &str) -> Option<String> {
        let text = match path {
            "README.md" => "# Top\n",
            "docs/a.md" => "# A\n## One `two`: three\n## Same\n## Same\n```\n# No heading\n```\n",
            "src/lib.rs" | "docs" => "",
            _ => return None,
        };
        Some(text.to_owned())
    }

    fn problems(file: &str, page: &str) -> String {
        broken_links(file, page, &made_up).join("\n")
    }

    #[test]
    fn accept_links_to_what_is_there() {
        let page = "[a](docs/a.md) [b](docs/a.md#one-two-three) [c](#top) [d](src/lib.rs)\n\
            [e](docs/a.md#same) [f](docs/a.md#same-1) [g](https://x.invalid/y#z) [h](docs)\n\
            ```\n[i](nowhere)\n```\n`[j](nowhere)`\n";
        assert_eq!(problems("README.md", page), "");
        assert_eq!(
            problems("docs/a.md", "[up](../README.md#top) [x](#same)"),
            ""
        );
    }

    #[test]
    fn see_links_that_lead_nowhere() {
        let page = "text\n\nmore and [a\nlink](docs/b.md)";
        let found = problems("README.md", page);
        assert!(found.contains("README.md:3") && found.contains("there is no docs/b.md"));
        for anchor in ["same-2", "no-heading", "One-two-three", "one-two:-three"] {
            let found = problems("README.md", &format!("[x](docs/a.md#{anchor})"));
            assert!(found.contains("no heading"), "{anchor}");
        }
        let found = problems("docs/a.md", "[x](../../etc/passwd)");
        assert!(found.contains("out of the repository"));
        assert!(problems("docs/a.md", "[x](README.md)").contains("docs/README.md"));
    }

    #[test]
    fn see_files_that_are_not_there() {
        let missing = |page: &str| missing_files("docs/a.md", page, &made_up).join("\n");
        let page = "`src/lib.rs`, `docs/`, `docs/….md`, `src/x.rs y`, src/x.rs and `target/x`\n";
        assert_eq!(missing(page), "");
        assert_eq!(
            missing("a\n\n`src/lib.rs`, `src/x.rs`"),
            "docs/a.md:3: there is no src/x.rs"
        );
    }

    #[test]
    fn see_pages_that_nothing_links_to() {
        let page = |text: &str| text.to_owned();
        let mut pages = BTreeMap::from([
            ("README.md".to_owned(), page("[a](docs/a.md)")),
            ("docs/a.md".to_owned(), page("[b](b.md#x)")),
            ("docs/b.md".to_owned(), page("")),
        ]);
        assert!(unreachable(&pages).is_empty());
        pages.insert("docs/c.md".to_owned(), page("[itself](c.md) `[c](c.md)`"));
        assert_eq!(unreachable(&pages).len(), 1);
    }

    /// A program with `copy`, `trace start` and `trace stop`.
    fn help(path: &[String]) -> Option<Usage> {
        const GLOBAL: &str = "Options:\n      --state <DIR>  Directory\n  -v, --verbose...  More\n";
        let own = match path.join(" ").as_str() {
            "" => "Usage: narfs\n\nOptions:\n",
            "copy" => {
                "Options:\n      --from <URL>\n          Sources [see --all]\n      --all  All\n"
            }
            "trace" => "Commands:\n  start  Start\n  stop   Stop\n\n",
            "trace start" => "Options:\n      --drop-caches\n",
            "trace stop" => "",
            _ => return None,
        };
        Some(Usage::parse(&format!("{own}{GLOBAL}")))
    }

    fn wrong(page: &str) -> String {
        misuses("README.md", page, &help).join("\n")
    }

    #[test]
    fn accept_commands_of_the_program_and_what_is_none() {
        for page in [
            "`narfs copy --from URL --all PATH…` and `narfs trace start build --drop-caches`",
            "`narfs --state copied copy --all`, `narfs -v copy`, `narfs copy --verbose`, `narfs COMMAND`",
            "```\n$ narfs copy \\\n    --all && narfs trace stop x | less --r\n# narfs copy  # narfs x\n```",
            "```\nnarfs 0.2.0, process 7\nnarfs: none\nsystemctl stop narfs now\nmount -t narfs a b\n```",
            "```\nNARFS_STATE=/x sudo narfs copy --from=file:///y $(narfs trace stop)\n--in narfs -o x\n```",
            "narfs frobs, and so does narfs --frob outside of code",
        ] {
            assert_eq!(wrong(page), "", "{page}");
        }
    }

    #[test]
    fn see_commands_and_flags_that_are_not_there() {
        for (page, what) in [
            ("`narfs frob`", "no command `narfs frob`"),
            ("`narfs trace\nfrob`", "no command `narfs trace frob`"),
            (
                "`narfs copy --everything`",
                "`narfs copy` has no flag --everything",
            ),
            ("`narfs copy --drop-caches`", "no flag --drop-caches"),
            ("`narfs --all copy`", "has no flag --all"),
            (
                "```\n$ ls; narfs copy x --al\n```",
                "README.md:2: `narfs copy` has no flag --al",
            ),
            (
                "```\n# A=b narfs trace start \\\n  x --stop\n```",
                "README.md:3: `narfs trace start` has no flag",
            ),
            ("`x $(narfs frob)`", "narfs frob"),
        ] {
            let found = wrong(page);
            assert!(found.contains(what), "{page}: {found}");
        }
    }
}
