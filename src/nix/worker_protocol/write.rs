//! Writing answers.

use super::Version;
use crate::nix::store_path::{StoreDir, StorePath};

const STDERR_NEXT: u64 = 0x6f6c_6d67;
const STDERR_LAST: u64 = 0x616c_7473;
const STDERR_ERROR: u64 = 0x6378_7470;

/// `AlreadyValid` of the results of builds: nothing was to be built.
const ALREADY_VALID: u64 = 2;

/// That a target was there already.
#[derive(Debug, PartialEq, Eq)]
pub struct BuildOutcome {
    /// The outputs of a derivation that were asked for, by name.
    pub outputs: Vec<(String, StorePath)>,
}

/// Bytes for a client.
#[derive(Debug, Default)]
pub struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn number(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    pub fn string(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
        self.0.resize(self.0.len().next_multiple_of(8), 0);
    }

    pub fn list<T>(&mut self, list: &[T], mut each: impl FnMut(&mut Self, &T)) {
        self.number(list.len() as u64);
        for element in list {
            each(self, element);
        }
    }

    pub fn path(&mut self, store_dir: &StoreDir, path: &StorePath) {
        self.string(&path.to_full(store_dir));
    }

    pub fn path_or_none(&mut self, store_dir: &StoreDir, path: Option<&StorePath>) {
        self.string(&path.map_or_else(String::new, |path| path.to_full(store_dir)));
    }

    pub fn paths(&mut self, store_dir: &StoreDir, paths: &[StorePath]) {
        self.list(paths, |out, path| out.path(store_dir, path));
    }

    /// A line for the user, before an answer.
    pub fn message(&mut self, text: &str) {
        self.number(STDERR_NEXT);
        self.string(&format!("{text}\n"));
    }

    /// That the answer follows.
    pub fn last(&mut self) {
        self.number(STDERR_LAST);
    }

    /// An error in place of an answer.
    pub fn error(&mut self, version: Version, text: &str) {
        self.number(STDERR_ERROR);
        if version < Version::minor(26) {
            self.string(text);
            self.number(1);
            return;
        }
        self.string("Error");
        // Its level, and a name that is obsolete.
        self.number(0);
        self.string("Error");
        self.string(text);
        // Neither a position nor traces.
        self.number(0);
        self.number(0);
    }

    /// The result of a build.
    pub fn outcome(&mut self, version: Version, outcome: &BuildOutcome) {
        self.number(ALREADY_VALID);
        self.string("");
        if version >= Version::minor(29) {
            // Times built, whether that is not deterministic, start and stop.
            (0..4).for_each(|_| self.number(0));
        }
        if version >= Version::minor(37) {
            // No CPU time of the user, nor of the system.
            (0..2).for_each(|_| self.number(0));
        }
        if version >= Version::minor(28) {
            self.list(&outcome.outputs, |out, (name, path)| {
                // Clients read the output name of the key, and the path of the value.
                let id = format!("sha256:{}!{name}", "0".repeat(64));
                out.string(&id);
                out.string(&format!(
                    "{{\"dependentRealisations\":{{}},\"id\":\"{id}\",\"outPath\":\"{path}\",\
                     \"signatures\":[]}}"
                ));
            });
        }
    }
}
