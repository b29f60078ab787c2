//! The type of a plain scalar, by the rules of go-yaml's third version.
//!
//! Compose files were written against those rules, which are neither YAML 1.1 nor 1.2: `yes` is a
//! string, `0440` is octal 288, `1_000` is a thousand and `08` is the number eight.

use std::borrow::Cow;

use super::Value;

/// Types a plain (unquoted, untagged) scalar.
pub fn resolve(text: Cow<'_, str>) -> Value {
    match &*text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => {
            return Value::Float(f64::INFINITY);
        }
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text(text.into_owned());
    }
    let digits = match text.contains('_') {
        true => Cow::Owned(text.replace('_', "")),
        false => Cow::Borrowed(&*text),
    };
    if let Some(value) = integer(&digits) {
        return Value::Int(value);
    }
    // What only 64 bits without a sign hold stays a text: no number of ours does.
    if digits
        .parse::<u64>()
        .is_ok_and(|n| i64::try_from(n).is_err())
    {
        return Value::Text(digits.into_owned());
    }
    if is_float(&digits)
        && let Ok(value) = digits.parse::<f64>()
        && value.is_finite()
    {
        return Value::Float(value);
    }
    Value::Text(text.into_owned())
}

fn integer(text: &str) -> Option<i64> {
    let (negative, body) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = body.as_bytes().get(..2).map(|p| p.to_ascii_lowercase());
    let (digits, radix) = match lower.as_deref() {
        Some(b"0x") => (&body[2..], 16),
        Some(b"0o") => (&body[2..], 8),
        Some(b"0b") => (&body[2..], 2),
        Some([b'0', _]) => (&body[1..], 8),
        _ => (body, 10),
    };
    // `from_str_radix` takes a sign of its own; there must not be a second one.
    if !digits.starts_with(|c: char| c.is_ascii_hexdigit()) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = match body.find(['e', 'E']) {
        Some(at) => (&body[..at], Some(&body[at + 1..])),
        None => (body, None),
    };
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let mantissa_ok = match mantissa.split_once('.') {
        Some((whole, part)) => {
            all_digits(whole) && all_digits(part) && !(whole.is_empty() && part.is_empty())
        }
        None => !mantissa.is_empty() && all_digits(mantissa),
    };
    let exponent_ok = exponent.is_none_or(|e| {
        let digits = e.strip_prefix(['-', '+']).unwrap_or(e);
        !digits.is_empty() && all_digits(digits)
    });
    mantissa_ok && exponent_ok
}

/// A number as Go's `%v` prints it: shortest form, an exponent below 1e-4 and from 1e6 on.
pub fn float_text(value: f64) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "+Inf" } else { "-Inf" }.into();
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e6).contains(&size) {
        let text = format!("{value:e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, digits) = match exponent.strip_prefix('-') {
            Some(digits) => ('-', digits),
            None => ('+', exponent),
        };
        return format!("{mantissa}e{sign}{digits:0>2}");
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_plain_scalars_like_go_yaml() {
        use Value::{Bool, Float, Int, Null, Text};
        let text = |s: &str| Text(s.to_owned());
        for (input, expected) in [
            ("", Null),
            ("~", Null),
            ("true", Bool(true)),
            ("yes", text("yes")),
            ("on", text("on")),
            ("0440", Int(0o440)),
            ("0o644", Int(0o644)),
            ("0x1F", Int(31)),
            ("0b11", Int(3)),
            ("-12", Int(-12)),
            ("1_000", Int(1000)),
            ("08", Float(8.0)),
            ("1.5", Float(1.5)),
            (".5", Float(0.5)),
            ("1e3", Float(1000.0)),
            ("3.7.1", text("3.7.1")),
            ("127.0.0.1", text("127.0.0.1")),
            ("8080:80", text("8080:80")),
            ("-", text("-")),
            ("--1", text("--1")),
            ("1d", text("1d")),
            ("2020-01-02", text("2020-01-02")),
            ("9223372036854775807", Int(i64::MAX)),
            ("18446744073709551615", text("18446744073709551615")),
            ("18446744073709551616", Float(18446744073709551616.0)),
            ("1e400", text("1e400")),
        ] {
            assert_eq!(resolve(input.into()), expected, "{input:?}");
        }
    }

    #[test]
    fn prints_numbers_like_go() {
        for (value, expected) in [
            (1.0, "1"),
            (0.5, "0.5"),
            (1e21, "1e+21"),
            (0.00001, "1e-05"),
            (123456789.0, "1.23456789e+08"),
            (1e6, "1e+06"),
            (1234567.5, "1.2345675e+06"),
            (999999.5, "999999.5"),
        ] {
            assert_eq!(float_text(value), expected);
        }
    }
}
