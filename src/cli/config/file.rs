//! The configuration file, read.
//!
//! Invariant: a file is taken as a whole or not at all, and whatever is wrong with it is said with
//! its line and with what is expected. It never says less than it seems to: an option that is
//! not known is a mistake.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::choices::{Choices, MOUNT, Origin, Setting, TOP};
use super::value::{self, is_memory};
use crate::cli::size::Size;
use crate::fetch::PrefetchPolicy;
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// Something that is wrong in a configuration file, or in another file that users write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Mistake {
    path: Arc<Path>,
    line: usize,
    text: String,
}

impl Mistake {
    /// What is wrong at so many bytes into a file.
    pub(in crate::cli) fn new(path: &Arc<Path>, bytes: &[u8], at: usize, text: String) -> Self {
        let line = line(bytes, at);
        let path = path.clone();
        Self { path, line, text }
    }

    /// In which line it is, from 1.
    pub(in crate::cli) fn line(&self) -> usize {
        self.line
    }
}

/// The line, from 1, that is so many bytes into a text.
fn line(bytes: &[u8], at: usize) -> usize {
    let before = bytes.iter().take(at);
    1 + before.filter(|b| **b == b'\n').count()
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path.display(), self.line, self.text)
    }
}

/// A configuration file and what it chooses.
#[derive(Debug)]
pub(in crate::cli) struct ConfigFile {
    /// Where it is, absolute, and who named it.
    pub(in crate::cli) path: Setting<PathBuf>,
    /// Only the default one may be absent.
    pub(in crate::cli) present: bool,
    /// What it chooses.
    pub(in crate::cli) choices: Choices,
    /// What is wrong with it, from top to bottom.
    pub(super) mistakes: Vec<Mistake>,
}

impl ConfigFile {
    /// The place of a file, as if it were empty.
    pub(super) fn unread(path: Setting<PathBuf>) -> Self {
        Self {
            path,
            present: false,
            choices: Choices::default(),
            mistakes: Vec::new(),
        }
    }

    /// Reads a file.
    ///
    /// # Errors
    /// It was named and is not there, or it cannot be read. What is wrong in it is no error here.
    pub(super) fn read(path: Setting<PathBuf>) -> anyhow::Result<Self> {
        let named = match path.origin {
            Origin::Default => None,
            Origin::Environment(name) => Some(name),
            Origin::Flag | Origin::File { .. } => Some("the command line"),
        };
        let bytes = match (std::fs::read(&path.value), named) {
            (Ok(bytes), _) => bytes,
            (Err(e), None) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self::unread(path));
            }
            (Err(e), Some(by)) if e.kind() == io::ErrorKind::NotFound => bail!(
                "there is no configuration file {}, which {by} names",
                path.value.display()
            ),
            (Err(e), _) => {
                let text = || {
                    format!(
                        "cannot read the configuration file {}",
                        path.value.display()
                    )
                };
                return Err(e).with_context(text);
            }
        };
        let (choices, mistakes) = parse(&path.value, &bytes);
        Ok(Self {
            path,
            present: true,
            choices,
            mistakes,
        })
    }

    /// What names the same settings to a program that is started elsewhere: where there is no
    /// file, an empty one, so that none that appears meanwhile counts.
    pub(in crate::cli) fn to_name_again(&self) -> &Path {
        if self.present {
            &self.path.value
        } else {
            Path::new("/dev/null")
        }
    }
}

/// Reads the text of a configuration file: what it chooses, and what is wrong with it, from top to
/// bottom.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> (Choices, Vec<Mistake>) {
    let mut reader = Reader {
        path: path.into(),
        bytes,
        choices: Choices::default(),
        mistakes: Vec::new(),
    };
    match table(&reader.path, bytes) {
        Ok(table) => reader.top(table.get_ref()),
        Err(mistakes) => reader.mistakes = mistakes,
    }
    // Tables are in the order of their names.
    reader.mistakes.sort_by_key(|m| m.line);
    (reader.choices, reader.mistakes)
}

/// Reads TOML, or says what keeps it from being that, and where. What could be read of a text
/// that is no TOML may mean anything.
pub(in crate::cli) fn table<'t>(
    path: &Arc<Path>,
    bytes: &'t [u8],
) -> Result<Spanned<DeTable<'t>>, Vec<Mistake>> {
    let mistake = |at, text| Mistake::new(path, bytes, at, text);
    let text = std::str::from_utf8(bytes);
    let text = text.map_err(|e| vec![mistake(e.valid_up_to(), "this is not UTF-8".to_owned())])?;
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Ok(table);
    }
    let errors = errors.iter().map(|e| {
        let at = e.span().map_or(0, |span| span.start);
        // One line for one mistake.
        let message = e.message().lines().collect::<Vec<_>>().join("; ");
        mistake(at, format!("this is not TOML: {message}"))
    });
    Err(errors.collect())
}

/// A value that an option cannot have, and where it stands.
struct Wrong {
    at: usize,
    text: String,
}

pub(in crate::cli) type Value<'t> = Spanned<DeValue<'t>>;

struct Reader<'t> {
    path: Arc<Path>,
    bytes: &'t [u8],
    choices: Choices,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn mistake(&mut self, at: usize, text: String) {
        let mistake = Mistake::new(&self.path, self.bytes, at, text);
        self.mistakes.push(mistake);
    }

    fn option<T>(
        &mut self,
        name: &str,
        value: &Value<'_>,
        read: impl Fn(&Value<'_>) -> Result<T, Wrong>,
    ) -> Option<Setting<T>> {
        match read(value) {
            Ok(read) => Some(Setting {
                value: read,
                origin: Origin::File {
                    path: self.path.clone(),
                    line: line(self.bytes, value.span().start),
                },
            }),
            Err(wrong) => {
                self.mistake(wrong.at, format!("{name}: {}", wrong.text));
                None
            }
        }
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            match name {
                "state" => self.choices.state = self.option(name, value, path),
                "store-dir" => self.choices.store_dir = self.option(name, value, store_dir),
                "memory" => self.choices.memory = self.option(name, value, memory),
                "from" => self.choices.from = self.option(name, value, sources),
                "trusted-public-keys" => {
                    self.choices.trusted_public_keys = self.option(name, value, keys);
                }
                "require-sigs" => self.choices.require_sigs = self.option(name, value, yes_or_no),
                "netrc-file" => self.choices.netrc_file = self.option(name, value, path_or_none),
                "jobs" => self.choices.jobs = self.option(name, value, jobs),
                "listen" => self.choices.listen = self.option(name, value, listen),
                "volume-plugin" => {
                    self.choices.volume_plugin = self.option(name, value, path_or_none);
                }
                "mount" => match value.get_ref() {
                    DeValue::Table(table) => self.mount(table),
                    other => {
                        let found = found(other);
                        let text = format!("mount: {found} is no table; write [mount]");
                        self.mistake(value.span().start, text);
                    }
                },
                _ if MOUNT.contains(&name) => {
                    let text = format!("{name}: write it below [mount]");
                    self.mistake(key.span().start, text);
                }
                _ => {
                    let text = format!(
                        "{name:?} is no option; there are {} and the table [mount]",
                        TOP.join(", ")
                    );
                    self.mistake(key.span().start, text);
                }
            }
        }
    }

    fn mount(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            let full = format!("mount.{name}");
            match name {
                "lookup-timeout" => {
                    self.choices.lookup_timeout = self.option(&full, value, seconds);
                }
                "contents-timeout" => {
                    self.choices.contents_timeout = self.option(&full, value, seconds);
                }
                "absent-ttl" => self.choices.absent_ttl = self.option(&full, value, seconds),
                "prefetch" => self.choices.prefetch = self.option(&full, value, prefetch),
                "budget" => self.choices.budget = self.option(&full, value, budget),
                "writable-profiles" => {
                    self.choices.writable_profiles = self.option(&full, value, yes_or_no);
                }
                "file-handles" => {
                    self.choices.file_handles = self.option(&full, value, yes_or_no);
                }
                _ if TOP.contains(&name) => {
                    let text = format!("{full}: write {name} above [mount]");
                    self.mistake(key.span().start, text);
                }
                _ => {
                    let text = format!("{full:?} is no option; [mount] has {}", MOUNT.join(", "));
                    self.mistake(key.span().start, text);
                }
            }
        }
    }
}

/// A value as an error names it.
pub(in crate::cli) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn wrong(value: &Value<'_>, text: String) -> Wrong {
    let at = value.span().start;
    Wrong { at, text }
}

/// A string that `read` understands.
fn text<T>(
    value: &Value<'_>,
    read: impl Fn(&str) -> Result<T, String>,
    expected: &str,
) -> Result<T, Wrong> {
    match value.get_ref().as_str() {
        Some(text) => read(text).map_err(|e| wrong(value, e)),
        None => {
            let found = found(value.get_ref());
            Err(wrong(value, format!("{found} is no text; {expected}")))
        }
    }
}

/// A whole number, decimal, hexadecimal, octal or binary.
pub(in crate::cli) fn whole(value: &Value<'_>) -> Option<i64> {
    let number = value.get_ref().as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn path(value: &Value<'_>) -> Result<PathBuf, Wrong> {
    text(value, value::path, "write /DIRECTORY/… in quotes")
}

fn store_dir(value: &Value<'_>) -> Result<StoreDir, Wrong> {
    text(value, value::store_dir, "write one such as \"/nix/store\"")
}

fn path_or_none(value: &Value<'_>) -> Result<Option<PathBuf>, Wrong> {
    let expected = "write /DIRECTORY/FILE or none, in quotes";
    text(value, value::path_or_none, expected)
}

fn memory(value: &Value<'_>) -> Result<u32, Wrong> {
    let number = whole(value).and_then(|n| u32::try_from(n).ok());
    let number = number.filter(|n| is_memory(*n));
    number.ok_or_else(|| wrong(value, value::no_memory(&found(value.get_ref()))))
}

fn jobs(value: &Value<'_>) -> Result<usize, Wrong> {
    let number = whole(value).and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| {
        let found = found(value.get_ref());
        let text = format!("{found} is no number of jobs; give 1 or more, or 0 for one each core");
        wrong(value, text)
    })
}

fn listen(value: &Value<'_>) -> Result<Option<Address>, Wrong> {
    let expected = "write ADDRESS:PORT or none, in quotes";
    text(value, value::listen, expected)
}

fn yes_or_no(value: &Value<'_>) -> Result<bool, Wrong> {
    value.get_ref().as_bool().ok_or_else(|| {
        let found = found(value.get_ref());
        wrong(value, format!("{found} is neither true nor false"))
    })
}

fn sources(value: &Value<'_>) -> Result<Vec<String>, Wrong> {
    let expected = "write [\"https://cache.nixos.org\"], or [] to ask nobody";
    list(value, value::source, expected)
}

fn keys(value: &Value<'_>) -> Result<Vec<String>, Wrong> {
    list(value, value::public_key, "write [\"NAME:BASE64\"]")
}

/// A list of strings that `read` understands.
fn list<T>(
    value: &Value<'_>,
    read: impl Fn(&str) -> Result<T, String>,
    expected: &str,
) -> Result<Vec<T>, Wrong> {
    let Some(elements) = value.get_ref().as_array() else {
        let found = found(value.get_ref());
        return Err(wrong(value, format!("{found} is no list; {expected}")));
    };
    elements.iter().map(|e| text(e, &read, expected)).collect()
}

fn seconds(value: &Value<'_>) -> Result<Duration, Wrong> {
    let number = whole(value).and_then(|n| u32::try_from(n).ok());
    match number {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(wrong(value, value::no_seconds(&found(value.get_ref())))),
    }
}

fn prefetch(value: &Value<'_>) -> Result<PrefetchPolicy, Wrong> {
    let named = value.get_ref().as_str().map(value::prefetch);
    let named = named.unwrap_or_else(|| Err(value::no_prefetch(&found(value.get_ref()))));
    named.map_err(|e| wrong(value, e))
}

fn budget(value: &Value<'_>) -> Result<Option<Size>, Wrong> {
    let size = match (value.get_ref().as_str(), whole(value)) {
        (Some(text), _) => value::budget(text),
        (None, Some(number)) => {
            value::budget(&number.to_string()).map_err(|_| value::no_budget(&number.to_string()))
        }
        (None, None) => Err(value::no_budget(&found(value.get_ref()))),
    };
    size.map_err(|e| wrong(value, e))
}
