//! The image config: untrusted data, made safe to build containers from.
//!
//! An image must not be able to pass as part of a project (labels), to put a volume over the
//! kernel's file systems, or to fill memory. What is out of bounds is dropped with a warning in
//! the log, since the rest of the image works without it.

use std::collections::HashMap;
use std::path::{Component, Path};
use std::time::Duration;

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;

use super::Digest;

/// Name spaces of labels that mean something to engines.
const RESERVED_LABELS: [&str; 2] = ["com.docker.compose.", "io.wharf."];
/// Labels of one image together. Every container's record carries them.
const MAX_LABEL_BYTES: usize = 1 << 20;
/// Environment and arguments end up on the stack of the process, which takes 2 MiB by default.
const MAX_ENV_BYTES: usize = 1 << 20;
const MAX_LIST_LEN: usize = 4096;

/// Docker's extension of the OCI config.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageHealthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", line]`.
    pub test: Vec<String>,
    /// `None` here and below: the engine's default.
    pub interval: Option<Duration>,
    pub timeout: Option<Duration>,
    pub start_period: Option<Duration>,
    pub start_interval: Option<Duration>,
    pub retries: Option<u32>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerHealthcheck {
    #[serde(default)]
    test: Option<Vec<String>>,
    #[serde(default)]
    interval: i64,
    #[serde(default)]
    timeout: i64,
    #[serde(default)]
    start_period: i64,
    #[serde(default)]
    start_interval: i64,
    #[serde(default)]
    retries: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerConfig {
    #[serde(default)]
    healthcheck: Option<DockerHealthcheck>,
}

#[derive(Deserialize)]
struct DockerImage {
    #[serde(default)]
    config: Option<DockerConfig>,
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("the image config is not valid JSON of the expected form")]
    Json(#[source] serde_json::Error),
    #[error("the image config does not have the expected form")]
    Form(#[source] oci_spec::OciSpecError),
    #[error("the image config lists {text:?} as a diff id")]
    DiffId { text: String },
}

/// A config that passed the checks.
#[derive(Debug, Clone)]
pub struct CheckedConfig {
    pub config: ImageConfiguration,
    pub healthcheck: Option<ImageHealthcheck>,
    pub diff_ids: Vec<Digest>,
}

/// Parses and sanitises. The bytes have been verified against their digest.
pub fn check(bytes: &[u8]) -> Result<CheckedConfig, ConfigError> {
    let mut config = ImageConfiguration::from_reader(bytes).map_err(ConfigError::Form)?;
    let docker: DockerImage = serde_json::from_slice(bytes).map_err(ConfigError::Json)?;
    let mut diff_ids = Vec::new();
    for text in config.rootfs().diff_ids() {
        diff_ids.push(Digest::parse(text).map_err(|_| ConfigError::DiffId {
            text: text.chars().take(100).collect(),
        })?);
    }
    if let Some(mut inner) = config.config().clone() {
        if let Some(labels) = inner.labels().clone() {
            inner.set_labels(Some(checked_labels(labels)));
        }
        if let Some(volumes) = inner.volumes().clone() {
            inner.set_volumes(Some(keep("volume", volumes, is_safe_volume)));
        }
        if let Some(ports) = inner.exposed_ports().clone() {
            inner.set_exposed_ports(Some(keep("exposed port", ports, is_port)));
        }
        if let Some(env) = inner.env().clone() {
            let mut n_bytes = 0;
            inner.set_env(Some(keep("variable", env, |variable| {
                n_bytes += variable.len();
                n_bytes <= MAX_ENV_BYTES
                    && !variable.contains('\0')
                    && variable.find('=').is_some_and(|at| at > 0)
            })));
        }
        if let Some(signal) = inner.stop_signal().clone() {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-".contains(&byte);
            if signal.is_empty() || signal.len() > 20 || !signal.bytes().all(is_plain) {
                inner.set_stop_signal(None);
            }
        }
        if let Some(dir) = inner.working_dir().clone() {
            // Docker takes a relative working directory as relative to the root.
            let dir = (!dir.is_empty() && dir.len() < 4096 && !dir.contains('\0')).then(|| {
                if dir.starts_with('/') {
                    dir
                } else {
                    format!("/{dir}")
                }
            });
            inner.set_working_dir(dir);
        }
        config.set_config(Some(inner));
    }
    Ok(CheckedConfig {
        config,
        healthcheck: docker
            .config
            .and_then(|config| config.healthcheck)
            .and_then(healthcheck),
        diff_ids,
    })
}

fn checked_labels(labels: HashMap<String, String>) -> HashMap<String, String> {
    let mut n_bytes = 0;
    // In order, so that the same labels survive each time when there are too many.
    let mut labels: Vec<_> = labels.into_iter().collect();
    labels.sort_unstable();
    labels.retain(|(key, value)| {
        n_bytes += key.len() + value.len();
        let is_reserved = RESERVED_LABELS.iter().any(|prefix| key.starts_with(prefix));
        let is_kept = !key.is_empty() && !is_reserved && n_bytes <= MAX_LABEL_BYTES;
        if !is_kept {
            tracing::warn!(
                label = %key.chars().take(100).collect::<String>(),
                "dropped a label of an image"
            );
        }
        is_kept
    });
    labels.into_iter().collect()
}

fn keep(what: &str, mut values: Vec<String>, mut is_good: impl FnMut(&str) -> bool) -> Vec<String> {
    let n_before = values.len();
    values.truncate(MAX_LIST_LEN);
    values.retain(|value| is_good(value));
    if values.len() < n_before {
        tracing::warn!(
            what,
            dropped = n_before - values.len(),
            "dropped values of an image config"
        );
    }
    values
}

/// An absolute path that is neither the root nor a place of the kernel's own file systems.
fn is_safe_volume(path: &str) -> bool {
    let path = Path::new(path);
    let mut components = path.components();
    if components.next() != Some(Component::RootDir) || path.as_os_str().len() > 4095 {
        return false;
    }
    let Some(Component::Normal(first)) = components.next() else {
        return false;
    };
    !path.to_string_lossy().contains('\0')
        && components.all(|component| matches!(component, Component::Normal(_)))
        && !["proc", "sys", "dev"].iter().any(|name| first == *name)
}

/// `port[-port][/protocol]`.
fn is_port(text: &str) -> bool {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !["tcp", "udp", "sctp"].contains(&protocol) {
        return false;
    }
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last)) => first > 0 && first <= last,
        _ => false,
    }
}

fn healthcheck(docker: DockerHealthcheck) -> Option<ImageHealthcheck> {
    let test = docker.test.filter(|test| !test.is_empty())?;
    let is_known = matches!(test[0].as_str(), "NONE" | "CMD" | "CMD-SHELL");
    let n_bytes: usize = test.iter().map(String::len).sum();
    if !is_known || n_bytes > MAX_ENV_BYTES || test.len() > MAX_LIST_LEN {
        return None;
    }
    let duration = |nanoseconds: i64| {
        let nanoseconds = u64::try_from(nanoseconds).ok().filter(|n| *n > 0)?;
        // Docker refuses less than a millisecond; a probe in a tight loop would eat the machine.
        Some(Duration::from_nanos(nanoseconds).max(Duration::from_millis(1)))
    };
    Some(ImageHealthcheck {
        test,
        interval: duration(docker.interval),
        timeout: duration(docker.timeout),
        start_period: duration(docker.start_period),
        start_interval: duration(docker.start_interval),
        retries: u32::try_from(docker.retries).ok().filter(|n| *n > 0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_image_must_not_claim_is_dropped() {
        let json = serde_json::json!({
            "architecture": "amd64", "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": []},
            "config": {
                "Labels": {"com.docker.compose.project": "victim", "io.wharf.x": "1", "a": "b"},
                "Volumes": {"/data": {}, "/proc": {}, "/": {}, "/sys/fs": {}, "rel": {}, "/a/../../etc": {}},
                "ExposedPorts": {"80/tcp": {}, "1-65535/udp": {}, "0": {}, "80/icmp": {}, "x": {}},
                "Env": ["A=1", "=x", "novalue", "B=="],
                "StopSignal": "$(reboot)", "WorkingDir": "srv",
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1, "Retries": 3}
            }
        });
        let checked = check(json.to_string().as_bytes()).unwrap();
        let inner = checked.config.config().clone().unwrap();
        assert_eq!(
            inner.labels().clone().unwrap(),
            HashMap::from([("a".to_owned(), "b".to_owned())])
        );
        assert_eq!(inner.volumes().clone().unwrap(), ["/data"]);
        let mut ports = inner.exposed_ports().clone().unwrap();
        ports.sort();
        assert_eq!(ports, ["1-65535/udp", "80/tcp"]);
        assert_eq!(inner.env().clone().unwrap(), ["A=1", "B=="]);
        assert_eq!(*inner.stop_signal(), None);
        assert_eq!(inner.working_dir().as_deref(), Some("/srv"));
        let health = checked.healthcheck.unwrap();
        assert_eq!(health.interval, Some(Duration::from_millis(1)));
        assert_eq!(health.retries, Some(3));
        assert_eq!(health.timeout, None);
    }

    #[test]
    fn ten_megabytes_of_labels_are_bounded() {
        let labels = (0..1000)
            .map(|n| (format!("k{n}"), "x".repeat(10_000)))
            .collect();
        let kept = checked_labels(labels);
        let n_bytes: usize = kept.iter().map(|(k, v)| k.len() + v.len()).sum();
        assert!(n_bytes <= MAX_LABEL_BYTES && !kept.is_empty());
    }
}
