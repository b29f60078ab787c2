//! An image of one layer out of a bare file system, with changes as a Dockerfile writes them.

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use serde_json::{Map, Value, json};

use super::config;
use super::digest::Hashing;
use super::images::Images;
use super::layer::{Allowance, Expected, Limits, inflate_bounded, read_error};
use super::platform::Platform;
use super::source::{Found, FoundLayer, SourceError};
use super::{Digest, ImageError, Reference};
use crate::engine::store::Batch;

/// What an imported image is to say about itself.
#[derive(Debug, Clone, Default)]
pub struct Description {
    pub message: String,
    /// Instructions such as `CMD ["sh"]`.
    pub changes: Vec<String>,
    pub platform: Option<String>,
    /// RFC 3339.
    pub created: String,
}

impl Images {
    /// Makes an image of a file system in a tar, compressed or not. Returns its id.
    pub fn import(
        &self,
        archive: File,
        reference: Option<&Reference>,
        description: &Description,
    ) -> Result<String, ImageError> {
        let platform = match &description.platform {
            Some(text) => Platform::parse(text)?,
            None => Platform::host(),
        };
        let mut config = Map::new();
        for change in &description.changes {
            apply(change, &mut config).map_err(|why| ImageError::Change {
                change: change.clone(),
                why,
            })?;
        }
        let (tar, diff_id) = self.inflated(archive)?;
        let mut image = json!({
            "architecture": platform.architecture,
            "os": platform.os,
            "created": description.created,
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id.to_string()]},
            "history": [{"created": description.created, "comment": description.message}],
        });
        if let Some(variant) = platform.variant {
            image["variant"] = variant.into();
        }
        let config_bytes = image.to_string().into_bytes();
        let checked = config::check(&config_bytes).map_err(SourceError::from)?;
        let expected = Expected {
            blob: None,
            blob_bytes: None,
            diff_id,
        };
        let found = Found {
            id: Digest::of(&config_bytes),
            config_bytes,
            checked,
            manifest: None,
            layers: vec![FoundLayer::of_file(expected, tar)?],
        };
        let references: Vec<Reference> = reference.into_iter().cloned().collect();
        let inner = &self.inner;
        let image = inner.install_as(found, &references, None, Batch::default(), &|_| ())?;
        Ok(image.id.to_string())
    }

    /// A layer's digest has to be known before it is unpacked, since the config names it.
    fn inflated(&self, archive: File) -> Result<(File, Digest), ImageError> {
        let failed = |error| ImageError::Import {
            source: read_error(error),
        };
        let mut tar = self.inner.content.scratch_file()?;
        let allowance = Allowance::new(Limits::DEFAULT);
        let plain =
            inflate_bounded(archive, &allowance).map_err(|source| ImageError::Import { source })?;
        let mut hashing = Hashing::new(plain);
        io::copy(&mut hashing.by_ref(), &mut tar).map_err(failed)?;
        let (diff_id, _) = hashing.finish().map_err(failed)?;
        tar.flush().and_then(|()| tar.rewind()).map_err(failed)?;
        Ok((tar, diff_id))
    }
}

/// Applies one instruction to the config of an image.
fn apply(change: &str, config: &mut Map<String, Value>) -> Result<(), String> {
    let change = change.trim();
    let (word, rest) = change
        .split_once(char::is_whitespace)
        .unwrap_or((change, ""));
    let rest = rest.trim();
    let whole = || match rest.is_empty() {
        true => Err("it says nothing".to_owned()),
        false => Ok(Value::from(rest)),
    };
    match word.to_ascii_uppercase().as_str() {
        "CMD" => _ = config.insert("Cmd".to_owned(), command(rest)?),
        "ENTRYPOINT" => _ = config.insert("Entrypoint".to_owned(), command(rest)?),
        "USER" => _ = config.insert("User".to_owned(), whole()?),
        "WORKDIR" => _ = config.insert("WorkingDir".to_owned(), whole()?),
        "STOPSIGNAL" => _ = config.insert("StopSignal".to_owned(), whole()?),
        "ENV" => {
            for (key, value) in pairs(rest)? {
                let env = list(config, "Env");
                let prefix = format!("{key}=");
                env.retain(|one| !one.as_str().is_some_and(|one| one.starts_with(&prefix)));
                env.push(format!("{key}={value}").into());
            }
        }
        "LABEL" => {
            for (key, value) in pairs(rest)? {
                object(config, "Labels").insert(key, value.into());
            }
        }
        "EXPOSE" => {
            for port in rest.split_whitespace() {
                let port = match port.contains('/') {
                    true => port.to_owned(),
                    false => format!("{port}/tcp"),
                };
                object(config, "ExposedPorts").insert(port, json!({}));
            }
        }
        "VOLUME" => {
            let paths = match serde_json::from_str::<Vec<String>>(rest) {
                Ok(paths) => paths,
                Err(_) => rest.split_whitespace().map(str::to_owned).collect(),
            };
            for path in paths {
                object(config, "Volumes").insert(path, json!({}));
            }
        }
        "ONBUILD" => list(config, "OnBuild").push(whole()?),
        "HEALTHCHECK" => {
            let (kind, command_text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            let test = match kind.to_ascii_uppercase().as_str() {
                "NONE" => json!(["NONE"]),
                "CMD" => match serde_json::from_str::<Vec<String>>(command_text) {
                    Ok(mut argv) => {
                        argv.insert(0, "CMD".to_owned());
                        json!(argv)
                    }
                    Err(_) => json!(["CMD-SHELL", command_text]),
                },
                _ => return Err("only NONE and CMD can follow HEALTHCHECK here".to_owned()),
            };
            config.insert("Healthcheck".to_owned(), json!({"Test": test}));
        }
        _ => {
            return Err(format!(
                "{word} is not an instruction that changes a config"
            ));
        }
    }
    Ok(())
}

/// The JSON form, or a line for the shell.
fn command(text: &str) -> Result<Value, String> {
    if text.is_empty() {
        return Err("it says nothing".to_owned());
    }
    Ok(match serde_json::from_str::<Vec<String>>(text) {
        Ok(argv) => json!(argv),
        Err(_) => json!(["/bin/sh", "-c", text]),
    })
}

/// `KEY=VALUE …`, or the old `KEY VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    let words = shell_words::split(text).map_err(|error| error.to_string())?;
    let first_has_value = words.first().is_some_and(|word| word.contains('='));
    if !first_has_value {
        let (key, value) = text
            .split_once(char::is_whitespace)
            .ok_or("it has no value")?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
            _ => Err(format!("{word:?} is not KEY=VALUE")),
        })
        .collect()
}

fn list<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Vec<Value> {
    let entry = config.entry(key).or_insert_with(|| json!([]));
    entry.as_array_mut().expect("only lists are put there")
}

fn object<'a>(config: &'a mut Map<String, Value>, key: &str) -> &'a mut Map<String, Value> {
    let entry = config.entry(key).or_insert_with(|| json!({}));
    entry.as_object_mut().expect("only objects are put there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_a_dockerfiles_instructions() {
        let mut config = Map::new();
        for change in [
            "CMD [\"sleep\", \"1\"]",
            "entrypoint exec \"$@\"",
            "ENV A=1 B='two words'",
            "ENV A 3",
            "LABEL k=v",
            "EXPOSE 80 53/udp",
            "VOLUME [\"/data\"]",
            "WORKDIR /srv",
            "HEALTHCHECK CMD true",
        ] {
            apply(change, &mut config).unwrap();
        }
        assert_eq!(
            Value::from(config),
            json!({
                "Cmd": ["sleep", "1"],
                "Entrypoint": ["/bin/sh", "-c", "exec \"$@\""],
                "Env": ["B=two words", "A=3"],
                "Labels": {"k": "v"},
                "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
                "Volumes": {"/data": {}},
                "WorkingDir": "/srv",
                "Healthcheck": {"Test": ["CMD-SHELL", "true"]},
            })
        );
        for change in [
            "",
            "FROM x",
            "CMD",
            "ENV",
            "LABEL =x",
            "HEALTHCHECK --interval=1s CMD x",
        ] {
            assert!(apply(change, &mut Map::new()).is_err(), "{change}");
        }
    }
}
