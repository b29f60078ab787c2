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

mod make;
mod run;
mod start;

pub use run::run;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem::Discriminant;

use petgraph::graph::NodeIndex;

use super::build::PlanBuilder;
use super::cause::{asked, because};
use super::convert::{self, ContainerNames, Identity};
use super::diff::{Fate, Judge, Replica, ServiceDiff};
use super::graph::{Follow, Scope};
use super::machine::{Machine, is_active, known_name};
use super::resources::{Resource, Resources, compare};
use super::{Action, Cause, Observed, ObservedContainer, Plan, PlanError, UpOptions, hash, labels};
use crate::compose::{Condition, Project};

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
    up.warn_of_other_directory();
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
    /// A service that is in the scope for its dependencies and resources only.
    left_alone: Option<&'a str>,
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
            left_alone: None,
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
            if self.left_alone == Some(name) {
                self.names.insert(name, Vec::new());
                self.diffs.insert(name, ServiceDiff::default());
                continue;
            }
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

    /// Two checkouts of one project share its name, and the second takes the first one's containers
    /// away. Compose does so silently.
    fn warn_of_other_directory(&mut self) {
        let here = self.project.working_dir.as_os_str();
        let mut others: BTreeSet<&str> = BTreeSet::new();
        for name in &self.scope.order {
            let changed = self.diffs[name].replicas.iter();
            let changed = changed.filter(|r| matches!(r.fate, Fate::Replace(_) | Fate::Remake(_)));
            let surplus = self.diffs[name].surplus.iter().copied();
            for container in changed.filter_map(|r| r.old).chain(surplus) {
                let there = container.label(labels::WORKING_DIR);
                if !there.is_empty() && there != here {
                    others.insert(there);
                }
            }
        }
        for other in others {
            self.builder.warn(format!(
                "containers of a project with the same name, from {other}, are replaced; give one \
                 of the two another name with `name:` or --project-name"
            ));
        }
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
            let remade = self.diffs[name].remade();
            for (container, verdict) in remade {
                let cause = because(self.project, verdict.reason, &verdict.path);
                self.remove(name, container, cause);
            }
        }
    }
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
