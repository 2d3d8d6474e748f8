//! Where a setting is from.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// A line of a `nix.conf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Line {
    pub(super) path: Arc<Path>,
    /// From 1 on.
    pub(super) line: usize,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

/// Where a setting is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Origin {
    /// The command line.
    Flag,
    /// The environment variable of this name.
    Environment(&'static str),
    /// The configuration file.
    File {
        /// As it was named, absolute.
        path: Arc<Path>,
        /// From 1 on.
        line: usize,
    },
    /// Lines of `nix.conf`; a list may be of several.
    NixConf(Vec<Line>),
    /// It is built in.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => write!(f, "command line"),
            Self::Environment(name) => write!(f, "environment, {name}"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::NixConf(lines) => {
                let lines: Vec<_> = lines.iter().map(Line::to_string).collect();
                write!(f, "nix.conf, {}", lines.join(", "))
            }
            Self::Default => write!(f, "default"),
        }
    }
}

/// A value and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) struct Setting<T> {
    /// What is in force.
    pub(in crate::cli) value: T,
    /// Who said so.
    pub(in crate::cli) origin: Origin,
}

impl<T> Setting<T> {
    /// What the command line says.
    pub(in crate::cli) fn flag(value: T) -> Self {
        let origin = Origin::Flag;
        Self { value, origin }
    }
}
