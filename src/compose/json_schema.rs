//! The table of keys as a JSON Schema, for editors that complete and check Compose files.
//!
//! Draft 7, which every editor knows. Values may be templates, so whatever is no text may be one
//! too. Nothing is required: a file may be an override of another. `x-wharf` is described where
//! extensions may stand; the others are let through.

use serde_json::{Map, Value, json};

use super::describe::describe;
use super::schema::{Object, PROJECT, Shape};

/// The whole schema, with keys in the table's order.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    collect(&PROJECT, &mut definitions);
    let root = definitions
        .remove(&definition(&PROJECT))
        .unwrap_or(Value::Null);
    definitions.insert(
        "x-wharf".to_owned(),
        json!({
            "description": "What wharf knows beyond the Compose specification, at the level it belongs to. Other programs ignore it.",
            "type": ["object", "null"],
        }),
    );
    let mut schema = Map::new();
    schema.insert(
        "$schema".to_owned(),
        "http://json-schema.org/draft-07/schema#".into(),
    );
    schema.insert("title".to_owned(), "Compose file".into());
    if let Value::Object(root) = root {
        schema.extend(root);
    }
    schema.insert("definitions".to_owned(), Value::Object(definitions));
    Value::Object(schema)
}

/// The schema as it is printed and kept in `schemas/`.
pub fn json_schema_text() -> String {
    format!("{:#}\n", json_schema())
}

fn definition(object: &Object) -> String {
    object.name.to_ascii_lowercase()
}

/// Writes an object and all below it into the definitions. A name stands there as soon as its
/// object is begun, so that each is written once.
fn collect(object: &'static Object, definitions: &mut Map<String, Value>) {
    let name = definition(object);
    if definitions.contains_key(&name) {
        return;
    }
    definitions.insert(name.clone(), Value::Null);
    let mut properties = Map::new();
    for (key, shape) in object.keys {
        let mut value = of(shape, definitions);
        if let (Some(text), Value::Object(value)) = (describe(object.name, key), &mut value) {
            value.shift_insert(0, "description".to_owned(), text.into());
        }
        properties.insert((*key).to_owned(), value);
    }
    properties.insert(
        "x-wharf".to_owned(),
        json!({"$ref": "#/definitions/x-wharf"}),
    );
    let mut schema = json!({
        "type": "object",
        "properties": properties,
        "patternProperties": {"^x-": {}},
        "additionalProperties": false,
    });
    let needed = needed(object.name);
    if let (false, Value::Object(schema)) = (needed.is_empty(), &mut schema) {
        schema.insert("required".to_owned(), needed.into());
    }
    definitions.insert(name, schema);
}

/// Keys that no other file can supply, because the value is an item of a list or is replaced whole,
/// and the condition of a dependency, as in the specification's own schema.
fn needed(object: &str) -> &'static [&'static str] {
    match object {
        "DEPENDENCY" => &["condition"],
        "DEVICE" => &["source", "target"],
        "ENV_FILE" => &["path"],
        "EXTENDS" => &["service"],
        "HOOK" => &["command"],
        "MOUNT" => &["type", "target"],
        "PORT" => &["target"],
        "ULIMIT" => &["soft", "hard"],
        "WATCH" => &["path", "action"],
        _ => &[],
    }
}

fn of(shape: &'static Shape, definitions: &mut Map<String, Value>) -> Value {
    let types = |types: &[&str]| json!({"type": types});
    match shape {
        Shape::Any => json!({}),
        Shape::Text | Shape::TextSize => json!({"type": "string"}),
        Shape::Bool => types(&["boolean", "string"]),
        Shape::PlainBool => json!({"type": "boolean"}),
        Shape::PlainInt => json!({"type": "integer"}),
        Shape::Int => types(&["integer", "string"]),
        Shape::Number | Shape::TextOrNumber | Shape::Size => types(&["number", "string"]),
        Shape::TextOrInt => types(&["string", "integer"]),
        Shape::Mode => types(&["string", "integer"]),
        Shape::Scalar => types(&["string", "number", "boolean", "null"]),
        Shape::Duration => json!({"type": "string", "examples": ["1m30s"]}),
        Shape::Choice(words) => json!({"anyOf": [
            {"enum": words},
            // A template may become any of the words.
            {"type": "string", "pattern": "\\$"},
        ]}),
        Shape::Null => json!({"type": "null"}),
        Shape::List(item) => json!({"type": "array", "items": of(item, definitions)}),
        Shape::Set(item) => {
            json!({"type": "array", "items": of(item, definitions), "uniqueItems": true})
        }
        Shape::Dict(item) => {
            json!({"type": "object", "additionalProperties": of(item, definitions)})
        }
        Shape::Pairs => json!({"anyOf": [
            {
                "type": "object",
                "additionalProperties": {"type": ["string", "number", "boolean", "null"]},
            },
            {"type": "array", "items": {"type": "string"}},
        ]}),
        Shape::Object(object) => {
            collect(object, definitions);
            json!({"$ref": format!("#/definitions/{}", definition(object))})
        }
        Shape::OneOf(shapes) => {
            let any: Vec<Value> = shapes.iter().map(|s| of(s, definitions)).collect();
            json!({"anyOf": any})
        }
    }
}
