//! The JSON Schema of Compose files: equal to the code, complete, and true of real files.

use serde_json::{Map, Value};
use wharf::compose::json_schema::{json_schema, json_schema_text};

const FILE: &str = include_str!("../schemas/compose.schema.json");

#[test]
fn the_file_is_what_the_code_says() {
    assert!(
        FILE == json_schema_text(),
        "run: wharf schema > schemas/compose.schema.json"
    );
}

/// Follows a reference.
fn resolve<'s>(root: &'s Value, schema: &'s Value) -> &'s Value {
    match schema.get("$ref").and_then(Value::as_str) {
        Some(reference) => {
            let pointer = reference.trim_start_matches('#');
            root.pointer(pointer)
                .unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => schema,
    }
}

fn alternatives<'s>(root: &'s Value, schema: &'s Value) -> Vec<&'s Value> {
    let schema = resolve(root, schema);
    match schema.get("anyOf").and_then(Value::as_array) {
        Some(any) => any.iter().flat_map(|s| alternatives(root, s)).collect(),
        None => vec![schema],
    }
}

/// The part of JSON Schema that ours is written in.
fn accepts(root: &Value, schema: &Value, value: &Value) -> bool {
    let schema = resolve(root, schema);
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("unknown type {other}"),
    };
    let fits = match schema.get("type") {
        None => true,
        Some(Value::String(name)) => is(name),
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).any(is),
        Some(other) => panic!("odd type {other}"),
    };
    let any = schema.get("anyOf").and_then(Value::as_array);
    let words = schema.get("enum").and_then(Value::as_array);
    let template =
        schema.get("pattern").is_none() || value.as_str().is_some_and(|text| text.contains('$'));
    fits && template
        && any.is_none_or(|any| any.iter().any(|s| accepts(root, s, value)))
        && words.is_none_or(|words| words.contains(value))
        && items(root, schema, value)
        && properties(root, schema, value)
}

fn items(root: &Value, schema: &Value, value: &Value) -> bool {
    match (schema.get("items"), value.as_array()) {
        (Some(item), Some(list)) => list.iter().all(|v| accepts(root, item, v)),
        _ => true,
    }
}

fn properties(root: &Value, schema: &Value, value: &Value) -> bool {
    let Some(map) = value.as_object() else {
        return true;
    };
    let mut needed = schema.get("required").and_then(Value::as_array).into_iter();
    let has = |key: &Value| key.as_str().is_some_and(|key| map.contains_key(key));
    if !needed.all(|keys| keys.iter().all(has)) {
        return false;
    }
    let empty = Map::new();
    let known = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    map.iter().all(|(key, value)| {
        if let Some(schema) = known.get(key) {
            return accepts(root, schema, value);
        }
        if schema.get("patternProperties").is_some() && key.starts_with("x-") {
            return true;
        }
        match schema.get("additionalProperties") {
            None => true,
            Some(Value::Bool(allowed)) => *allowed,
            Some(schema) => accepts(root, schema, value),
        }
    })
}

#[test]
fn every_key_of_the_specification_is_in_it() {
    fn has(root: &Value, schema: &Value, path: &[&str]) -> bool {
        let Some((first, rest)) = path.split_first() else {
            return true;
        };
        alternatives(root, schema).into_iter().any(|schema| {
            let next = match *first {
                "*" => schema.get("additionalProperties").filter(|s| s.is_object()),
                "[]" => schema.get("items"),
                key => schema.get("properties").and_then(|p| p.get(key)),
            };
            next.is_some_and(|next| has(root, next, rest))
        })
    }
    let root = json_schema();
    let keys = include_str!("data/compose/keys.txt");
    let missing: Vec<&str> = keys
        .lines()
        .filter(|key| !has(&root, &root, &key.split('.').collect::<Vec<_>>()))
        .collect();
    assert_eq!(missing, Vec::<&str>::new());
    assert!(has(&root, &root, &["x-wharf"]));
    assert!(has(&root, &root, &["services", "*", "x-wharf"]));
}

#[test]
fn every_key_is_described() {
    let root = json_schema();
    let objects = root["definitions"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, schema)| (name.as_str(), schema))
        .chain([("project", &root)])
        .filter_map(|(name, schema)| Some((name, schema.get("properties")?.as_object()?)))
        .collect::<Vec<_>>();
    assert!(objects.len() > 40);
    let mut bare = Vec::new();
    for (name, keys) in &objects {
        for (key, schema) in keys.iter().filter(|(key, _)| *key != "x-wharf") {
            if schema.get("description").is_none() {
                bare.push(format!("{name}.{key}"));
            }
        }
    }
    assert_eq!(bare, Vec::<String>::new());
}

#[test]
fn it_takes_what_the_loader_takes_and_refuses_mistakes() {
    let root = json_schema();
    let read = |text: &str| -> Value {
        let value: serde_yaml::Value = serde_yaml::from_str(text).expect("it is YAML");
        serde_json::to_value(value).expect("its keys are strings")
    };
    let everything = read(include_str!("data/compose/everything.yaml"));
    assert!(accepts(&root, &root, &everything));
    for (text, is_right) in [
        (
            "services: {a: {image: i, tty: '${T}', scale: '${N}'}}",
            true,
        ),
        ("services: {a: {image: i, cgroup: '${C}'}}", true),
        ("services: {a: {x-wharf: {a: 1}, x-other: []}}", true),
        ("services: {a: }", true),
        ("services: {a: {imagee: i}}", false),
        ("services: {a: {ports: 80}}", false),
        ("services: {a: {ports: [{target: 80}]}}", true),
        ("services: {a: {ports: [{published: 80}]}}", false),
        ("services: {a: {depends_on: {b: {required: false}}}}", false),
        (
            "services: {a: {develop: {watch: [{action: rebuild}]}}}",
            false,
        ),
        ("services: {a: {ulimits: {n: {soft: 1}}}}", false),
        ("services: {a: {extends: {file: f}}}", false),
        ("services: {a: {cgroup: own}}", false),
        ("services: {a: {environment: {A: [b]}}}", false),
        ("volumes: []", false),
    ] {
        assert_eq!(accepts(&root, &root, &read(text)), is_right, "{text}");
    }
}
