//! User environments as real Nix builds them, beside those that are computed from trees.
//!
//! Real `nix-env` and `nix profile` make generations out of the small world's packages and of
//! small ones made up to overlap; the same packages, read as trees, must give the same links, the
//! same NAR and the same store path.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use narfs::chunk::{ChunkHash, HASH_LEN};
use narfs::nix::hash::NarHash;
use narfs::nix::nar::dump_path;
use narfs::nix::store_path::{StoreDir, StorePath, StorePathHash};
use narfs::profile::{
    DeleteSpec, Element, Entry, GenerationNumber, Generations, Manifest, ManifestEntry,
    ManifestVersion, Package, PackageSource, ProfileEntry, ProfileName, realise_profile,
    synthesize,
};
use narfs::tree::{ChunkSink, NodeIndex, NodeKind, Tree, Unpacker};

use crate::support::{World, run};

/// Makes the packages and the generations, in a mount namespace of its own. Prints what the tests
/// need to know: `package NAME PATH`, `profile|env NAME PACKAGE[=PRIORITY]…` for a generation
/// that was made, `fails|refuses NAME PACKAGE[=PRIORITY]… : TEXT` for one that was not, and
/// `op COMMAND… : TEXT` with `state CURRENT LINK=TARGET…` for the commands for generations.
const SCRIPT: &str = include_str!("environments.sh");

/// What real Nix made.
pub struct Made {
    store: PathBuf,
    profiles: PathBuf,
    pub packages: BTreeMap<String, StorePath>,
    /// Each generation by name: whether by `nix profile`, and its packages.
    pub generations: Vec<(String, bool, Vec<Package>)>,
    pub failures: Vec<(Vec<Package>, String)>,
    /// Each command for generations, what it said, and the links after it.
    operations: Vec<(String, String, String)>,
}

fn store_dir() -> StoreDir {
    StoreDir::parse("/nix/store").unwrap()
}

pub fn made() -> &'static Made {
    static MADE: OnceLock<Made> = OnceLock::new();
    MADE.get_or_init(|| {
        let out = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/world/environments");
        let world = World::small();
        let mut script = Command::new("unshare");
        script.args([
            "--mount",
            "--propagation",
            "private",
            "bash",
            "-euc",
            SCRIPT,
            "script",
        ]);
        script.arg(&out).arg(world.url()).args([
            format!("/nix/store/{}", world.package("hello")),
            format!("/nix/store/{}", world.package("bash")),
            format!("/nix/store/{}", world.package("coreutils")),
        ]);
        let ran = run(&mut script, b"");
        assert_eq!(ran.code, Some(0), "real Nix failed: {}", ran.stderr);
        read_report(&out, &String::from_utf8(ran.stdout).unwrap())
    })
}

fn read_report(out: &Path, report: &str) -> Made {
    let mut made = Made {
        store: out.join("root/nix/store"),
        profiles: out.join("root/nix/var/nix/profiles"),
        packages: BTreeMap::new(),
        generations: Vec::new(),
        failures: Vec::new(),
        operations: Vec::new(),
    };
    for line in report.lines() {
        let (words, text) = line.split_once(" : ").unwrap_or((line, ""));
        let words: Vec<&str> = words.split(' ').collect();
        let packages = || {
            words[2..]
                .iter()
                .map(|word| {
                    let (name, priority) = word.split_once('=').unwrap_or((word, "5"));
                    let path = made.packages[name].clone();
                    Package {
                        path,
                        active: true,
                        priority: priority.parse().unwrap(),
                    }
                })
                .collect::<Vec<_>>()
        };
        match words[0] {
            "package" => {
                let path = StorePath::parse_full(&store_dir(), words[2]).unwrap();
                made.packages.insert(words[1].to_owned(), path);
            }
            "profile" | "env" => {
                let packages = packages();
                let by_profile = words[0] == "profile";
                made.generations
                    .push((words[1].to_owned(), by_profile, packages));
            }
            "op" => {
                let words = words[1..].join(" ");
                made.operations
                    .push((words, text.to_owned(), String::new()));
            }
            "state" => made.operations.last_mut().unwrap().2 = words[1..].join(" "),
            "fails" | "refuses" => {
                let packages = packages();
                made.failures.push((packages, text.to_owned()));
            }
            _ => panic!("{line}"),
        }
    }
    made
}

impl Made {
    /// The store path that a generation's link leads to.
    pub fn target(&self, generation: &str) -> StorePath {
        let target = fs::read_link(self.profiles.join(generation)).unwrap();
        StorePath::parse_full(&store_dir(), target.to_str().unwrap()).unwrap()
    }

    pub fn on_disk(&self, path: &StorePath) -> PathBuf {
        self.store.join(path.to_string())
    }
}

/// A store directory whose paths are read as NARs.
struct OnDisk<'m>(&'m Made);

struct Loaded {
    tree: Tree,
    table: Vec<[u8; HASH_LEN]>,
    chunks: Chunks,
}

#[derive(Default)]
struct Chunks(BTreeMap<[u8; 32], Vec<u8>>);

impl ChunkSink for Chunks {
    type Error = Infallible;

    fn put(&mut self, hash: ChunkHash, chunk: &[u8]) -> Result<(), Infallible> {
        self.0.insert(hash.digest.0, chunk.to_vec());
        Ok(())
    }
}

impl PackageSource for OnDisk<'_> {
    type Package = Loaded;
    type Error = Infallible;

    fn find(&self, path: &StorePath) -> Result<Option<Loaded>, Infallible> {
        let on_disk = self.0.on_disk(path);
        if fs::symlink_metadata(&on_disk).is_err() {
            return Ok(None);
        }
        let nar = dump_path(&on_disk, Vec::new()).unwrap();
        let mut chunks = Chunks::default();
        let references = [path.clone()];
        let unpacker = Unpacker::new(&mut chunks, &references, &std::env::temp_dir());
        let unpacked = unpacker.unpack(nar.as_slice()).unwrap();
        let (tree, references) = (unpacked.tree, unpacked.references);
        let table = references.iter().map(|r| r.hash().to_ascii()).collect();
        Ok(Some(Loaded {
            tree,
            table,
            chunks,
        }))
    }

    fn tree<'p>(&self, package: &'p Loaded) -> &'p Tree {
        &package.tree
    }

    fn target(&self, package: &Loaded, link: NodeIndex) -> Option<Vec<u8>> {
        package.tree.target(link, &package.table)
    }

    fn read(&self, package: &Loaded, file: NodeIndex) -> Result<Vec<u8>, Infallible> {
        let Loaded {
            tree,
            table,
            chunks,
        } = package;
        let Some(NodeKind::File { offset, size, .. }) = tree.node(file).map(|n| n.kind) else {
            panic!("not a file");
        };
        let mut contents = Vec::new();
        let fetch = |_, entry: &narfs::tree::ChunkEntry, _| Ok((0, &chunks.0[&entry.digest.0]));
        tree.read(offset, size, table, fetch, |bytes| {
            contents.extend_from_slice(bytes);
            Ok::<(), Infallible>(())
        })?;
        Ok(contents)
    }
}

/// The links and directories of a tree on disk, but for its manifest.
fn links_on_disk(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut links = BTreeMap::new();
    let mut ahead = vec![PathBuf::new()];
    while let Some(directory) = ahead.pop() {
        for entry in fs::read_dir(root.join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                ahead.push(path.clone());
                links.insert(path, None);
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path()).unwrap().into_os_string();
                links.insert(path, Some(target.into_vec()));
            }
        }
    }
    links.remove(Path::new("manifest.nix"));
    links
}

fn links_of(directory: &narfs::profile::Directory) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    fn walk(
        directory: &narfs::profile::Directory,
        above: &Path,
        links: &mut BTreeMap<PathBuf, Option<Vec<u8>>>,
    ) {
        for (name, entry) in directory.iter() {
            let path = above.join(std::ffi::OsStr::from_bytes(name));
            match entry {
                Entry::Link(target) => {
                    links.insert(path, Some(target.clone()));
                }
                Entry::Directory(below) => {
                    walk(below, &path, links);
                    links.insert(path, None);
                }
            }
        }
    }
    let mut links = BTreeMap::new();
    walk(directory, Path::new(""), &mut links);
    links
}

#[test]
fn computed_environments_have_the_links_and_the_nar_of_those_that_nix_builds() {
    let made = made();
    let mut compared = 0;
    for (generation, _, packages) in &made.generations {
        let environment = synthesize(packages, &store_dir(), &OnDisk(made)).unwrap();
        let on_disk = made.on_disk(&made.target(generation));
        let links = links_of(&environment.root);
        assert_eq!(links, links_on_disk(&on_disk), "{generation}");
        compared += links.len();
        let json = fs::read(on_disk.join("manifest.json")).ok();
        let nix = fs::read_link(on_disk.join("manifest.nix")).ok();
        let manifest = match (&json, &nix) {
            (Some(json), None) => ManifestEntry::Json(json),
            (None, Some(nix)) => ManifestEntry::Nix(nix.as_os_str().as_bytes()),
            _ => panic!("{generation}: {json:?} {nix:?}"),
        };
        let ours = environment.root.write_nar(manifest, Vec::new()).unwrap();
        let theirs = dump_path(&on_disk, Vec::new()).unwrap();
        assert!(ours == theirs, "{generation}: the NARs differ");
    }
    assert!(
        made.generations.len() > 20 && compared > 500,
        "{compared} links"
    );
}

#[test]
fn computed_profiles_have_the_store_path_that_nix_profile_gives_them() {
    let made = made();
    let profiles = made
        .generations
        .iter()
        .filter(|(_, by_profile, _)| *by_profile);
    let mut compared = 0;
    for (generation, _, packages) in profiles {
        let path = made.target(generation);
        let bytes = fs::read(made.on_disk(&path).join("manifest.json")).unwrap();
        let mut manifest = Manifest::new(ManifestVersion::Two);
        let elements = packages.iter().map(|p| Element::new([p.path.clone()]));
        manifest.elements.extend(elements);
        let json = manifest.to_json(&store_dir()).unwrap();
        assert_eq!(
            String::from_utf8_lossy(&json),
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(Manifest::parse(&store_dir(), &bytes).unwrap(), manifest);
        let environment = synthesize(&manifest.packages(), &store_dir(), &OnDisk(made)).unwrap();
        let mut chunks = Chunks::default();
        let spool = std::env::temp_dir();
        let root = &environment.root;
        let ours = realise_profile(root, &manifest, &store_dir(), &mut chunks, &spool).unwrap();
        assert_eq!(ours.path, path, "{generation}");
        let nar = dump_path(&made.on_disk(&path), Vec::new()).unwrap();
        assert_eq!(ours.nar_hash, NarHash::of(&nar));
        assert_eq!(ours.nar_size, nar.len() as u64);
        assert_eq!(chunks.0.len(), 1, "only the manifest has contents");
        compared += 1;
    }
    assert!(compared > 5);
}

#[test]
fn packages_that_nix_refuses_to_merge_are_refused_in_its_words() {
    let made = made();
    for (packages, text) in &made.failures {
        let made = synthesize(packages, &store_dir(), &OnDisk(made));
        let error = made.map(|_| packages).unwrap_err().to_string();
        if text.is_empty() {
            continue;
        }
        // From the hint on, the advice is ours; Nix names directories of the environment by the
        // place where it builds.
        let end = error.find("; ").unwrap_or(error.len());
        let end = error.find(" and directory '").unwrap_or(end);
        let ours = &error[..end];
        assert!(text.contains(ours), "{ours} is not in {text}");
    }
    assert!(made.failures.len() > 15, "{}", made.failures.len());
}

#[test]
fn generations_are_listed_as_nix_env_lists_them() {
    let made = made();
    let listed = fs::read_to_string(made.profiles.join("listed")).unwrap();
    let profile = ProfileName::parse("env").unwrap();
    let current = fs::read_link(made.profiles.join("env")).unwrap();
    let generation_of = |entry: &str| match ProfileEntry::parse(entry) {
        Some(ProfileEntry::Generation {
            profile: "env",
            number,
        }) => Some(number),
        _ => None,
    };
    let current = generation_of(current.to_str().unwrap());
    let mut list = BTreeMap::new();
    for entry in fs::read_dir(&made.profiles).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if let Some(number) = generation_of(&name) {
            assert_eq!(name, profile.generation_link(number));
            let modified = entry.metadata().unwrap().modified().unwrap();
            let created = modified
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_secs();
            let target = made.target(&name);
            let created = created.try_into().unwrap();
            list.insert(number, narfs::profile::Generation { target, created });
        }
    }
    assert!(list.contains_key(&GenerationNumber(2)));
    let generations = Generations::from_parts(current, list);
    let lines: String = generations
        .lines(&jiff::tz::TimeZone::system())
        .map(|line| line + "\n")
        .collect();
    assert_eq!(lines, listed);
}

/// One command for generations, as [`SCRIPT`] ran it; what it says.
fn operate(made: &Made, generations: &mut Generations, words: &[&str]) -> String {
    let profile = ProfileName::parse("numbered").unwrap();
    let number = |text: &str| GenerationNumber(text.parse().unwrap());
    match words {
        ["set", package] => {
            let target = made.packages[*package].clone();
            generations.advance(target, 0).unwrap();
            String::new()
        }
        ["rollback"] => said(generations.roll_back()),
        ["switch", to] => said(generations.switch(number(to))),
        ["delete", spec @ ..] => {
            let spec = match DeleteSpec::parse(spec) {
                Ok(spec) => spec,
                Err(error) => return format!("error: {error}"),
            };
            match generations.select(&profile, &spec, 0) {
                Ok(numbers) => {
                    generations.remove(&numbers);
                    let lines = numbers
                        .iter()
                        .map(|n| format!("removing profile version {n}"));
                    lines.collect::<Vec<_>>().join(" | ")
                }
                Err(error) => format!("error: {error}"),
            }
        }
        ["age", which, hours] => {
            let mut list = generations.list().clone();
            let aged = list.get_mut(&number(which)).unwrap();
            aged.created = -hours.parse::<i64>().unwrap() * 3600;
            *generations = Generations::from_parts(generations.current(), list);
            String::new()
        }
        _ => panic!("{words:?}"),
    }
}

fn said<S: std::fmt::Display, E: std::fmt::Display>(result: Result<S, E>) -> String {
    match result {
        Ok(switch) => switch.to_string(),
        Err(error) => format!("error: {error}"),
    }
}

#[test]
fn generations_are_numbered_switched_and_deleted_as_nix_env_does() {
    let made = made();
    let profile = ProfileName::parse("numbered").unwrap();
    let mut generations = Generations::new();
    for (words, text, links) in &made.operations {
        let words: Vec<&str> = words.split(' ').collect();
        let ours = operate(made, &mut generations, &words);
        // Nix points to its help after a wrong argument, names the whole path of the profile, and
        // forgets a quotation mark.
        let theirs = text.split(" | Try ").next().unwrap();
        let theirs = theirs.replace("/nix/var/nix/profiles/numbered'", "'numbered'");
        assert_eq!(ours, theirs, "{words:?}");
        let link = |n: &GenerationNumber| profile.generation_link(*n);
        let mut shown = vec![
            generations
                .current()
                .as_ref()
                .map_or_else(String::new, link),
        ];
        shown.extend(generations.list().iter().map(|(number, generation)| {
            format!(
                "{}={}",
                link(number),
                generation.target.to_full(&store_dir())
            )
        }));
        assert_eq!(shown.join(" "), *links, "after {words:?}");
    }
    assert!(made.operations.len() > 40);
}

#[test]
fn a_hash_part_without_its_name_is_no_package() {
    let made = made();
    let hash: StorePathHash = made.packages["foo"].hash();
    let other = StorePath::new(hash, "other").unwrap();
    assert!(OnDisk(made).find(&other).unwrap().is_none());
}
