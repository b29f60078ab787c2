//! Credentials and progress of pulls and pushes, as Docker spells them, and requests of our own.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::plan::{Login, Logins};
use crate::reconcile::ImageProgress;

/// `AuthConfig`: the body of `POST /auth`, and in base64 the header `X-Registry-Auth`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AuthConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub password: String,
    /// Name and password in base64, in place of both.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub auth: String,
    pub serveraddress: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub identitytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub registrytoken: String,
}

impl AuthConfig {
    /// Of the header; what cannot be read is as good as none, as in Docker.
    pub fn from_header(value: &str) -> AuthConfig {
        let decoded = URL_SAFE
            .decode(value)
            .or_else(|_| URL_SAFE_NO_PAD.decode(value))
            .or_else(|_| STANDARD.decode(value));
        decoded
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .unwrap_or_default()
    }

    pub fn into_login(self) -> Login {
        let (mut username, mut password) = (self.username, self.password);
        let pair = STANDARD.decode(&self.auth).ok();
        let pair = pair.and_then(|pair| String::from_utf8(pair).ok());
        if let Some((user, secret)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
            username = user.to_owned();
            password = secret.to_owned();
        }
        Login {
            username,
            password,
            identity_token: self.identitytoken,
            registry_token: self.registrytoken,
        }
    }
}

/// The answer to `POST /auth`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct AuthAnswer {
    pub status: String,
    pub identity_token: String,
}

/// The body of `POST /wharf/v1/images/pull` and `…/push`; reports are the answer.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageTransfer {
    pub reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// Everything that the registry has under the name, for a pull; everything that is here, for a
    /// push.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub all_tags: bool,
    pub logins: Logins,
}

/// The answer to `POST /wharf/v1/images/digest`, whose body is as for a pull.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RemoteDigest {
    /// Of the index or manifest that the registry has under the tag now.
    pub digest: String,
}

/// The body of `POST /wharf/v1/artifacts`.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ArtifactRequest {
    pub reference: String,
    /// Artifact types, any of which will do; for manifests without one, types of the config.
    pub kinds: Vec<String>,
    pub logins: Logins,
}

/// The answer: everything that belongs to a small artifact.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Artifact {
    /// Of the index or manifest that the registry has under the tag now.
    pub digest: String,
    pub kind: String,
    /// In the manifest's order.
    pub blobs: Vec<ArtifactBlob>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ArtifactBlob {
    pub media_type: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// In base64.
    pub content: String,
}

impl ArtifactBlob {
    /// The content; `None` when it is no base64.
    pub fn bytes(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.content).ok()
    }
}

/// The answer to `GET /distribution/{name}/json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct DistributionInspect {
    pub descriptor: DistributionDescriptor,
    pub platforms: Vec<DistributionPlatform>,
}

/// As the OCI specification spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DistributionDescriptor {
    pub media_type: String,
    pub digest: String,
    pub size: u64,
}

/// As the OCI specification spells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DistributionPlatform {
    pub architecture: String,
    pub os: String,
    #[serde(
        default,
        rename = "os.version",
        skip_serializing_if = "Option::is_none"
    )]
    pub os_version: Option<String>,
    #[serde(default, rename = "os.features", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// One line of Docker's stream for a piece of progress.
pub fn progress_line(progress: &ImageProgress) -> Value {
    let (current, total) = (progress.current_bytes, progress.total_bytes);
    let mut line = json!({
        "status": docker_status(progress),
        "progressDetail": {},
        "id": progress.part,
    });
    if current > 0 && current < total {
        line["progressDetail"] = json!({"current": current, "total": total});
        line["progress"] = Value::from(bar(current, total));
    }
    line
}

fn docker_status(progress: &ImageProgress) -> String {
    let docker = match progress.status.as_str() {
        "waiting" => "Pulling fs layer",
        "downloading" => "Downloading",
        "unpacking" => "Extracting",
        "already there" => "Already exists",
        "complete" => "Pull complete",
        "preparing" => "Preparing",
        "pushing" => "Pushing",
        "pushed" => "Pushed",
        "exists" => "Layer already exists",
        "left where it is" => "Skipped foreign layer",
        other => {
            let mut letters = other.chars();
            return match letters.next() {
                Some(first) => first.to_uppercase().chain(letters).collect(),
                None => String::new(),
            };
        }
    };
    docker.to_owned()
}

/// Docker's drawing: `[=====>     ]  12.3MB/45.6MB`.
fn bar(current: u64, total: u64) -> String {
    let n_filled = usize::try_from(current.saturating_mul(50) / total.max(1)).unwrap_or(50);
    let n_filled = n_filled.min(50);
    format!(
        "[{}>{}] {:>9}/{}",
        "=".repeat(n_filled.saturating_sub(1)),
        " ".repeat(50 - n_filled),
        size(current),
        size(total)
    )
}

/// Four digits and a decimal unit, as Go's `units.HumanSize` has it.
fn size(n_bytes: u64) -> String {
    let mut value = n_bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            let text = format!("{value:.*}", (3 - (value.max(1.0).log10() as usize)).min(3));
            let text = match text.contains('.') {
                true => text.trim_end_matches('0').trim_end_matches('.'),
                false => &text,
            };
            return format!("{text}{unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.3}TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_in_every_alphabet() {
        let json = r#"{"username":"me","password":"p?>","serveraddress":"reg"}"#;
        for value in [
            URL_SAFE.encode(json),
            URL_SAFE_NO_PAD.encode(json),
            STANDARD.encode(json),
        ] {
            let auth = AuthConfig::from_header(&value);
            assert_eq!(auth.serveraddress, "reg");
            assert_eq!(auth.into_login().password, "p?>");
        }
        assert!(AuthConfig::from_header("%%").into_login().is_empty());
        let auth = AuthConfig {
            auth: STANDARD.encode("a:b:c"),
            ..AuthConfig::default()
        };
        let login = auth.into_login();
        assert_eq!(
            (login.username.as_str(), login.password.as_str()),
            ("a", "b:c")
        );
    }

    #[test]
    fn lines_are_dockers() {
        let line = progress_line(&ImageProgress {
            part: "0123456789ab".to_owned(),
            status: "downloading".to_owned(),
            current_bytes: 12_345_678,
            total_bytes: 45_600_000,
        });
        assert_eq!(line["status"], "Downloading");
        assert_eq!(line["progressDetail"]["current"], 12_345_678);
        let drawn = line["progress"].as_str().unwrap();
        assert!(drawn.starts_with("[============>"), "{drawn}");
        assert!(drawn.ends_with("12.35MB/45.6MB"), "{drawn}");
    }
}
