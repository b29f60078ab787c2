//! Patterns of Go's `path.Match`, which Docker's `reference` filter takes.
//!
//! Each `*` takes the first place where what follows it fits, and never another one for the sake of a
//! later `*`. That is what Go does, and it keeps the time within pattern times text.

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(Vec<Token>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    /// `*`: anything without a slash.
    Run,
    /// `?`: one character that is no slash.
    One,
    /// `[a-z]`, `[^a-z]`: one character, and a slash like any other.
    Class {
        is_negated: bool,
        ranges: Vec<(char, char)>,
    },
    Literal(char),
}

impl PathPattern {
    /// `None` for a class that does not end, or nothing behind a backslash.
    pub fn parse(text: &str) -> Option<PathPattern> {
        let mut tokens = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(first) = rest.next() {
            tokens.push(match first {
                '*' => Token::Run,
                '?' => Token::One,
                '\\' => Token::Literal(rest.next()?),
                '[' => {
                    let is_negated = rest.next_if_eq(&'^').is_some();
                    let mut ranges = Vec::new();
                    while ranges.is_empty() || rest.next_if_eq(&']').is_none() {
                        let low = member(&mut rest)?;
                        let high = match rest.next_if_eq(&'-') {
                            Some(_) => member(&mut rest)?,
                            None => low,
                        };
                        ranges.push((low, high));
                    }
                    Token::Class { is_negated, ranges }
                }
                other => Token::Literal(other),
            });
        }
        Some(PathPattern(tokens))
    }

    pub fn matches(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut token) = (0, 0);
        // Behind the last `*`, and what it is tried to end at.
        let mut run: Option<(usize, usize)> = None;
        loop {
            match (self.0.get(token), text.get(at)) {
                (Some(Token::Run), _) => {
                    token += 1;
                    run = Some((token, at));
                    continue;
                }
                (Some(expected), Some(found)) if expected.is(*found) => {
                    (at, token) = (at + 1, token + 1);
                    continue;
                }
                (None, None) => return true,
                _ => {}
            }
            match run {
                Some((behind, end)) if text.get(end).is_some_and(|next| *next != '/') => {
                    (at, token) = (end + 1, behind);
                    run = Some((behind, at));
                }
                _ => return false,
            }
        }
    }
}

/// One end of a range in a class.
fn member(rest: &mut impl Iterator<Item = char>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        other => Some(other),
    }
}

impl Token {
    fn is(&self, found: char) -> bool {
        match self {
            Token::Run => false,
            Token::One => found != '/',
            Token::Class { is_negated, ranges } => {
                let is_in = ranges
                    .iter()
                    .any(|(low, high)| (low..=high).contains(&&found));
                is_in != *is_negated
            }
            Token::Literal(expected) => *expected == found,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the table in Go's own documentation and tests what names of images can be about.
    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "ab/c", false),
            ("a*/b", "abc/b", true),
            ("a*/b", "a/c/b", false),
            ("a*b*c*d*e*/f", "axbxcxdxe/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxexxx/f", true),
            ("a*b*c*d*e*/f", "axbxcxdxe/xxx/f", false),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[^b-d]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a☺b", true),
            ("a[^a]b", "a☺b", true),
            ("a???b", "a☺b", false),
            ("a?b", "a/b", false),
            ("a[/]b", "a/b", true),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("", "", true),
            ("", "a", false),
            ("**", "a", true),
            ("*[/a]*b", "a/b", false),
        ] {
            let parsed = PathPattern::parse(pattern).unwrap();
            assert_eq!(parsed.matches(text), expected, "{pattern} {text}");
        }
        for bad in [
            "[", "[^", "[^bc", "a[", "[]a]", "[-]", "[x-]", "[-x]", "a\\", "[a-b-c]",
        ] {
            assert_eq!(PathPattern::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = PathPattern::parse(&"*a".repeat(100_000)).unwrap();
        assert!(!pattern.matches(&"a".repeat(255)));
        let pattern = PathPattern::parse(&format!("{}b", "a*".repeat(200))).unwrap();
        assert!(!pattern.matches(&"a".repeat(4000)));
    }
}
