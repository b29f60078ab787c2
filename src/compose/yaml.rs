//! Values as YAML text in the reference's layout: two blanks of indentation, lists indented under
//! their key, block scalars for texts of several lines.
//!
//! Users diff this output and commit it, so the layout is part of the interface.

use std::fmt::Write;

use serde_json::{Map, Value as Json};

use crate::source::{Value, scalar};

/// A whole document.
pub fn document(value: &Map<String, Json>) -> String {
    let mut out = String::new();
    if value.is_empty() {
        out.push_str("{}\n");
    }
    mapping(&mut out, value, 0);
    out
}

fn indent(out: &mut String, depth: usize) {
    for _ in 0..depth {
        out.push(' ');
    }
}

fn mapping(out: &mut String, map: &Map<String, Json>, depth: usize) {
    for (at, (key, value)) in map.iter().enumerate() {
        // The first entry of a mapping in a list stands on the line of its dash.
        if at > 0 || out.is_empty() || out.ends_with('\n') {
            indent(out, depth);
        }
        text(out, key, depth, Position::Key);
        out.push(':');
        below(out, value, depth + 2);
    }
}

fn list(out: &mut String, items: &[Json], depth: usize) {
    for (at, item) in items.iter().enumerate() {
        if at > 0 || out.ends_with('\n') {
            indent(out, depth);
        }
        out.push('-');
        match item {
            Json::Object(map) if !map.is_empty() => {
                out.push(' ');
                mapping(out, map, depth + 2);
            }
            Json::Array(items) if !items.is_empty() => {
                out.push(' ');
                list(out, items, depth + 2);
            }
            item => below(out, item, depth + 2),
        }
    }
}

/// What follows a colon or a dash.
fn below(out: &mut String, value: &Json, depth: usize) {
    match value {
        Json::Object(map) if !map.is_empty() => {
            out.push('\n');
            mapping(out, map, depth);
        }
        Json::Array(items) if !items.is_empty() => {
            out.push('\n');
            list(out, items, depth);
        }
        Json::Object(_) => out.push_str(" {}\n"),
        Json::Array(_) => out.push_str(" []\n"),
        Json::Null => out.push_str(" null\n"),
        Json::Bool(value) => _ = writeln!(out, " {value}"),
        Json::Number(number) => {
            let shown = number.as_i64().map_or_else(
                || scalar::float_text(number.as_f64().unwrap_or_default()),
                |whole| whole.to_string(),
            );
            _ = writeln!(out, " {shown}");
        }
        Json::String(value) => {
            out.push(' ');
            text(out, value, depth, Position::Value);
            out.push('\n');
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Position {
    Key,
    Value,
}

fn text(out: &mut String, value: &str, depth: usize, position: Position) {
    if value.is_empty() || reads_as_other(value) {
        return double_quoted(out, value);
    }
    if value
        .chars()
        .any(|c| c.is_control() && c != '\n' || is_break(c))
    {
        return double_quoted(out, value);
    }
    if value.contains('\n') {
        return match position {
            Position::Value if fits_block(value) => block(out, value, depth),
            _ => double_quoted(out, value),
        };
    }
    if is_plain(value) {
        out.push_str(value);
    } else {
        out.push('\'');
        out.push_str(&value.replace('\'', "''"));
        out.push('\'');
    }
}

/// Whether the plain text would be read as something else than a string, by us or by a reader of
/// the older YAML 1.1.
fn reads_as_other(value: &str) -> bool {
    if !matches!(scalar::resolve(value.into()), Value::Text(_)) {
        return true;
    }
    if matches!(value, "=" | "<<") {
        return true;
    }
    let lower = value.to_ascii_lowercase();
    if matches!(lower.as_str(), "y" | "n" | "yes" | "no" | "on" | "off") {
        return true;
    }
    if !value.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-')) {
        return false;
    }
    // Numbers to the base of sixty, as in `22:22`.
    let unsigned = value.trim_start_matches(['+', '-']);
    let mut parts = unsigned.split(':');
    let first = parts.next().unwrap_or_default();
    let is_digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let mut n_parts = 0;
    let sixties = parts.all(|p| {
        n_parts += 1;
        let whole = p.split('.').next().unwrap_or_default();
        is_digits(whole) && whole.len() <= 2 && whole < "60"
    });
    if is_digits(first) && n_parts > 0 && sixties {
        return true;
    }
    // Dates.
    let date: Vec<&str> = value
        .split(['T', 't', ' '])
        .next()
        .unwrap_or_default()
        .split('-')
        .collect();
    matches!(*date, [year, month, day]
        if year.len() == 4 && is_digits(year)
            && month.len() <= 2 && is_digits(month)
            && day.len() <= 2 && is_digits(day))
}

/// Line breaks to readers of YAML 1.1, and the mark that only a file's beginning may have.
fn is_break(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}' | '\u{feff}')
}

fn is_plain(value: &str) -> bool {
    let mut chars = value.chars();
    let Some(first) = chars.next() else {
        return false;
    };
    let second = chars.next();
    let starts_plain = match first {
        '-' | '?' | ':' => second.is_some_and(|c| c != ' '),
        ',' | '[' | ']' | '{' | '}' | '#' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%'
        | '@' | '`' | ' ' => false,
        _ => true,
    };
    starts_plain
        && !value.starts_with("---")
        && !value.starts_with("...")
        && !value.ends_with([' ', ':'])
        && !value.contains(": ")
        && !value.contains(" #")
}

/// A block keeps a text as it is, unless its first line begins with a blank or a line ends in one.
fn fits_block(value: &str) -> bool {
    !value.starts_with([' ', '\n']) && !value.contains(" \n") && !value.ends_with(' ')
}

fn block(out: &mut String, value: &str, depth: usize) {
    let body = value.trim_end_matches('\n');
    out.push_str(match value.len() - body.len() {
        0 => "|-",
        1 => "|",
        _ => "|+",
    });
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            indent(out, depth.max(2));
            out.push_str(line);
        }
    }
    for _ in 1..value.len() - body.len() {
        out.push('\n');
    }
}

fn double_quoted(out: &mut String, value: &str) {
    out.push('"');
    for c in value.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            c if c.is_control() || is_break(c) => match u32::from(c) {
                code @ 0..=0xff => _ = write!(out, "\\x{code:02X}"),
                code => _ = write!(out, "\\u{code:04X}"),
            },
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str) -> Json {
        Json::String(text.to_owned())
    }

    #[test]
    fn texts_read_back_as_themselves() {
        for text in [
            "",
            " ",
            "a",
            "a b",
            "a: b",
            "a #b",
            "#a",
            "- a",
            "-a",
            "null",
            "~",
            "yes",
            "0440",
            "1.5",
            "22:22",
            "2020-01-02",
            "it's",
            "\"q\"",
            "a\nb",
            "a\nb\n",
            "a\n\nb\n\n",
            " a\nb",
            "\na",
            "a \nb",
            "tab\t",
            "\u{1}",
            "ünï",
            "*a",
            "&a",
            "!a",
            "%a",
            "@a",
            "a:",
            "<<",
            "=",
            "---",
            "{a}",
            "a,b",
            "[a",
            "$x",
            "\\",
            "a\u{85}b",
            "\u{2028}",
            "a\u{2029}b",
            "\u{7}\u{b}\u{1b}\u{7f}",
            "\u{feff}",
            "|",
            "?",
            "? a",
            ":",
            ": a",
        ] {
            let map = Map::from_iter([
                (text.to_owned(), value(text)),
                (
                    "list".to_owned(),
                    Json::Array(vec![value(text), Json::Array(vec![value(text)])]),
                ),
            ]);
            let printed = document(&map);
            let read: Json = serde_yaml::from_str(&printed)
                .unwrap_or_else(|e| panic!("{text:?}: {e}\n{printed}"));
            assert_eq!(read, Json::Object(map), "{printed}");
        }
    }

    #[test]
    fn the_layout_is_the_references() {
        let Json::Object(map) = serde_json::json!({
            "a": {"b": [{"c": 1, "d": []}, "x"], "e": {}, "f": null, "g": "l1\nl2\n"},
            "m": [[1, 2]], "z": 0.5,
        }) else {
            panic!("an object")
        };
        insta::assert_snapshot!(document(&map), @r"
        a:
          b:
            - c: 1
              d: []
            - x
          e: {}
          f: null
          g: |
            l1
            l2
        m:
          - - 1
            - 2
        z: 0.5
        ");
    }
}
