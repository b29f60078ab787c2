//! Desired against observed, one service at a time: what becomes of each container (R1–R4, L2).

use std::collections::HashSet;

use super::machine::{Machine, is_active, known_name, number};
use super::{ObservedContainer, Phase, UpOptions, graph};
use crate::compose::{MountKind, Project, Service};

/// What has to happen to a replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It runs as it should.
    Keep,
    /// It is as it should be, but does not run.
    Start,
    /// There is none yet.
    Create,
    /// A new one takes its place; the old one lives until the new one exists.
    Replace(Verdict),
    /// It has to go before a new one can be made, since it holds what is made again.
    Remake(Verdict),
}

/// Why a container cannot stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub reason: String,
    /// Dotted path of the part of the file that asks for it.
    pub path: String,
}

#[derive(Debug)]
pub(super) struct Replica<'a> {
    pub number: u32,
    pub old: Option<&'a ObservedContainer>,
    /// It bears the name of an interrupted replacement and gets its lasting one first.
    pub adopt: bool,
    pub fate: Fate,
}

#[derive(Debug, Default)]
pub(super) struct ServiceDiff<'a> {
    /// What the service shall have, lowest number first.
    pub replicas: Vec<Replica<'a>>,
    /// Too many by number.
    pub surplus: Vec<&'a ObservedContainer>,
    /// Halves of interrupted replacements whose originals are still there.
    pub leftovers: Vec<&'a ObservedContainer>,
}

impl<'a> ServiceDiff<'a> {
    /// Whether those who share a namespace with its first container must follow.
    pub fn first_is_new(&self) -> bool {
        self.replicas.first().is_some_and(|first| {
            let is_new = matches!(
                first.fate,
                Fate::Create | Fate::Replace(_) | Fate::Remake(_)
            );
            // The container that was the first may be among those that go.
            is_new || self.surplus.iter().any(|c| number(c) < first.number)
        })
    }

    /// Containers that go before new ones are made, with the reason.
    pub fn remade(&self) -> Vec<(&'a ObservedContainer, Verdict)> {
        let remade = self.replicas.iter().filter_map(|r| match (&r.fate, r.old) {
            (Fate::Remake(verdict), Some(old)) => Some((old, verdict.clone())),
            _ => None,
        });
        remade.collect()
    }

    /// Whether a container that ran is taken away from those who depend on it.
    pub fn replaces_running(&self) -> bool {
        self.replicas.iter().any(|r| {
            matches!(r.fate, Fate::Replace(_) | Fate::Remake(_)) && r.old.is_some_and(is_active)
        })
    }
}

/// What is the same for all services of one `up`.
pub(super) struct Judge<'a> {
    pub project: &'a Project,
    pub machine: &'a Machine<'a>,
    pub options: &'a UpOptions,
    /// Networks and volumes that are removed and made again, by engine name.
    pub rebuilt_networks: HashSet<&'a str>,
    pub rebuilt_volumes: HashSet<&'a str>,
    /// Services of this `up` whose first container is a new one.
    pub renewed: HashSet<&'a str>,
}

impl<'a> Judge<'a> {
    pub fn diff(
        &self,
        name: &str,
        service: &Service,
        n_replicas: u32,
        config_hash: &str,
    ) -> ServiceDiff<'a> {
        let all = self.machine.replicas(name);
        let mut diff = ServiceDiff::default();
        let mut present: Vec<(&'a ObservedContainer, Option<Fate>)> = Vec::new();
        for container in all {
            let is_temporary = known_name(container) != container.name;
            let original = known_name(container);
            if is_temporary && all.iter().any(|c| c.name == original) {
                diff.leftovers.push(container);
                continue;
            }
            let fate = self.judge(name, service, config_hash, container);
            present.push((container, fate));
        }

        let n_surplus = present.len().saturating_sub(n_replicas as usize);
        if n_surplus > 0 {
            // L2: the outdated go first, then the highest numbers.
            present.sort_by_key(|(c, fate)| (fate.is_none(), std::cmp::Reverse(number(c))));
            diff.surplus = present.drain(..n_surplus).map(|(c, _)| c).collect();
            present.sort_by_key(|(c, _)| number(c));
        }
        for (container, fate) in present {
            let fate = fate.unwrap_or(if is_active(container) {
                Fate::Keep
            } else {
                Fate::Start
            });
            diff.replicas.push(Replica {
                number: number(container),
                old: Some(container),
                adopt: known_name(container) != container.name,
                fate,
            });
        }
        // L2: gaps stay, as a number that comes back would be taken for the container it once was.
        let mut next = all.iter().map(|c| number(c)).max().unwrap_or(0) + 1;
        while diff.replicas.len() < n_replicas as usize {
            diff.replicas.push(Replica {
                number: next,
                old: None,
                adopt: false,
                fate: Fate::Create,
            });
            next += 1;
        }
        diff
    }

    /// `None` when the container may stay.
    fn judge(
        &self,
        name: &str,
        service: &Service,
        config_hash: &str,
        container: &ObservedContainer,
    ) -> Option<Fate> {
        let verdict = |reason: String, path: String| Verdict { reason, path };
        if container.phase == Phase::Removing {
            return Some(Fate::Remake(verdict(
                "it is being removed".to_owned(),
                format!("services.{name}"),
            )));
        }
        for endpoint in &container.networks {
            if self.rebuilt_networks.contains(endpoint.network.as_str()) {
                return Some(Fate::Remake(verdict(
                    format!("network {} is made again", endpoint.network),
                    format!("services.{name}.networks"),
                )));
            }
        }
        for mount in &container.volumes {
            if self.rebuilt_volumes.contains(mount.volume.as_str()) {
                return Some(Fate::Remake(verdict(
                    format!("volume {} is made again", mount.volume),
                    format!("services.{name}.volumes"),
                )));
            }
        }
        if self.options.no_recreate {
            return None;
        }
        let (reason, path) = self.divergence(name, service, config_hash, container)?;
        Some(Fate::Replace(verdict(reason, path)))
    }

    fn divergence(
        &self,
        name: &str,
        service: &Service,
        config_hash: &str,
        container: &ObservedContainer,
    ) -> Option<(String, String)> {
        let here = |part: &str| format!("services.{name}{part}");
        let options = self.options;
        let named = options.services.is_empty() || options.services.iter().any(|s| s == name);
        if named && options.force_recreate {
            return Some(("recreation was asked for".to_owned(), here("")));
        }
        if named && options.renew_anon_volumes {
            let reason = "new anonymous volumes were asked for".to_owned();
            return Some((reason, here("")));
        }
        if !named && options.always_recreate_deps {
            let reason = "recreation of dependencies was asked for".to_owned();
            return Some((reason, here("")));
        }
        if container.label(super::labels::CONFIG_HASH) != config_hash {
            let reason = format!("the configuration of service {name} changed");
            return Some((reason, here("")));
        }
        if container.phase == Phase::Dead {
            return Some(("it is dead".to_owned(), here("")));
        }
        if let Some(id) = self.machine.observed.images.get(&container.image)
            && !container.image_id.is_empty()
            && *id != container.image_id
        {
            let reason = format!("image {} is a newer one now", container.image);
            return Some((reason, here(".image")));
        }
        if let Some(missing) = self.missing_network(service, container) {
            let reason = format!("it is not attached to network {missing}");
            return Some((reason, here(".networks")));
        }
        if let Some((position, missing)) = self.missing_volume(service, container) {
            let reason = format!("it does not mount volume {missing}");
            return Some((reason, here(&format!(".volumes.{position}"))));
        }
        for parent in graph::parents(service) {
            if self.renewed.contains(parent) {
                let reason = format!("it builds on service {parent}, whose container is new");
                return Some((reason, here("")));
            }
            // The parent was made again by a command that did not include this service.
            if let Some(first) = self.machine.replicas(parent).first()
                && first.created_at > container.created_at
            {
                let reason = format!("it was made for an earlier container of service {parent}");
                return Some((reason, here("")));
            }
        }
        None
    }

    /// Only a running container is attached to anything; a stopped one attaches when it starts.
    fn missing_network(&self, service: &Service, container: &ObservedContainer) -> Option<&str> {
        if container.phase != Phase::Running || service.network_mode.is_some() {
            return None;
        }
        service.networks.keys().find_map(|key| {
            let wanted = self.project.networks.get(key)?.name.as_str();
            let exists = self.machine.networks.get(wanted);
            let attached = container.networks.iter().any(|endpoint| {
                endpoint.network == wanted
                    && exists.is_some_and(|network| {
                        endpoint.network_id.is_empty() || endpoint.network_id == network.id
                    })
            });
            (!attached).then_some(wanted)
        })
    }

    fn missing_volume(
        &self,
        service: &Service,
        container: &ObservedContainer,
    ) -> Option<(usize, &str)> {
        service.volumes.iter().enumerate().find_map(|(i, mount)| {
            let MountKind::Volume {
                source: Some(key), ..
            } = &mount.kind
            else {
                return None;
            };
            let wanted = self.project.volumes.get(key)?.name.as_str();
            let mounted = container
                .volumes
                .iter()
                .any(|m| m.volume == wanted && m.target == mount.target);
            (!mounted).then_some((i, wanted))
        })
    }
}
