//! Real Nix, with a store below a directory of ours. It reads no configuration but the one
//! written here, so that the settings of this machine do not count: signatures are required, as by
//! default, and nothing else is set.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{self, BinaryCache};
use crate::measure;
use crate::work::{self, Work};

pub const ABSENT: &str = "Nix is not installed (Debian: nix-bin)";

/// The default of `max-substitution-jobs` in versions that have it.
pub const REALISED_AT_ONCE: &str = "16";

pub struct Nix {
    pub version: String,
    /// Home, configuration and caches of Nix, all ours.
    home: PathBuf,
}

impl Nix {
    /// None if there is no `nix` command.
    pub fn find(work: &Work) -> Result<Option<Self>> {
        let Ok(output) = Command::new("nix").arg("--version").output() else {
            return Ok(None);
        };
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let home = work.fresh("nix-home")?;
        fs::create_dir(&home)?;
        fs::write(
            home.join("nix.conf"),
            "experimental-features = nix-command\nsubstituters =\nrequire-sigs = true\nbuild-users-group =\n",
        )?;
        Ok(Some(Self { version, home }))
    }

    /// Copies all of a binary cache, signatures checked, into the store at `root`.
    pub fn copy(&self, root: &Path, cache: &BinaryCache, optimise: bool) -> Result<Command> {
        let mut command = self.copy_from(root, cache, &cache.url())?;
        command
            .args(["--option", "auto-optimise-store", if optimise { "true" } else { "false" }])
            // Not `--all`, which Nix 2.8 cannot do with a binary cache: that does not know the names.
            .args(cache.roots());
        Ok(command)
    }

    /// Copies closures, whose paths are still to be named, from a binary cache that is served at
    /// `url`, signatures checked, into the store at `root`.
    pub fn copy_from(&self, root: &Path, cache: &BinaryCache, url: &str) -> Result<Command> {
        if cache.store_dir != "/nix/store" {
            bail!("the store directory is {}, not /nix/store", cache.store_dir);
        }
        let mut command = self.command(&["copy"]);
        command.args(["--from", url, "--to", &store(root)]).args([
            "--option",
            "trusted-public-keys",
            &cache.public_key,
        ]);
        Ok(command)
    }

    /// Substitutes closures, whose paths are still to be named, from a binary cache that is served at
    /// `url`, signatures checked, into the store at `root`. Several at once, as new versions of Nix
    /// do unless told; old ones count substitutions as jobs, of which there is one.
    pub fn realise_from(&self, root: &Path, cache: &BinaryCache, url: &str) -> Command {
        let store = store(root);
        let args = [
            "--realise",
            "--store",
            &store,
            "--option",
            "substituters",
            url,
        ];
        let mut command = self.of(Command::new("nix-store"), &args);
        command
            .args(["--option", "trusted-public-keys", &cache.public_key])
            .args(["--option", "max-jobs", REALISED_AT_ONCE]);
        command
    }

    /// A command of Nix whose store and state are at /nix.
    pub fn at_nix(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.of(Command::new(program), args);
        command
            .env("NIX_REMOTE", "local")
            .env("NIX_STORE_DIR", "/nix/store")
            .env("NIX_STATE_DIR", "/nix/var/nix")
            .env("NIX_LOG_DIR", "/nix/var/log/nix");
        command
    }

    /// Has Nix forget what it was told by binary caches before.
    pub fn forget(&self) -> Result<()> {
        work::remove(&self.home.join("nix"))
    }

    /// Keeps equal files once, as hard links.
    pub fn optimise(&self, root: &Path, log: &Path) -> Result<()> {
        let mut command = self.command(&["store", "optimise", "--store", &store(root)]);
        measure::run(&mut command, root, log).map(drop)
    }

    /// An error unless every path of the binary cache lies in the store.
    pub fn check(root: &Path, cache: &BinaryCache) -> Result<()> {
        for path in cache.paths.keys() {
            fs::symlink_metadata(store_dir(root).join(cache::base_name(path)))
                .with_context(|| format!("nix copy left out {path}"))?;
        }
        Ok(())
    }

    fn command(&self, args: &[&str]) -> Command {
        self.of(Command::new("nix"), args)
    }

    fn of(&self, mut command: Command, args: &[&str]) -> Command {
        command
            .env_clear()
            .env(
                "PATH",
                std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin")),
            )
            .env("HOME", &self.home)
            .env("XDG_CACHE_HOME", &self.home)
            .env("XDG_CONFIG_HOME", &self.home)
            .env("NIX_CONF_DIR", &self.home)
            .args(args);
        command
    }
}

/// Where the store at `root` keeps its paths.
pub fn store_dir(root: &Path) -> PathBuf {
    root.join("nix/store")
}

fn store(root: &Path) -> String {
    format!("local?root={}", root.display())
}
