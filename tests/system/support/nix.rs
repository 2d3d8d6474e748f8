//! Real Nix on a mounted store.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::run;
use super::sandbox::Sandbox;
use super::world::World;

/// Real Nix with its state and configuration in `dir`, and `/nix/store` as its store.
pub fn nix_store(dir: &Path) -> Command {
    let mut nix = Command::new("nix-store");
    nix.env("NIX_STATE_DIR", dir.join("var"));
    nix.env("NIX_LOG_DIR", dir.join("log"));
    nix.env("NIX_CONF_DIR", dir.join("etc"));
    nix.env("HOME", dir).env("NIX_REMOTE", "local");
    nix.env("NIX_STORE_DIR", "/nix/store");
    nix
}

/// The records that `nix-store --dump-db` would write for the paths of `worlds`.
pub fn database_dump(worlds: &[&World]) -> String {
    let mut dump = String::new();
    let mut written = BTreeSet::new();
    for world in worlds {
        for (path, info) in &world.narinfos {
            if !written.insert(path) {
                continue;
            }
            let full = |name: &str| format!("/nix/store/{name}");
            let references: Vec<_> = info["References"].split_whitespace().map(full).collect();
            let deriver = info.get("Deriver").map_or(String::new(), |d| full(d));
            let (hash, size) = (&world.nar_hashes[path], &info["NarSize"]);
            let count = references.len();
            writeln!(dump, "{path}\n{hash}\n{size}\n{deriver}\n{count}").unwrap();
            for reference in references {
                writeln!(dump, "{reference}").unwrap();
            }
        }
    }
    dump
}

/// Has the database of a real Nix know paths, by their records.
pub fn load(outside: &Path, dump: &str) {
    let loaded = run(nix_store(outside).arg("--load-db"), dump.as_bytes());
    assert_eq!(loaded.code, Some(0), "{}", loaded.stderr);
}

impl Sandbox {
    /// Shows what is mounted, with both worlds, to a real Nix as its store, and has its database
    /// know it. The directory for [`nix_store`].
    pub fn real_nix(&self) -> PathBuf {
        let outside = self.nix_that_knows_nothing();
        load(&outside, &database_dump(&World::both()));
        outside
    }

    /// The same with an empty database.
    pub fn nix_that_knows_nothing(&self) -> PathBuf {
        // Nix makes its own mount of the store writable, for which the store must be a mount point.
        self.make_dir("host/store");
        self.bind_to_nix(&self.dir().join("host"));
        rustix::mount::mount_bind(self.store(), "/nix/store").unwrap();
        let outside = self.make_dir("nix-state");
        fs::create_dir(outside.join("etc")).unwrap();
        fs::write(outside.join("etc/nix.conf"), "build-users-group =\n").unwrap();
        outside
    }
}
