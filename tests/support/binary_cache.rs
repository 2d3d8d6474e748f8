//! Binary caches in a temporary directory, valid or broken as a test needs.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use narfs::nix::compression::Compression;
use narfs::nix::hash::{Hash, HashAlgo, NarHash};
use narfs::nix::nar::Writer;
use narfs::nix::narinfo::NarInfo;
use narfs::nix::signature::SecretKey;
use narfs::nix::store_path::{StoreDir, StorePath, StorePathHash};
use tempfile::TempDir;

/// A tree to archive. Directory entries are in the given order.
pub enum Tree<'a> {
    File(&'a [u8]),
    Program(&'a [u8]),
    Link(&'a str),
    Directory(Vec<(&'a str, Tree<'a>)>),
}

/// The NAR of a tree.
pub fn nar(tree: &Tree<'_>) -> Vec<u8> {
    let mut writer = Writer::new(Vec::new());
    write(tree, &mut writer);
    writer.finish().unwrap()
}

fn write(tree: &Tree<'_>, out: &mut Writer<Vec<u8>>) {
    let mut file = |executable, data: &[u8]| {
        out.regular(executable, data.len() as u64).unwrap();
        out.contents(data).unwrap();
    };
    match tree {
        Tree::File(data) => file(false, data),
        Tree::Program(data) => file(true, data),
        Tree::Link(target) => out.symlink(target.as_bytes()).unwrap(),
        Tree::Directory(entries) => {
            out.directory().unwrap();
            for (name, child) in entries {
                out.entry(name.as_bytes()).unwrap();
                write(child, out);
            }
            out.end_directory().unwrap();
        }
    }
}

/// The NAR of a file.
pub fn file(data: &[u8]) -> Vec<u8> {
    nar(&Tree::File(data))
}

/// Incompressible bytes, determined by the seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Vec::with_capacity(length + 8);
    while out.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    out.truncate(length);
    out
}

/// A store path with this name. Its hash is derived from the name and from the name of the test, which its
/// thread has: a path on the command line of any program is in use, and must not occur in another test.
pub fn path(name: &str) -> StorePath {
    let thread = std::thread::current();
    let test = thread.name();
    let test =
        test.expect("a thread that a test starts has no name: make paths in that of the test");
    let salted = format!("{test}:{name}");
    let digest = Hash::of(HashAlgo::Sha256, salted.as_bytes());
    let hash = StorePathHash::from_bytes(digest.as_bytes()[..20].try_into().unwrap());
    StorePath::new(hash, name).unwrap()
}

/// A path offered by a binary cache: its narinfo, and the file at its URL.
pub struct Offer {
    pub info: NarInfo,
    pub stored: Vec<u8>,
    /// Whether to sign it when it is put into the cache.
    pub signed: bool,
}

impl Offer {
    /// A valid, uncompressed offer.
    pub fn new(path: &StorePath, nar: Vec<u8>) -> Self {
        Self {
            info: NarInfo {
                store_path: path.clone(),
                url: format!("nar/{}.nar", path.hash()),
                compression: Compression::None,
                further: Vec::new(),
                file_hash: None,
                file_size: None,
                nar_hash: NarHash::of(&nar),
                nar_size: nar.len() as u64,
                references: Vec::new(),
                deriver: None,
                signatures: Vec::new(),
                ca: None,
                unknown_ca: None,
                guix_signature: None,
            },
            stored: nar,
            signed: true,
        }
    }

    /// A package of this name with a program of so many bytes of noise, which is called so as well.
    pub fn package(name: &str, seed: u64, length: usize) -> Self {
        let program = noise(seed, length);
        let programs = Tree::Directory(vec![(name, Tree::Program(&program))]);
        Self::named(name, nar(&Tree::Directory(vec![("bin", programs)])))
    }

    /// A valid offer of a path with this name.
    pub fn named(name: &str, nar: Vec<u8>) -> Self {
        Self::new(&path(name), nar)
    }

    pub fn referring(mut self, references: &[&StorePath]) -> Self {
        self.info.references = references.iter().copied().cloned().collect();
        self
    }

    pub fn compressed(mut self, method: Compression) -> Self {
        self.stored = compress(method, &self.stored);
        self.info.compression = method;
        self
    }

    pub fn unsigned(mut self) -> Self {
        self.signed = false;
        self
    }

    pub fn path(&self) -> &StorePath {
        &self.info.store_path
    }
}

/// A binary cache with its own key.
pub struct Cache {
    dir: TempDir,
    pub key: SecretKey,
    pub store_dir: StoreDir,
}

impl Cache {
    pub fn new() -> Self {
        Self::of_store_dir("/nix/store")
    }

    pub fn of_store_dir(store_dir: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("nar")).unwrap();
        let info = format!("StoreDir: {store_dir}\nWantMassQuery: 1\nPriority: 40\n");
        fs::write(dir.path().join("nix-cache-info"), info).unwrap();
        Self {
            dir,
            key: SecretKey::from_seed("faults-1", [7; 32]).unwrap(),
            store_dir: StoreDir::parse(store_dir).unwrap(),
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn url(&self) -> String {
        format!("file://{}", self.dir().display())
    }

    /// `--from …` and `--trusted-public-key …`.
    pub fn arguments(&self) -> Vec<String> {
        self.arguments_from(&self.url())
    }

    /// The same arguments for another URL of the cache.
    pub fn arguments_from(&self, url: &str) -> Vec<String> {
        let key = self.key.to_public().to_string();
        let arguments = ["--from", url, "--trusted-public-key", &key];
        arguments.map(str::to_owned).to_vec()
    }

    pub fn nar_file(&self, offer: &Offer) -> PathBuf {
        self.dir().join(&offer.info.url)
    }

    pub fn narinfo_file(&self, path: &StorePath) -> PathBuf {
        self.dir().join(format!("{}.narinfo", path.hash()))
    }

    /// The text of the narinfo, signed if requested.
    pub fn text(&self, offer: &Offer) -> String {
        let mut info = offer.info.clone();
        if offer.signed {
            info.sign(&self.store_dir, &self.key);
        }
        info.to_text(&self.store_dir)
    }

    pub fn put(&self, offer: &Offer) {
        let text = self.text(offer);
        self.put_as(offer, text.as_bytes());
    }

    /// Puts a listing that contains only the kind of the root, right or wrong.
    pub fn put_listing(&self, offer: &Offer, kind: &str) {
        let root = match kind {
            "directory" => r#"{"type":"directory","entries":{}}"#,
            "regular" => r#"{"type":"regular","size":1,"narOffset":96}"#,
            _ => r#"{"type":"symlink","target":"x"}"#,
        };
        let file = self.dir().join(format!("{}.ls", offer.path().hash()));
        fs::write(file, format!(r#"{{"version":1,"root":{root}}}"#)).unwrap();
    }

    /// Puts the NAR, and an arbitrary text as its narinfo.
    pub fn put_as(&self, offer: &Offer, narinfo: &[u8]) {
        fs::write(self.nar_file(offer), &offer.stored).unwrap();
        fs::write(self.narinfo_file(offer.path()), narinfo).unwrap();
    }
}

/// Compresses with any method that narfs decodes.
pub fn compress(method: Compression, data: &[u8]) -> Vec<u8> {
    match method {
        Compression::None => data.to_vec(),
        Compression::Xz => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Bzip2 => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Gzip => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::encode_all(data, 1).unwrap(),
        Compression::Br => {
            let mut output = Vec::new();
            let mut encoder = brotli::CompressorWriter::new(&mut output, 4096, 4, 20);
            encoder.write_all(data).unwrap();
            drop(encoder);
            output
        }
        Compression::Lz4 => {
            let info = lz4_flex::frame::FrameInfo::new().content_checksum(true);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(info, Vec::new());
            encoder.write_all(data).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Lzip => lzip(data),
        other => panic!("no encoder for {other}"),
    }
}

/// An lzip member: LZMA-1 without properties, between lzip's header and trailer.
fn lzip(data: &[u8]) -> Vec<u8> {
    let mut options = liblzma::stream::LzmaOptions::new_preset(1).unwrap();
    options.dict_size(1 << 20);
    let stream = liblzma::stream::Stream::new_lzma_encoder(&options).unwrap();
    let mut encoder = liblzma::write::XzEncoder::new_stream(Vec::new(), stream);
    encoder.write_all(data).unwrap();
    let alone = encoder.finish().unwrap();
    let mut member = b"LZIP\x01\x14".to_vec();
    member.extend_from_slice(&alone[13..]);
    let mut crc = flate2::Crc::new();
    crc.update(data);
    member.extend_from_slice(&crc.sum().to_le_bytes());
    member.extend_from_slice(&(data.len() as u64).to_le_bytes());
    let size = member.len() as u64 + 8;
    member.extend_from_slice(&size.to_le_bytes());
    member
}
