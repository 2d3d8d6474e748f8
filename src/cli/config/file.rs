//! The configuration file, read.
//!
//! Invariant: a file is taken as a whole or not at all, and whatever is wrong with it is said with
//! its line and with what is expected. It never says less than it seems to: an option that is
//! not known is a mistake.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::description::Place;
use super::origin::{Origin, Setting};
use super::table::{Choices, names};
use super::toml_value::{Value, found};

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
            Origin::Flag | Origin::File { .. } | Origin::NixConf(_) => Some("the command line"),
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

    /// What a file says of an option in a place; `false` if there is none of this name there.
    fn option(&mut self, place: Place, name: &str, value: &Value<'_>) -> bool {
        let origin = Origin::File {
            path: self.path.clone(),
            line: line(self.bytes, value.span().start),
        };
        match self.choices.take(place, name, value, origin) {
            None => return false,
            Some(Ok(())) => {}
            Some(Err(wrong)) => {
                let name = match place {
                    Place::Top => name.to_owned(),
                    Place::Mount => format!("mount.{name}"),
                };
                self.mistake(wrong.at, format!("{name}: {}", wrong.text));
            }
        }
        true
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            if name == "mount" {
                match value.get_ref() {
                    DeValue::Table(table) => self.mount(table),
                    other => {
                        let found = found(other);
                        let text = format!("mount: {found} is no table; write [mount]");
                        self.mistake(value.span().start, text);
                    }
                }
            } else if !self.option(Place::Top, name, value) {
                let text = if names(Place::Mount).contains(&name) {
                    format!("{name}: write it below [mount]")
                } else {
                    let there = names(Place::Top).join(", ");
                    format!("{name:?} is no option; there are {there} and the table [mount]")
                };
                self.mistake(key.span().start, text);
            }
        }
    }

    fn mount(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            let name: &str = key.get_ref();
            if self.option(Place::Mount, name, value) {
                continue;
            }
            let full = format!("mount.{name}");
            let text = if names(Place::Top).contains(&name) {
                format!("{full}: write {name} above [mount]")
            } else {
                let there = names(Place::Mount).join(", ");
                format!("{full:?} is no option; [mount] has {there}")
            };
            self.mistake(key.span().start, text);
        }
    }
}
