//! What libyaml reads and YAML 1.2 refuses, so that files which work with Docker Compose are read.
//!
//! libyaml asks nothing of the indentation inside brackets and quotes, and takes a tab wherever a
//! blank divides two tokens. A text is rewritten here, character for character, so that a strict
//! parser reads the same and no place moves: what lies between brackets or quotes comes to stand
//! on one line, and tabs behind a colon become spaces. Tabs that indent stay, and stay a mistake.
//!
//! It is no parser: it knows just enough of the tokens to tell texts from what is between them,
//! and is only asked about files that the parser has refused.

use std::borrow::Cow;
use std::iter::Peekable;
use std::str::Chars;

/// The text with what a strict parser minds put right; borrowed where there is no such thing.
/// Linear in the text, which keeps its number of characters.
pub fn relax(text: &str) -> Cow<'_, str> {
    let mut lines = Lines {
        rest: text.chars().peekable(),
        out: String::with_capacity(text.len()),
        column: 0,
        parent: -1,
        continues: None,
        is_changed: false,
    };
    while lines.rest.peek().is_some() {
        lines.line();
    }
    match lines.is_changed {
        true => Cow::Owned(lines.out),
        false => Cow::Borrowed(text),
    }
}

struct Lines<'t> {
    rest: Peekable<Chars<'t>>,
    out: String,
    /// Of the next character.
    column: isize,
    /// Column of the key or dash whose value comes next; -1 at the top of a document.
    parent: isize,
    /// A plain scalar reached the end of its line; lines below that are indented further than this
    /// go on with it.
    continues: Option<isize>,
    is_changed: bool,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

fn is_space(c: Option<char>) -> bool {
    c.is_none_or(|c| is_blank(c) || matches!(c, '\n' | '\r'))
}

impl Lines<'_> {
    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }

    /// The character after the next one.
    fn second(&self) -> Option<char> {
        let mut ahead = self.rest.clone();
        ahead.next();
        ahead.next()
    }

    fn starts_with(&self, text: &str) -> bool {
        let mut ahead = self.rest.clone();
        text.chars().all(|c| ahead.next() == Some(c))
    }

    fn copy(&mut self) {
        if let Some(c) = self.rest.next() {
            self.out.push(c);
            self.column = if c == '\n' { 0 } else { self.column + 1 };
        }
    }

    /// Puts a space for the next character.
    fn blank(&mut self) {
        if self.rest.next().is_some() {
            self.out.push(' ');
            self.column += 1;
            self.is_changed = true;
        }
    }

    fn copy_while(&mut self, holds: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&holds) {
            self.copy();
        }
    }

    /// Up to and with the line break.
    fn copy_line(&mut self) {
        self.copy_while(|c| c != '\n');
        self.copy();
    }

    /// A line of block context, from its beginning; texts and brackets that it opens are read to
    /// their end.
    fn line(&mut self) {
        self.copy_while(|c| c == ' ');
        let is_marker = self.starts_with("---") || self.starts_with("...");
        match self.peek() {
            None => return,
            Some('%') if self.column == 0 => return self.copy_line(),
            _ if self.column == 0 && is_marker => {
                (self.parent, self.continues) = (-1, None);
                (0..3).for_each(|_| self.copy());
            }
            Some('\n' | '\r' | '#') => return self.copy_line(),
            _ if self.continues.is_some_and(|above| self.column > above) => {
                return self.copy_line();
            }
            _ => {}
        }
        self.continues = None;
        // Where the scalar begins that a colon would make a key.
        let mut scalar = self.column;
        let mut after_blank = true;
        while let Some(c) = self.peek() {
            let at = self.column;
            let is_alone = is_space(self.second());
            match c {
                '\n' => return self.copy(),
                c if is_blank(c) || c == '\r' => {
                    self.copy();
                    after_blank = true;
                    continue;
                }
                '#' if after_blank => return self.copy_line(),
                '-' | '?' if is_alone => {
                    self.copy();
                    self.parent = at;
                }
                ':' if is_alone => {
                    self.copy();
                    self.parent = scalar;
                    if self.peek() == Some('\t') {
                        self.blank();
                        after_blank = true;
                        continue;
                    }
                }
                '&' | '*' | '!' => self.copy_while(|c| !is_space(Some(c))),
                '"' | '\'' => {
                    scalar = at;
                    self.quoted(c);
                }
                '[' | '{' => {
                    scalar = at;
                    self.brackets();
                }
                '|' | '>' => return self.block_scalar(),
                _ => {
                    scalar = at;
                    if self.plain() {
                        self.continues = Some(self.parent);
                    }
                }
            }
            after_blank = false;
        }
    }

    /// A plain scalar of block context; whether it reaches the end of its line.
    fn plain(&mut self) -> bool {
        let mut after_blank = false;
        while let Some(c) = self.peek() {
            match c {
                '\n' => return true,
                '#' if after_blank => return false,
                ':' if is_space(self.second()) => return false,
                _ => self.copy(),
            }
            after_blank = is_blank(c);
        }
        true
    }

    /// A quoted scalar comes to stand on one line; what it is is read from the text as it was.
    fn quoted(&mut self, quote: char) {
        self.copy();
        while let Some(c) = self.peek() {
            match c {
                '\\' if quote == '"' => {
                    self.copy();
                    match self.peek() {
                        Some('\n' | '\r') => self.blank(),
                        _ => self.copy(),
                    }
                }
                '\n' | '\r' => self.blank(),
                _ => {
                    self.copy();
                    if c == quote {
                        // Doubled, it is a character of the text.
                        if quote != '\'' || self.peek() != Some('\'') {
                            return;
                        }
                        self.copy();
                    }
                }
            }
        }
    }

    /// Everything up to the bracket that closes the next one comes to stand on one line.
    fn brackets(&mut self) {
        let mut depth = 0_usize;
        let mut in_plain = false;
        // A colon right behind a quote or a bracket needs no blank.
        let mut after_json = false;
        let mut after_blank = true;
        while let Some(c) = self.peek() {
            let was_json = std::mem::take(&mut after_json);
            let was_blank = std::mem::take(&mut after_blank);
            match c {
                '\n' | '\r' | '\t' | ' ' => {
                    match c {
                        ' ' => self.copy(),
                        _ => self.blank(),
                    }
                    (after_blank, after_json) = (true, was_json);
                }
                '#' if was_blank => {
                    while self.peek().is_some_and(|c| c != '\n') {
                        self.blank();
                    }
                    in_plain = false;
                }
                '[' | '{' => {
                    self.copy();
                    depth += 1;
                    in_plain = false;
                    after_blank = true;
                }
                ']' | '}' => {
                    self.copy();
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return;
                    }
                    (in_plain, after_json) = (false, true);
                }
                ',' => {
                    self.copy();
                    in_plain = false;
                    after_blank = true;
                }
                '"' | '\'' if !in_plain => {
                    self.quoted(c);
                    after_json = true;
                }
                ':' => {
                    let next = self.second();
                    self.copy();
                    let is_value = was_json
                        || is_space(next)
                        || matches!(next, Some(',' | '[' | ']' | '{' | '}'));
                    in_plain = !is_value;
                }
                '-' | '?' if !in_plain && is_space(self.second()) => self.copy(),
                // Before a value, not of it.
                '&' | '!' if !in_plain => {
                    self.copy_while(|c| !is_space(Some(c)) && !matches!(c, ',' | ']' | '}'));
                }
                _ => {
                    self.copy();
                    in_plain = true;
                }
            }
        }
    }

    /// A block scalar: its lines are text.
    fn block_scalar(&mut self) {
        let mut indentation = None;
        while let Some(c) = self.peek().filter(|c| *c != '\n') {
            if let Some(digit) = c.to_digit(10) {
                indentation = Some(self.parent.max(0) + digit as isize);
            }
            if is_blank(c) {
                break;
            }
            self.copy();
        }
        self.copy_line();
        while self.peek().is_some() {
            let mut ahead = self.rest.clone();
            let mut width = 0;
            while ahead.next_if_eq(&' ').is_some() {
                width += 1;
            }
            let is_empty = matches!(ahead.peek(), None | Some('\n' | '\r'));
            if !is_empty {
                if width <= self.parent && indentation.is_none() {
                    return;
                }
                if width < *indentation.get_or_insert(width) {
                    return;
                }
            }
            self.copy_line();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_texts_changes() {
        for (text, relaxed) in [
            ("a:\tb\n", "a: b\n"),
            ("a:\t\tb\tc\n", "a: \tb\tc\n"),
            ("a: b\tc:\td\n", "a: b\tc: d\n"),
            ("a: [\n\tb,\n c] \n", "a: [  b,  c] \n"),
            ("a: {b: c, # d: [\n e: f}\n", "a: {b: c,         e: f}\n"),
            ("a: \"b\n c\\\n d\"\n", "a: \"b  c\\  d\"\n"),
            ("a: 'it''s\n'\n", "a: 'it''s '\n"),
            ("a: [it's, 'b\n']\nc:\td\n", "a: [it's, 'b ']\nc: d\n"),
            ("a: {\"b\":'c\nd'}\n", "a: {\"b\":'c d'}\n"),
            // Texts.
            (
                "a: |\n  b:\tc\n  [\n\n  d:\te\nf:\tg\n",
                "a: |\n  b:\tc\n  [\n\n  d:\te\nf: g\n",
            ),
            (
                "- a: >2-\n    b:\tc\n  d:\te\n",
                "- a: >2-\n    b:\tc\n  d: e\n",
            ),
            ("a: b\n  'c\n  [d\ne:\tf\n", "a: b\n  'c\n  [d\ne: f\n"),
            ("a: it's # [\nb:\tc\n", "a: it's # [\nb: c\n"),
            ("# '\na:\tb # [\n", "# '\na: b # [\n"),
            ("a: b:\"c\nd:\te\n", "a: b:\"c\nd: e\n"),
            // Indentation.
            ("a:\n\tb: c\n", "a:\n\tb: c\n"),
            ("a:\n  \tb: c\n", "a:\n  \tb: c\n"),
            ("a:\n  -\tb\n", "a:\n  -\tb\n"),
            // Unfinished.
            ("a: [\n", "a: [ "),
            ("a: \"\\", "a: \"\\"),
        ] {
            assert_eq!(relax(text), relaxed, "{text:?}");
            assert_eq!(relax(text).chars().count(), text.chars().count());
        }
    }

    #[test]
    fn characters_are_counted_not_bytes() {
        let text = "a: [ä, # öü\n\t\"ß\n\"]\n";
        assert_eq!(relax(text), "a: [ä,       \"ß \"]\n");
    }
}
