//! What values options may have in TOML.

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use super::value::{self, is_memory};
use crate::cli::size::Size;
use crate::fetch::PrefetchPolicy;
use crate::http::Address;
use crate::nix::store_path::StoreDir;

/// A value that an option cannot have, and where it stands.
pub(super) struct Wrong {
    pub(super) at: usize,
    pub(super) text: String,
}

pub(in crate::cli) type Value<'t> = Spanned<DeValue<'t>>;

/// A value as an error names it.
pub(in crate::cli) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(yes) => yes.to_string(),
        DeValue::Datetime(date) => date.to_string(),
        DeValue::Array(_) => "a list".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

/// A whole number, decimal, hexadecimal, octal or binary.
pub(in crate::cli) fn whole(value: &Value<'_>) -> Option<i64> {
    let number = value.get_ref().as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn wrong(value: &Value<'_>, text: String) -> Wrong {
    let at = value.span().start;
    Wrong { at, text }
}

/// A string that `read` understands.
fn text<T>(
    value: &Value<'_>,
    read: impl Fn(&str) -> Result<T, String>,
    expected: &str,
) -> Result<T, Wrong> {
    match value.get_ref().as_str() {
        Some(text) => read(text).map_err(|e| wrong(value, e)),
        None => {
            let found = found(value.get_ref());
            Err(wrong(value, format!("{found} is no text; {expected}")))
        }
    }
}

pub(super) fn path(value: &Value<'_>) -> Result<PathBuf, Wrong> {
    text(value, value::path, "write /DIRECTORY/… in quotes")
}

pub(super) fn store_dir(value: &Value<'_>) -> Result<Option<StoreDir>, Wrong> {
    text(value, value::store_dir, "write one such as \"/nix/store\"")
}

pub(super) fn path_or_none(value: &Value<'_>) -> Result<Option<PathBuf>, Wrong> {
    let expected = "write /DIRECTORY/FILE or none, in quotes";
    text(value, value::path_or_none, expected)
}

pub(super) fn memory(value: &Value<'_>) -> Result<u32, Wrong> {
    let number = whole(value).and_then(|n| u32::try_from(n).ok());
    let number = number.filter(|n| is_memory(*n));
    number.ok_or_else(|| wrong(value, value::no_memory(&found(value.get_ref()))))
}

pub(super) fn jobs(value: &Value<'_>) -> Result<usize, Wrong> {
    let number = whole(value).and_then(|n| usize::try_from(n).ok());
    number.ok_or_else(|| wrong(value, value::no_jobs(&found(value.get_ref()))))
}

pub(super) fn listen(value: &Value<'_>) -> Result<Option<Address>, Wrong> {
    let expected = "write ADDRESS:PORT or none, in quotes";
    text(value, value::listen, expected)
}

pub(super) fn yes_or_no(value: &Value<'_>) -> Result<bool, Wrong> {
    value.get_ref().as_bool().ok_or_else(|| {
        let found = found(value.get_ref());
        wrong(value, format!("{found} is neither true nor false"))
    })
}

pub(super) fn sources(value: &Value<'_>) -> Result<Vec<String>, Wrong> {
    let expected = "write [\"https://cache.nixos.org\"], or [] to ask nobody";
    list(value, value::source, expected)
}

pub(super) fn keys(value: &Value<'_>) -> Result<Vec<String>, Wrong> {
    list(value, value::public_key, "write [\"NAME:BASE64\"]")
}

/// A list of strings that `read` understands.
fn list<T>(
    value: &Value<'_>,
    read: impl Fn(&str) -> Result<T, String>,
    expected: &str,
) -> Result<Vec<T>, Wrong> {
    let Some(elements) = value.get_ref().as_array() else {
        let found = found(value.get_ref());
        return Err(wrong(value, format!("{found} is no list; {expected}")));
    };
    elements.iter().map(|e| text(e, &read, expected)).collect()
}

pub(super) fn seconds(value: &Value<'_>) -> Result<Duration, Wrong> {
    let number = whole(value).and_then(|n| u32::try_from(n).ok());
    match number {
        Some(seconds) if seconds > 0 => Ok(Duration::from_secs(seconds.into())),
        _ => Err(wrong(value, value::no_seconds(&found(value.get_ref())))),
    }
}

pub(super) fn prefetch(value: &Value<'_>) -> Result<PrefetchPolicy, Wrong> {
    let named = value.get_ref().as_str().map(value::prefetch);
    let named = named.unwrap_or_else(|| Err(value::no_prefetch(&found(value.get_ref()))));
    named.map_err(|e| wrong(value, e))
}

pub(super) fn budget(value: &Value<'_>) -> Result<Option<Size>, Wrong> {
    let size = match (value.get_ref().as_str(), whole(value)) {
        (Some(text), _) => value::budget(text),
        (None, Some(number)) => {
            value::budget(&number.to_string()).map_err(|_| value::no_budget(&number.to_string()))
        }
        (None, None) => Err(value::no_budget(&found(value.get_ref()))),
    };
    size.map_err(|e| wrong(value, e))
}
