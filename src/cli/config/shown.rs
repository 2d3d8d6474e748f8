//! Values as texts: in TOML, in JSON, and on the command line.

use std::ffi::{OsStr, OsString};

use serde_json::{Value as Json, json};

/// A value that can be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::cli) enum Shown {
    /// None is chosen, and what counts is known elsewhere.
    Unset,
    YesNo(bool),
    Number(u64),
    Text(OsString),
    Texts(Vec<String>),
}

impl Shown {
    pub(super) fn text(text: impl AsRef<OsStr>) -> Self {
        Self::Text(text.as_ref().to_owned())
    }

    /// A text, or `none`.
    pub(super) fn or_none(text: Option<impl AsRef<OsStr>>) -> Self {
        text.map_or_else(|| Self::text("none"), Self::text)
    }

    pub(super) fn json(&self) -> Json {
        match self {
            Self::Unset => Json::Null,
            Self::YesNo(yes) => json!(yes),
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(text.to_string_lossy()),
            Self::Texts(texts) => json!(texts),
        }
    }

    pub(super) fn toml(&self) -> String {
        // Strings, lists and numbers are written alike in JSON and TOML, but for one character.
        self.json().to_string().replace('\u{7f}', "\\u007f")
    }

    /// The words for it on a command line.
    pub(super) fn words(&self) -> Vec<OsString> {
        match self {
            Self::Unset => Vec::new(),
            Self::YesNo(yes) => vec![yes.to_string().into()],
            Self::Number(number) => vec![number.to_string().into()],
            Self::Text(text) => vec![text.clone()],
            Self::Texts(texts) => texts.iter().map(Into::into).collect(),
        }
    }
}
