//! Channels: named lists of store paths, each in a file of the state directory.
//!
//! Files rather than records of the database: a list has 100,000 paths and more, is read from its
//! beginning to its end and replaced as a whole. Invariant: a list is replaced in one step, by a
//! file that is wholly on the disk.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use tempfile::NamedTempFile;
use thiserror::Error;

use super::clock;
use super::directory::SPOOL;
use super::error::StoreError;
use crate::nix::store_path::StorePath;
use crate::sync::lock;

/// The directory in the state directory.
const DIRECTORY: &str = "channels";
/// First line of a file.
const MAGIC: &str = "narfs-channel 1";
/// Longest name, in bytes.
const NAME: usize = 100;
/// Digits of a number in the head of a file: all have as many, so that they can be filled in.
const DIGITS: usize = 20;

/// A text that cannot be the name of a channel.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is no name for a channel; give up to {NAME} letters, digits and +-._, not beginning \
     with one of these"
)]
pub struct ChannelNameError(String);

/// What a channel is called. It is the name of a file too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ChannelName(String);

impl ChannelName {
    /// Reads a name.
    ///
    /// # Errors
    /// It has other characters than letters, digits and `+-._`, or is empty or too long.
    pub fn parse(text: &str) -> Result<Self, ChannelNameError> {
        let good = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
        let begins_well = text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric());
        if !begins_well || text.len() > NAME || !text.bytes().all(good) {
            return Err(ChannelNameError(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ChannelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A channel, without its paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Channel {
    pub name: ChannelName,
    /// Where its list comes from.
    pub url: String,
    /// Its list; `None` until it is updated for the first time.
    pub list: Option<ChannelList>,
}

/// What is known of the list of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChannelList {
    /// Number of its paths.
    pub paths: u64,
    /// When it was replaced last, in seconds since 1970.
    pub updated: u64,
}

/// What is in the way when a list is to be put in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replaces {
    /// Nothing: the channel is new.
    Nothing,
    /// The list that the channel has.
    Old,
}

/// The channels of a state.
///
/// Whatever changes a list is on the disk when the method returns: it survives a power loss. After a
/// crash within the method the list is the old or the new one, whole.
#[derive(Debug)]
pub struct Channels {
    /// The state directory.
    state: PathBuf,
    /// Held while the file of a channel is put in its place or removed.
    changing: Mutex<()>,
}

/// A list that is being written, and is nowhere until it is committed.
#[derive(Debug)]
pub struct ChannelWriter<'c> {
    channels: &'c Channels,
    name: ChannelName,
    url: String,
    file: BufWriter<NamedTempFile>,
    paths: u64,
}

fn head(url: &str, list: ChannelList) -> String {
    let ChannelList { paths, updated } = list;
    format!("{MAGIC}\nurl {url}\nupdated {updated:0DIGITS$}\npaths {paths:0DIGITS$}\n")
}

/// The lines of a file, without their ends; none longer than a file's head or a path can be.
fn line(file: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut text = String::new();
    let read = file.read_line(&mut text)?;
    let ended = text.strip_suffix('\n').map(str::to_owned);
    if read > 0 && ended.is_none() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(ended)
}

fn read_head(file: &mut impl BufRead) -> io::Result<(String, Option<ChannelList>)> {
    let mut field = |prefix: &str| {
        let line = line(file)?;
        let value = line.as_deref().and_then(|l| l.strip_prefix(prefix));
        value.map(str::to_owned).ok_or_else(malformed)
    };
    if !field(MAGIC)?.is_empty() {
        return Err(malformed());
    }
    let url = field("url ")?;
    let mut number = |prefix| field(prefix)?.parse().map_err(|_| malformed());
    let (updated, paths) = (number("updated ")?, number("paths ")?);
    let list = (updated > 0).then_some(ChannelList { paths, updated });
    Ok((url, list))
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "it is damaged")
}

impl Channels {
    pub(super) fn new(state: &Path) -> Self {
        Self {
            state: state.to_owned(),
            changing: Mutex::default(),
        }
    }

    fn file(&self, name: &ChannelName) -> PathBuf {
        self.state.join(DIRECTORY).join(name.as_str())
    }

    /// An error of the file of a channel.
    fn failed(&self, name: &ChannelName) -> impl FnOnce(io::Error) -> StoreError {
        let file = self.file(name);
        move |source| StoreError::Channel { file, source }
    }

    fn open(&self, name: &ChannelName) -> io::Result<Option<BufReader<File>>> {
        match File::open(self.file(name)) {
            Ok(file) => Ok(Some(BufReader::new(file))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// The channel of this name.
    ///
    /// # Errors
    /// Its file cannot be read or is damaged.
    pub fn get(&self, name: &ChannelName) -> Result<Option<Channel>, StoreError> {
        let read = || {
            let Some(mut file) = self.open(name)? else {
                return Ok(None);
            };
            let (url, list) = read_head(&mut file)?;
            let name = name.clone();
            Ok(Some(Channel { name, url, list }))
        };
        read().map_err(self.failed(name))
    }

    /// All channels, in the order of their names.
    ///
    /// # Errors
    /// A file cannot be read or is damaged.
    pub fn list(&self) -> Result<Vec<Channel>, StoreError> {
        let dir = self.state.join(DIRECTORY);
        let fail = |source| StoreError::Channel {
            file: dir.clone(),
            source,
        };
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(fail(e)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let name = entry.map_err(fail)?.file_name();
            names.extend(name.to_str().and_then(|n| ChannelName::parse(n).ok()));
        }
        names.sort();
        let channels = names.iter().filter_map(|n| self.get(n).transpose());
        channels.collect()
    }

    /// Gives each path of the list of a channel to `visit`, in the order of the list; none if there
    /// is no such channel.
    ///
    /// # Errors
    /// Its file cannot be read or is damaged.
    pub fn paths(
        &self,
        name: &ChannelName,
        mut visit: impl FnMut(StorePath),
    ) -> Result<(), StoreError> {
        let mut read = || {
            let Some(mut file) = self.open(name)? else {
                return Ok(());
            };
            let expected = read_head(&mut file)?.1.map_or(0, |list| list.paths);
            for _ in 0..expected {
                let line = line(&mut file)?.ok_or_else(malformed)?;
                visit(StorePath::parse_base_name(line.as_bytes()).map_err(|_| malformed())?);
            }
            Ok(())
        };
        read().map_err(self.failed(name))
    }

    /// Begins to write the list of a channel, in a temporary file that does not outlive the process.
    ///
    /// # Errors
    /// No file can be made.
    pub fn write(&self, name: &ChannelName, url: &str) -> Result<ChannelWriter<'_>, StoreError> {
        let open = || {
            let mut file = BufWriter::new(NamedTempFile::new_in(self.state.join(SPOOL))?);
            let nothing = ChannelList {
                paths: 0,
                updated: 0,
            };
            file.write_all(head(url, nothing).as_bytes())?;
            Ok(file)
        };
        Ok(ChannelWriter {
            channels: self,
            name: name.clone(),
            url: url.to_owned(),
            file: open().map_err(self.failed(name))?,
            paths: 0,
        })
    }

    /// Adds a channel that has no list yet; `false` if there is one of this name. Survives a power loss
    /// when it returns.
    ///
    /// # Errors
    /// Its file cannot be written.
    pub fn add(&self, name: &ChannelName, url: &str) -> Result<bool, StoreError> {
        let writer = self.write(name, url)?;
        writer.put_in_place(Replaces::Nothing)
    }

    /// Removes a channel; `false` if there is none of this name. Survives a power loss when it returns.
    ///
    /// # Errors
    /// Its file cannot be removed.
    pub fn remove(&self, name: &ChannelName) -> Result<bool, StoreError> {
        let _changing = lock(&self.changing);
        match fs::remove_file(self.file(name)) {
            Ok(()) => {
                let synced = self.sync();
                synced.map_err(self.failed(name)).map(|()| true)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(self.failed(name)(e)),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(self.state.join(DIRECTORY))?.sync_all()
    }
}

impl ChannelWriter<'_> {
    /// Appends a path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn push(&mut self, path: &StorePath) -> Result<(), StoreError> {
        self.paths += 1;
        let written = writeln!(self.file, "{}", path.base_name());
        written.map_err(self.channels.failed(&self.name))
    }

    /// Number of paths so far.
    #[must_use]
    pub fn paths(&self) -> u64 {
        self.paths
    }

    /// Puts the list in its place. `false`, and nothing changes, if the channel came, went or got
    /// another URL meanwhile. Survives a power loss when it returns.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn commit(mut self, replaces: Replaces) -> Result<bool, StoreError> {
        let list = ChannelList {
            paths: self.paths,
            updated: clock::seconds().max(1),
        };
        let mut fill_in = || {
            self.file.flush()?;
            let head = head(&self.url, list);
            self.file
                .get_ref()
                .as_file()
                .write_all_at(head.as_bytes(), 0)
        };
        fill_in().map_err(self.channels.failed(&self.name))?;
        self.put_in_place(replaces)
    }

    fn put_in_place(self, replaces: Replaces) -> Result<bool, StoreError> {
        let channels = self.channels;
        let fail = channels.failed(&self.name);
        let file = self.file.into_inner();
        let file = match file.map_err(io::IntoInnerError::into_error) {
            Ok(file) => file,
            Err(e) => return Err(fail(e)),
        };
        let _changing = lock(&channels.changing);
        // One that is damaged is replaced as well.
        let there = match channels.get(&self.name) {
            Ok(there) => there.map(|there| there.url == self.url),
            Err(_) => Some(true),
        };
        let as_expected = match replaces {
            Replaces::Nothing => there.is_none(),
            Replaces::Old => there == Some(true),
        };
        if !as_expected {
            return Ok(false);
        }
        let put = || {
            fs::create_dir_all(channels.state.join(DIRECTORY))?;
            file.as_file().sync_all()?;
            file.persist(channels.file(&self.name))?;
            channels.sync()?;
            File::open(&channels.state)?.sync_all()
        };
        put().map_err(fail).map(|()| true)
    }
}
