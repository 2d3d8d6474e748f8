//! Credentials of servers from a netrc file.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use data_encoding::BASE64;

use super::error::SourceError;
use super::netrc::Netrc;

/// Path of the netrc file of Nix.
const NIX_NETRC: &str = "/etc/nix/netrc";
/// Limit of the length of a netrc file, in bytes.
const LIMIT: u64 = 1 << 20;

/// The entries of a netrc file, and which file it is.
pub(super) struct Credentials {
    netrc: Netrc,
    origin: Origin,
}

enum Origin {
    Read(PathBuf),
    /// A default path that exists but cannot be read.
    Unreadable(PathBuf, io::Error),
    Absent,
}

/// The credentials that a request was sent with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Name and password in the URL.
    OfUrl,
    /// Those of the netrc file.
    OfNetrc,
    Nothing,
}

impl Credentials {
    /// Reads the given file, or else the file named by `NETRC`, or else `~/.netrc`, or that of Nix.
    ///
    /// # Errors
    /// The given file cannot be read, or a file is malformed.
    pub(super) fn load(named: Option<&Path>) -> Result<Self, SourceError> {
        match named {
            Some(file) => match read(file) {
                Ok(text) => Self::parse(&text, file),
                Err(source) => Err(SourceError::NetrcFile {
                    file: file.to_owned(),
                    source,
                }),
            },
            None => Self::first_of(&candidates(|name| std::env::var_os(name))),
        }
    }

    /// Reads the first file that exists. It is not an error if this user may not read it.
    fn first_of(files: &[PathBuf]) -> Result<Self, SourceError> {
        for file in files {
            match read(file) {
                Ok(text) => return Self::parse(&text, file),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => {
                    return Ok(Self {
                        netrc: Netrc::default(),
                        origin: Origin::Unreadable(file.clone(), e),
                    });
                }
            }
        }
        Ok(Self {
            netrc: Netrc::default(),
            origin: Origin::Absent,
        })
    }

    fn parse(text: &[u8], file: &Path) -> Result<Self, SourceError> {
        let netrc = Netrc::parse(text).map_err(|e| SourceError::Netrc {
            file: file.to_owned(),
            line: e.line,
            what: e.what,
        })?;
        Ok(Self {
            netrc,
            origin: Origin::Read(file.to_owned()),
        })
    }

    /// The value of `Authorization` for a host, optionally for the given name; `takes_default` says whether
    /// the entry for any host counts.
    pub(super) fn basic(
        &self,
        host: &str,
        name: Option<&[u8]>,
        takes_default: bool,
    ) -> Option<String> {
        let login = self.netrc.login(host, name, takes_default)?;
        let pair = [login.name, b":", login.password].concat();
        Some(format!("Basic {}", BASE64.encode(&pair)))
    }

    /// Advice for a request that was refused without valid credentials.
    pub(super) fn hint(&self, sent: &Sent) -> String {
        const WANTS: &str = "; it requires a name and a password, to be set in a netrc file";
        match (sent, &self.origin) {
            (Sent::OfUrl, _) => "; it does not accept the name and password in its URL".into(),
            (Sent::OfNetrc, Origin::Read(file)) => format!(
                "; it does not accept the name and password that {} has for this host",
                file.display()
            ),
            (_, Origin::Read(file)) => {
                format!(
                    "{WANTS}: there are none for this host in {}",
                    file.display()
                )
            }
            (_, Origin::Unreadable(file, e)) => {
                format!("{WANTS}: {} cannot be read: {e}", file.display())
            }
            (_, Origin::Absent) => {
                format!("{WANTS}: none was found (the one that NETRC names, ~/.netrc, {NIX_NETRC})")
            }
        }
    }
}

/// Default paths of netrc files, by precedence.
fn candidates(variable: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(named) = set("NETRC") {
        return vec![named.into()];
    }
    let home = set("HOME").map(|home| Path::new(&home).join(".netrc"));
    home.into_iter().chain([NIX_NETRC.into()]).collect()
}

fn read(file: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    File::open(file)?.take(LIMIT + 1).read_to_end(&mut text)?;
    if text.len() as u64 > LIMIT {
        return Err(io::Error::other(format!("it is longer than {LIMIT} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(files: &[PathBuf]) -> Credentials {
        Credentials::first_of(files).unwrap()
    }

    #[test]
    fn the_file_is_looked_for_where_curl_and_nix_have_it() {
        let env = |set: &'static [(&str, &str)]| {
            candidates(move |name| set.iter().find(|s| s.0 == name).map(|s| s.1.into()))
        };
        let paths = |p: &[&str]| p.iter().map(PathBuf::from).collect::<Vec<_>>();
        assert_eq!(env(&[("NETRC", "/n"), ("HOME", "/h")]), paths(&["/n"]));
        let both = paths(&["/h/.netrc", NIX_NETRC]);
        assert_eq!(env(&[("NETRC", ""), ("HOME", "/h")]), both);
        assert_eq!(env(&[]), paths(&[NIX_NETRC]));
    }

    #[test]
    fn the_first_file_that_exists_is_read_and_the_hint_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let [gone, file] = ["gone", "file"].map(|name| dir.path().join(name));
        std::fs::write(&file, "machine h login a password b").unwrap();
        let found = load(&[gone.clone(), file.clone(), dir.path().to_owned()]);
        assert_eq!(found.basic("h", None, true).unwrap(), "Basic YTpi");
        assert_eq!(found.basic("other", None, true), None);
        let name = file.display().to_string();
        assert!(found.hint(&Sent::Nothing).contains(&name));
        assert!(found.hint(&Sent::OfNetrc).contains(&name));
        assert!(found.hint(&Sent::OfUrl).contains("URL"));
        let none = load(&[gone]);
        assert!(none.hint(&Sent::Nothing).contains("none was found"));
        let unreadable = load(&[dir.path().to_owned()]);
        let hint = unreadable.hint(&Sent::Nothing);
        assert!(hint.contains("cannot be read"), "{hint}");
    }

    #[test]
    fn a_file_longer_than_the_limit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netrc");
        let entry = "machine h login a password b\n";
        std::fs::write(
            &file,
            entry.to_owned() + &"\n".repeat(LIMIT as usize - entry.len()),
        )
        .unwrap();
        let found = Credentials::load(Some(&file)).ok().unwrap();
        assert!(found.basic("h", None, true).is_some());
        std::fs::write(&file, " ".repeat(LIMIT as usize + 1)).unwrap();
        let error = read(&file).unwrap_err().to_string();
        assert!(error.contains("longer than 1048576 bytes"), "{error}");
        assert!(Credentials::load(Some(&file)).is_err());
    }

    #[test]
    fn a_malformed_file_is_named_without_its_contents() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("netrc");
        std::fs::write(&file, "machine h\npassword my secret\n").unwrap();
        let error = Credentials::load(Some(&file)).err().unwrap().to_string();
        assert!(error.contains(&file.display().to_string()), "{error}");
        assert!(
            error.contains("line 2") && !error.contains("secret"),
            "{error}"
        );
        let gone = dir.path().join("gone");
        let error = Credentials::load(Some(&gone)).err().unwrap();
        assert!(error.to_string().contains("gone"), "{error}");
    }
}
