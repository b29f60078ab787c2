//! Go templates as far as `--format` of the Docker CLI uses them.
//!
//! Fields (`{{.ID}}`, `{{.Config.Env}}`, `{{.}}`), the functions `json`, `upper`, `lower`, `title`, `len`, `join`,
//! `index`, `println`, pipes, literals, `{{if}}…{{else}}…{{end}}`, `{{range}}…{{end}}`, and trimmed
//! white space (`{{-`, `-}}`). Works on JSON values.

use serde_json::Value;

/// A template that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq)]
enum Part {
    Text(String),
    Value(Pipeline),
    If(Pipeline, Vec<Part>, Vec<Part>),
    Range(Pipeline, Vec<Part>, Vec<Part>),
}

/// Calls, each given the result of the one before as its last argument.
type Pipeline = Vec<Vec<Word>>;

#[derive(Debug, Clone, PartialEq)]
enum Word {
    /// `.a.b`; the empty path is `.` itself.
    Field(Vec<String>),
    Literal(Value),
    Function(String),
}

enum Token {
    Text(String),
    Action(String),
}

impl Template {
    /// `\t` and `\n` in the text stand for a tab and a line end, as in Docker's formats.
    ///
    /// # Errors
    /// What is wrong, in a sentence for the user.
    pub fn parse(text: &str) -> Result<Template, String> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut tokens = tokens(&text)?.into_iter();
        let (parts, end) = block(&mut tokens)?;
        match end {
            None => Ok(Template { parts }),
            Some(word) => Err(format!("unexpected {{{{{word}}}}}")),
        }
    }

    /// # Errors
    /// When the value has no such field, or a function cannot be applied.
    pub fn render(&self, value: &Value) -> Result<String, String> {
        let mut out = String::new();
        render(&self.parts, value, &mut out)?;
        Ok(out)
    }

    /// The fields that it prints, in order; what the head of a table is made of.
    pub fn head(&self, name: &dyn Fn(&str) -> String) -> String {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Value(pipeline) => {
                    let mut fields = pipeline.iter().flatten().filter_map(|word| match word {
                        Word::Field(path) => path.last(),
                        _ => None,
                    });
                    if let Some(field) = fields.next_back() {
                        out.push_str(&name(field));
                    }
                }
                Part::If(..) | Part::Range(..) => {}
            }
        }
        out
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    let mut trims = false;
    while let Some(at) = rest.find("{{") {
        let mut before = &rest[..at];
        if trims {
            before = before.trim_start();
        }
        let inner = &rest[at + 2..];
        let end = inner.find("}}").ok_or("an action is not closed with }}")?;
        let mut action = &inner[..end];
        if let Some(trimmed) = action.strip_prefix("- ") {
            before = before.trim_end();
            action = trimmed;
        }
        trims = false;
        if let Some(trimmed) = action.strip_suffix(" -") {
            trims = true;
            action = trimmed;
        }
        tokens.push(Token::Text(before.to_owned()));
        tokens.push(Token::Action(action.trim().to_owned()));
        rest = &inner[end + 2..];
    }
    let last = if trims { rest.trim_start() } else { rest };
    tokens.push(Token::Text(last.to_owned()));
    Ok(tokens)
}

/// Parts up to `else` or `end`, and which of them it was.
fn block(tokens: &mut dyn Iterator<Item = Token>) -> Result<(Vec<Part>, Option<String>), String> {
    let mut parts = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) if text.is_empty() => continue,
            Token::Text(text) => {
                parts.push(Part::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let (word, rest) = action
            .split_once(char::is_whitespace)
            .unwrap_or((&action, ""));
        match word {
            "if" | "range" => {
                let pipeline = pipeline(rest)?;
                let (yes, end) = block(tokens)?;
                let no = match end.as_deref() {
                    Some("else") => match block(tokens)? {
                        (no, Some(end)) if end == "end" => no,
                        _ => return Err(format!("{{{{{word}}}}} has no {{{{end}}}}")),
                    },
                    Some("end") => Vec::new(),
                    _ => return Err(format!("{{{{{word}}}}} has no {{{{end}}}}")),
                };
                parts.push(match word {
                    "if" => Part::If(pipeline, yes, no),
                    _ => Part::Range(pipeline, yes, no),
                });
            }
            "else" | "end" => return Ok((parts, Some(action))),
            _ if action.starts_with("/*") => {}
            _ => parts.push(Part::Value(pipeline(&action)?)),
        }
    }
    Ok((parts, None))
}

fn pipeline(text: &str) -> Result<Pipeline, String> {
    let mut calls = vec![Vec::new()];
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        if first == '|' {
            calls.push(Vec::new());
            rest = rest[1..].trim_start();
            continue;
        }
        let (word, after) = word(rest)?;
        if let Some(call) = calls.last_mut() {
            call.push(word);
        }
        rest = after.trim_start();
    }
    match calls.iter().any(Vec::is_empty) {
        true => Err(format!("{{{{{text}}}}} says nothing")),
        false => Ok(calls),
    }
}

fn word(text: &str) -> Result<(Word, &str), String> {
    if text.starts_with('"') {
        let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let value = values.next().and_then(Result::ok);
        let value = value.ok_or_else(|| format!("{text} is not a string"))?;
        return Ok((Word::Literal(value.into()), &text[values.byte_offset()..]));
    }
    if let Some(rest) = text.strip_prefix('`') {
        let (value, rest) = rest
            .split_once('`')
            .ok_or("a string is not closed with `")?;
        return Ok((Word::Literal(value.into()), rest));
    }
    let end = text
        .find(|c: char| c.is_whitespace() || c == '|')
        .unwrap_or(text.len());
    let (one, rest) = text.split_at(end);
    if let Some(path) = one.strip_prefix('.') {
        let path = path.split('.').filter(|part| !part.is_empty());
        return Ok((Word::Field(path.map(str::to_owned).collect()), rest));
    }
    if let Ok(number) = one.parse::<i64>() {
        return Ok((Word::Literal(number.into()), rest));
    }
    match one {
        "json" | "upper" | "lower" | "title" | "len" | "join" | "index" | "println" | "print" => {
            Ok((Word::Function(one.to_owned()), rest))
        }
        _ => Err(format!(
            "{one:?} is neither a field (.Name) nor a known function"
        )),
    }
}

fn render(parts: &[Part], value: &Value, out: &mut String) -> Result<(), String> {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Value(pipeline) => out.push_str(&shown(&evaluate(pipeline, value)?)),
            Part::If(condition, yes, no) => {
                let is_true = is_true(&evaluate(condition, value)?);
                render(if is_true { yes } else { no }, value, out)?;
            }
            Part::Range(over, each, none) => match evaluate(over, value)? {
                Value::Array(items) if !items.is_empty() => {
                    for item in &items {
                        render(each, item, out)?;
                    }
                }
                Value::Object(items) if !items.is_empty() => {
                    for item in items.values() {
                        render(each, item, out)?;
                    }
                }
                Value::Array(_) | Value::Object(_) | Value::Null => render(none, value, out)?,
                other => return Err(format!("range cannot iterate over {other}")),
            },
        }
    }
    Ok(())
}

fn evaluate(pipeline: &Pipeline, dot: &Value) -> Result<Value, String> {
    let mut result: Option<Value> = None;
    for call in pipeline {
        let (first, rest) = call.split_first().expect("pipelines have no empty calls");
        let mut arguments = Vec::new();
        for word in rest {
            arguments.push(operand(word, dot)?);
        }
        arguments.extend(result.take());
        result = Some(match first {
            Word::Function(name) => apply(name, arguments)?,
            word if arguments.is_empty() => operand(word, dot)?,
            _ => return Err("a field takes no arguments".to_owned()),
        });
    }
    Ok(result.unwrap_or(Value::Null))
}

fn operand(word: &Word, dot: &Value) -> Result<Value, String> {
    match word {
        Word::Literal(value) => Ok(value.clone()),
        Word::Function(name) => Err(format!("{name} cannot stand here")),
        Word::Field(path) => {
            let mut value = dot;
            for part in path {
                value = match value {
                    Value::Object(map) => map.get(part).ok_or_else(|| no_field(part))?,
                    // A field of nothing is nothing.
                    Value::Null => &Value::Null,
                    _ => return Err(no_field(part)),
                };
            }
            Ok(value.clone())
        }
    }
}

fn no_field(name: &str) -> String {
    format!("there is no field {name}")
}

fn apply(name: &str, arguments: Vec<Value>) -> Result<Value, String> {
    let text = |value: &Value| shown(value);
    match (name, arguments.as_slice()) {
        ("json", [value]) => Ok(value.to_string().into()),
        ("upper", [value]) => Ok(text(value).to_uppercase().into()),
        ("lower", [value]) => Ok(text(value).to_lowercase().into()),
        ("title", [value]) => {
            let value = text(value);
            let mut chars = value.chars();
            let first: String = chars
                .next()
                .into_iter()
                .flat_map(char::to_uppercase)
                .collect();
            Ok((first + chars.as_str()).into())
        }
        ("len", [Value::Array(items)]) => Ok(items.len().into()),
        ("len", [Value::Object(items)]) => Ok(items.len().into()),
        ("len", [Value::String(text)]) => Ok(text.len().into()),
        ("len", [Value::Null]) => Ok(0.into()),
        ("join", [Value::Array(items), Value::String(separator)]) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            Ok(items.join(separator).into())
        }
        ("join", [Value::Null, _]) => Ok("".into()),
        ("index", [Value::Array(items), Value::Number(at)]) => at
            .as_u64()
            .and_then(|at| items.get(usize::try_from(at).ok()?))
            .cloned()
            .ok_or_else(|| format!("there is no element {at}")),
        ("index", [Value::Object(map), Value::String(key)]) => {
            Ok(map.get(key).cloned().unwrap_or(Value::Null))
        }
        ("index", [Value::Null, _]) => Ok(Value::Null),
        ("print", values) => Ok(values.iter().map(shown).collect::<String>().into()),
        ("println", values) => {
            let values: Vec<String> = values.iter().map(shown).collect();
            Ok((values.join(" ") + "\n").into())
        }
        _ => Err(format!("{name} cannot be applied like this")),
    }
}

/// As Go prints a value: `[a b]`, `map[k:v]`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<no value>".to_owned(),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(map) => {
            let mut items: Vec<String> = map
                .iter()
                .map(|(key, value)| format!("{key}:{}", shown(value)))
                .collect();
            items.sort();
            format!("map[{}]", items.join(" "))
        }
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(is_true) => *is_true,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> Result<String, String> {
        let value = json!({
            "ID": "sha256:1", "Tags": ["a:1", "b:2"], "Labels": {"k": "v", "a": "b"},
            "Config": {"Env": ["A=1"], "Cmd": null, "User": ""}, "Size": 12,
        });
        Template::parse(template)?.render(&value)
    }

    #[test]
    fn formats_of_the_docker_cli_work() {
        for (template, expected) in [
            ("{{.ID}}", "sha256:1"),
            ("{{ .ID }}\\t{{.Size}}", "sha256:1\t12"),
            ("{{json .Config.Env}}", "[\"A=1\"]"),
            ("{{.Tags}}", "[a:1 b:2]"),
            ("{{.Labels}}", "map[a:b k:v]"),
            ("{{index .Labels \"k\"}}", "v"),
            ("{{index .Tags 1}}", "b:2"),
            ("{{len .Tags}}", "2"),
            ("{{join .Tags \",\"}}", "a:1,b:2"),
            ("{{.ID | upper}}", "SHA256:1"),
            ("{{range .Tags}}<{{.}}>{{end}}", "<a:1><b:2>"),
            (
                "{{if .Config.User}}{{.Config.User}}{{else}}root{{end}}",
                "root",
            ),
            ("{{.Config.Cmd}}", "<no value>"),
            ("a {{- .Size -}} b", "a12b"),
        ] {
            assert_eq!(rendered(template).as_deref(), Ok(expected), "{template}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for template in [
            "{{.ID",
            "{{}}",
            "{{.Nothing}}",
            "{{frobnicate .ID}}",
            "{{if .ID}}",
            "{{end}}",
            "{{index .Tags 7}}",
            "{{.ID .Size}}",
            "{{range .Size}}{{end}}",
        ] {
            assert!(rendered(template).is_err(), "{template}");
        }
    }
}
