//! Our containers as Docker's JSON, and Docker's filters on them.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::status_text;
use super::wire::docker;
use crate::plan::ObservedContainer;
use crate::reconcile::{BackendError, FailureKind};

/// A row of `GET /containers/json`.
pub fn summary(container: &ObservedContainer, now_ns: u64) -> docker::ContainerSummary {
    let networks = container
        .networks
        .iter()
        .map(|endpoint| {
            let text = |address: &Option<std::net::IpAddr>| {
                address.map(|a| a.to_string()).unwrap_or_default()
            };
            let wire = docker::Endpoint {
                network_id: endpoint.network_id.clone(),
                ip_address: text(&endpoint.ipv4),
                global_ipv6_address: text(&endpoint.ipv6),
                mac_address: endpoint.mac.clone().unwrap_or_default(),
            };
            (endpoint.network.clone(), wire)
        })
        .collect();
    docker::ContainerSummary {
        id: container.id.clone(),
        names: vec![format!("/{}", container.name)],
        image: container.image.clone(),
        image_id: container.image_id.clone(),
        command: container.command.clone(),
        created: container.created_at / 1_000_000_000,
        ports: container.ports.iter().map(port).collect(),
        labels: container.labels.clone(),
        state: container.phase.as_str().to_owned(),
        status: status_text::status(container, now_ns),
        network_settings: docker::NetworkSettings { networks },
        mounts: container
            .volumes
            .iter()
            .map(|mount| docker::MountPoint {
                kind: "volume".to_owned(),
                name: mount.volume.clone(),
                destination: mount.target.display().to_string(),
                rw: true,
            })
            .collect(),
    }
}

fn port(port: &crate::plan::ObservedPort) -> docker::Port {
    docker::Port {
        ip: port.host_port.map(|_| {
            port.host_ip
                .map_or("0.0.0.0".to_owned(), |ip| ip.to_string())
        }),
        private_port: port.container_port,
        public_port: port.host_port,
        kind: port.protocol.to_string(),
    }
}

/// The `filters` parameter: `{"label":["a=b"]}`, or the older `{"label":{"a=b":true}}`.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Filters(BTreeMap<String, Vec<String>>);

#[derive(Deserialize)]
#[serde(untagged)]
enum FilterValues {
    List(Vec<String>),
    Set(HashMap<String, bool>),
}

impl Filters {
    /// # Errors
    /// `Invalid` for text that is not such JSON, and for keys that would be ignored.
    pub fn parse(json: &str) -> Result<Filters, BackendError> {
        let invalid = |message: String| BackendError {
            kind: FailureKind::Invalid,
            message,
            hints: Vec::new(),
        };
        if json.is_empty() {
            return Ok(Filters::default());
        }
        let parsed: BTreeMap<String, FilterValues> = serde_json::from_str(json)
            .map_err(|error| invalid(format!("invalid filters: {error}")))?;
        let mut filters = BTreeMap::new();
        for (key, values) in parsed {
            if ![
                "label", "name", "id", "status", "health", "network", "volume",
            ]
            .contains(&key.as_str())
            {
                return Err(invalid(format!("invalid filter '{key}'")));
            }
            let values = match values {
                FilterValues::List(values) => values,
                FilterValues::Set(set) => set
                    .into_iter()
                    .filter(|(_, on)| *on)
                    .map(|(v, _)| v)
                    .collect(),
            };
            filters.insert(key, values);
        }
        Ok(Filters(filters))
    }

    /// Whether stopped containers are asked for although `all` is not given.
    pub fn names_a_status(&self) -> bool {
        self.0.contains_key("status")
    }

    /// Labels must all match; of any other key, one value has to.
    pub fn accept(&self, container: &ObservedContainer) -> bool {
        self.0.iter().all(|(key, values)| {
            let any = |matches: &dyn Fn(&str) -> bool| values.iter().any(|value| matches(value));
            match key.as_str() {
                "label" => values.iter().all(|wanted| match wanted.split_once('=') {
                    Some((key, value)) => {
                        container.labels.get(key).map(String::as_str) == Some(value)
                    }
                    None => container.labels.contains_key(wanted),
                }),
                // Docker matches a part of the name, and lets `^/name$` ask for the whole.
                "name" => any(&|wanted| name_matches(wanted, &container.name)),
                "id" => any(&|wanted| container.id.starts_with(wanted)),
                "status" => any(&|wanted| container.phase.as_str() == wanted),
                "health" => any(&|wanted| match status_text::health(container) {
                    "" => wanted == "none",
                    health => health == wanted,
                }),
                "network" => any(&|wanted| {
                    container
                        .networks
                        .iter()
                        .any(|e| e.network == wanted || e.network_id.starts_with(wanted))
                }),
                "volume" => any(&|wanted| {
                    container
                        .volumes
                        .iter()
                        .any(|m| m.volume == wanted || m.target.as_os_str() == wanted)
                }),
                _ => false,
            }
        })
    }
}

fn name_matches(wanted: &str, name: &str) -> bool {
    let (start, wanted) = match wanted.strip_prefix('^') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
    let (end, wanted) = match wanted.strip_suffix('$') {
        Some(rest) => (true, rest),
        None => (false, wanted),
    };
    match (start, end) {
        (true, true) => name == wanted,
        (true, false) => name.starts_with(wanted),
        (false, true) => name.ends_with(wanted),
        (false, false) => name.contains(wanted),
    }
}

/// What a log prefix shows: Docker's `web-1`, or the container's own name where the file fixes it.
pub fn log_label(container: &ObservedContainer) -> String {
    let project = container.label("com.docker.compose.project");
    container
        .name
        .strip_prefix(project)
        .and_then(|rest| rest.strip_prefix(['-', '_']))
        .filter(|_| !project.is_empty())
        .unwrap_or(&container.name)
        .to_owned()
}
