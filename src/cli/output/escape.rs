//! Names and messages from elsewhere, made harmless for a terminal (HAZARDS S36).
//!
//! Container and image names, labels and error texts can hold control sequences. Log content is
//! passed through as it is; everything that the CLI says itself goes through here.

use std::borrow::Cow;

/// The text with every control character written out, as in `\x1b`.
pub fn visible(text: &str) -> Cow<'_, str> {
    // The bidirectional controls reorder what a reader sees without being `Cc` characters.
    let is_harmful = |c: char| {
        (c.is_control() && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\n' => escaped.push_str("\\n"),
            c if is_harmful(c) && u32::from(c) < 0x100 => {
                escaped.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if is_harmful(c) => escaped.extend(c.escape_unicode()),
            c => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_written_out() {
        assert_eq!(visible("web-1"), "web-1");
        assert_eq!(visible("a\x1b]0;owned\x07b"), "a\\x1b]0;owned\\x07b");
        assert_eq!(visible("\u{9b}31m\u{202e}x\n"), "\\x9b31m\\u{202e}x\\n");
        assert_eq!(visible("grün ✔"), "grün ✔");
    }
}
