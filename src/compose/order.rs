//! The order in which the reference's YAML prints the keys of mappings: numbers in them count as
//! numbers, so that `app-2` stands before `app-10`.
//!
//! It is a total order on any texts: two keys are compared part by part, and what a part is
//! compared by depends on nothing but the equal parts before it.

use std::cmp::Ordering;
use std::str::Chars;

/// A run of digits, or one other character.
#[derive(PartialEq)]
enum Part<'k> {
    /// Without the zeros in front, and how long it is with them.
    Number(&'k str, usize),
    Letter(char),
    Mark(char),
}

/// Compares two keys.
pub fn keys(a: &str, b: &str) -> Ordering {
    let (mut left, mut right) = (a.chars(), b.chars());
    let mut after_number = false;
    loop {
        let (a, b) = match (part(&mut left), part(&mut right)) {
            (None, None) => return Ordering::Equal,
            (None, Some(_)) => return Ordering::Less,
            (Some(_), None) => return Ordering::Greater,
            (Some(a), Some(b)) => (a, b),
        };
        if a != b {
            return parts(&a, &b, after_number);
        }
        after_number = matches!(a, Part::Number(..));
    }
}

fn part<'k>(rest: &mut Chars<'k>) -> Option<Part<'k>> {
    let text = rest.as_str();
    let n_digits = text.bytes().take_while(u8::is_ascii_digit).count();
    if n_digits > 0 {
        *rest = text[n_digits..].chars();
        let digits = &text[..n_digits];
        return Some(Part::Number(digits.trim_start_matches('0'), n_digits));
    }
    rest.next().map(|c| match c.is_alphabetic() {
        true => Part::Letter(c),
        false => Part::Mark(c),
    })
}

fn parts(a: &Part<'_>, b: &Part<'_>, after_number: bool) -> Ordering {
    match (a, b) {
        (Part::Number(a, whole_a), Part::Number(b, whole_b)) => {
            // More digits are a larger number; they may be too many for any integer.
            (a.len(), a, whole_a).cmp(&(b.len(), b, whole_b))
        }
        (Part::Letter(a), Part::Letter(b)) | (Part::Mark(a), Part::Mark(b)) => a.cmp(b),
        (Part::Mark(_), Part::Number(..)) => Ordering::Less,
        (Part::Number(..), Part::Mark(_)) => Ordering::Greater,
        // Letters come last, but first where a number ends.
        (Part::Letter(_), _) if after_number => Ordering::Less,
        (_, Part::Letter(_)) if after_number => Ordering::Greater,
        (Part::Letter(_), _) => Ordering::Greater,
        (_, Part::Letter(_)) => Ordering::Less,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_keys_count() {
        for (a, b) in [
            ("s2", "s10"),
            ("s9", "s10"),
            ("a1", "a01"),
            ("a103", "a112"),
            ("a1b", "a12"),
            ("a1b", "a1-"),
            ("a-", "ab"),
            ("a", "a1"),
            ("A", "a"),
            ("a-b", "a_b"),
            ("a-1", "a0"),
            ("x99999999999999999999", "x100000000000000000000"),
        ] {
            assert_eq!(keys(a, b), Ordering::Less, "{a} {b}");
            assert_eq!(keys(b, a), Ordering::Greater, "{a} {b}");
        }
        assert_eq!(keys("a1", "a1"), Ordering::Equal);
    }
}
