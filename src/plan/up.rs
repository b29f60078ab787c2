//! The plan of `up` and `create`: from nothing, or from whatever is there, to what the file says.
//!
//! ```text
//!  image ─┐
//! network ┼─▶ create ─▶ (stop old ─▶ remove old ─▶ rename) ─▶ start ─▶ await ─▶ start of dependents
//!  volume ┘
//! ```
//!
//! Containers are created side by side; only starts follow `depends_on`. Nothing else waits.
//! Creations and stops never wait for a start, which is why no option can close a circle.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use std::mem::{Discriminant, discriminant};

use petgraph::graph::NodeIndex;

use super::build::PlanBuilder;
use super::cause::{asked, because};
use super::convert::{self, ContainerNames, Identity};
use super::diff::{Fate, Judge, Replica, ServiceDiff, Verdict};
use super::graph::{Follow, Scope, parents};
use super::machine::{Machine, is_active, known_name};
use super::resources::{Resource, Resources, compare};
use super::{
    Action, Cause, Health, MountConfig, MountSource, NetworkMode, Observed, ObservedContainer,
    Phase, Plan, PlanError, UpOptions, hash, labels,
};
use crate::compose::{Condition, Dependency, PortBinding, Project};

/// Steps that bring the machine to what the project says. Empty when it is there already.
///
/// # Errors
///
/// Contradictions in the project or the options, and external objects that are missing.
pub fn up(project: &Project, observed: &Observed, options: &UpOptions) -> Result<Plan, PlanError> {
    if options.remove_orphans && options.ignore_orphans {
        return Err(PlanError::OrphanOptions);
    }
    if options.force_recreate && options.no_recreate {
        return Err(PlanError::RecreateOptions);
    }
    if let Some(unknown) = options
        .scale
        .keys()
        .find(|name| !project.services.contains_key(*name))
    {
        return Err(PlanError::UnknownService {
            service: unknown.clone(),
        });
    }
    let machine = Machine::new(project, observed);
    let (scope, resources) = settle_scope(project, &machine, options)?;
    let mut up = Up::new(project, &machine, options, scope, &resources);
    up.compare_services()?;
    for warning in &resources.warnings {
        up.builder.warn(warning);
    }
    up.remove_what_is_too_many();
    up.make_resources(&resources);
    up.make_containers()?;
    if options.start {
        up.start_containers();
    } else {
        up.report_running();
    }
    Ok(up.builder.finish())
}

/// Images that have to be asked for anew because of their pull policy, whatever is there. Executed
/// before the observation that [`up`] works on, since a newer image makes containers outdated.
pub fn refresh_images(project: &Project, options: &UpOptions) -> Result<Plan, PlanError> {
    let scope = Scope::select(project, &options.services, follow(options))?;
    let mut builder = PlanBuilder::default();
    let mut asked_for: HashSet<(String, Option<String>)> = HashSet::new();
    for name in &scope.order {
        let service = &project.services[*name];
        let policy = options.pull.as_ref().or(service.pull_policy.as_ref());
        let Some(policy) = policy else { continue };
        if matches!(
            policy.as_str(),
            "missing" | "if_not_present" | "never" | "build"
        ) {
            continue;
        }
        let reference = convert::image_reference(project, name, service);
        if asked_for.insert((reference.clone(), service.platform.clone())) {
            let action = Action::EnsureImage {
                service: (*name).to_owned(),
                reference,
                pull_policy: Some(policy.clone()),
                platform: service.platform.clone(),
            };
            let reason = format!("the pull policy is {policy}");
            let path = format!("services.{name}.pull_policy");
            builder.add(action, because(project, reason, &path), []);
        }
    }
    Ok(builder.finish())
}

pub(super) fn follow(options: &UpOptions) -> Follow {
    if options.no_deps {
        Follow::Nothing
    } else {
        Follow::Dependencies
    }
}

/// A resource that is made again draws the services that hold it into the command.
fn settle_scope<'a>(
    project: &'a Project,
    machine: &Machine<'_>,
    options: &UpOptions,
) -> Result<(Scope<'a>, Resources<'a>), PlanError> {
    let mut named = options.services.clone();
    loop {
        let scope = Scope::select(project, &named, follow(options))?;
        let resources = compare(project, machine, &scope, options)?;
        if resources.also.is_empty() {
            return Ok((scope, resources));
        }
        named.extend(resources.also);
    }
}

/// The steps of one service that others wait for.
#[derive(Debug, Default)]
struct Built {
    /// By replica, the step after which it exists under its lasting name.
    exists: Vec<Option<NodeIndex>>,
    /// Stops of containers that are replaced.
    stops: Vec<NodeIndex>,
    starts: Vec<NodeIndex>,
    /// What a dependent waits for: the starts, or, where nothing is started, what the service
    /// itself would have waited for.
    ready: BTreeSet<NodeIndex>,
}

struct Up<'a> {
    project: &'a Project,
    machine: &'a Machine<'a>,
    options: &'a UpOptions,
    scope: Scope<'a>,
    judge: Judge<'a>,
    builder: PlanBuilder,
    hashes: HashMap<&'a str, String>,
    diffs: HashMap<&'a str, ServiceDiff<'a>>,
    names: ContainerNames<'a>,
    /// Services that keep their containers but are stopped and started, since what they depend on
    /// with `restart: true` is replaced.
    bounced: HashSet<&'a str>,
    built: HashMap<&'a str, Built>,
    /// Removals by container name, for resources that cannot be removed earlier.
    removals: HashMap<&'a str, NodeIndex>,
    /// Who gives up its ports, and when.
    freed: Vec<(&'a ObservedContainer, NodeIndex)>,
    made: HashMap<&'a str, NodeIndex>,
    made_volumes: HashMap<&'a str, NodeIndex>,
    images: HashMap<(String, Option<String>), NodeIndex>,
    awaited: HashMap<(&'a str, Discriminant<Condition>, bool), NodeIndex>,
}

impl<'a> Up<'a> {
    fn new(
        project: &'a Project,
        machine: &'a Machine<'a>,
        options: &'a UpOptions,
        scope: Scope<'a>,
        resources: &Resources<'a>,
    ) -> Self {
        let is_rebuilt = |what: &Resource| matches!(what, Resource::Rebuild { .. });
        let judge = Judge {
            project,
            machine,
            options,
            rebuilt_networks: resources
                .networks
                .iter()
                .filter(|(_, what)| is_rebuilt(what))
                .map(|(key, _)| project.networks[*key].name.as_str())
                .collect(),
            rebuilt_volumes: resources
                .volumes
                .iter()
                .filter(|(_, what)| is_rebuilt(what))
                .map(|(key, _)| project.volumes[*key].name.as_str())
                .collect(),
            renewed: HashSet::new(),
        };
        Up {
            project,
            machine,
            options,
            scope,
            judge,
            builder: PlanBuilder::default(),
            hashes: HashMap::new(),
            diffs: HashMap::new(),
            names: HashMap::new(),
            bounced: HashSet::new(),
            built: HashMap::new(),
            removals: HashMap::new(),
            freed: Vec::new(),
            made: HashMap::new(),
            made_volumes: HashMap::new(),
            images: HashMap::new(),
            awaited: HashMap::new(),
        }
    }

    fn n_replicas(&self, name: &str) -> u32 {
        let wanted = self.options.scale.get(name).copied();
        wanted.unwrap_or_else(|| self.project.services[name].n_replicas())
    }

    /// The fate of every container, dependencies first, as a new parent means a new child.
    fn compare_services(&mut self) -> Result<(), PlanError> {
        // Services that stay out can still be referred to, with the containers that they have.
        for name in self.project.services.keys() {
            if !self.scope.contains(name) {
                let present = self.machine.replicas(name);
                let names = present.iter().map(|c| c.name.clone()).collect();
                self.names.insert(name, names);
            }
        }
        for name in self.scope.order.clone() {
            let service = &self.project.services[name];
            let n_replicas = self.n_replicas(name);
            if let Some(custom) = &service.container_name
                && n_replicas > 1
            {
                return Err(PlanError::NameScaled {
                    service: name.to_owned(),
                    name: custom.clone(),
                    n_replicas,
                    location: super::cause::locate(
                        self.project,
                        &format!("services.{name}.container_name"),
                    ),
                });
            }
            let hash = hash::service_hash(service);
            let diff = self.judge.diff(name, service, n_replicas, &hash);
            if diff.first_is_new() {
                self.judge.renewed.insert(name);
            }
            let names = diff.replicas.iter().map(|r| self.name_of(name, r));
            let names = names.collect();
            self.names.insert(name, names);
            let bounces = self.scope.dependencies(name).any(|(dependency, how)| {
                how.restart
                    && (self.bounced.contains(dependency)
                        || self
                            .diffs
                            .get(dependency)
                            .is_some_and(ServiceDiff::replaces_running))
            });
            if bounces && self.options.start {
                self.bounced.insert(name);
            }
            self.hashes.insert(name, hash);
            self.diffs.insert(name, diff);
        }
        Ok(())
    }

    /// The lasting name of a replica. What stays keeps the name that it has.
    fn name_of(&self, service: &str, replica: &Replica<'_>) -> String {
        match (&replica.fate, replica.old) {
            (Fate::Keep | Fate::Start, Some(old)) => known_name(old).to_owned(),
            _ => convert::container_name(self.project, service, Identity::Replica(replica.number)),
        }
    }

    fn remove(
        &mut self,
        service: &str,
        container: &'a ObservedContainer,
        cause: Cause,
    ) -> NodeIndex {
        let mut stopped = None;
        if is_active(container) {
            let stop = self.builder.add(
                Action::StopContainer {
                    service: service.to_owned(),
                    container: container.name.clone(),
                    timeout: self.options.timeout,
                },
                cause.clone(),
                [],
            );
            self.freed.push((container, stop));
            stopped = Some(stop);
        }
        let removed = self.builder.add(
            Action::RemoveContainer {
                service: service.to_owned(),
                container: container.name.clone(),
                volumes: false,
                force: false,
            },
            cause,
            stopped,
        );
        self.removals.insert(&container.name, removed);
        removed
    }

    /// Orphans, replicas beyond the number, and what interruptions left behind.
    fn remove_what_is_too_many(&mut self) {
        let orphans = self.machine.orphans(self.project);
        if self.options.remove_orphans {
            for orphan in &orphans {
                let service = orphan.label(labels::SERVICE).to_owned();
                let cause = asked(format!(
                    "service {service} is not in the file, or the run has ended"
                ));
                self.remove(&service, orphan, cause);
            }
        } else if !orphans.is_empty() && !self.options.ignore_orphans {
            self.builder.warn(orphan_warning(&orphans));
        }
        for name in self.scope.order.clone() {
            let n_replicas = self.n_replicas(name);
            let diff = &self.diffs[name];
            let (surplus, leftovers) = (diff.surplus.clone(), diff.leftovers.clone());
            for container in surplus {
                let reason = format!("service {name} is to have {n_replicas} replicas");
                let cause = because(self.project, reason, &format!("services.{name}.scale"));
                self.remove(name, container, cause);
            }
            for container in leftovers {
                let cause = asked("it is left over from an interrupted replacement");
                self.remove(name, container, cause);
            }
            // What holds a resource that is made again goes before the resource does.
            let remade: Vec<_> = diff_remade(&self.diffs[name]);
            for (container, verdict) in remade {
                let cause = because(self.project, verdict.reason, &verdict.path);
                self.remove(name, container, cause);
            }
        }
    }

    fn make_resources(&mut self, resources: &Resources<'a>) {
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

    fn make_containers(&mut self) -> Result<(), PlanError> {
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
                let removed = self.removals.get(old.name.as_str()).copied();
                let mut config = self.convert(name, replica)?;
                if !self.options.renew_anon_volumes {
                    keep_anonymous_volumes(&mut config.mounts, old);
                }
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
        self.removals.insert(&old.name, removed);
        let action = Action::RenameContainer {
            service: name.to_owned(),
            from: temporary,
            to: lasting.to_owned(),
        };
        Ok(Some(self.builder.add(action, cause, [removed])))
    }

    fn convert(
        &mut self,
        name: &'a str,
        replica: &Replica<'_>,
    ) -> Result<super::ContainerConfig, PlanError> {
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

    fn create(
        &mut self,
        name: &'a str,
        config: super::ContainerConfig,
        replaces: Option<&str>,
        cause: Cause,
    ) -> NodeIndex {
        let service = &self.project.services[name];
        let mut after: BTreeSet<NodeIndex> = BTreeSet::new();
        if !self.machine.observed.images.contains_key(&config.image) {
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
                    let reason = format!("image {} is not there yet", config.image);
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
            if let crate::compose::MountKind::Volume {
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
        let action = Action::CreateContainer {
            service: name.to_owned(),
            config: Box::new(config),
            replaces: replaces.map(str::to_owned),
            inherit_volumes: replaces.is_some() && !self.options.renew_anon_volumes,
        };
        self.builder.add(action, cause, after)
    }

    fn start_containers(&mut self) {
        for name in self.scope.order.clone() {
            let diff = self.diffs.remove(name).unwrap_or_default();
            let names = self.names[name].clone();
            let exists = self.built[name].exists.clone();
            let mut starts = Vec::new();
            for ((replica, container), exists) in diff.replicas.iter().zip(names).zip(exists) {
                let (cause, after) = match (&replica.fate, replica.old) {
                    (Fate::Keep, Some(old)) if self.bounced.contains(name) => {
                        let (cause, stop) = self.bounce(name, old, exists);
                        (cause, vec![stop])
                    }
                    (Fate::Keep, _) => {
                        self.builder.running(&container);
                        continue;
                    }
                    (Fate::Start, Some(old)) => {
                        let reason = format!("it is {} and should run", old.phase.as_str());
                        let path = format!("services.{name}");
                        (because(self.project, reason, &path), Vec::new())
                    }
                    (Fate::Replace(verdict) | Fate::Remake(verdict), _) => {
                        let cause = because(self.project, verdict.reason.clone(), &verdict.path);
                        (cause, Vec::new())
                    }
                    _ => {
                        let reason = format!("service {name} should run");
                        let path = format!("services.{name}");
                        (because(self.project, reason, &path), Vec::new())
                    }
                };
                let action = Action::StartContainer {
                    service: name.to_owned(),
                    container,
                };
                starts.push(
                    self.builder
                        .add(action, cause, after.into_iter().chain(exists)),
                );
            }
            self.diffs.insert(name, diff);
            self.gate(name, &starts);
            let frees = self.ports_to_wait_for(name);
            for start in &starts {
                self.builder.after(*start, frees.iter().copied());
            }
            if let Some(built) = self.built.get_mut(name) {
                if !starts.is_empty() {
                    built.ready = starts.iter().copied().collect();
                }
                built.starts = starts;
            }
        }
    }

    fn report_running(&mut self) {
        for name in &self.scope.order {
            for replica in &self.diffs[name].replicas {
                if let (Fate::Keep, Some(old)) = (&replica.fate, replica.old) {
                    self.builder.running(known_name(old));
                }
            }
        }
    }

    /// Stops a container that stays, before what it depends on is replaced.
    fn bounce(
        &mut self,
        name: &'a str,
        old: &ObservedContainer,
        exists: Option<NodeIndex>,
    ) -> (Cause, NodeIndex) {
        let dependencies: Vec<_> = self.scope.dependencies(name).collect();
        let fresh = dependencies
            .iter()
            .find(|(d, how)| {
                how.restart
                    && (self.bounced.contains(d)
                        || self.diffs.get(d).is_some_and(ServiceDiff::replaces_running))
            })
            .map_or("", |(d, _)| *d);
        let cause = because(
            self.project,
            format!("it depends with `restart: true` on service {fresh}, which is replaced"),
            &format!("services.{name}.depends_on.{fresh}"),
        );
        let action = Action::StopContainer {
            service: name.to_owned(),
            container: known_name(old).to_owned(),
            timeout: self.options.timeout,
        };
        let stop = self.builder.add(action, cause.clone(), exists);
        for (dependency, how) in dependencies {
            if how.restart
                && let Some(built) = self.built.get_mut(dependency)
            {
                for earlier in &built.stops {
                    self.builder.after(*earlier, [stop]);
                }
            }
        }
        if let Some(built) = self.built.get_mut(name) {
            built.stops.push(stop);
        }
        (cause, stop)
    }

    /// Makes the starts of a service wait for its dependencies, each by its condition.
    fn gate(&mut self, name: &'a str, starts: &[NodeIndex]) {
        let dependencies: Vec<_> = self.scope.dependencies(name).collect();
        let mut gates: BTreeSet<NodeIndex> = BTreeSet::new();
        for (dependency, how) in dependencies {
            if starts.is_empty() || how.condition == Condition::ServiceStarted {
                gates.extend(&self.built[dependency].ready);
            } else {
                gates.extend(self.await_condition(name, dependency, how));
            }
        }
        for start in starts {
            self.builder.after(*start, gates.iter().copied());
        }
        if starts.is_empty()
            && let Some(built) = self.built.get_mut(name)
        {
            built.ready = gates;
        }
    }

    fn await_condition(
        &mut self,
        name: &str,
        dependency: &'a str,
        how: Dependency,
    ) -> BTreeSet<NodeIndex> {
        let built = &self.built[dependency];
        let containers = &self.names[dependency];
        // R11: nobody waits for a service without containers.
        if containers.is_empty() || (built.starts.is_empty() && self.is_met(dependency, how)) {
            return built.ready.clone();
        }
        let key = (dependency, discriminant(&how.condition), how.required);
        if let Some(node) = self.awaited.get(&key) {
            return BTreeSet::from([*node]);
        }
        let what = match how.condition {
            Condition::ServiceStarted => "running",
            Condition::ServiceHealthy => "healthy",
            Condition::ServiceCompletedSuccessfully => "completed",
        };
        let cause = because(
            self.project,
            format!("service {name} starts when service {dependency} is {what}"),
            &format!("services.{name}.depends_on.{dependency}"),
        );
        let action = Action::AwaitCondition {
            service: dependency.to_owned(),
            containers: containers.clone(),
            condition: how.condition,
            required: how.required,
            timeout: None,
        };
        let after = built.ready.clone();
        let node = self.builder.add(action, cause, after);
        self.awaited.insert(key, node);
        BTreeSet::from([node])
    }

    fn is_met(&self, service: &str, how: Dependency) -> bool {
        let mut replicas = self.diffs[service].replicas.iter();
        match how.condition {
            Condition::ServiceStarted => true,
            Condition::ServiceHealthy => replicas.all(|r| {
                r.old
                    .is_some_and(|c| c.phase == Phase::Running && c.health == Some(Health::Healthy))
            }),
            // Nothing has ended if nothing is to be started.
            Condition::ServiceCompletedSuccessfully => false,
        }
    }

    /// A port moves from one service to another only when the old holder has let go.
    fn ports_to_wait_for(&self, name: &str) -> BTreeSet<NodeIndex> {
        let wanted = &self.project.services[name].ports;
        if wanted.is_empty() {
            return BTreeSet::new();
        }
        self.freed
            .iter()
            .filter(|(holder, _)| holds_one_of(holder, wanted))
            .map(|(_, stop)| *stop)
            .collect()
    }
}

fn holds_one_of(holder: &ObservedContainer, wanted: &[PortBinding]) -> bool {
    holder.ports.iter().any(|held| {
        held.host_port.is_some_and(|port| {
            wanted.iter().any(|w| {
                w.protocol == held.protocol
                    && w.published
                        .is_some_and(|(first, last)| (first..=last).contains(&port))
            })
        })
    })
}

fn diff_remade<'a>(diff: &ServiceDiff<'a>) -> Vec<(&'a ObservedContainer, Verdict)> {
    diff.replicas
        .iter()
        .filter_map(|r| match (&r.fate, r.old) {
            (Fate::Remake(verdict), Some(old)) => Some((old, verdict.clone())),
            _ => None,
        })
        .collect()
}

pub(super) fn orphan_warning(orphans: &[&ObservedContainer]) -> String {
    let names: Vec<&str> = orphans.iter().map(|c| c.name.as_str()).collect();
    format!(
        "found orphan containers ([{}]) for this project; if you removed or renamed this service \
         in your compose file, you can run this command with the --remove-orphans flag to clean \
         it up",
        names.join(" ")
    )
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
