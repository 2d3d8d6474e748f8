//! The small world and its mass rebuild: signed binary caches of real Nix, made once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sha2::{Digest, Sha256};

use super::process::succeed;

/// Debian packages that the world is made of.
const PACKAGES: [&str; 3] = ["hello", "bash", "coreutils"];

/// A binary cache and what its narinfos say.
pub struct World {
    dir: PathBuf,
    /// Fields of each narinfo, by full store path.
    pub narinfos: BTreeMap<String, BTreeMap<String, String>>,
    /// SHA-256 of each NAR, hexadecimal, as the narinfos say, by full store path.
    pub nar_hashes: BTreeMap<String, String>,
}

impl World {
    /// The small world.
    pub fn small() -> &'static Self {
        static SMALL: OnceLock<World> = OnceLock::new();
        SMALL.get_or_init(|| Self::make("small", &[]))
    }

    /// The same after a mass rebuild, signed with the same key.
    pub fn rebuild() -> &'static Self {
        static REBUILD: OnceLock<World> = OnceLock::new();
        REBUILD.get_or_init(|| {
            let key = Self::small().dir.join("key.sec");
            let key = key.to_str().unwrap();
            Self::make("small-rebuild", &["--salt", "rebuild", "--key", key])
        })
    }

    /// Both.
    pub fn both() -> [&'static Self; 2] {
        [Self::small(), Self::rebuild()]
    }

    /// The full store paths of both; what does not need libc is in both.
    pub fn all_paths() -> BTreeSet<&'static str> {
        Self::both().iter().flat_map(|w| w.paths()).collect()
    }

    fn make(name: &str, options: &[&str]) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let dir = root.join("target/world").join(name);
        let mut script = Command::new(root.join("tests/world/make-world.sh"));
        succeed(script.args(options).arg(&dir).args(PACKAGES));
        let mut narinfos = BTreeMap::new();
        for entry in fs::read_dir(dir.join("cache")).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|e| e == "narinfo") {
                let text = fs::read_to_string(file).unwrap();
                let fields = text.lines().filter_map(|l| l.split_once(": "));
                let fields: BTreeMap<String, String> =
                    fields.map(|(k, v)| (k.into(), v.into())).collect();
                narinfos.insert(fields["StorePath"].clone(), fields);
            }
        }
        assert!(!narinfos.is_empty(), "{} has no narinfo", dir.display());
        let mut to_hex = Command::new("nix-hash");
        to_hex.args(["--type", "sha256", "--to-base16"]);
        to_hex.args(narinfos.values().map(|n| &n["NarHash"]));
        let hashes = succeed(&mut to_hex);
        let hashes = hashes.lines().map(str::to_owned);
        let nar_hashes = narinfos.keys().cloned().zip(hashes).collect();
        Self {
            dir,
            narinfos,
            nar_hashes,
        }
    }

    /// The binary cache, as `--from` takes it.
    pub fn url(&self) -> String {
        format!("file://{}/cache", self.dir.display())
    }

    /// The directory of the binary cache, for a server.
    pub fn cache(&self) -> PathBuf {
        self.dir.join("cache")
    }

    /// The key that signed it.
    pub fn key(&self) -> String {
        let key = fs::read_to_string(self.dir.join("key.pub")).unwrap();
        key.trim().to_owned()
    }

    /// Full store paths, sorted.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.narinfos.keys().map(String::as_str)
    }

    /// The store path of a package, `HASH-NAME`.
    pub fn package(&self, name: &str) -> &str {
        let version = format!("-{name}-");
        let found = self.paths().map(|p| p.trim_start_matches("/nix/store/"));
        let mut found = found.filter(|p| {
            let rest = p.get(32..).and_then(|n| n.strip_prefix(&version));
            rest.is_some_and(|v| v.starts_with(|c: char| c.is_ascii_digit()))
        });
        found
            .next()
            .unwrap_or_else(|| panic!("no {name} in the world"))
    }
}

/// SHA-256, hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|b| format!("{b:02x}")).collect()
}
