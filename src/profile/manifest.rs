//! `manifest.json`: what `nix profile` remembers of the packages of a profile.
//!
//! Reads the versions 1, 2 and 3, and writes each byte for byte as Nix does: compact, keys sorted,
//! no newline at the end. Invariant: what was read from a file that Nix wrote is written as the
//! same bytes in the same version.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::environment::{DEFAULT_PRIORITY, Package};
use super::nix_env::{self, NixEnvError};
use crate::nix::store_path::{StoreDir, StorePath, StorePathError};

/// The form of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ManifestVersion {
    /// A list, with `uri` and `originalUri`: Nix 2.4 to 2.7.
    One,
    /// A list: Nix 2.8 to 2.19. From 2.9 on an element has a priority, and one of a flake outputs.
    Two,
    /// Elements by name: Nix 2.20 and newer.
    Three,
}

impl ManifestVersion {
    const fn number(self) -> u64 {
        match self {
            Self::One => 1,
            Self::Two => 2,
            Self::Three => 3,
        }
    }
}

/// Why bytes are not a manifest.
#[derive(Debug, Error)]
pub enum ManifestError {
    /// It is not JSON, or of another structure.
    #[error("the profile manifest cannot be read")]
    Malformed(#[from] serde_json::Error),
    #[error("the profile manifest has unsupported version {0}; narfs knows 1, 2 and 3")]
    Version(u64),
    /// It is not one of `nix-env`.
    #[error("the manifest of nix-env cannot be read")]
    NixEnv(#[from] NixEnvError),
    /// An element is not a store path.
    #[error("the profile manifest names '{path}', which is not a store path")]
    StorePath {
        path: String,
        #[source]
        source: StorePathError,
    },
}

/// The packages of a profile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The version in which it was read, or will be written.
    pub version: ManifestVersion,
    /// Its elements, in the order of the file.
    pub elements: Vec<Element>,
}

/// What was installed by one argument of `nix profile install`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Element {
    /// Its name, in version 3; see [`Manifest::name_elements`].
    pub name: Option<String>,
    pub store_paths: BTreeSet<StorePath>,
    /// Whether they are linked.
    pub active: bool,
    /// Their priority; absent before Nix 2.9.
    pub priority: Option<i64>,
    /// The flake that they came from.
    pub source: Option<ElementSource>,
    /// What a newer Nix says of them.
    pub others: BTreeMap<String, serde_json::Value>,
}

/// The flake that an element came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementSource {
    /// As the user named it.
    pub original_url: String,
    /// As it was locked.
    pub url: String,
    /// The attribute that was installed.
    pub attr_path: String,
    /// Which outputs of it; absent before Nix 2.9.
    pub outputs: Option<serde_json::Value>,
}

impl Element {
    /// An active element without a flake.
    #[must_use]
    pub fn new(store_paths: impl IntoIterator<Item = StorePath>) -> Self {
        Self {
            name: None,
            store_paths: store_paths.into_iter().collect(),
            active: true,
            priority: None,
            source: None,
            others: BTreeMap::new(),
        }
    }

    /// How Nix identifies it: by its flake, else by the names of its packages without their
    /// versions.
    #[must_use]
    fn identifier(&self) -> String {
        match &self.source {
            Some(source) => {
                let (url, attr_path) = (&source.original_url, &source.attr_path);
                format!("{url}#{attr_path}{}", source.outputs_suffix())
            }
            None => {
                let names = self.store_paths.iter().map(|p| package_name(p.name()));
                let names: BTreeSet<&str> = names.collect();
                names.into_iter().collect::<Vec<_>>().join(", ")
            }
        }
    }

    /// The name that Nix would give it, if no other element had it.
    fn name_candidate(&self) -> String {
        let of_flake = self.source.as_ref().and_then(ElementSource::name);
        of_flake.unwrap_or_else(|| self.identifier())
    }
}

impl ElementSource {
    /// `^out,man` for outputs that were asked for.
    fn outputs_suffix(&self) -> String {
        let outputs = self.outputs.as_ref().and_then(serde_json::Value::as_array);
        outputs.map_or_else(String::new, |outputs| {
            let names = outputs.iter().filter_map(serde_json::Value::as_str);
            format!("^{}", names.collect::<Vec<_>>().join(","))
        })
    }

    /// The name that the URL and the attribute suggest: the subdirectory of the flake, the last
    /// part of the attribute, the repository, the last part of the path, whichever is usable
    /// first.
    fn name(&self) -> Option<String> {
        let (url, query) = self
            .original_url
            .split_once('?')
            .unwrap_or((&self.original_url, ""));
        let (scheme, path) = url.split_once(':').unwrap_or(("", url));
        if let Some(directory) = query.split('&').find_map(|pair| pair.strip_prefix("dir=")) {
            return Some(directory.to_owned());
        }
        let (above, last) = self
            .attr_path
            .rsplit_once('.')
            .unwrap_or(("", &self.attr_path));
        let all_plain = above.is_empty() || above.split('.').all(is_word);
        if all_plain && is_word(last) && last != "default" && above != "defaultPackage" {
            return Some(last.to_owned());
        }
        let path = match path.strip_prefix("//") {
            Some(after) => after.find('/').map_or("", |at| &after[at..]),
            None => path,
        };
        if matches!(scheme, "github" | "gitlab" | "sourcehut") {
            let mut parts = path.split('/');
            if let (Some(owner), Some(repository)) = (parts.next(), parts.next())
                && is_word(owner)
                && is_word(repository)
            {
                return Some(repository.to_owned());
            }
        }
        let (_, last) = path.rsplit_once('/')?;
        is_word(last).then(|| last.to_owned())
    }
}

/// The name of a package without its version: up to the first dash that no letter follows.
#[must_use]
pub fn package_name(name: &str) -> &str {
    let dashes = name.match_indices('-').map(|(at, _)| at);
    let mut ends = dashes.filter(|at| {
        let next = name.as_bytes().get(at + 1);
        next.is_some_and(|b| !b.is_ascii_alphabetic())
    });
    ends.next().map_or(name, |end| &name[..end])
}

fn is_word(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    !name.is_empty() && name.bytes().all(allowed)
}

impl Manifest {
    /// An empty manifest.
    #[must_use]
    pub const fn new(version: ManifestVersion) -> Self {
        let elements = Vec::new();
        Self { version, elements }
    }

    /// Reads a manifest.
    ///
    /// # Errors
    /// It is malformed, of an unknown version, or names something that is not a store path.
    pub fn parse(store_dir: &StoreDir, bytes: &[u8]) -> Result<Self, ManifestError> {
        let Head { version } = serde_json::from_slice(bytes)?;
        let (version, elements) = match version {
            1 => (
                ManifestVersion::One,
                in_list(serde_json::from_slice(bytes)?),
            ),
            2 => (
                ManifestVersion::Two,
                in_list(serde_json::from_slice(bytes)?),
            ),
            3 => {
                let Named { elements, .. } = serde_json::from_slice(bytes)?;
                let named = elements.into_iter().map(|(name, raw)| (Some(name), raw));
                (ManifestVersion::Three, named.collect())
            }
            other => return Err(ManifestError::Version(other)),
        };
        let element = |(name, raw): (Option<String>, Raw)| raw.element(store_dir, name);
        let elements = elements
            .into_iter()
            .map(element)
            .collect::<Result<_, _>>()?;
        Ok(Self { version, elements })
    }

    /// Reads what `nix-env` has installed in a profile, the oldest first.
    ///
    /// # Errors
    /// It is not what `nix-env` writes, or names something that is not a store path.
    pub fn of_nix_env(store_dir: &StoreDir, bytes: &[u8]) -> Result<Self, ManifestError> {
        let packages = nix_env::packages(store_dir, bytes)?.into_iter().rev();
        let element = |(path, priority)| Element {
            priority,
            ..Element::new([path])
        };
        Ok(Self {
            version: ManifestVersion::Two,
            elements: packages.map(element).collect(),
        })
    }

    /// Writes it in its version. Version 3 names every element first.
    ///
    /// # Errors
    /// None that is known: strings, numbers and lists can always be written.
    pub fn to_json(&self, store_dir: &StoreDir) -> Result<Vec<u8>, ManifestError> {
        let raw = |element: &Element| Raw::of(element, store_dir, self.version).sorted();
        let version = self.version.number();
        Ok(match self.version {
            ManifestVersion::One | ManifestVersion::Two => {
                let elements = self.elements.iter().map(raw).collect::<Result<_, _>>()?;
                serde_json::to_vec(&List { elements, version })?
            }
            ManifestVersion::Three => {
                let mut named = self.clone();
                named.name_elements();
                let elements = named.elements.iter().map(|element| {
                    let name = element.name.clone().unwrap_or_default();
                    Ok((name, raw(element)?))
                });
                let elements = elements.collect::<Result<_, serde_json::Error>>()?;
                serde_json::to_vec(&Named { elements, version })?
            }
        })
    }

    /// Gives every element a name that no other has, as Nix does where it reads a list: a name
    /// that is taken gets `-1`, `-2` and so on.
    pub fn name_elements(&mut self) {
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for element in &mut self.elements {
            let candidate = element
                .name
                .take()
                .unwrap_or_else(|| element.name_candidate());
            let mut name = candidate.clone();
            let mut next = 1;
            while !taken.insert(name.clone()) {
                name = format!("{candidate}-{next}");
                next += 1;
            }
            element.name = Some(name);
        }
    }

    /// The packages of its elements, for [`super::synthesize`].
    #[must_use]
    pub fn packages(&self) -> Vec<Package> {
        let of_element = |element: &Element| {
            let (active, priority) = (element.active, element.priority);
            let package = move |path: &StorePath| Package {
                path: path.clone(),
                active,
                priority: priority.unwrap_or(DEFAULT_PRIORITY),
            };
            element.store_paths.iter().map(package).collect::<Vec<_>>()
        };
        self.elements.iter().flat_map(of_element).collect()
    }

    /// The references of the profile: every store path of every element, active or not. Nix does
    /// not scan for them.
    #[must_use]
    pub fn references(&self) -> BTreeSet<StorePath> {
        let paths = self
            .elements
            .iter()
            .flat_map(|element| &element.store_paths);
        paths.cloned().collect()
    }
}

// The fields of the next structures are in the order in which Nix writes them: sorted.

#[derive(Deserialize)]
struct Head {
    #[serde(default)]
    version: u64,
}

#[derive(Deserialize, Serialize)]
struct List<E> {
    elements: Vec<E>,
    version: u64,
}

#[derive(Deserialize, Serialize)]
struct Named<E> {
    elements: BTreeMap<String, E>,
    version: u64,
}

#[derive(Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
struct Raw {
    active: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    attr_path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    original_url: Option<String>,
    /// Null, for all outputs that a package has by default, is written as well.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    outputs: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    priority: Option<i64>,
    store_paths: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, serde_json::Value>,
}

fn present<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

fn in_list(list: List<Raw>) -> Vec<(Option<String>, Raw)> {
    list.elements.into_iter().map(|raw| (None, raw)).collect()
}

impl Raw {
    /// Its fields, in the order of their names.
    fn sorted(&self) -> Result<BTreeMap<String, serde_json::Value>, serde_json::Error> {
        serde_json::from_value(serde_json::to_value(self)?)
    }

    fn of(element: &Element, store_dir: &StoreDir, version: ManifestVersion) -> Self {
        let paths = element.store_paths.iter().map(|p| p.to_full(store_dir));
        let mut raw = Self {
            active: Some(element.active),
            priority: match version {
                ManifestVersion::One => None,
                ManifestVersion::Two => element.priority,
                ManifestVersion::Three => Some(element.priority.unwrap_or(DEFAULT_PRIORITY)),
            },
            store_paths: paths.collect(),
            others: element.others.clone(),
            ..Self::default()
        };
        let Some(source) = &element.source else {
            return raw;
        };
        let urls = (Some(source.original_url.clone()), Some(source.url.clone()));
        raw.attr_path = Some(source.attr_path.clone());
        match version {
            ManifestVersion::One => (raw.original_uri, raw.uri) = urls,
            ManifestVersion::Two | ManifestVersion::Three => {
                (raw.original_url, raw.url) = urls;
                raw.outputs.clone_from(&source.outputs);
            }
        }
        if version == ManifestVersion::Three {
            raw.outputs.get_or_insert(serde_json::Value::Null);
        }
        raw
    }

    fn element(self, store_dir: &StoreDir, name: Option<String>) -> Result<Element, ManifestError> {
        let parse = |path: &String| match StorePath::parse_full(store_dir, path) {
            Ok(parsed) => Ok(parsed),
            Err(source) => Err(ManifestError::StorePath {
                path: path.clone(),
                source,
            }),
        };
        let url = self.url.or(self.uri).filter(|url| !url.is_empty());
        let source = url.map(|url| ElementSource {
            original_url: self
                .original_url
                .or(self.original_uri)
                .unwrap_or_else(|| url.clone()),
            url,
            attr_path: self.attr_path.unwrap_or_default(),
            outputs: self.outputs,
        });
        Ok(Element {
            name,
            store_paths: self
                .store_paths
                .iter()
                .map(parse)
                .collect::<Result<_, _>>()?,
            active: self.active.unwrap_or(true),
            priority: self.priority,
            source,
            others: self.others,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000000-apache-httpd-2.0.48";
    const B: &str = "/nix/store/11111111111111111111111111111111-hello-2.10";

    fn store_dir() -> StoreDir {
        StoreDir::parse("/nix/store").unwrap()
    }

    fn path(full: &str) -> StorePath {
        StorePath::parse_full(&store_dir(), full).unwrap()
    }

    fn parse(json: &str) -> Manifest {
        Manifest::parse(&store_dir(), json.as_bytes()).unwrap()
    }

    fn write(manifest: &Manifest) -> String {
        String::from_utf8(manifest.to_json(&store_dir()).unwrap()).unwrap()
    }

    #[test]
    fn what_nix_wrote_comes_back_as_the_same_bytes() {
        for json in [
            r#"{"elements":[],"version":2}"#.to_owned(),
            r#"{"elements":{},"version":3}"#.to_owned(),
            format!(r#"{{"elements":[{{"active":true,"storePaths":["{A}","{B}"]}}],"version":2}}"#),
            r#"{"elements":[{"active":true,"attrPath":"hello","originalUri":"flake:nixpkgs","#
                .to_owned()
                + &format!(
                    r#""storePaths":["{B}"],"uri":"github:NixOS/nixpkgs/abc"}}],"version":1}}"#
                ),
            r#"{"elements":[{"active":false,"attrPath":"hello","originalUrl":"flake:nixpkgs","#
                .to_owned()
                + r#""outputs":null,"priority":7,"#
                + &format!(
                    r#""storePaths":["{B}"],"url":"github:NixOS/nixpkgs/abc"}}],"version":2}}"#
                ),
            (format!(r#"{{"elements":{{"a":{{"active":true,"priority":5,"storePaths":["{A}"]}},"#)
                + r#""hello":{"active":true,"attrPath":"legacyPackages.x86_64-linux.hello","#
                + r#""originalUrl":"flake:nixpkgs","outputs":["out","man"],"priority":-1,"#
                + &format!(
                    r#""storePaths":["{B}"],"url":"path:/ü\u0001\"\\\u007f"}}}},"version":3}}"#
                ))
                .replace("\\u007f", "\u{7f}"),
        ] {
            assert_eq!(write(&parse(&json)), json);
        }
    }

    #[test]
    fn what_a_newer_nix_says_stays_with_its_element() {
        let [hello, tool] = [
            format!(r#""outputs":null,"priority":5,"storePaths":["{B}"]"#),
            format!(r#""note":{{"b":1,"a":[null]}},"priority":5,"storePaths":["{A}"]"#),
        ];
        let elements =
            format!(r#"{{"hello-1":{{"active":true,{hello}}},"tool":{{"active":true,{tool}}}}}"#);
        let json = format!(r#"{{"elements":{elements},"version":3}}"#);
        let mut manifest = parse(&json);
        manifest.elements.push(Element::new([path(B)]));
        let written = write(&manifest);
        for kept in [
            r#""hello-1":{"#,
            r#""note":{"b":1,"a":[null]},"priority""#,
            r#""hello":{"#,
        ] {
            assert!(written.contains(kept), "{written}");
        }
    }

    #[test]
    fn packages_have_the_priority_of_their_element_or_the_default() {
        let json = format!(
            r#"{{"elements":[{{"active":true,"storePaths":["{B}","{A}"]}},
                {{"active":false,"priority":3,"storePaths":["{B}"]}}],"version":2}}"#
        );
        let manifest = parse(&json);
        let package = |full, active, priority| Package {
            path: path(full),
            active,
            priority,
        };
        let expected = [
            package(A, true, 5),
            package(B, true, 5),
            package(B, false, 3),
        ];
        assert_eq!(manifest.packages(), expected);
        assert_eq!(manifest.references(), [path(A), path(B)].into());
    }

    #[test]
    fn a_list_becomes_named_elements_in_version_3() {
        let mut manifest = Manifest::new(ManifestVersion::Two);
        manifest.elements = [vec![B], vec![A, B], vec![B]]
            .map(|paths| Element::new(paths.into_iter().map(path)))
            .into();
        for (url, attr_path) in [
            ("flake:f", "packages.x.hello"),
            ("flake:f", "packages.x.default"),
            ("flake:f?dir=sub", "jq"),
            ("github:NixOS/patchelf/abc", "packages.x.default"),
            ("git+https://example.org/some/repo?ref=main", "default"),
            ("path:/home/ann/project", "defaultPackage.x"),
        ] {
            manifest.elements.push(Element {
                source: Some(ElementSource {
                    original_url: url.into(),
                    url: "path:/f".into(),
                    attr_path: attr_path.into(),
                    outputs: Some(serde_json::json!(["man", "out"])),
                }),
                ..Element::new([path(A)])
            });
        }
        manifest.version = ManifestVersion::Three;
        manifest.name_elements();
        let names: Vec<_> = manifest
            .elements
            .iter()
            .filter_map(|e| e.name.as_deref())
            .collect();
        let expected = [
            "hello",
            "apache-httpd, hello",
            "hello-1",
            "hello-2",
            "flake:f#packages.x.default^man,out",
            "sub",
            "patchelf",
            "repo",
            "project",
        ];
        assert_eq!(names, expected);
        let json = write(&manifest);
        let one = format!(r#""hello-1":{{"active":true,"priority":5,"storePaths":["{B}"]}}"#);
        assert!(
            json.contains(&one) && json.ends_with(r#""version":3}"#),
            "{json}"
        );
    }

    #[test]
    fn a_package_name_ends_where_a_version_begins() {
        for (name, expected) in [
            ("apache-httpd-2.0.48", "apache-httpd"),
            ("hello", "hello"),
            ("x-", "x-"),
            ("a--b-1", "a"),
            ("libc6-2.36-9", "libc6"),
        ] {
            assert_eq!(package_name(name), expected);
        }
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let error = |json: &str| {
            let error = Manifest::parse(&store_dir(), json.as_bytes()).unwrap_err();
            error.to_string()
        };
        assert!(error(r#"{"elements":[],"version":4}"#).contains("unsupported version 4"));
        assert!(error(r#"{"elements":[]}"#).contains("unsupported version 0"));
        assert!(error("[").contains("cannot be read"));
        assert!(error(r#"{"elements":{},"version":2}"#).contains("cannot be read"));
        let elsewhere = r#"{"elements":[{"active":true,"storePaths":["/tmp/x"]}],"version":2}"#;
        assert!(error(elsewhere).contains("'/tmp/x'"));
    }
}
