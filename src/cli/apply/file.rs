//! Parser of the file that declares profiles.
//!
//! Invariant: as with the configuration file, a file is accepted as a whole or not at all, and
//! every error names its line and what is expected.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use crate::cli::config::{Mistake, Value, found, table, whole};
use crate::command::{DeclaredPackage, DeclaredProfile, DeclaredTarget};
use crate::nix::store_path::{StorePath, StorePathHash};
use crate::profile::ProfileName;

/// Parses a file: the declared profiles, and the errors from top to bottom.
pub(super) fn parse(path: &Path, bytes: &[u8]) -> (Vec<DeclaredProfile>, Vec<Mistake>) {
    let mut reader = Reader {
        path: path.into(),
        bytes,
        profiles: Vec::new(),
        mistakes: Vec::new(),
    };
    match table(&reader.path, bytes) {
        Ok(table) => reader.top(table.get_ref()),
        Err(mistakes) => reader.mistakes = mistakes,
    }
    // Tables are sorted by name, not by line.
    reader.mistakes.sort_by_key(Mistake::line);
    (reader.profiles, reader.mistakes)
}

struct Reader<'t> {
    path: Arc<Path>,
    bytes: &'t [u8],
    profiles: Vec<DeclaredProfile>,
    mistakes: Vec<Mistake>,
}

impl Reader<'_> {
    fn mistake(&mut self, at: usize, text: String) {
        let mistake = Mistake::new(&self.path, self.bytes, at, text);
        self.mistakes.push(mistake);
    }

    /// Reports a value of the wrong type.
    fn misfit(&mut self, what: &str, value: &Value<'_>, expected: &str) {
        let found = found(value.get_ref());
        self.mistake(value.span().start, format!("{what}: {found} is {expected}"));
    }

    fn top(&mut self, top: &DeTable<'_>) {
        for (key, value) in top {
            match (&**key.get_ref(), value.get_ref()) {
                ("profile", DeValue::Table(profiles)) => self.profiles(profiles),
                ("profile", _) => {
                    self.misfit("profile", value, "not a table; write [profile.NAME]")
                }
                (name, _) => {
                    let text =
                        format!("{name:?} is not known; there are only tables [profile.NAME]");
                    self.mistake(key.span().start, text);
                }
            }
        }
    }

    fn profiles(&mut self, profiles: &DeTable<'_>) {
        let mut names: Vec<ProfileName> = Vec::new();
        for (key, value) in profiles {
            let at = key.span().start;
            let name = match ProfileName::parse(key.get_ref()) {
                Ok(name) => name,
                Err(e) => {
                    self.mistake(at, e.to_string());
                    continue;
                }
            };
            if let Some(other) = names.iter().find(|other| other.conflicts_with(&name)) {
                let text = format!(
                    "there cannot be profiles '{name}' and '{other}': one would be a directory and \
                     a link"
                );
                self.mistake(at, text);
            }
            match value.get_ref() {
                DeValue::Table(table) => self.profile(&name, at, table),
                _ => self.misfit(&format!("profile {name}"), value, "not a table"),
            }
            names.push(name);
        }
    }

    fn profile(&mut self, name: &ProfileName, at: usize, table: &DeTable<'_>) {
        let mut packages = None;
        let mut set = None;
        let before = self.mistakes.len();
        for (key, value) in table {
            let key_name: &str = key.get_ref();
            let what = format!("profile {name}: {key_name}");
            match (key_name, value.get_ref()) {
                ("packages", DeValue::Array(list)) => packages = Some(self.packages(&what, list)),
                ("packages", _) => self.misfit(&what, value, "not a list; write [\"HASH-NAME\"]"),
                ("set", DeValue::String(_)) => set = self.path(&what, value),
                ("set", _) => self.misfit(&what, value, "not a text; write \"HASH-NAME\""),
                (_, DeValue::Table(_)) => {
                    let text = format!(
                        "{what} is not known; a name with slashes or dots is written in quotes: \
                         [profile.\"per-user/ann/profile\"]"
                    );
                    self.mistake(key.span().start, text);
                }
                _ => {
                    let text = format!("{what} is not known; write packages or set");
                    self.mistake(key.span().start, text);
                }
            }
        }
        if self.mistakes.len() > before {
            return;
        }
        let target = match (packages, set) {
            (Some(packages), None) => DeclaredTarget::Packages(packages),
            (None, Some(path)) => DeclaredTarget::Path(path),
            (Some(_), Some(_)) => {
                let text = format!("profile {name} has packages and set; write one of them");
                return self.mistake(at, text);
            }
            (None, None) => {
                let text = format!(
                    "profile {name} is empty; write packages = [\"HASH-NAME\"], or packages = [] \
                     for an empty one, or set = \"HASH-NAME\""
                );
                return self.mistake(at, text);
            }
        };
        let name = name.to_string();
        self.profiles.push(DeclaredProfile { name, target });
    }

    fn packages(&mut self, what: &str, list: &[Value<'_>]) -> Vec<DeclaredPackage> {
        let mut seen = HashSet::new();
        let mut packages = Vec::new();
        for value in list {
            let package = match value.get_ref() {
                DeValue::String(_) => {
                    let path = self.path(what, value);
                    path.map(|path| DeclaredPackage {
                        path,
                        priority: None,
                    })
                }
                DeValue::Table(table) => self.package(what, value, table),
                _ => {
                    let expected = "not a package; write \"HASH-NAME\" or \
                                    { path = \"HASH-NAME\", priority = 5 }";
                    self.misfit(what, value, expected);
                    None
                }
            };
            let Some(package) = package else { continue };
            if !seen.insert(hash(&package.path)) {
                let text = format!("{what}: {:?} is listed twice", package.path);
                self.mistake(value.span().start, text);
            }
            packages.push(package);
        }
        packages
    }

    fn package(
        &mut self,
        what: &str,
        whole_value: &Value<'_>,
        table: &DeTable<'_>,
    ) -> Option<DeclaredPackage> {
        let (mut path, mut priority) = (None, None);
        let before = self.mistakes.len();
        for (key, value) in table {
            let key_name: &str = key.get_ref();
            match key_name {
                "path" if value.get_ref().is_str() => path = self.path(what, value),
                "path" => self.misfit(what, value, "not a text; write path = \"HASH-NAME\""),
                "priority" => {
                    priority = whole(value);
                    if priority.is_none() {
                        self.misfit(what, value, "not a whole number; write priority = 5");
                    }
                }
                _ => {
                    let text = format!("{what}: {key_name:?} is not known; write path or priority");
                    self.mistake(key.span().start, text);
                }
            }
        }
        if path.is_none() && self.mistakes.len() == before {
            let text = format!("{what}: there is no path; write path = \"HASH-NAME\"");
            self.mistake(whole_value.span().start, text);
        }
        path.map(|path| DeclaredPackage { path, priority })
    }

    /// Checks that a text can be a store path.
    fn path(&mut self, what: &str, value: &Value<'_>) -> Option<String> {
        let text = value.get_ref().as_str()?;
        if hash(text).is_some() {
            return Some(text.to_owned());
        }
        let text = format!(
            "{what}: {text:?} is not a store path; write \"/nix/store/HASH-NAME\", \"HASH-NAME\" or \
             \"HASH\""
        );
        self.mistake(value.span().start, text);
        None
    }
}

/// The hash in `/nix/store/HASH-NAME`, `HASH-NAME` or `HASH`.
fn hash(text: &str) -> Option<StorePathHash> {
    let base = text.rsplit('/').next()?.as_bytes();
    let path = StorePath::parse_base_name(base).map(|path| path.hash());
    path.or_else(|_| StorePathHash::parse(base)).ok()
}
