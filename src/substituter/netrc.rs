//! Parser of netrc files, as read by curl and Nix: names and passwords by host.
//!
//! A pure function of bytes. Invariant: errors and debug output contain nothing of the file.

/// The entries of a file, in order.
#[derive(Default)]
pub(super) struct Netrc(Vec<Entry>);

#[derive(Default)]
struct Entry {
    /// `None` is `default`, which matches any host.
    machine: Option<Vec<u8>>,
    login: Option<Vec<u8>>,
    password: Option<Vec<u8>>,
}

pub(super) struct Login<'a> {
    pub(super) name: &'a [u8],
    pub(super) password: &'a [u8],
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct NetrcError {
    /// From 1.
    pub(super) line: usize,
    pub(super) what: &'static str,
}

impl Netrc {
    pub(super) fn parse(text: &[u8]) -> Result<Self, NetrcError> {
        let mut words = Words {
            rest: text,
            line: 1,
        };
        let mut entries: Vec<Entry> = Vec::new();
        while let Some((line, word)) = words.next(Position::Keyword)? {
            let fail = |what| NetrcError { line, what };
            match word.as_slice() {
                b"machine" => entries.push(Entry {
                    machine: Some(words.value(line)?),
                    ..Entry::default()
                }),
                b"default" => entries.push(Entry::default()),
                b"macdef" => {
                    words.value(line)?;
                    words.skip_macro();
                }
                b"login" | b"password" => {
                    let value = words.value(line)?;
                    let homeless = fail("a login or password without a machine before it");
                    let entry = entries.last_mut().ok_or(homeless)?;
                    match word.as_slice() {
                        b"login" => entry.login = Some(value),
                        _ => entry.password = Some(value),
                    }
                }
                // For other protocols and programs.
                b"account" | b"port" | b"protocol" => drop(words.value(line)?),
                _ => {
                    return Err(fail(
                        "expected machine, default, login, password, account or macdef \
                         (a value with spaces must be in double quotes)",
                    ));
                }
            }
        }
        Ok(Self(entries))
    }

    /// The first entry for a host with a name or a password; with `name`, the entry of that name. The entry
    /// for any host counts if `takes_default`.
    pub(super) fn login(
        &self,
        host: &str,
        name: Option<&[u8]>,
        takes_default: bool,
    ) -> Option<Login<'_>> {
        // IPv6 addresses are bracketed in URLs only.
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let fits = |e: &&Entry| {
            let machine = e.machine.as_deref();
            machine.map_or(takes_default, |m| m.eq_ignore_ascii_case(host.as_bytes()))
                && (e.login.is_some() || e.password.is_some())
                && name.is_none_or(|name| e.login.as_deref() == Some(name))
        };
        let entry = self.0.iter().find(fits)?;
        // Some binary caches expect a password without a name.
        Some(Login {
            name: entry.login.as_deref().unwrap_or_default(),
            password: entry.password.as_deref().unwrap_or_default(),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Position {
    /// A `#` begins a comment.
    Keyword,
    /// A `#` may begin a password.
    Value,
}

struct Words<'a> {
    rest: &'a [u8],
    line: usize,
}

impl Words<'_> {
    /// The next word with its line; `None` at the end.
    fn next(&mut self, position: Position) -> Result<Option<(usize, Vec<u8>)>, NetrcError> {
        loop {
            match self.rest.first() {
                None => return Ok(None),
                Some(b'#') if position == Position::Keyword => self.skip_line(),
                Some(b'"') => return self.quoted().map(Some),
                Some(byte) if byte.is_ascii_whitespace() => self.step(),
                Some(_) => break,
            }
        }
        let length = self.rest.iter().position(u8::is_ascii_whitespace);
        let (word, rest) = self.rest.split_at(length.unwrap_or(self.rest.len()));
        self.rest = rest;
        Ok(Some((self.line, word.to_vec())))
    }

    /// The value of the keyword on line `line`.
    fn value(&mut self, line: usize) -> Result<Vec<u8>, NetrcError> {
        let what = "the file ends where a value is expected";
        let value = self.next(Position::Value)?;
        value.map(|(_, v)| v).ok_or(NetrcError { line, what })
    }

    /// A word in double quotes, with the escapes of curl.
    fn quoted(&mut self) -> Result<(usize, Vec<u8>), NetrcError> {
        let line = self.line;
        let mut word = Vec::new();
        self.step();
        loop {
            match self.rest {
                [b'"', ..] => {
                    self.step();
                    return Ok((line, word));
                }
                [] | [b'\n', ..] => {
                    let what = "a double quote is not closed on its line";
                    return Err(NetrcError { line, what });
                }
                [b'\\', escaped, ..] if *escaped != b'\n' => {
                    word.push(match escaped {
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        other => *other,
                    });
                    self.step();
                    self.step();
                }
                [byte, ..] => {
                    word.push(*byte);
                    self.step();
                }
            }
        }
    }

    fn step(&mut self) {
        if let [byte, rest @ ..] = self.rest {
            self.line += usize::from(*byte == b'\n');
            self.rest = rest;
        }
    }

    fn skip_line(&mut self) {
        while self.rest.first().is_some_and(|byte| *byte != b'\n') {
            self.step();
        }
    }

    /// Skips the body of a macro, which ends at an empty line.
    fn skip_macro(&mut self) {
        self.skip_line();
        self.step();
        while !matches!(self.rest, [] | [b'\n', ..] | [b'\r', b'\n', ..]) {
            self.skip_line();
            self.step();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(text: &str, host: &str, name: Option<&str>) -> Option<(String, String)> {
        let netrc = Netrc::parse(text.as_bytes()).unwrap();
        let login = netrc.login(host, name.map(str::as_bytes), true)?;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        Some((text(login.name), text(login.password)))
    }

    fn pair(name: &str, password: &str) -> Option<(String, String)> {
        Some((name.to_owned(), password.to_owned()))
    }

    #[test]
    fn a_host_has_a_name_and_a_password() {
        let text = "machine a.example login alice password secret\n\
            # of the team\n\
            machine b.example # and more\n\tlogin\tbob\r\n\tpassword #1\r\n\
            machine ::1 password six\n\
            default login anonymous password me@here\n\
            machine never.example login late password late";
        assert_eq!(login(text, "a.example", None), pair("alice", "secret"));
        assert_eq!(login(text, "A.Example", None), pair("alice", "secret"));
        assert_eq!(login(text, "b.example", None), pair("bob", "#1"));
        assert_eq!(login(text, "[::1]", None), pair("", "six"));
        let anonymous = pair("anonymous", "me@here");
        assert_eq!(login(text, "sub.a.example", None), anonymous);
        assert_eq!(login(text, "never.example", None), anonymous);
        assert_eq!(login("", "a.example", None), None);
        assert_eq!(login("machine a.example", "a.example", None), None);
    }

    #[test]
    fn a_name_that_is_known_chooses_among_the_entries_of_a_host() {
        let text = "machine h login a password 1\nmachine h login b password 2\n";
        assert_eq!(login(text, "h", None), pair("a", "1"));
        assert_eq!(login(text, "h", Some("b")), pair("b", "2"));
        assert_eq!(login(text, "h", Some("c")), None);
    }

    #[test]
    fn quotes_keep_spaces_and_know_escapes() {
        let text = "machine \"h\" login \"two words\" password \"a\\\"b\\\\\\n#\"";
        assert_eq!(login(text, "h", None), pair("two words", "a\"b\\\n#"));
    }

    #[test]
    fn macros_and_what_is_for_others_are_skipped() {
        let text = "machine a login x account y password z port 21\n\
            macdef init\ncd /pub\nmachine b password no\n\n\
            machine c password yes\nmacdef last\nmachine d password no";
        assert_eq!(login(text, "a", None), pair("x", "z"));
        assert_eq!(login(text, "b", None), None);
        assert_eq!(login(text, "c", None), pair("", "yes"));
        assert_eq!(login(text, "d", None), None);
    }

    #[test]
    fn a_malformed_file_is_refused_with_the_line() {
        for (text, line, what) in [
            ("machine", 1, "value"),
            ("machine a\nlogin", 2, "value"),
            ("\n\nlogin a", 3, "without a machine"),
            ("macdef x\n\npassword a", 3, "without a machine"),
            ("machine a password my secret", 1, "double quotes"),
            ("machine a\npassword \"open\nmachine b", 2, "not closed"),
            ("machine a\npassword \"open\\", 2, "not closed"),
        ] {
            let error = Netrc::parse(text.as_bytes()).err().unwrap();
            assert_eq!(error.line, line, "{text}");
            assert!(error.what.contains(what), "{text}: {}", error.what);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(text: Vec<u8>) {
            let _ = Netrc::parse(&text);
        }

        #[test]
        fn no_words_make_it_panic(
            text in "((machine|default|login|password|macdef|#|\"|\\\\|a|\n| ) ?){0,12}",
        ) {
            let _ = Netrc::parse(text.as_bytes());
        }
    }
}
