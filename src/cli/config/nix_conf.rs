//! Sources, keys, `require-sigs` and `netrc-file` of an existing `nix.conf`, as Nix would take them.
//!
//! Invariant: settings mean here what they mean to Nix, in its order of files, and all others are Nix's own
//! business. What narfs cannot use is left out, and never silently.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};

use super::origin::{Line, Origin, Setting};
use super::table::Choices;
use super::value::{self, FromNixConf};
use crate::fetch::CACHE_NIXOS_ORG;
use crate::nix::nix_conf::{self, Statement};
use crate::nix::signature::CACHE_NIXOS_ORG_KEY;
use crate::substituter::{parameter, redacted};

/// Bytes of a `nix.conf` at most; real ones have some thousand.
const LENGTH: u64 = 1 << 20;
/// Files that include each other at most, one in the other.
const DEPTH: usize = 32;
/// The name of the variable that is read after all files, as errors name it.
const NIX_CONFIG: &str = "NIX_CONFIG";

/// What is taken of `nix.conf`, and what is not.
#[derive(Debug, Default)]
pub(super) struct NixConf {
    pub(super) choices: Choices,
    /// What is left out: where it stands, what it is, and why.
    pub(super) left_out: Vec<String>,
    /// Settings that bear on sources and have no counterpart here, likewise.
    pub(super) passed_over: Vec<String>,
    /// The files that were read.
    pub(super) files: Vec<Arc<Path>>,
}

impl FromNixConf {
    /// Reads what is named; `get` reads the environment.
    pub(super) fn read(&self, get: impl Fn(&str) -> Option<OsString>) -> anyhow::Result<NixConf> {
        let mut reader = Reader::default();
        match self {
            Self::No => return Ok(NixConf::default()),
            Self::File(file) => {
                if !reader.file(file, 0)? {
                    bail!(
                        "there is no nix.conf at {}, which --from-nix-conf or from-nix-conf names",
                        file.display()
                    );
                }
            }
            Self::Usual => {
                let usual = usual_files(&get);
                for file in &usual {
                    reader.file(file, 0)?;
                }
                let variable = get(NIX_CONFIG);
                if let Some(text) = &variable {
                    let text = text.to_str().context("NIX_CONFIG is not UTF-8")?;
                    reader.text(&Path::new(NIX_CONFIG).into(), text, 0)?;
                }
                if reader.files.is_empty() && variable.is_none() {
                    let usual: Vec<_> = usual.iter().map(|f| f.display().to_string()).collect();
                    bail!(
                        "there is no nix.conf at {}; name one with --from-nix-conf=FILE, or leave \
                         from-nix-conf out",
                        usual.join(" nor at ")
                    );
                }
            }
        }
        reader.taken()
    }
}

/// The files that Nix reads, the last one prevailing.
fn usual_files(get: &impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let set = |name| get(name).filter(|value| !value.is_empty());
    let directory = set("NIX_CONF_DIR").map_or_else(|| "/etc/nix".into(), PathBuf::from);
    let mut files: Vec<PathBuf> = match get("NIX_USER_CONF_FILES") {
        Some(files) => std::env::split_paths(&files).collect(),
        None => {
            let home = || Some(PathBuf::from(set("HOME")?).join(".config"));
            let user = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
            let others = set("XDG_CONFIG_DIRS").unwrap_or_else(|| "/etc/xdg".into());
            let directories = user.into_iter().chain(std::env::split_paths(&others));
            directories.map(|d| d.join("nix/nix.conf")).collect()
        }
    };
    files.retain(|file| !file.as_os_str().is_empty());
    files.push(directory.join("nix.conf"));
    files.reverse();
    files
}

/// A list of words, each with its line.
#[derive(Default)]
struct List {
    words: Vec<(String, Option<Line>)>,
    /// The lines that chose it.
    lines: Vec<Line>,
}

#[derive(Default)]
struct Reader {
    substituters: Option<List>,
    keys: Option<List>,
    require_sigs: Option<(bool, Line)>,
    netrc: Option<(String, Line)>,
    certificates: Option<(String, Line)>,
    passed_over: Vec<String>,
    files: Vec<Arc<Path>>,
}

/// Settings of Nix that bear on sources, and why they are passed over.
const PASSED_OVER: [(&[&str], &str); 3] = [
    (
        &["trusted-substituters", "trusted-binary-caches"],
        "these sources may be named by users, but are not used unless they are",
    ),
    (
        &["connect-timeout"],
        "mount.lookup-timeout is what is nearest to it",
    ),
    (
        &["stalled-download-timeout"],
        "mount.contents-timeout is what is nearest to it",
    ),
];

/// Reads a file that is not too long; `None` if there is none.
fn contents(file: &Path) -> io::Result<Option<String>> {
    // Opening a pipe without a writer would wait for one.
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let mut options = std::fs::OpenOptions::new();
    let opened = match options.read(true).custom_flags(flags).open(file) {
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(None);
        }
        opened => opened?,
    };
    // It is read again, here and by the daemon, and must then say the same.
    if opened.metadata()?.file_type().is_fifo() {
        return Err(io::Error::other("it is a pipe; name a file"));
    }
    let mut text = String::new();
    opened.take(LENGTH + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LENGTH {
        let too_long = format!("it is longer than {LENGTH} bytes");
        return Err(io::Error::other(too_long));
    }
    Ok(Some(text))
}

impl Reader {
    /// Takes a file in so many others; `false` if there is none.
    fn file(&mut self, file: &Path, depth: usize) -> anyhow::Result<bool> {
        if depth > DEPTH {
            bail!("{}: it includes itself, or too many files", file.display());
        }
        let read = contents(file).with_context(|| format!("cannot read {}", file.display()));
        let Some(text) = read? else {
            return Ok(false);
        };
        let path: Arc<Path> = file.into();
        self.files.push(path.clone());
        self.text(&path, &text, depth)?;
        Ok(true)
    }

    fn text(&mut self, path: &Arc<Path>, text: &str, depth: usize) -> anyhow::Result<()> {
        let statements = nix_conf::parse(text);
        let statements =
            statements.map_err(|e| anyhow::anyhow!("{}:{}: {e}", path.display(), e.line))?;
        for (number, statement) in statements {
            let line = Line {
                path: path.clone(),
                line: number,
            };
            match statement {
                Statement::Setting { name, words } => self.setting(name, &words, line)?,
                Statement::Include { file, optional } => {
                    let directory = path.parent().unwrap_or(Path::new(""));
                    let included = directory.join(file);
                    if !self.file(&included, depth + 1)? && !optional {
                        bail!("{line}: there is no file {}", included.display());
                    }
                }
            }
        }
        Ok(())
    }

    fn setting(&mut self, name: &str, words: &[&str], line: Line) -> anyhow::Result<()> {
        let (appends, plain) = match name.strip_prefix("extra-") {
            Some(plain) => (true, plain),
            None => (false, name),
        };
        let list = match plain {
            "substituters" | "binary-caches" => &mut self.substituters,
            "trusted-public-keys" | "binary-cache-public-keys" => &mut self.keys,
            "require-sigs" if !appends => {
                let wanted = match words {
                    ["true" | "yes" | "1"] => true,
                    ["false" | "no" | "0"] => false,
                    _ => bail!("{line}: {name}: write true or false"),
                };
                self.require_sigs = Some((wanted, line));
                return Ok(());
            }
            "netrc-file" if !appends => {
                self.netrc = Some((words.join(" "), line));
                return Ok(());
            }
            "ssl-cert-file" if !appends => {
                self.certificates = Some((words.join(" "), line));
                return Ok(());
            }
            _ => {
                let mut known = PASSED_OVER.iter();
                if let Some((_, why)) = known.find(|(names, _)| names.contains(&plain)) {
                    self.passed_over.push(format!("{line}: {name}: {why}"));
                }
                return Ok(());
            }
        };
        if !appends {
            *list = Some(List::default());
        }
        // What is added to where nothing is chosen is added to what is built into Nix.
        let list = list.get_or_insert_with(|| {
            let built_in = match plain {
                "substituters" | "binary-caches" => CACHE_NIXOS_ORG,
                _ => CACHE_NIXOS_ORG_KEY,
            };
            List {
                words: vec![(built_in.to_owned(), None)],
                lines: Vec::new(),
            }
        });
        list.lines.push(line.clone());
        let words = words.iter();
        list.words
            .extend(words.map(|word| ((*word).to_owned(), Some(line.clone()))));
        Ok(())
    }

    /// What is taken of all that was read.
    fn taken(self) -> anyhow::Result<NixConf> {
        let mut conf = NixConf {
            files: self.files,
            passed_over: self.passed_over,
            ..NixConf::default()
        };
        if let Some(list) = self.substituters {
            conf.take_substituters(list);
        }
        if let Some(list) = self.keys {
            conf.take_keys(list)?;
        }
        if let Some((value, line)) = self.require_sigs {
            let origin = Origin::NixConf(vec![line]);
            conf.choices.require_sigs = Some(Setting { value, origin });
        }
        if let Some((file, line)) = self.netrc {
            conf.take_netrc(&file, line);
        }
        if let Some((file, line)) = self.certificates
            && !file.is_empty()
        {
            let why = format!("narfs needs SSL_CERT_FILE={file} in its environment for that");
            conf.leave_out(Some(&line), "ssl-cert-file", &why);
        }
        Ok(conf)
    }
}

impl NixConf {
    fn leave_out(&mut self, line: Option<&Line>, what: &str, why: &str) {
        let place = line.map_or_else(|| "nix.conf".to_owned(), Line::to_string);
        let what = redacted(what);
        self.left_out
            .push(format!("{place}: {what} is left out: {why}"));
    }

    fn take_substituters(&mut self, list: List) {
        let mut value: Vec<String> = Vec::new();
        for (url, line) in list.words {
            if let Some(why) = unusable(&url) {
                self.leave_out(line.as_ref(), &url, &why);
                continue;
            }
            if let Some("1" | "true" | "yes") = parameter(&url, "trusted") {
                let what = format!("?trusted of {url}");
                let why = "narfs takes paths of this source with a signature by a trusted key only";
                self.leave_out(line.as_ref(), &what, why);
            }
            let same = |known: &String| known.trim_end_matches('/') == url.trim_end_matches('/');
            if !value.iter().any(same) {
                value.push(url);
            }
        }
        let origin = Origin::NixConf(list.lines);
        self.choices.from = Some(Setting { value, origin });
    }

    fn take_keys(&mut self, list: List) -> anyhow::Result<()> {
        let mut value = Vec::new();
        for (text, line) in &list.words {
            let key = value::public_key(text).map_err(|e| match line {
                Some(line) => anyhow::anyhow!("{line}: trusted-public-keys: {e}"),
                None => anyhow::anyhow!(e),
            })?;
            // It is trusted anyway.
            if key != CACHE_NIXOS_ORG_KEY && !value.contains(&key) {
                value.push(key);
            }
        }
        let trusts_nixos = list.words.iter().any(|(k, _)| k == CACHE_NIXOS_ORG_KEY);
        if !trusts_nixos {
            let what = "the distrust of cache.nixos.org-1";
            let why = "narfs always trusts the key of cache.nixos.org";
            self.leave_out(list.lines.last(), what, why);
        }
        let origin = Origin::NixConf(list.lines);
        self.choices.trusted_public_keys = Some(Setting { value, origin });
        Ok(())
    }

    fn take_netrc(&mut self, file: &str, line: Line) {
        let path = PathBuf::from(file);
        if file.is_empty() {
            return;
        }
        if !path.is_absolute() || !path.exists() {
            // Nix goes on without it, too.
            self.leave_out(Some(&line), file, "there is no such netrc file");
            return;
        }
        let (value, origin) = (Some(path), Origin::NixConf(vec![line]));
        self.choices.netrc_file = Some(Setting { value, origin });
    }
}

/// Why a store that Nix would ask is no source of narfs.
fn unusable(url: &str) -> Option<String> {
    let kind = url.split(['?', ':']).next().unwrap_or_default();
    let why = match kind {
        "s3" => "narfs cannot ask S3; give the HTTPS address of the bucket, if it has one",
        "ssh" | "ssh-ng" => "narfs cannot ask a machine over SSH",
        "auto" | "daemon" | "local" | "unix" | "dummy" | "local-overlay" => {
            "it is a store of this machine, not a binary cache"
        }
        _ if url.starts_with(['/', '.']) => "it is a store of this machine, not a binary cache",
        _ => return value::source(url).err(),
    };
    Some(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::config::command::imported;
    use crate::cli::config::file;

    const KEY: &str = "office-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    /// A directory with these files, and `nix.conf` of it as it is read.
    fn read(files: &[(&str, &str)]) -> (tempfile::TempDir, anyhow::Result<NixConf>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(dir.path().join(name), text).unwrap();
        }
        let conf = FromNixConf::File(dir.path().join("nix.conf")).read(|_| None);
        (dir, conf)
    }

    fn one(text: &str) -> NixConf {
        read(&[("nix.conf", text)]).1.unwrap()
    }

    fn sources(conf: &NixConf) -> Vec<&str> {
        let from = conf.choices.from.iter();
        from.flat_map(|f| f.value.iter().map(String::as_str))
            .collect()
    }

    #[test]
    fn lists_are_replaced_and_extended_in_the_order_of_the_lines() {
        for (text, expected) in [
            (
                "substituters = https://a https://b",
                &["https://a", "https://b"][..],
            ),
            (
                "extra-substituters = https://a",
                &[CACHE_NIXOS_ORG, "https://a"],
            ),
            (
                "binary-caches = https://a\nextra-binary-caches = https://b",
                &["https://a", "https://b"],
            ),
            (
                "extra-substituters = https://a\nsubstituters = https://b",
                &["https://b"],
            ),
            (
                "substituters = https://a/ https://a https://cache.nixos.org/",
                &["https://a/", "https://cache.nixos.org/"],
            ),
            ("substituters =", &[]),
            ("trusted-substituters = https://a\nsandbox = true", &[]),
        ] {
            assert_eq!(sources(&one(text)), expected, "{text}");
        }
        let conf = one("sandbox = true");
        assert_eq!(conf.choices, Choices::default());
        let conf = one("substituters = https://a\nextra-substituters = https://b");
        let origin = conf.choices.from.unwrap().origin.to_string();
        assert!(
            origin.ends_with("/nix.conf:2") && origin.contains("/nix.conf:1, "),
            "{origin}"
        );
    }

    #[test]
    fn what_narfs_cannot_ask_is_left_out_with_its_line_and_the_reason() {
        let text = "\nsubstituters = s3://bucket ssh://host ssh-ng://host daemon auto local /mnt \
                    unix:///socket https://u:secret@a?trusted=1 ftp://x";
        let conf = one(text);
        assert_eq!(sources(&conf), ["https://u:secret@a?trusted=1"]);
        assert_eq!(conf.left_out.len(), 10, "{:?}", conf.left_out);
        for said in &conf.left_out {
            assert!(said.contains("/nix.conf:2: "), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
        assert!(conf.left_out[0].contains("s3://bucket is left out: narfs cannot ask S3"));
        assert!(conf.left_out[1].contains("SSH"));
        assert!(conf.left_out[3].contains("a store of this machine"));
        let conf = one("ssl-cert-file = /ca.pem\nconnect-timeout = 3\ntrusted-substituters = x");
        assert!(conf.left_out[0].contains("SSL_CERT_FILE=/ca.pem"));
        assert_eq!(conf.passed_over.len(), 2);
    }

    #[test]
    fn keys_signatures_and_the_netrc_file_are_taken() {
        let conf = one(&format!(
            "extra-trusted-public-keys = {KEY} {KEY}\nrequire-sigs = false"
        ));
        assert_eq!(conf.choices.trusted_public_keys.unwrap().value, [KEY]);
        assert!(!conf.choices.require_sigs.unwrap().value);
        assert_eq!(conf.left_out, [""; 0]);
        let conf = one(&format!("trusted-public-keys = {KEY}"));
        assert!(conf.left_out[0].contains("always trusts the key of cache.nixos.org"));
        let (dir, _) = read(&[("netrc", "")]);
        let netrc = dir.path().join("netrc");
        let conf = one(&format!("netrc-file = {}", netrc.display()));
        assert_eq!(conf.choices.netrc_file.unwrap().value, Some(netrc));
        let conf = one("netrc-file = /absent/netrc");
        assert!(conf.choices.netrc_file.is_none());
        assert!(conf.left_out[0].contains("/absent/netrc is left out"));
    }

    #[test]
    fn included_files_are_found_beside_the_file() {
        let (_dir, conf) = read(&[
            (
                "nix.conf",
                "include a.conf\n!include absent.conf\nextra-substituters = https://b",
            ),
            ("a.conf", "substituters = https://a"),
        ]);
        let conf = conf.unwrap();
        assert_eq!(sources(&conf), ["https://a", "https://b"]);
        assert_eq!(conf.files.len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_with_file_and_line() {
        for (text, expected) in [
            (
                "\na = b\nbad",
                "/nix.conf:3: \"bad\" is no line of a nix.conf",
            ),
            ("include absent.conf", "/nix.conf:1: there is no file /"),
            ("include nix.conf", "includes itself"),
            ("include /", "cannot read /"),
            (
                "require-sigs = maybe",
                "/nix.conf:1: require-sigs: write true or false",
            ),
            (
                "trusted-public-keys = a",
                "/nix.conf:1: trusted-public-keys: \"a\" is no public key",
            ),
        ] {
            let error = format!("{:#}", read(&[("nix.conf", text)]).1.unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        let (dir, _) = read(&[]);
        let pipe = dir.path().join("pipe");
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, rustix::fs::Mode::RUSR, 0).unwrap();
        let said = FromNixConf::File(pipe).read(|_| None).unwrap_err();
        assert!(format!("{said:#}").contains("it is a pipe"), "{said:#}");
        let absent = FromNixConf::File("/absent/nix.conf".into());
        let said = absent.read(|_| None).unwrap_err().to_string();
        assert!(
            said.contains("there is no nix.conf at /absent/nix.conf"),
            "{said}"
        );
    }

    #[test]
    fn the_files_of_system_and_user_and_the_variable_are_read_in_the_order_of_nix() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let environment = |more: &'static [(&'static str, &'static str)]| {
            let root = dir.path().to_owned();
            move |name: &str| {
                let home = [
                    ("HOME", "home"),
                    ("NIX_CONF_DIR", "etc"),
                    ("XDG_CONFIG_DIRS", "xdg"),
                ];
                let path = home.iter().find(|(n, _)| *n == name);
                let path = path.map(|(_, value)| root.join(value).into_os_string());
                let text = more.iter().find(|(n, _)| *n == name);
                text.map(|(_, value)| value.into()).or(path)
            }
        };
        let none = FromNixConf::Usual
            .read(environment(&[]))
            .unwrap_err()
            .to_string();
        for place in [
            "etc/nix.conf",
            "home/.config/nix/nix.conf",
            "xdg/nix/nix.conf",
        ] {
            assert!(none.contains(at(place).to_str().unwrap()), "{none}");
            std::fs::create_dir_all(at(place).parent().unwrap()).unwrap();
        }
        std::fs::write(at("etc/nix.conf"), "substituters = https://system").unwrap();
        std::fs::write(at("xdg/nix/nix.conf"), "extra-substituters = https://xdg").unwrap();
        let user = at("home/.config/nix/nix.conf");
        std::fs::write(user, "extra-substituters = https://user").unwrap();
        let more = &[("NIX_CONFIG", "extra-substituters = https://variable")];
        let conf = FromNixConf::Usual.read(environment(more)).unwrap();
        let expected = [
            "https://system",
            "https://xdg",
            "https://user",
            "https://variable",
        ];
        assert_eq!(sources(&conf), expected);
        let files = &[("NIX_USER_CONF_FILES", "")];
        let conf = FromNixConf::Usual.read(environment(files)).unwrap();
        assert_eq!(sources(&conf), ["https://system"]);
    }

    #[test]
    fn what_is_imported_is_a_configuration_file_that_says_the_same() {
        let text = format!(
            "substituters = https://a s3://b\nextra-trusted-public-keys = {KEY}\n\
             require-sigs = false\nconnect-timeout = 5"
        );
        let conf = one(&text);
        let text = imported(&conf);
        assert!(text.contains("# Left out:\n# /") && text.contains("# Passed over:\n# /"));
        let (choices, mistakes) = file::parse(Path::new("/c.toml"), text.as_bytes());
        assert_eq!(mistakes, []);
        let value = |c: &Choices| {
            let keys = c.trusted_public_keys.clone().unwrap().value;
            (
                c.from.clone().unwrap().value,
                keys,
                c.require_sigs.clone().unwrap().value,
            )
        };
        assert_eq!(value(&choices), value(&conf.choices));
    }
}
