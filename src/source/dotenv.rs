//! The grammar of `.env` and `env_file` files, as compose-go's `dotenv` package reads it.
//!
//! It is neither a shell's nor Docker's: values may be quoted, span lines and use `${…}`.

use indexmap::IndexMap;

use super::interpolate::{self, MAX_EXPANSION, TemplateError};

/// A variable of an env file, and the bytes of the text that its name takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assignment {
    pub value: String,
    pub start: u32,
    pub end: u32,
}

/// The variables of one env file, in its order; the last assignment of a name wins.
pub type Assignments = IndexMap<String, Assignment>;

/// An env file that cannot be read as one. Lines count from 1.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvError {
    #[error("line {line}: key cannot contain a space")]
    SpaceInKey { line: usize },
    #[error("line {line}: unexpected character {character:?} in variable name {key:?}")]
    KeyCharacter {
        line: usize,
        character: String,
        key: String,
    },
    /// The value is not shown: this is where passwords stand.
    #[error("line {line}: unterminated quoted value of {key:?}")]
    Unterminated { line: usize, key: String },
    #[error("line {line}: no variable name on line {text:?}")]
    NoName { line: usize, text: String },
    #[error("line {line}: {cause}")]
    Template { line: usize, cause: TemplateError },
}

impl EnvError {
    pub fn line(&self) -> usize {
        match self {
            EnvError::SpaceInKey { line }
            | EnvError::KeyCharacter { line, .. }
            | EnvError::Unterminated { line, .. }
            | EnvError::NoName { line, .. }
            | EnvError::Template { line, .. } => *line,
        }
    }
}

/// The variables around a file.
pub struct Scope<'s> {
    /// Asked before the keys that stand earlier in the file, and for keys without a value.
    pub above: &'s dyn Fn(&str) -> Option<String>,
    /// Asked after them.
    pub below: &'s dyn Fn(&str) -> Option<String>,
}

impl<'s> Scope<'s> {
    pub fn above(above: &'s dyn Fn(&str) -> Option<String>) -> Self {
        Scope {
            above,
            below: &|_| None,
        }
    }
}

/// Reads a file. Unset names without default are handed to `unset`.
pub fn parse(
    text: &str,
    scope: &Scope<'_>,
    unset: &mut dyn FnMut(&str),
) -> Result<Assignments, EnvError> {
    let mut scanner = Scanner { text, rest: text };
    let mut found = Assignments::new();
    let mut n_expanded = 0;
    while scanner.skip_to_statement() {
        scanner.skip_export();
        let rest = scanner.rest;
        let (key, inherited) = scanner.key()?;
        // A key at the end of the file may have blanks of any kind in front.
        let start = text.len() - rest.len() + rest.find(&key).unwrap_or(0);
        let assign = |value: String| Assignment {
            value,
            start: start as u32,
            end: (start + key.len()) as u32,
        };
        if inherited {
            if let Some(value) = (scope.above)(&key) {
                let assignment = assign(value);
                found.insert(key, assignment);
            }
            continue;
        }
        let before = scanner.rest;
        let value = scanner.value(&key)?;
        let value = match value {
            Quoted::Literal(text) => text,
            Quoted::Template(text) => {
                let both = |name: &str| {
                    (scope.above)(name)
                        .or_else(|| found.get(name).map(|a| a.value.clone()))
                        .or_else(|| (scope.below)(name))
                };
                let refused = |cause| EnvError::Template {
                    line: scanner.line_of(before),
                    cause,
                };
                let value = interpolate::substitute(&text, &both, unset).map_err(refused)?;
                n_expanded += value.len();
                if n_expanded > scanner.text.len() + MAX_EXPANSION {
                    return Err(refused(TemplateError::Length));
                }
                value.into_owned()
            }
        };
        let assignment = assign(value);
        found.insert(key, assignment);
    }
    Ok(found)
}

/// Reads a file of `format: raw`: `KEY=value` lines, no quotes, no expansion. A bare key inherits.
pub fn parse_raw(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Assignments, EnvError> {
    let mut found = Assignments::new();
    let mut next = 0;
    for (at, whole) in text.split_inclusive('\n').enumerate() {
        let line = whole.trim_end_matches(['\n', '\r']).trim_start();
        let start = next + (whole.len() - whole.trim_start().len());
        next += whole.len();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = match line.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (line.trim_end(), None),
        };
        if key.is_empty() {
            return Err(EnvError::NoName {
                line: at + 1,
                text: line.to_owned(),
            });
        }
        if key.contains(char::is_whitespace) {
            return Err(EnvError::SpaceInKey { line: at + 1 });
        }
        if let Some(value) = value.map(str::to_owned).or_else(|| lookup(key)) {
            let assignment = Assignment {
                value,
                start: start as u32,
                end: (start + key.len()) as u32,
            };
            found.insert(key.to_owned(), assignment);
        }
    }
    Ok(found)
}

enum Quoted {
    Literal(String),
    Template(String),
}

struct Scanner<'t> {
    text: &'t str,
    rest: &'t str,
}

impl<'t> Scanner<'t> {
    fn line(&self) -> usize {
        self.line_of(self.rest)
    }

    /// Line at which a tail of the text begins. Counted only for errors: counting at every key
    /// would make long files quadratic.
    fn line_of(&self, rest: &str) -> usize {
        let read = self.text.len() - rest.len();
        self.text.as_bytes()[..read]
            .iter()
            .filter(|b| **b == b'\n')
            .count()
            + 1
    }

    /// Skips blanks and comment lines; false at the end.
    fn skip_to_statement(&mut self) -> bool {
        loop {
            self.rest = self.rest.trim_start();
            if self.rest.is_empty() {
                return false;
            }
            if !self.rest.starts_with('#') {
                return true;
            }
            match self.rest.find('\n') {
                Some(at) => self.rest = &self.rest[at + 1..],
                None => return false,
            }
        }
    }

    fn skip_export(&mut self) {
        if let Some(tail) = self.rest.strip_prefix("export")
            && tail.starts_with([' ', '\t'])
        {
            self.rest = tail.trim_start_matches([' ', '\t']);
        }
    }

    /// A key and whether it stands alone, without `=` or `:`.
    fn key(&mut self) -> Result<(String, bool), EnvError> {
        for (at, c) in self.rest.char_indices() {
            match c {
                '=' | ':' => {
                    let key = self.rest[..at].trim_end().to_owned();
                    if key.contains(char::is_whitespace) {
                        return Err(EnvError::SpaceInKey { line: self.line() });
                    }
                    let blank = |c: char| c.is_whitespace() && !matches!(c, '\n' | '\r');
                    self.rest = self.rest[at + 1..].trim_start_matches(blank);
                    return Ok((key, false));
                }
                '\n' => {
                    let key = self.rest[..at].trim_end().to_owned();
                    if key.contains(char::is_whitespace) {
                        return Err(EnvError::SpaceInKey { line: self.line() });
                    }
                    self.rest = &self.rest[at + 1..];
                    return Ok((key, true));
                }
                '_' | '.' | '-' | '[' | ']' => {}
                c if c.is_alphanumeric() || c.is_whitespace() => {}
                c => {
                    return Err(EnvError::KeyCharacter {
                        line: self.line(),
                        character: c.to_string(),
                        // Without what follows a `=`: it may be a password.
                        key: self
                            .rest
                            .split(['\n', '='])
                            .next()
                            .unwrap_or_default()
                            .trim()
                            .to_owned(),
                    });
                }
            }
        }
        let key = self.rest.trim().to_owned();
        self.rest = "";
        if key.contains(char::is_whitespace) {
            return Err(EnvError::SpaceInKey {
                line: self.text.lines().count(),
            });
        }
        Ok((key, true))
    }

    fn value(&mut self, key: &str) -> Result<Quoted, EnvError> {
        match self.rest.chars().next() {
            Some(quote @ ('\'' | '"')) => self.quoted(quote, key),
            _ => Ok(self.unquoted()),
        }
    }

    fn unquoted(&mut self) -> Quoted {
        let (line, tail) = match self.rest.find('\n') {
            Some(at) => (&self.rest[..at], &self.rest[at + 1..]),
            None => (self.rest, ""),
        };
        self.rest = tail;
        // A comment needs a blank before it; the blank after `=` is already gone, so that
        // `FOO= #x` has the value `#x`, as in compose-go.
        let value = line.find(" #").map_or(line, |at| &line[..at]);
        Quoted::Template(value.trim_end().to_owned())
    }

    fn quoted(&mut self, quote: char, key: &str) -> Result<Quoted, EnvError> {
        let body = &self.rest[1..];
        let mut escaped = false;
        for (at, c) in body.char_indices() {
            if c == quote && !escaped {
                let text = &body[..at];
                self.rest = &body[at + 1..];
                self.skip_line_end();
                return Ok(if quote == '\'' {
                    Quoted::Literal(text.replace("\\'", "'"))
                } else {
                    Quoted::Template(unescape(text))
                });
            }
            escaped = c == '\\' && !escaped;
        }
        Err(EnvError::Unterminated {
            line: self.line(),
            key: key.to_owned(),
        })
    }

    /// After a closing quote only a comment may follow on the line.
    fn skip_line_end(&mut self) {
        let tail = self.rest.trim_start_matches([' ', '\t']);
        if tail.starts_with('#') {
            self.rest = tail.find('\n').map_or("", |at| &tail[at + 1..]);
        }
    }
}

/// Escapes of a double-quoted value. `\$` becomes `$$`, which interpolation turns into `$`.
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        let Some(c) = tail.chars().next() else {
            out.push('\\');
            return out;
        };
        rest = &tail[c.len_utf8()..];
        match c {
            'a' => out.push('\x07'),
            'b' => out.push('\x08'),
            'c' => out.push_str("\\c"),
            'f' => out.push('\x0c'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\x0b'),
            '"' => out.push('"'),
            '\\' => out.push('\\'),
            '$' => out.push_str("$$"),
            '0' => {
                let digits: String = rest.chars().take(3).take_while(|c| c.is_digit(8)).collect();
                match u8::from_str_radix(&digits, 8) {
                    Ok(byte) => {
                        out.push(char::from(byte));
                        rest = &rest[digits.len()..];
                    }
                    Err(_) => out.push_str("\\0"),
                }
            }
            c => {
                out.push('\\');
                out.push(c);
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<(String, String)>, EnvError> {
        let os = |name: &str| (name == "HOST").then(|| "host".to_owned());
        parse(text, &Scope::above(&os), &mut |_| {}).map(|map| {
            map.into_iter()
                .map(|(name, assignment)| (name, assignment.value))
                .collect()
        })
    }

    #[test]
    fn reads_the_rows_d1_to_d7() {
        for (id, text, expected) in [
            (
                "D1",
                "A=1\nB = 2\n C=3\nexport D=4\nE: 5",
                "A=1;B=2;C=3;D=4;E=5",
            ),
            (
                "D2",
                "A=123#x\nB=1 # c\nC= #x\nD=a\\tb\r\n",
                "A=123#x;B=1;C=#x;D=a\\tb",
            ),
            (
                "D3",
                "A='l $X\nm'\nB=\"a\\nb\\x\"\nC=\"\\$H $$H\"",
                "A=l $X\nm;B=a\nb\\x;C=$H $H",
            ),
            ("D3", "A='it\\'s'\nB=\"\\0101\"", "A=it's;B=A"),
            ("D5", "HOST\nNOPE\nA=1\n", "HOST=host;A=1"),
            ("D6", "# c\nA=\"x\" # c\n=v\n", "A=x;=v"),
            ("D7", "A=x\nB=${A:-y}${C:-z}${HOST}", "A=x;B=xzhost"),
        ] {
            let got: Vec<String> = read(text)
                .unwrap_or_else(|e| panic!("{id}: {e}"))
                .into_iter()
                .map(|(k, v)| format!("{k}={v}"))
                .collect();
            assert_eq!(got.join(";"), expected, "{id}");
        }
    }

    #[test]
    fn refuses_what_is_no_env_file() {
        for (id, text, message) in [
            ("D1", "A=1\nfoo bar=x", "line 2: key cannot contain a space"),
            (
                "D1",
                "lol$wut",
                "line 1: unexpected character \"$\" in variable name \"lol$wut\"",
            ),
            (
                "D4",
                "A=\"x\nB=1",
                "line 1: unterminated quoted value of \"A\"",
            ),
            (
                "D1",
                "p@ss=word",
                "line 1: unexpected character \"@\" in variable name \"p@ss\"",
            ),
            (
                "D7",
                "A=${X:?err}",
                "line 1: required variable X is missing a value: err",
            ),
        ] {
            assert_eq!(
                read(text).map_err(|e| e.to_string()),
                Err(message.to_owned()),
                "{id}"
            );
        }
    }
}
