//! The `${VAR:-default}` grammar of Compose, in one value.
//!
//! Knows nothing of the tree or of types. Lookups go through a closure, so the grammar can also be
//! walked without values to list the variables of a text.

use std::borrow::Cow;

/// A template that cannot be completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("invalid interpolation format")]
    Format,
    #[error("required variable {name} is missing a value{}", message_suffix(.message))]
    Required { name: String, message: String },
    /// Defaults within defaults deeper than any person writes.
    #[error("defaults are nested too deeply")]
    Depth,
    /// Variables within variables: each level may make the text many times as long.
    #[error("variables expand to more than {} KiB", MAX_EXPANSION >> 10)]
    Length,
}

/// Most bytes that the variables of one value may add to it.
pub const MAX_EXPANSION: usize = 1 << 20;

fn message_suffix(message: &str) -> String {
    if message.is_empty() {
        String::new()
    } else {
        format!(": {message}")
    }
}

/// What may follow the name inside the braces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Default,
    Alternate,
    Required,
}

/// A variable that a text names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub required: bool,
    pub default: Option<String>,
    pub alternate: Option<String>,
}

const MAX_DEPTH: usize = 64;
/// Longest default in which variables are listed.
const MAX_NESTED: usize = 64 << 10;

/// Replaces every variable of a text. Names that are unset and have no default become empty and
/// are handed to `unset`.
pub fn substitute<'t>(
    text: &'t str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
) -> Result<Cow<'t, str>, TemplateError> {
    if !text.contains('$') {
        return Ok(Cow::Borrowed(text));
    }
    expand(text, lookup, unset, 0).map(Cow::Owned)
}

fn expand(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
    unset: &mut dyn FnMut(&str),
    depth: usize,
) -> Result<String, TemplateError> {
    if depth > MAX_DEPTH {
        return Err(TemplateError::Depth);
    }
    let mut out = String::new();
    let mut pieces = Pieces { rest: text };
    while let Some(piece) = pieces.next()? {
        if out.len() > text.len() + MAX_EXPANSION {
            return Err(TemplateError::Length);
        }
        match piece {
            Piece::Literal(literal) => out.push_str(literal),
            Piece::Plain(name) => match lookup(name) {
                Some(value) => out.push_str(&value),
                None => unset(name),
            },
            Piece::Braced {
                name,
                operator,
                colon,
                argument,
            } => {
                let value = lookup(name);
                let present = value.as_deref().filter(|v| !colon || !v.is_empty());
                match (operator, present) {
                    (Operator::Default | Operator::Required, Some(value)) => out.push_str(value),
                    (Operator::Default, None) | (Operator::Alternate, Some(_)) => {
                        out.push_str(&expand(argument, lookup, unset, depth + 1)?);
                    }
                    (Operator::Alternate, None) => {}
                    (Operator::Required, None) => {
                        return Err(TemplateError::Required {
                            name: name.to_owned(),
                            message: expand(argument, lookup, unset, depth + 1)?,
                        });
                    }
                }
            }
        }
    }
    match out.len() > text.len() + MAX_EXPANSION {
        true => Err(TemplateError::Length),
        false => Ok(out),
    }
}

/// Lists the variables of a text, those in defaults too.
pub fn variables(text: &str, found: &mut Vec<Variable>) {
    collect(text, found, 0);
}

fn collect(text: &str, found: &mut Vec<Variable>, depth: usize) {
    if depth > MAX_DEPTH {
        return;
    }
    let mut pieces = Pieces { rest: text };
    while let Ok(Some(piece)) = pieces.next() {
        let (name, operator, argument) = match piece {
            Piece::Literal(_) => continue,
            Piece::Plain(name) => (name, None, ""),
            Piece::Braced {
                name,
                operator,
                argument,
                ..
            } => (name, Some(operator), argument),
        };
        let mut variable = Variable {
            name: name.to_owned(),
            ..Variable::default()
        };
        match operator {
            None => {}
            Some(Operator::Default) => variable.default = Some(argument.to_owned()),
            Some(Operator::Alternate) => variable.alternate = Some(argument.to_owned()),
            Some(Operator::Required) => variable.required = true,
        }
        found.push(variable);
        // Each level of a long text would keep another copy of most of it.
        if argument.len() <= MAX_NESTED {
            collect(argument, found, depth + 1);
        }
    }
}

enum Piece<'t> {
    Literal(&'t str),
    Plain(&'t str),
    Braced {
        name: &'t str,
        operator: Operator,
        /// The operator had a colon: an empty value counts as unset.
        colon: bool,
        argument: &'t str,
    },
}

struct Pieces<'t> {
    rest: &'t str,
}

impl<'t> Pieces<'t> {
    fn next(&mut self) -> Result<Option<Piece<'t>>, TemplateError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let Some(dollar) = self.rest.find('$') else {
            return Ok(Some(Piece::Literal(self.take(self.rest.len()))));
        };
        if dollar > 0 {
            return Ok(Some(Piece::Literal(self.take(dollar))));
        }
        let after = &self.rest[1..];
        if after.starts_with('$') {
            let pair = self.take(2);
            return Ok(Some(Piece::Literal(&pair[..1])));
        }
        if after.starts_with('{') {
            return self.braced().map(Some);
        }
        let name = name_length(after);
        if name == 0 {
            // `a $ b`, `^x$`, `$1`: not ours.
            return Ok(Some(Piece::Literal(self.take(1))));
        }
        Ok(Some(Piece::Plain(&self.take(1 + name)[1..])))
    }

    fn take(&mut self, n: usize) -> &'t str {
        let (head, tail) = self.rest.split_at(n);
        self.rest = tail;
        head
    }

    fn braced(&mut self) -> Result<Piece<'t>, TemplateError> {
        let end = closing_brace(self.rest).ok_or(TemplateError::Format)?;
        let body = &self.take(end + 1)[2..end];
        let name_end = name_length(body);
        let (name, tail) = body.split_at(name_end);
        if name.is_empty() {
            return Err(TemplateError::Format);
        }
        if tail.is_empty() {
            return Ok(Piece::Plain(name));
        }
        let (colon, tail) = match tail.strip_prefix(':') {
            Some(tail) => (true, tail),
            None => (false, tail),
        };
        let operator = match tail.as_bytes().first() {
            Some(b'-') => Operator::Default,
            Some(b'+') => Operator::Alternate,
            Some(b'?') => Operator::Required,
            _ => return Err(TemplateError::Format),
        };
        Ok(Piece::Braced {
            name,
            operator,
            colon,
            argument: &tail[1..],
        })
    }
}

/// Bytes of the leading `[_a-zA-Z][_a-zA-Z0-9]*`.
fn name_length(text: &str) -> usize {
    let bytes = text.as_bytes();
    if !bytes
        .first()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
    {
        return 0;
    }
    bytes
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric() || **b == b'_')
        .count()
}

/// Offset of the brace that closes the first one; inner pairs, as in a JSON default, count.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => open += 1,
            b'}' => {
                open -= 1;
                if open == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "FOO" => Some("first".into()),
            "EMPTY" => Some(String::new()),
            "B" => Some("b".into()),
            _ => None,
        }
    }

    fn run(text: &str) -> Result<String, TemplateError> {
        substitute(text, &lookup, &mut |_| {}).map(Cow::into_owned)
    }

    #[test]
    fn expands_by_the_rows_i1_to_i5() {
        for (id, text, expected) in [
            ("I1", "$FOO-bar", "first-bar"),
            ("I1", "${FOO}", "first"),
            ("I1", "$$FOO", "$FOO"),
            ("I1", "a $ b", "a $ b"),
            ("I1", "$}", "$}"),
            ("I1", "^X$", "^X$"),
            ("I1", "$1", "$1"),
            ("I2", "${EMPTY:-d}", "d"),
            ("I2", "${EMPTY-d}", ""),
            ("I2", "${U-d}", "d"),
            ("I2", "${FOO:+r}", "r"),
            ("I2", "${EMPTY:+r}", ""),
            ("I2", "${EMPTY+r}", "r"),
            ("I2", "${U-myerror?msg}", "myerror?msg"),
            ("I2", "${U:-/non:-x}", "/non:-x"),
            ("I3", "${U:-${V:-c}}", "c"),
            ("I3", "${FOO+$B ${C:+d}}", "b "),
            ("I3", "${X:-{\"json\":1}}", "{\"json\":1}"),
            ("I3", "${SUB:-redis}.${FOO:?}", "redis.first"),
            ("I4", "${FOO?${NO}}", "first"),
            ("I5", "x${U}y", "xy"),
        ] {
            assert_eq!(run(text).as_deref(), Ok(expected), "{id} {text}");
        }
    }

    #[test]
    fn refuses_by_the_row_i6() {
        for text in [
            "${",
            "${}",
            "${ a}",
            "${a }",
            "${foo!}",
            "${X/a/b}",
            "${A:-${B}",
        ] {
            assert_eq!(run(text), Err(TemplateError::Format), "{text}");
        }
        assert_eq!(
            run("${A:?need ${B}}").map_err(|e| e.to_string()),
            Err("required variable A is missing a value: need b".into())
        );
        assert_eq!(
            run("${A?}").map_err(|e| e.to_string()),
            Err("required variable A is missing a value".into())
        );
    }

    #[test]
    fn unset_names_are_reported() {
        let mut names = Vec::new();
        let _ = substitute("$A ${B} ${C:-x} $D", &lookup, &mut |n| {
            names.push(n.to_owned())
        });
        assert_eq!(names, ["A", "D"]);
    }

    #[test]
    fn nesting_has_an_end() {
        let text = "${A:-".repeat(500) + &"}".repeat(500);
        assert_eq!(run(&text), Err(TemplateError::Depth));
    }
}
