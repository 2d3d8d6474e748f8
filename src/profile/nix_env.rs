//! `manifest.nix`: what `nix-env` remembers of the packages of a profile.
//!
//! It is a Nix expression of one form: a list of sets, whose values are strings, numbers, words, lists and
//! sets again. Invariant: what is of another form is an error, never taken for something else.

use thiserror::Error;

use crate::nix::store_path::{StoreDir, StorePath, StorePathError};

/// How deep values may lie in each other: metadata of packages is some four deep.
const DEPTH: u32 = 64;

/// Why bytes are not such a manifest.
#[derive(Debug, Error)]
pub enum NixEnvError {
    #[error("it is not what nix-env writes, at byte {0}")]
    Form(usize),
    #[error("an element has no outPath")]
    NoPath,
    #[error("it names '{path}', which is not a store path")]
    StorePath {
        path: String,
        #[source]
        source: StorePathError,
    },
}

/// A value, as far as it matters.
enum Value {
    Text(String),
    Number(i64),
    List(Vec<Value>),
    Set(Vec<(String, Value)>),
    Other,
}

impl Value {
    fn field(&self, name: &str) -> Option<&Self> {
        let Self::Set(fields) = self else {
            return None;
        };
        let field = fields.iter().find(|(field, _)| field == name);
        field.map(|(_, value)| value)
    }

    /// A number; `nix-env` writes those that a user sets as text.
    fn number(&self) -> Option<i64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text.parse().ok(),
            _ => None,
        }
    }
}

/// The packages in a `manifest.nix`, the newest first, as `nix profile` takes them over; and the priorities
/// that they have there.
pub(super) fn packages(
    store_dir: &StoreDir,
    bytes: &[u8],
) -> Result<Vec<(StorePath, Option<i64>)>, NixEnvError> {
    let mut text = Text { bytes, at: 0 };
    let list = match text.value(DEPTH)? {
        Value::List(list) if text.next().is_none() => list,
        _ => return Err(NixEnvError::Form(text.at)),
    };
    let package = |value: &Value| {
        let Some(Value::Text(path)) = value.field("outPath") else {
            return Err(NixEnvError::NoPath);
        };
        let parsed = StorePath::parse_full(store_dir, path);
        let parsed = parsed.map_err(|source| NixEnvError::StorePath {
            path: path.clone(),
            source,
        })?;
        let priority = value.field("meta").and_then(|meta| meta.field("priority"));
        Ok((parsed, priority.and_then(Value::number)))
    };
    list.iter().map(package).collect()
}

struct Text<'t> {
    bytes: &'t [u8],
    at: usize,
}

impl Text<'_> {
    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.bytes.get(self.at).copied()
    }

    /// Whether these bytes come next; passes over them.
    fn takes(&mut self, expected: u8) -> bool {
        let is_next = self.next() == Some(expected);
        self.at += usize::from(is_next);
        is_next
    }

    fn form<T>(&self) -> Result<T, NixEnvError> {
        Err(NixEnvError::Form(self.at))
    }

    fn value(&mut self, depth: u32) -> Result<Value, NixEnvError> {
        if depth == 0 {
            return self.form();
        }
        match self.next() {
            Some(b'[') => {
                self.at += 1;
                let mut list = Vec::new();
                while !self.takes(b']') {
                    list.push(self.value(depth - 1)?);
                }
                Ok(Value::List(list))
            }
            Some(b'{') => {
                self.at += 1;
                let mut fields = Vec::new();
                while !self.takes(b'}') {
                    let name = match self.next() {
                        Some(b'"') => self.string()?,
                        _ => self.word()?,
                    };
                    if !self.takes(b'=') {
                        return self.form();
                    }
                    fields.push((name, self.value(depth - 1)?));
                    if !self.takes(b';') {
                        return self.form();
                    }
                }
                Ok(Value::Set(fields))
            }
            Some(b'"') => Ok(Value::Text(self.string()?)),
            // Negative numbers are in parentheses in lists.
            Some(b'(') => {
                self.at += 1;
                let value = self.value(depth - 1)?;
                match self.takes(b')') {
                    true => Ok(value),
                    false => self.form(),
                }
            }
            _ => {
                let word = self.word()?;
                Ok(word.parse().map_or(Value::Other, Value::Number))
            }
        }
    }

    /// A name, a number, `true`, `false` or `null`.
    fn word(&mut self) -> Result<String, NixEnvError> {
        self.next();
        let rest = &self.bytes[self.at..];
        let is_of_word = |b: &u8| b.is_ascii_alphanumeric() || b"_-'.+".contains(b);
        let length = rest.iter().take_while(|b| is_of_word(b)).count();
        if length == 0 {
            return self.form();
        }
        self.at += length;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    /// A string in quotes.
    fn string(&mut self) -> Result<String, NixEnvError> {
        let mut string = Vec::new();
        let mut bytes = self.bytes[self.at..].iter().enumerate().skip(1);
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.at += at + 1;
                    return Ok(String::from_utf8_lossy(&string).into_owned());
                }
                b'\\' => match bytes.next() {
                    Some((_, b'n')) => string.push(b'\n'),
                    Some((_, b'r')) => string.push(b'\r'),
                    Some((_, b't')) => string.push(b'\t'),
                    Some((_, other)) => string.push(*other),
                    None => break,
                },
                other => string.push(*other),
            }
        }
        self.at = self.bytes.len();
        self.form()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "/nix/store/00000000000000000000000000000000-hello-2.10";
    const B: &str = "/nix/store/11111111111111111111111111111111-jq-1.7";

    fn parsed(text: &str) -> Result<Vec<(String, Option<i64>)>, String> {
        let store_dir = StoreDir::default();
        let packages = packages(&store_dir, text.as_bytes()).map_err(|e| e.to_string())?;
        let each = packages.into_iter();
        let each = each.map(|(path, priority)| (path.to_full(&store_dir), priority));
        Ok(each.collect())
    }

    #[test]
    fn packages_are_found_whatever_stands_beside_them() {
        assert_eq!(parsed("[ ]"), Ok(Vec::new()));
        let text = format!(
            "[ {{ meta = {{ available = true; description = \"says \\\"hi\\\"; outPath = \\${{x}}\"; \
             licenses = [ {{ free = true; url = null; }} {{ }} ]; n = [ (-1) 2.5 ]; priority = \"7\"; }}; \
             name = \"hello-2.10\"; out = {{ outPath = \"{B}\"; }}; outPath = \"{A}\"; \
             outputs = [ \"out\" ]; \"quoted name\" = 1; type = \"derivation\"; }} \
             {{ outPath = \"{B}\"; meta = {{ priority = -3; }}; }} ]\n"
        );
        let expected = [(A.to_owned(), Some(7)), (B.to_owned(), Some(-3))];
        assert_eq!(parsed(&text), Ok(expected.to_vec()));
        for cut in 1..text.len() - 2 {
            assert!(parsed(&text[..cut]).is_err(), "{}", &text[..cut]);
        }
    }

    #[test]
    fn what_is_of_another_form_is_an_error() {
        let deep = "[ ".repeat(100_000);
        for text in [
            "",
            "{ }",
            "[ 1 ]",
            "[ ] x",
            "x: [ ]",
            "[ { outPath = 1; } ]",
            &deep,
        ] {
            assert!(parsed(text).is_err(), "{text:.20}");
        }
        let error = parsed("[ { outPath = \"/tmp/x\"; } ]").unwrap_err();
        assert!(error.contains("/tmp/x"), "{error}");
    }
}
