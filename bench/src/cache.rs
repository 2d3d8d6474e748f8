//! A binary cache directory as input: what lies in it, in numbers, and the key that it is signed
//! with. Read leniently: whether a narinfo is sound is for the measured programs to judge.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::measure;

pub struct BinaryCache {
    pub label: String,
    pub dir: PathBuf,
    /// As in `trusted-public-keys`: NAME:BASE64.
    pub public_key: String,
    /// Usually /nix/store.
    pub store_dir: String,
    /// By store path.
    pub paths: BTreeMap<String, Entry>,
}

pub struct Entry {
    pub nar_size: u64,
    pub references: Vec<String>,
    /// Of the compressed NAR, relative to the binary cache.
    pub url: String,
    pub compression: String,
    /// Of the compressed NAR and of the narinfo, as they lie on disk.
    pub file_bytes: u64,
}

impl BinaryCache {
    pub fn open(dir: &Path, key: Option<&Path>, label: &str) -> Result<Self> {
        let dir = dir
            .canonicalize()
            .with_context(|| format!("no binary cache at {}", dir.display()))?;
        plain(&dir)?;
        let info = fs::read_to_string(dir.join("nix-cache-info"))
            .with_context(|| format!("{} is no binary cache: nix-cache-info", dir.display()))?;
        let store_dir = field(&info, "StoreDir").unwrap_or("/nix/store").to_owned();

        let beside = dir.with_file_name("key.pub");
        let key = key.unwrap_or(&beside);
        let public_key = fs::read_to_string(key)
            .with_context(|| format!("cannot read the public key {}: give --key", key.display()))?
            .trim()
            .to_owned();
        if !public_key.contains(':') || public_key.contains(char::is_whitespace) {
            bail!(
                "{} is no public key: it should hold NAME:BASE64",
                key.display()
            );
        }

        let mut paths = BTreeMap::new();
        for file in fs::read_dir(&dir)? {
            let file = file?.path();
            if file.extension().is_some_and(|e| e == "narinfo") {
                let (path, entry) =
                    narinfo(&dir, &file).with_context(|| format!("in {}", file.display()))?;
                paths.insert(path, entry);
            }
        }
        if paths.is_empty() {
            bail!("the binary cache {} holds no store path", dir.display());
        }
        Ok(Self {
            label: label.to_owned(),
            dir,
            public_key,
            store_dir,
            paths,
        })
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    pub fn nar_bytes(&self) -> u64 {
        self.paths.values().map(|entry| entry.nar_size).sum()
    }

    /// What it is, in numbers.
    pub fn shown(&self) -> String {
        let megabytes = (self.nar_bytes() + 500_000) / 1_000_000;
        format!("{} store paths, {megabytes} MB of NARs", self.paths.len())
    }

    /// The paths that no other path refers to: their closures are the whole binary cache.
    pub fn roots(&self) -> Vec<&str> {
        let referenced: BTreeSet<&str> = self
            .paths
            .iter()
            .flat_map(|(path, entry)| {
                let own = base_name(path);
                entry
                    .references
                    .iter()
                    .map(String::as_str)
                    .filter(move |&r| r != own)
            })
            .collect();
        self.paths
            .keys()
            .map(String::as_str)
            .filter(|path| !referenced.contains(base_name(path)))
            .collect()
    }

    /// A path and all that it refers to, as far as that is here.
    pub fn closure(&self, path: &str) -> BTreeSet<&str> {
        let by_name: BTreeMap<&str, &str> = self
            .paths
            .keys()
            .map(|path| (base_name(path), path.as_str()))
            .collect();
        let mut seen = BTreeSet::new();
        let mut names = vec![base_name(path)];
        while let Some(name) = names.pop() {
            let found = by_name.get(name);
            if let Some(&path) = found.filter(|&&path| seen.insert(path)) {
                names.extend(self.paths[path].references.iter().map(String::as_str));
            }
        }
        seen
    }

    /// Reads every file once, so that each contender finds its input in the page cache.
    pub fn warm(&self) -> Result<()> {
        self.warm_paths(self.paths.keys().map(String::as_str))
    }

    /// The same for some paths: their narinfos, listings and NARs.
    pub fn warm_paths<'a>(&self, paths: impl IntoIterator<Item = &'a str>) -> Result<()> {
        for path in paths {
            let hash = base_name(path).split('-').next().unwrap_or_default();
            measure::warm(&self.dir.join(format!("{hash}.narinfo")))?;
            measure::warm(&self.dir.join(&self.paths[path].url))?;
            let listing = self.dir.join(format!("{hash}.ls"));
            if listing.is_file() {
                measure::warm(&listing)?;
            }
        }
        Ok(())
    }
}

/// HASH-NAME of a store path.
pub fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Store URLs carry paths unquoted.
pub fn plain(path: &Path) -> Result<()> {
    let good = |c: char| c.is_ascii_alphanumeric() || "/._-+@~".contains(c);
    match path.to_str() {
        Some(text) if text.chars().all(good) => Ok(()),
        _ => bail!(
            "the path {} holds characters that store URLs do not take: use a plainer one",
            path.display()
        ),
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn narinfo(dir: &Path, file: &Path) -> Result<(String, Entry)> {
    let text = fs::read_to_string(file)?;
    let get = |name| field(&text, name).with_context(|| format!("no {name}"));
    let url = get("URL")?.to_owned();
    let nar = fs::metadata(dir.join(&url)).with_context(|| url.clone())?;
    let entry = Entry {
        nar_size: get("NarSize")?.parse().context("NarSize is no number")?,
        references: field(&text, "References")
            .unwrap_or_default()
            .split_ascii_whitespace()
            .map(str::to_owned)
            .collect(),
        // As the format says of an absent field.
        compression: field(&text, "Compression").unwrap_or("bzip2").to_owned(),
        file_bytes: nar.len() + text.len() as u64,
        url,
    };
    Ok((get("StorePath")?.to_owned(), entry))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "0000000000000000000000000000000a-a";
    const B: &str = "0000000000000000000000000000000b-b";

    fn write(dir: &Path, name: &str, references: &str) {
        let hash = name.split('-').next().unwrap();
        let text = format!(
            "StorePath: /nix/store/{name}\nURL: nar/{hash}.nar\nCompression: none\nNarSize: 120\nReferences: \
             {references}\n"
        );
        fs::write(dir.join(format!("{hash}.narinfo")), text).unwrap();
        fs::write(dir.join(format!("nar/{hash}.nar")), "12345").unwrap();
    }

    #[test]
    fn roots_are_what_nothing_else_refers_to() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("cache");
        fs::create_dir_all(cache.join("nar")).unwrap();
        fs::write(cache.join("nix-cache-info"), "StoreDir: /nix/store\n").unwrap();
        fs::write(dir.path().join("key.pub"), "key-1:AAAA\n").unwrap();
        write(&cache, A, &format!("{A} {B}"));
        write(&cache, B, "");

        let cache = BinaryCache::open(&cache, None, "world").unwrap();
        assert_eq!(cache.roots(), [format!("/nix/store/{A}")]);
        assert_eq!(cache.nar_bytes(), 240);
        assert_eq!(cache.closure(&format!("/nix/store/{A}")).len(), 2);
        assert_eq!(cache.closure(&format!("/nix/store/{B}")).len(), 1);
        assert_eq!(cache.public_key, "key-1:AAAA");
        cache.warm().unwrap();
    }

    #[test]
    fn a_path_that_a_store_url_would_garble_is_refused() {
        assert!(plain(Path::new("/srv/cache-1.0")).is_ok());
        assert!(plain(Path::new("/srv/my cache")).is_err());
        assert!(plain(Path::new("/srv/a?b")).is_err());
    }
}
