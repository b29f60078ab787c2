//! [`Observed`] seen from one project: look-ups by service, by name, and who is an orphan.

use std::collections::HashMap;

use super::convert::lasting_name;
use super::{Observed, ObservedContainer, ObservedNetwork, ObservedVolume, Phase, labels};
use crate::compose::Project;

pub(super) struct Machine<'a> {
    /// Replicas by service, lowest number first; one-offs are not among them.
    replicas: HashMap<&'a str, Vec<&'a ObservedContainer>>,
    one_offs: HashMap<&'a str, Vec<&'a ObservedContainer>>,
    pub networks: HashMap<&'a str, &'a ObservedNetwork>,
    pub volumes: HashMap<&'a str, &'a ObservedVolume>,
    pub observed: &'a Observed,
}

impl<'a> Machine<'a> {
    pub fn new(project: &Project, observed: &'a Observed) -> Self {
        let mut replicas: HashMap<&str, Vec<&ObservedContainer>> = HashMap::new();
        let mut one_offs: HashMap<&str, Vec<&ObservedContainer>> = HashMap::new();
        for container in &observed.containers {
            // L4: a container without the hash is somebody else's work with our labels.
            if container.label(labels::PROJECT) != project.name.as_str()
                || container.label(labels::CONFIG_HASH).is_empty()
            {
                continue;
            }
            let of_service = if is_one_off(container) {
                one_offs.entry(container.label(labels::SERVICE))
            } else {
                replicas.entry(container.label(labels::SERVICE))
            };
            of_service.or_default().push(container);
        }
        for containers in replicas.values_mut() {
            containers.sort_by(|a, b| number(a).cmp(&number(b)).then_with(|| a.name.cmp(&b.name)));
        }
        Machine {
            replicas,
            one_offs,
            networks: observed
                .networks
                .iter()
                .map(|n| (n.name.as_str(), n))
                .collect(),
            volumes: observed
                .volumes
                .iter()
                .map(|v| (v.name.as_str(), v))
                .collect(),
            observed,
        }
    }

    pub fn replicas(&self, service: &str) -> &[&'a ObservedContainer] {
        self.replicas.get(service).map_or(&[], Vec::as_slice)
    }

    pub fn one_offs(&self, service: &str) -> &[&'a ObservedContainer] {
        self.one_offs.get(service).map_or(&[], Vec::as_slice)
    }

    /// R9: containers of services that the file does not have, and one-offs that have ended.
    pub fn orphans(&self, project: &Project) -> Vec<&'a ObservedContainer> {
        let known = |service: &str| {
            project.services.contains_key(service)
                || project.disabled_services.iter().any(|d| d == service)
        };
        let strangers = self
            .replicas
            .iter()
            .filter(|(service, _)| !known(service))
            .flat_map(|(_, containers)| containers);
        let ended = self
            .one_offs
            .iter()
            .flat_map(|(service, containers)| containers.iter().map(move |c| (service, c)))
            .filter(|(service, c)| !known(service) || !is_active(c))
            .map(|(_, c)| c);
        let mut orphans: Vec<_> = strangers.chain(ended).copied().collect();
        orphans.sort_by(|a, b| a.name.cmp(&b.name));
        orphans
    }
}

pub(super) fn is_one_off(container: &ObservedContainer) -> bool {
    container
        .label(labels::ONE_OFF)
        .eq_ignore_ascii_case("true")
}

/// Whether it has processes, or is about to.
pub(super) fn is_active(container: &ObservedContainer) -> bool {
    matches!(
        container.phase,
        Phase::Running | Phase::Restarting | Phase::Paused
    )
}

/// The number of a replica; what cannot be read counts as 1.
pub(super) fn number(container: &ObservedContainer) -> u32 {
    container
        .label(labels::CONTAINER_NUMBER)
        .parse()
        .unwrap_or(1)
}

/// The name the user knows it by, also in the middle of a replacement.
pub(super) fn known_name(container: &ObservedContainer) -> &str {
    if container.label(labels::REPLACE).is_empty() {
        return &container.name;
    }
    lasting_name(&container.name).unwrap_or(&container.name)
}
