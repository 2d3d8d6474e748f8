//! What values options may have in TOML.

use toml::Spanned;
use toml::de::DeValue;

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

/// Reads a value without quotes: a number, or true or false.
pub(super) fn bare<T>(
    read: fn(&str) -> Result<T, String>,
) -> impl Fn(&Value<'_>) -> Result<T, Wrong> {
    move |value| {
        let found = found(value.get_ref());
        let text = whole(value).map_or_else(|| found.clone(), |number| number.to_string());
        // What has no quotes in the file has none in the error.
        read(&text).map_err(|e| wrong(value, e.replacen(&format!("{text:?}"), &found, 1)))
    }
}

/// Reads a value in quotes or without.
pub(super) fn bare_or_text<T>(
    read: fn(&str) -> Result<T, String>,
) -> impl Fn(&Value<'_>) -> Result<T, Wrong> {
    move |value| match value.get_ref().as_str() {
        Some(text) => read(text).map_err(|e| wrong(value, e)),
        None => bare(read)(value),
    }
}

/// Reads a string, of which `expected` says what to write.
pub(super) fn text<T>(
    read: fn(&str) -> Result<T, String>,
    expected: &str,
) -> impl Fn(&Value<'_>) -> Result<T, Wrong> {
    move |value| match value.get_ref().as_str() {
        Some(text) => read(text).map_err(|e| wrong(value, e)),
        None => {
            let found = found(value.get_ref());
            Err(wrong(value, format!("{found} is no text; {expected}")))
        }
    }
}

/// Reads a list of strings.
pub(super) fn list<T>(
    read: fn(&str) -> Result<T, String>,
    expected: &str,
) -> impl Fn(&Value<'_>) -> Result<Vec<T>, Wrong> {
    move |value| match value.get_ref().as_array() {
        Some(elements) => elements.iter().map(text(read, expected)).collect(),
        None => {
            let found = found(value.get_ref());
            Err(wrong(value, format!("{found} is no list; {expected}")))
        }
    }
}
