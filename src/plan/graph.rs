//! Dependencies between services: who needs whom, in what order, and the cycle if there is one.
//!
//! Knows services only; steps are ordered by [`super::up`] and its neighbours from what is here.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use petgraph::algo::toposort;
use petgraph::graph::{DiGraph, NodeIndex};

use super::PlanError;
use super::cause::locate;
use crate::compose::{Condition, Dependency, Project, Service};

/// The parent of a `service:NAME` reference.
pub(super) fn parent_service(mode: Option<&str>) -> Option<&str> {
    mode.and_then(|m| m.strip_prefix("service:"))
}

/// The services whose namespaces or volumes a container of `service` is built on: replacing one of
/// their containers makes its own useless (R1, L6).
pub(super) fn parents(service: &Service) -> BTreeSet<&str> {
    let modes = [&service.network_mode, &service.ipc, &service.pid];
    let mut parents: BTreeSet<&str> = modes
        .into_iter()
        .filter_map(|mode| parent_service(mode.as_deref()))
        .collect();
    for entry in &service.volumes_from {
        if !entry.starts_with("container:") {
            parents.insert(entry.split(':').next().unwrap_or(entry));
        }
    }
    parents
}

/// `depends_on` and what the other keys imply. A loader that already wrote the implied ones wins.
pub(super) fn dependencies(service: &Service) -> BTreeMap<&str, Dependency> {
    let implied = |restart| Dependency {
        condition: Condition::ServiceStarted,
        restart,
        required: true,
    };
    let mut all: BTreeMap<&str, Dependency> = BTreeMap::new();
    for link in &service.links {
        all.insert(link.split(':').next().unwrap_or(link), implied(true));
    }
    for parent in parents(service) {
        all.insert(parent, implied(true));
    }
    for (name, dependency) in &service.depends_on {
        all.insert(name, *dependency);
    }
    all
}

/// The services of a command, each after everything that it depends on, with their dependencies
/// restricted to the services that take part.
#[derive(Debug)]
pub(super) struct Scope<'a> {
    pub order: Vec<&'a str>,
    dependencies: HashMap<&'a str, BTreeMap<&'a str, Dependency>>,
}

impl<'a> Scope<'a> {
    /// All services that `named` asks for; nothing named is everything.
    pub fn select(
        project: &'a Project,
        named: &[String],
        follow: Follow,
    ) -> Result<Scope<'a>, PlanError> {
        let mut members: HashSet<&'a str> = HashSet::new();
        let mut queue: Vec<&'a str> = Vec::new();
        if named.is_empty() {
            queue.extend(project.services.keys().map(String::as_str));
        }
        for name in named {
            match project.services.get_key_value(name) {
                Some((name, _)) => queue.push(name),
                None => {
                    return Err(PlanError::UnknownService {
                        service: name.clone(),
                    });
                }
            }
        }
        let dependents = match follow {
            Follow::RestartingDependents => restarting_dependents(project),
            Follow::Dependencies | Follow::Nothing => HashMap::new(),
        };
        while let Some(name) = queue.pop() {
            if !members.insert(name) {
                continue;
            }
            match follow {
                Follow::Nothing => {}
                Follow::RestartingDependents => {
                    queue.extend(dependents.get(name).into_iter().flatten());
                }
                Follow::Dependencies => {
                    let service = &project.services[name];
                    for (dependency, how) in dependencies(service) {
                        match project.services.get_key_value(dependency) {
                            Some((known, _)) => queue.push(known),
                            None if how.required => {
                                return Err(PlanError::UnknownDependency {
                                    service: name.to_owned(),
                                    dependency: dependency.to_owned(),
                                    location: locate(
                                        project,
                                        &format!("services.{name}.depends_on.{dependency}"),
                                    ),
                                });
                            }
                            None => {}
                        }
                    }
                }
            }
        }
        Scope::order(project, &members)
    }

    fn order(project: &'a Project, members: &HashSet<&'a str>) -> Result<Scope<'a>, PlanError> {
        let mut graph: DiGraph<&'a str, ()> = DiGraph::with_capacity(members.len(), members.len());
        let mut nodes: HashMap<&'a str, NodeIndex> = HashMap::with_capacity(members.len());
        // File order in, so that the result depends on nothing but the file.
        for name in project.services.keys().map(String::as_str) {
            if members.contains(name) {
                nodes.insert(name, graph.add_node(name));
            }
        }
        let mut within = HashMap::with_capacity(members.len());
        for node in graph.node_indices() {
            let name = graph[node];
            let mut kept = dependencies(&project.services[name]);
            kept.retain(|dependency, _| nodes.contains_key(dependency));
            for dependency in kept.keys() {
                graph.add_edge(nodes[dependency], node, ());
            }
            within.insert(name, kept);
        }
        let order = toposort(&graph, None).map_err(|cycle| {
            let mut path = cycle_path(&within, graph[cycle.node_id()]);
            // Told from the service that stands first in the file, where a reader begins.
            path.pop();
            let first = |name: &String| project.services.get_index_of(name);
            let start = (0..path.len()).min_by_key(|i| first(&path[*i]));
            path.rotate_left(start.unwrap_or(0));
            path.push(path[0].clone());
            let location = locate(project, &format!("services.{}.depends_on", path[0]));
            PlanError::Cycle { path, location }
        })?;
        Ok(Scope {
            order: order.into_iter().map(|node| graph[node]).collect(),
            dependencies: within,
        })
    }

    pub fn contains(&self, service: &str) -> bool {
        self.dependencies.contains_key(service)
    }

    /// Dependencies of a member that are members themselves.
    pub fn dependencies(&self, service: &str) -> impl Iterator<Item = (&'a str, Dependency)> + '_ {
        self.dependencies
            .get(service)
            .into_iter()
            .flatten()
            .map(|(name, how)| (*name, *how))
    }
}

/// Which services beyond the named ones belong to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Follow {
    Nothing,
    Dependencies,
    /// Those that say `restart: true` on a member, and so on.
    RestartingDependents,
}

fn restarting_dependents(project: &Project) -> HashMap<&str, Vec<&str>> {
    let mut dependents: HashMap<&str, Vec<&str>> = HashMap::new();
    for (name, service) in &project.services {
        for (dependency, how) in dependencies(service) {
            if how.restart {
                dependents.entry(dependency).or_default().push(name);
            }
        }
    }
    dependents
}

/// A shortest way from `start` back to itself. `start` is on a cycle, so there is one.
fn cycle_path(
    dependencies: &HashMap<&str, BTreeMap<&str, Dependency>>,
    start: &str,
) -> Vec<String> {
    let mut came_from: HashMap<&str, &str> = HashMap::new();
    let mut queue = std::collections::VecDeque::from([start]);
    while let Some(name) = queue.pop_front() {
        for next in dependencies.get(name).into_iter().flat_map(BTreeMap::keys) {
            if *next == start {
                let mut path = vec![start.to_owned()];
                let mut at = name;
                while at != start {
                    path.push(at.to_owned());
                    at = came_from[at];
                }
                path.push(start.to_owned());
                path.reverse();
                return path;
            }
            if !came_from.contains_key(next) {
                came_from.insert(next, name);
                queue.push_back(next);
            }
        }
    }
    vec![start.to_owned(), start.to_owned()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::*;

    fn order(text: &str, named: &[&str], follow: Follow) -> String {
        let project = project(text);
        let named: Vec<String> = named.iter().map(|n| (*n).to_owned()).collect();
        match Scope::select(&project, &named, follow) {
            Ok(scope) => scope.order.join(" "),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn dependencies_come_first() {
        let text = "web: api db\napi: db\ndb:\nother:";
        assert_eq!(order(text, &["web"], Follow::Dependencies), "db api web");
        assert_eq!(order(text, &["web"], Follow::Nothing), "web");
        assert_eq!(
            order(text, &["nope"], Follow::Nothing),
            "no such service: nope"
        );
    }

    #[test]
    fn a_cycle_is_told_with_its_path() {
        assert_eq!(
            order("a: b\nb: c\nc: a\nd: a", &[], Follow::Dependencies),
            "dependency cycle detected: a -> b -> c -> a"
        );
        assert_eq!(
            order("a: a", &[], Follow::Dependencies),
            "dependency cycle detected: a -> a"
        );
    }

    #[test]
    fn a_missing_dependency_counts_only_when_required() {
        assert_eq!(
            order("a: gone", &[], Follow::Dependencies),
            "service \"a\" depends on undefined service \"gone\""
        );
        assert_eq!(order("a: gone?optional", &[], Follow::Dependencies), "a");
    }

    #[test]
    fn restarting_dependents_are_found_transitively() {
        let text = "a:\nb: a?restart\nc: b?restart\nd: a";
        assert_eq!(order(text, &["a"], Follow::RestartingDependents), "a b c");
    }

    #[test]
    fn sharing_a_namespace_is_a_dependency() {
        let mut project = project("a:\nb:\nc:");
        project.services["a"].network_mode = Some("service:b".into());
        project.services["b"].volumes_from = vec!["c:ro".into()];
        let scope = Scope::select(&project, &["a".into()], Follow::Dependencies).unwrap();
        assert_eq!(scope.order, ["c", "b", "a"]);
        assert!(scope.dependencies("a").all(|(_, how)| how.restart));
    }
}
