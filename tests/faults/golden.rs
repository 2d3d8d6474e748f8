//! States that programs of each format have written, read whole by the program of today, and used.
//!
//! They lie in `tests/golden` beside what the program that wrote them said of them; `make.sh` there
//! says how they were made. They are never made anew: what is in them is what users have.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::program::{Ran, State};

/// The states have the same paths, and what is named in the command line of any program is in use.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A state of an older program, what that said of it, and the cache that it was made of.
pub struct Golden {
    dir: TempDir,
    pub state: State,
    said: Value,
    cache: PathBuf,
    _one: MutexGuard<'static, ()>,
}

fn golden(name: &str) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    tests.join("golden").join(name)
}

fn unpack(name: &str, into: &Path) {
    let packed = fs::File::open(golden(name)).unwrap();
    let bytes = zstd::decode_all(packed).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-x").arg("-C").arg(into).stdin(Stdio::piped());
    let mut tar = tar.spawn().unwrap();
    tar.stdin.take().unwrap().write_all(&bytes).unwrap();
    assert!(tar.wait().unwrap().success(), "{name}");
}

fn hash(nar: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::digest(nar))
}

fn json_of(ran: &Ran) -> Value {
    ran.succeeds();
    serde_json::from_str(&ran.stdout()).unwrap()
}

/// Does something until it has succeeded: what another program of this machine is called with is in
/// use for so long, and these tests may run twice at once.
fn until(mut succeeds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !succeeds() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What was said then is said today. What is said besides was not known then.
#[track_caller]
fn assert_says(today: &Value, then: &Value, of: &str) {
    match (today, then) {
        (Value::Object(today), Value::Object(then)) => {
            for (key, value) in then {
                let of = format!("{of}, {key}");
                assert_says(today.get(key).unwrap_or(&Value::Null), value, &of);
            }
        }
        (Value::Array(today), Value::Array(then)) => {
            assert_eq!(today.len(), then.len(), "{of}: {today:?} for {then:?}");
            for (at, (today, then)) in today.iter().zip(then).enumerate() {
                assert_says(today, then, &format!("{of}, {at}"));
            }
        }
        _ => assert_eq!(today, then, "{of}"),
    }
}

impl Golden {
    pub fn new(format: u32) -> Self {
        Self::named(&format!("format-{format}"), format)
    }

    fn named(name: &str, format: u32) -> Self {
        let one = ONE_AT_A_TIME.lock();
        let dir = tempfile::tempdir().unwrap();
        unpack(&format!("{name}.tar.zst"), dir.path());
        unpack("cache.tar.zst", dir.path());
        let said = fs::read_to_string(golden(&format!("{name}.json"))).unwrap();
        // Where links are, which have come with the state.
        let said = said.replace("DIRECTORY", dir.path().to_str().unwrap());
        let state = State::at(dir.path().join("state"));
        let written = fs::read_to_string(state.dir().join("format")).unwrap();
        assert!(written.starts_with(&format!("narfs-state {format}\n")));
        Self {
            state,
            said: serde_json::from_str(&said).unwrap(),
            cache: dir.path().join("cache"),
            dir,
            _one: one.unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The path of the cache that has this name, the first of them.
    pub fn path(&self, name: &str) -> String {
        let paths = fs::read_to_string(self.cache.join("store-paths")).unwrap();
        let named = paths.lines().find(|p| p.ends_with(&format!("-{name}")));
        named.unwrap().to_owned()
    }

    /// Runs a command that may fetch from the cache.
    pub fn fetching(&self, arguments: &[&str]) -> Ran {
        let mut command = self.state.command(arguments);
        command.arg("--from");
        command.arg(format!("file://{}", self.cache.display()));
        let key = fs::read_to_string(self.cache.join("key.pub")).unwrap();
        command.args(["--trusted-public-key", key.trim()]);
        Ran::of(&mut command)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        json_of(&self.state.run(&[arguments, &["--json"]].concat()))
    }

    /// Whether a member of what was said then is what a command says today.
    fn says(&self, member: &str, arguments: &[&str]) {
        let mut today = self.json(arguments);
        if member == "roots" {
            // Whatever else this machine does.
            let roots = today.as_array_mut().unwrap();
            roots.retain(|root| root["kind"] != "process");
        }
        let then = &self.said[member];
        assert!(!then.is_null(), "nothing was said of {member}");
        assert_says(&today, then, member);
    }

    /// What `reader.py` reads in the state, which shares nothing with narfs.
    fn read_by_another(&self) -> Value {
        let records = self.dir.path().join("records");
        fs::create_dir(&records).unwrap();
        let db = self.state.dir().join("db");
        let options = rocksdb::Options::default();
        let families = rocksdb::DB::list_cf(&options, &db).unwrap();
        let db = rocksdb::DB::open_cf_for_read_only(&options, &db, &families, false).unwrap();
        for name in &families {
            let mut out = Vec::new();
            let family = db.cf_handle(name).unwrap();
            for record in db.iterator_cf(family, rocksdb::IteratorMode::Start) {
                let (key, value) = record.unwrap();
                for part in [key, value] {
                    out.extend_from_slice(&(part.len() as u32).to_le_bytes());
                    out.extend_from_slice(&part);
                }
            }
            fs::write(records.join(name), out).unwrap();
        }
        let mut reader = Command::new("python3");
        reader.arg(golden("reader.py"));
        reader.args([self.state.dir(), &records]);
        json_of(&Ran::of(&mut reader))
    }

    /// The specification says enough of the format to read what the program of the time said.
    fn is_what_another_reads(&self) {
        let read = self.read_by_another();
        let mut members = read.as_object().unwrap().clone();
        let records = members.remove("records").unwrap();
        for (member, read) in &members {
            match self.said.get(member) {
                Some(then) => assert_says(then, read, member),
                // Nothing of a kind that was not known then, or that nothing was said of.
                None => assert!(read.as_array().unwrap().is_empty(), "{member}: {read}"),
            }
        }
        for member in self.said.as_object().unwrap().keys() {
            let is_read = ["profile history", "trace ", "pins", "closures", "channels"];
            assert!(members.contains_key(member) || !is_read.iter().any(|m| member.starts_with(m)));
        }
        assert_eq!(members["nars"], self.said["nars"]);
        self.has_these_records(records.as_object().unwrap());
    }

    /// `narfs debug` shows the records that another reader reads.
    fn has_these_records(&self, records: &serde_json::Map<String, Value>) {
        // Paths share chunks, and a chunk says of which trees it is.
        let mut seen = BTreeSet::new();
        for (path, read) in records {
            let shown = self.json(&["debug", "path", path]);
            for member in ["ordinal", "origin", "tree", "used"] {
                assert_eq!(shown[member], read[member], "{path}, {member}");
            }
            let table = shown["table"].as_array().unwrap();
            let references: Vec<_> = table.iter().map(|r| r["path"].clone()).collect();
            assert_eq!(Value::Array(references), read["references"], "{path}");
            let Some(digest) = shown["tree"].as_str() else {
                self.state.run(&["debug", "tree", path]).fails(&[path]);
                continue;
            };
            let tree = self.json(&["debug", "tree", digest]);
            assert_eq!(tree, self.json(&["debug", "tree", path]));
            assert_eq!(tree["complete"], shown["complete"], "{path}");
            let masks = |of: &Value, member: &str| of[member].as_array().unwrap().len() as u64;
            for member in ["masks", "target_masks"] {
                let each = table.iter().map(|r| r[member].as_u64().unwrap());
                assert_eq!(each.sum::<u64>(), masks(&tree, member), "{path}, {member}");
            }
            for chunk in tree["chunks"].as_array().unwrap() {
                let name = chunk["digest"].as_str().unwrap();
                if chunk["number"].is_null() || !seen.insert(name.to_owned()) {
                    continue;
                }
                let shown = self.json(&["debug", "chunk", name]);
                for member in ["digest", "number", "length"] {
                    assert_eq!(shown[member], chunk[member], "{name}, {member}");
                }
                assert_eq!(shown["intact"], true, "{name}");
                let trees = shown["trees"].as_array().unwrap();
                assert!(trees.contains(&digest.into()), "{name}: {trees:?}");
            }
        }
        let none = "0".repeat(64);
        for record in ["tree", "chunk"] {
            let ran = self.state.run(&["debug", record, &none]);
            ran.fails(&[&format!("there is no {record} {none}")]);
        }
    }

    /// How the chunks of a path are stored.
    fn codecs(&self, path: &str) -> BTreeSet<String> {
        let tree = self.json(&["debug", "tree", path]);
        let chunks = tree["chunks"].as_array().unwrap().iter();
        let digests = chunks.map(|chunk| chunk["digest"].as_str().unwrap());
        let codec = |digest| self.json(&["debug", "chunk", digest])["codec"].clone();
        let codecs = digests.map(codec);
        codecs
            .map(|codec| codec.as_str().unwrap().to_owned())
            .collect()
    }

    /// What has been done so far leaves the way back to the program that wrote the state.
    fn is_still_of_format(&self, format: u32) {
        // A daemon opens the state before it listens.
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let at = self.dir.path().join("nix");
        fs::create_dir_all(&at).unwrap();
        let at = at.to_str().unwrap();
        let mount = ["mount", "--offline", "--listen", &address, at];
        self.state.run(&mount).fails(&[&address]);
        let written = fs::read_to_string(self.state.dir().join("format")).unwrap();
        assert_eq!(
            written,
            format!("narfs-state {format}\nstore-dir /nix/store\n")
        );
    }

    /// The NARs that were there then.
    fn nars(&self) -> Vec<(&String, &str)> {
        let nars = self.said["nars"].as_object().unwrap().iter();
        nars.filter_map(|(path, hash)| Some((path, hash.as_str()?)))
            .collect()
    }

    pub fn nar_of(&self, path: &str) -> Vec<u8> {
        let file = format!("{}.nar", &path[11..43]);
        fs::read(self.cache.join("nar").join(file)).unwrap()
    }

    fn dumps(&self, path: &str, expected: &str) {
        let ran = self.state.run(&["dump", path]);
        ran.succeeds();
        assert_eq!(hash(&ran.output.stdout), expected, "{path}");
    }

    /// Everything that the format has is as the program of the time said.
    fn is_what_was_written(&self) {
        self.says("path-info", &["path-info"]);
        let nars = self.said["nars"].as_object().unwrap();
        assert_eq!(nars.len(), self.state.registered().len());
        for (path, then) in nars {
            match then.as_str() {
                Some(hash) => self.dumps(path, hash),
                None => {
                    self.state.run(&["dump", path]).fails(&[&path[44..]]);
                }
            }
        }
        for (path, then) in self.said["ls"].as_object().unwrap() {
            assert_says(&self.json(&["ls", "-R", path]), then, path);
        }
        self.says("verify", &["verify"]);
        assert_eq!(self.state.is_whole(), self.nars().len() as u64);
    }

    /// The same for what came with format 2.
    fn has_profiles_pins_traces_and_channels(&self) {
        let (app, extra) = (self.path("app-1.0"), self.path("extra-1.0"));
        self.says("known", &["path-info", "--closure", &app, &extra]);
        self.says("pins", &["pins"]);
        self.says("roots", &["roots"]);
        self.says("profiles", &["profiles"]);
        for profile in ["default", "system", "per-user/ann/profile"] {
            let member = format!("profile history {profile}");
            self.says(&member, &["profile", "history", "-p", profile]);
        }
        for profile in ["default", "per-user/ann/profile"] {
            let member = format!("profile list {profile}");
            self.says(&member, &["profile", "list", "-p", profile]);
        }
        self.says("channels", &["channel", "list"]);
        self.says("traces", &["trace", "list"]);
        self.says("trace job", &["trace", "show", "job"]);
    }

    /// Drops what can be dropped, until that has a path: what was dropped.
    fn evicts_until(&self, path: &str) -> BTreeSet<String> {
        let mut dropped = BTreeSet::new();
        until(|| {
            // That something stays is a failure.
            let ran = self.state.run(&["evict", "--to", "0", "--json"]);
            let report: Value = serde_json::from_str(&ran.stdout()).unwrap();
            let paths = report["paths"].as_array().unwrap().iter();
            dropped.extend(paths.map(|p| p.as_str().unwrap().to_owned()));
            dropped.contains(path)
        });
        dropped
    }

    /// A trace is replayed, and profiles are switched and get generations.
    fn goes_on_with_traces_and_profiles(&self) {
        let spare = self.path("spare-1.0");
        self.state.run(&["dump", &spare]).fails(&[&spare[11..]]);
        self.fetching(&["prefetch", "--trace", "job"]).succeeds();
        self.dumps(&spare, &hash(&self.nar_of(&spare)));
        for (profile, to) in [("system", "2"), ("default", "3")] {
            let ran = self.state.run(&["profile", "-p", profile, "switch", to]);
            ran.succeeds();
        }
        let profiles = self.json(&["profiles"]);
        assert_eq!(profiles[0]["generation"], 3);
        assert_eq!(profiles[2]["path"], self.path("tool-2.0").as_str());
        // A new generation has the number after the highest.
        let leaf = self.path("leaf-1.0");
        self.fetching(&["profile", "install", &leaf]).succeeds();
        assert_eq!(self.json(&["profiles"])[0]["generation"], 4);
        let list = self.json(&["profile", "list"]);
        let elements = list["elements"].as_object().unwrap();
        assert!(elements.keys().eq(["app", "leaf"]), "{list}");
    }

    /// What is not here comes from the cache, and what was dropped comes back.
    fn is_filled_again(&self) {
        let all = fs::read_to_string(self.cache.join("store-paths")).unwrap();
        self.fetching(&["copy", "--all"]).succeeds();
        for path in all.lines() {
            self.dumps(path, &hash(&self.nar_of(path)));
        }
        for (path, hash) in self.nars() {
            self.dumps(path, hash);
        }
        let verified = self.json(&["verify"]);
        assert_eq!(verified["failures"], Value::Array(Vec::new()));
        assert_eq!(verified["good"], self.state.registered().len());
        assert_eq!(verified["dropped"], 0);
    }

    /// A path can be added, pinned, installed and shown.
    fn takes_more(&self) {
        let local = self.dir.path().join("local");
        fs::write(&local, "local").unwrap();
        let added = self.state.run(&["add", local.to_str().unwrap()]);
        let added = added.succeeds().stdout().trim().to_owned();
        let (note, tool) = (self.path("note-1.0"), self.path("tool-2.0"));
        self.fetching(&["pin", &note]).succeeds();
        self.fetching(&["profile", "-p", "late", "install", &tool])
            .succeeds();
        self.fetching(&["closure", "late", &added, "--profile", "late"])
            .succeeds();
        let views = self.json(&["closures", "late"]);
        // The path, and the environment with the tool and what that refers to.
        assert_eq!(views[0]["paths"], 4, "{views}");
        assert_eq!(views[0]["missing"], 0, "{views}");
    }

    /// A collection takes what only `garbage` names and leaves all else.
    fn is_collected(&self, garbage: &[&str]) {
        let before = self.state.registered();
        let is_garbage = |path: &&String| garbage.iter().any(|g| path.ends_with(&format!("-{g}")));
        let live: BTreeSet<_> = before.iter().filter(|p| !is_garbage(p)).cloned().collect();
        assert!(live.len() + garbage.len() <= before.len());
        until(|| {
            self.state.run(&["gc"]).succeeds();
            self.state.registered() == live
        });
        assert_eq!(self.state.registered(), live);
        assert_eq!(self.state.is_whole(), live.len() as u64);
        for (path, hash) in self.nars() {
            if live.contains(path) {
                self.dumps(path, hash);
            }
        }
    }

    /// What was a root then is one still, for the same reason.
    fn has_lost_no_root(&self) {
        let today = self.json(&["roots"]);
        let today = today.as_array().unwrap();
        for root in self.said["roots"].as_array().unwrap() {
            assert!(today.contains(root), "{root} in {today:?}");
        }
    }
}

impl Golden {
    /// Has what came with format 3, and goes on from there.
    fn with_views_is_read_and_used(&self) {
        self.is_what_another_reads();
        self.is_what_was_written();
        self.has_profiles_pins_traces_and_channels();
        self.says("closures", &["closures"]);
        self.goes_on_with_traces_and_profiles();
        // The view follows its profile, which points to a tool and its library now.
        let views = self.json(&["closures", "following"]);
        let shown = [self.path("note-1.0")];
        assert_eq!(views[0]["roots"], serde_json::json!(shown));
        assert_eq!(views[0]["paths"], 3, "{views}");
        self.is_filled_again();
        self.takes_more();
        self.is_collected(&["added-1.0", "extra-1.0", "spare-1.0"]);
        self.has_lost_no_root();
    }
}

#[test]
fn a_state_of_format_1_is_read_and_used() {
    let golden = Golden::new(1);
    golden.is_what_another_reads();
    golden.is_what_was_written();
    // There was none of this.
    for command in [
        &["pins"][..],
        &["roots"],
        &["profiles"],
        &["channel", "list"],
        &["trace", "list"],
        &["closures"],
    ] {
        let mut nothing = golden.json(command);
        let some = nothing.as_array_mut().unwrap();
        some.retain(|one| one["kind"] != "process");
        assert!(some.is_empty(), "{command:?}: {some:?}");
    }
    golden.is_still_of_format(1);
    // What was signed was fetched, and so may be dropped; what was not was perhaps added here.
    let dropped = golden.evicts_until(&golden.path("spare-1.0"));
    let fixed = golden.path("fixed-1.0");
    assert!(!dropped.contains(&fixed) && !dropped.iter().any(|p| p.ends_with("-added-1.0")));
    golden.is_filled_again();
    golden.takes_more();
    let garbage = [
        "added-1.0",
        "app-1.0",
        "extra-1.0",
        "fixed-1.0",
        "joint-1.0",
        "leaf-1.0",
        "pointer-1.0",
        "spare-1.0",
        "tool-1.0",
        "twin-1.0",
    ];
    golden.is_collected(&garbage);
}

#[test]
fn a_state_of_format_2_is_read_and_used() {
    let golden = Golden::new(2);
    golden.is_what_another_reads();
    golden.is_what_was_written();
    golden.has_profiles_pins_traces_and_channels();
    assert_eq!(golden.json(&["closures"]), Value::Array(Vec::new()));
    golden.is_still_of_format(2);
    let switch = ["profile", "-p", "system", "switch", "2"];
    golden.state.run(&switch).succeeds();
    // No closure view was made, and no large chunk came.
    golden.is_still_of_format(2);
    let note = golden.path("note-1.0");
    golden.fetching(&["closure", "early", &note]).succeeds();
    golden.is_still_of_format(3);
    let delete = ["closure", "early", "--delete"];
    golden.state.run(&delete).succeeds();
    golden.goes_on_with_traces_and_profiles();
    golden.is_filled_again();
    golden.takes_more();
    let written = fs::read_to_string(golden.state.dir().join("format")).unwrap();
    let listed = "narfs-state 4\nstore-dir /nix/store\nfeature frames\n";
    assert_eq!(written, listed);
    golden.is_collected(&["added-1.0", "extra-1.0", "spare-1.0"]);
    golden.has_lost_no_root();
}

#[test]
fn a_state_of_format_3_is_read_and_used() {
    let golden = Golden::new(3);
    golden.with_views_is_read_and_used();
}

#[test]
fn a_state_of_format_4_is_read_and_used() {
    let golden = Golden::new(4);
    // Some paths have signatures of keys that were not trusted; what one of them needs, and the state has
    // besides, has one of a trusted key.
    let (spare, extra) = (golden.path("spare-1.0"), golden.path("extra-1.0"));
    let unsigned = || {
        let infos = golden.json(&["path-info", "--closure", &spare, &extra]);
        let infos = infos.as_array().unwrap().iter();
        let each = infos.map(|info| (info["signatures"][0].is_string(), info["unsigned"] == true));
        each.collect::<Vec<_>>()
    };
    assert_eq!(unsigned(), [(true, false), (true, true), (true, true)]);
    golden.with_views_is_read_and_used();
}

#[test]
fn a_state_with_chunks_in_frames_is_read_and_used() {
    let golden = Golden::named("format-4-frames", 4);
    let written = fs::read_to_string(golden.state.dir().join("format")).unwrap();
    assert!(written.contains("\nfeature frames\n"), "{written}");
    let base = golden.path("base-1.0");
    assert!(golden.codecs(&base).contains("zstd frames"));
    golden.with_views_is_read_and_used();
}
