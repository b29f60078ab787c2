//! The config hash: what makes a container, a network or a volume "the same" as before.
//!
//! SHA-256 over canonical JSON: keys sorted, no white space. Members that were not written in the
//! file are left out, so a new version of this program that learns a new key does not recreate
//! every container of its users. What can change without touching a container (policy, number of
//! replicas, order of start, profiles) is left out too, as in Compose.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::compose::{Network, Service, Volume};

/// Service keys that do not describe the container itself.
const NOT_HASHED: [&str; 5] = ["pull_policy", "scale", "depends_on", "profiles", "attach"];

/// Keys whose empty list means something else than their absence.
const EMPTY_COUNTS: [&str; 2] = ["command", "entrypoint"];

/// Hash of a service, 64 hex digits: the value of the label `config-hash` and of `config --hash`.
pub fn service_hash(service: &Service) -> String {
    digest(service, &NOT_HASHED)
}

/// Hash of a network's definition. Its name is its identity and not part of it.
pub fn network_hash(network: &Network) -> String {
    digest(network, &["name", "external"])
}

/// Hash of a volume's definition; an absent driver and `local` are the same.
pub fn volume_hash(volume: &Volume) -> String {
    if volume.driver.as_deref() == Some("local") {
        let mut plain = volume.clone();
        plain.driver = None;
        return digest(&plain, &["name", "external"]);
    }
    digest(volume, &["name", "external"])
}

fn digest(object: &impl Serialize, without: &[&str]) -> String {
    // Plain data with string keys: the only errors that serde_json knows cannot occur.
    let value = serde_json::to_value(object).unwrap_or_default();
    let mut text = String::with_capacity(1024);
    if let Value::Object(members) = value {
        let mut members: Vec<_> = members
            .into_iter()
            .filter(|(key, value)| !without.contains(&key.as_str()) && is_written(key, value))
            .collect();
        members.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        text.push('{');
        for (i, (key, value)) in members.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            push_string(&mut text, key);
            text.push(':');
            // A null in the environment takes a variable of the image away; elsewhere it is
            // an absent option.
            push_value(&mut text, value, key == "environment");
        }
        text.push('}');
    }
    hex::encode(Sha256::digest(text.as_bytes()))
}

fn is_written(key: &str, value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty() || EMPTY_COUNTS.contains(&key),
        Value::Object(members) => {
            !members.is_empty() && (key == "environment" || members.values().any(|v| !v.is_null()))
        }
        _ => true,
    }
}

fn push_value(text: &mut String, value: &Value, keep_null: bool) {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members
                .iter()
                .filter(|(_, v)| keep_null || !v.is_null())
                .collect();
            members.sort_unstable_by_key(|(key, _)| *key);
            text.push('{');
            for (i, (key, value)) in members.into_iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                push_string(text, key);
                text.push(':');
                push_value(text, value, keep_null);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    text.push(',');
                }
                push_value(text, item, keep_null);
            }
            text.push(']');
        }
        Value::String(s) => push_string(text, s),
        Value::Null => text.push_str("null"),
        Value::Bool(b) => text.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) => text.push_str(&n.to_string()),
    }
}

fn push_string(text: &mut String, s: &str) {
    // Debug escapes differ from JSON's, but any injective form serves a hash; this one is stable.
    text.push('"');
    for c in s.chars() {
        match c {
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            c => text.push(c),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::{Condition, Dependency};

    fn web() -> Service {
        Service {
            image: Some("web".into()),
            environment: [("B".to_owned(), Some("2".to_owned())), ("A".into(), None)].into(),
            ..Service::default()
        }
    }

    #[test]
    fn what_does_not_touch_the_container_is_not_hashed() {
        let mut other = web();
        other.scale = Some(3);
        other.pull_policy = Some("always".into());
        other.profiles = vec!["debug".into()];
        other.depends_on.insert(
            "db".into(),
            Dependency {
                condition: Condition::ServiceHealthy,
                restart: true,
                required: true,
            },
        );
        assert_eq!(service_hash(&web()), service_hash(&other));
    }

    #[test]
    fn order_of_keys_does_not_count() {
        let mut other = web();
        other.environment.reverse();
        assert_eq!(service_hash(&web()), service_hash(&other));
    }

    #[test]
    fn every_small_difference_counts() {
        let mut hashes = vec![service_hash(&web()), service_hash(&Service::default())];
        let mut edit = |change: fn(&mut Service)| {
            let mut service = web();
            change(&mut service);
            hashes.push(service_hash(&service));
        };
        edit(|s| s.command = Some(Vec::new()));
        edit(|s| s.entrypoint = Some(Vec::new()));
        edit(|s| s.command = Some(vec!["a b".into()]));
        edit(|s| s.command = Some(vec!["a".into(), "b".into()]));
        edit(|s| s.command = Some(vec!["a\",\"b".into()]));
        edit(|s| drop(s.environment.shift_remove("A")));
        edit(|s| s.environment = [("A".to_owned(), None)].into());
        edit(|s| s.environment = [("A".to_owned(), Some(String::new()))].into());
        edit(|s| s.labels = [("a".to_owned(), String::new())].into());
        edit(|s| s.resources.memory_limit = Some(1));
        edit(|s| s.tty = true);
        let n = hashes.len();
        hashes.sort();
        hashes.dedup();
        assert_eq!(hashes.len(), n);
    }

    #[test]
    fn the_hash_survives_the_way_to_the_engine() {
        let sent = serde_json::to_string(&web()).unwrap();
        let received: Service = serde_json::from_str(&sent).unwrap();
        assert_eq!(service_hash(&web()), service_hash(&received));
    }

    #[test]
    fn local_is_the_default_driver() {
        let named = Volume {
            driver: Some("local".into()),
            ..Volume::default()
        };
        assert_eq!(volume_hash(&named), volume_hash(&Volume::default()));
    }
}
