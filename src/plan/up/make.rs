//! Networks, volumes and containers of an `up`: what is created, replaced and renamed.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::graph::NodeIndex;

use super::{Built, Up};
use crate::compose::MountKind;
use crate::plan::cause::{asked, because};
use crate::plan::convert::{self, Identity};
use crate::plan::diff::{Fate, Replica, Verdict};
use crate::plan::graph::parents;
use crate::plan::machine::{is_active, known_name};
use crate::plan::resources::{Resource, Resources};
use crate::plan::{
    Action, Cause, ContainerConfig, MountConfig, MountSource, NetworkMode, ObservedContainer,
    PlanError, labels,
};

impl<'a> Up<'a> {
    pub(super) fn make_resources(&mut self, resources: &Resources<'a>) {
        for (key, what) in &resources.networks {
            let network = &self.project.networks[*key];
            let path = format!("networks.{key}");
            let (hash, cause, removed) = match what {
                Resource::Keep => continue,
                Resource::Create { hash } => {
                    let reason = format!("network {key} does not exist yet");
                    (hash, because(self.project, reason, &path), None)
                }
                Resource::Rebuild { hash } => {
                    let reason = format!("the configuration of network {key} changed");
                    let cause = because(self.project, reason, &path);
                    let holders = self
                        .machine
                        .networks
                        .get(network.name.as_str())
                        .map(|n| n.containers.as_slice());
                    let attached = self.removals_of(holders.unwrap_or_default(), |c| {
                        c.networks.iter().any(|e| e.network == network.name)
                    });
                    let action = Action::RemoveNetwork {
                        name: network.name.clone(),
                    };
                    let removed = self.builder.add(action, cause.clone(), attached);
                    (hash, cause, Some(removed))
                }
            };
            let config = convert::network(self.project, key, network, hash);
            let action = Action::CreateNetwork(config);
            let node = self.builder.add(action, cause, removed);
            self.made.insert(key, node);
        }
        for (key, what) in &resources.volumes {
            let volume = &self.project.volumes[*key];
            let path = format!("volumes.{key}");
            let (hash, cause, removed) = match what {
                Resource::Keep => continue,
                Resource::Create { hash } => {
                    let reason = format!("volume {key} does not exist yet");
                    (hash, because(self.project, reason, &path), None)
                }
                Resource::Rebuild { hash } => {
                    let reason = format!(
                        "the definition of volume {key} changed, and its loss was agreed to"
                    );
                    let cause = because(self.project, reason, &path);
                    let holders = self
                        .machine
                        .volumes
                        .get(volume.name.as_str())
                        .map(|v| v.containers.as_slice());
                    let mounting = self.removals_of(holders.unwrap_or_default(), |c| {
                        c.volumes.iter().any(|m| m.volume == volume.name)
                    });
                    let action = Action::RemoveVolume {
                        name: volume.name.clone(),
                    };
                    let removed = self.builder.add(action, cause.clone(), mounting);
                    (hash, cause, Some(removed))
                }
            };
            let config = convert::volume(self.project, key, volume, hash);
            let action = Action::CreateVolume(config);
            let node = self.builder.add(action, cause, removed);
            self.made_volumes.insert(key, node);
        }
    }

    fn removals_of(
        &self,
        named: &[String],
        holds: impl Fn(&ObservedContainer) -> bool,
    ) -> BTreeSet<NodeIndex> {
        let by_name = named.iter().map(String::as_str);
        let by_state = self.machine.observed.containers.iter();
        let by_state = by_state.filter(|c| holds(c)).map(|c| c.name.as_str());
        by_name
            .chain(by_state)
            .filter_map(|name| self.removals.get(name).copied())
            .collect()
    }

    pub(super) fn make_containers(&mut self) -> Result<(), PlanError> {
        for name in self.scope.order.clone() {
            let diff = self.diffs.remove(name).unwrap_or_default();
            let mut built = Built::default();
            for (replica, lasting) in diff.replicas.iter().zip(self.names[name].clone()) {
                let node = self.make_container(name, replica, &lasting, &mut built)?;
                built.exists.push(node);
            }
            self.built.insert(name, built);
            self.diffs.insert(name, diff);
        }
        Ok(())
    }

    fn make_container(
        &mut self,
        name: &'a str,
        replica: &Replica<'a>,
        lasting: &str,
        built: &mut Built,
    ) -> Result<Option<NodeIndex>, PlanError> {
        let mut adopted = None;
        if let Some(old) = replica.old.filter(|_| replica.adopt) {
            let action = Action::RenameContainer {
                service: name.to_owned(),
                from: old.name.clone(),
                to: known_name(old).to_owned(),
            };
            let cause = asked("a replacement was interrupted before it had its name");
            // Whatever is done to it goes by one name only, so a remade one is left alone.
            if !matches!(replica.fate, Fate::Remake(_) | Fate::Replace(_)) {
                adopted = Some(self.builder.add(action, cause, []));
            }
        }
        match (&replica.fate, replica.old) {
            (Fate::Keep | Fate::Start, _) => Ok(adopted),
            (Fate::Replace(verdict), Some(old)) => {
                self.replace(name, replica, old, verdict, lasting, built)
            }
            (Fate::Remake(verdict), Some(old)) => {
                let cause = because(self.project, verdict.reason.clone(), &verdict.path);
                let mut config = self.convert(name, replica)?;
                if !self.options.renew_anon_volumes {
                    keep_anonymous_volumes(&mut config.mounts, old);
                }
                let removed = self.removals.get(old.name.as_str()).copied();
                let node = self.create(name, config, None, cause);
                self.builder.after(node, removed);
                Ok(Some(node))
            }
            _ => {
                let n_replicas = self.n_replicas(name);
                let reason = match n_replicas {
                    1 => format!("service {name} has no container yet"),
                    n => format!("service {name} is to have {n} replicas"),
                };
                let cause = because(self.project, reason, &format!("services.{name}"));
                let config = self.convert(name, replica)?;
                Ok(Some(self.create(name, config, None, cause)))
            }
        }
    }

    /// R2: create beside the old one, stop it, remove it, take its name.
    fn replace(
        &mut self,
        name: &'a str,
        replica: &Replica<'a>,
        old: &'a ObservedContainer,
        verdict: &Verdict,
        lasting: &str,
        built: &mut Built,
    ) -> Result<Option<NodeIndex>, PlanError> {
        let cause = because(self.project, verdict.reason.clone(), &verdict.path);
        let mut config = self.convert(name, replica)?;
        let temporary = convert::temporary_name(&old.id, lasting);
        config.name = temporary.clone();
        config
            .labels
            .insert(labels::REPLACE.to_owned(), known_name(old).to_owned());
        let created = self.create(name, config, Some(&old.name), cause.clone());
        let mut before = created;
        if is_active(old) {
            let action = Action::StopContainer {
                service: name.to_owned(),
                container: old.name.clone(),
                timeout: self.options.timeout,
            };
            before = self.builder.add(action, cause.clone(), [created]);
            built.stops.push(before);
            self.freed.push((old, before));
        }
        let action = Action::RemoveContainer {
            service: name.to_owned(),
            container: old.name.clone(),
            volumes: false,
            force: false,
        };
        let removed = self.builder.add(action, cause.clone(), [before]);
        let mut gone = BTreeSet::from([removed]);
        gone.extend(self.removals.insert(&old.name, removed));
        gone.extend(self.removals.get(lasting));
        let action = Action::RenameContainer {
            service: name.to_owned(),
            from: temporary,
            to: lasting.to_owned(),
        };
        Ok(Some(self.builder.add(action, cause, gone)))
    }

    fn convert(
        &mut self,
        name: &'a str,
        replica: &Replica<'_>,
    ) -> Result<ContainerConfig, PlanError> {
        let converted = convert::container(
            self.project,
            name,
            &self.project.services[name],
            Identity::Replica(replica.number),
            &self.hashes[name],
            &self.names,
        )?;
        for warning in converted.warnings {
            self.builder.warn(warning);
        }
        let mut config = converted.config;
        if let Some(id) = self.machine.observed.images.get(&config.image) {
            config.labels.insert(labels::IMAGE.to_owned(), id.clone());
        }
        Ok(config)
    }

    pub(super) fn create(
        &mut self,
        name: &'a str,
        config: ContainerConfig,
        replaces: Option<&str>,
        cause: Cause,
    ) -> NodeIndex {
        let service = &self.project.services[name];
        let mut after: BTreeSet<NodeIndex> = BTreeSet::new();
        let is_there = self.machine.observed.images.contains_key(&config.image);
        // One that is there may be made for another platform, which the step finds out (Q4).
        if !is_there || config.platform.is_some() {
            let key = (config.image.clone(), config.platform.clone());
            let node = match self.images.get(&key) {
                Some(node) => *node,
                None => {
                    let action = Action::EnsureImage {
                        service: name.to_owned(),
                        reference: config.image.clone(),
                        pull_policy: self
                            .options
                            .pull
                            .clone()
                            .or_else(|| service.pull_policy.clone()),
                        platform: config.platform.clone(),
                    };
                    let reason = match (is_there, &config.platform) {
                        (true, Some(platform)) => {
                            format!("image {} has to be one for {platform}", config.image)
                        }
                        _ => format!("image {} is not there yet", config.image),
                    };
                    let path = format!("services.{name}.image");
                    let node = self
                        .builder
                        .add(action, because(self.project, reason, &path), []);
                    self.images.insert(key, node);
                    node
                }
            };
            after.insert(node);
        }
        if matches!(config.network, NetworkMode::Networks(_)) {
            let keys = service.networks.keys();
            after.extend(keys.filter_map(|key| self.made.get(key.as_str()).copied()));
        }
        for mount in &service.volumes {
            if let MountKind::Volume {
                source: Some(key), ..
            } = &mount.kind
            {
                after.extend(self.made_volumes.get(key.as_str()));
            }
        }
        for parent in parents(service) {
            if let Some(built) = self.built.get(parent) {
                after.extend(built.exists.first().copied().flatten());
            }
        }
        // Whoever bears the name has to be gone.
        after.extend(self.removals.get(config.name.as_str()));
        let action = Action::CreateContainer {
            service: name.to_owned(),
            config: Box::new(config),
            replaces: replaces.map(str::to_owned),
            inherit_volumes: replaces.is_some() && !self.options.renew_anon_volumes,
        };
        self.builder.add(action, cause, after)
    }
}

/// R3 where the old container goes before the new one is made: its anonymous volumes are mounted
/// by name, so that no data is left behind.
fn keep_anonymous_volumes(mounts: &mut Vec<MountConfig>, old: &ObservedContainer) {
    for held in old.volumes.iter().filter(|m| m.anonymous) {
        match mounts.iter_mut().find(|m| m.target == held.target) {
            Some(mount) => {
                if let MountSource::Volume { name, .. } = &mut mount.source
                    && name.is_none()
                {
                    *name = Some(held.volume.clone());
                }
            }
            None => mounts.push(MountConfig {
                source: MountSource::Volume {
                    name: Some(held.volume.clone()),
                    nocopy: true,
                    subpath: None,
                    labels: BTreeMap::new(),
                },
                target: held.target.clone(),
                read_only: false,
            }),
        }
    }
}
