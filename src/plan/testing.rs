//! Test support: projects from a few words, and a machine in memory that obeys every verb.

use std::collections::BTreeMap;
use std::fmt::Write;

use petgraph::graph::NodeIndex;

use super::{
    Action, ContainerConfig, Health, MountSource, NetworkConfig, NetworkMode, Observed,
    ObservedContainer, ObservedEndpoint, ObservedMount, ObservedNetwork, ObservedPort,
    ObservedVolume, Phase, Plan, VolumeConfig,
};
use crate::compose::*;

/// A project from lines of `service: words`. A word is `dependency[?healthy|completed|restart|
/// optional…]` or one of `scale= image= net= vol=key:/target anon=/target port= name= share=
/// env=`; `check` is a health check. Every service is on `default` unless it says otherwise.
pub(crate) fn project(text: &str) -> Project {
    let mut project = Project::new(ProjectName::new("demo").unwrap());
    project.working_dir = "/demo".into();
    project.config_files = vec!["/demo/compose.yaml".into()];
    for (i, line) in text.lines().enumerate() {
        let (name, words) = line.split_once(':').unwrap();
        let name = name.trim();
        let location = Location {
            file: std::path::Path::new("compose.yaml").into(),
            line: i as u32 + 1,
            column: 1,
        };
        project
            .locations
            .insert(format!("services.{name}"), location);
        let mut service = Service {
            image: Some("app".into()),
            ..Service::default()
        };
        for word in words.split_whitespace() {
            apply_word(&mut project, &mut service, word);
        }
        if service.networks.is_empty() && service.network_mode.is_none() {
            apply_word(&mut project, &mut service, "net=default");
        }
        project.services.insert(name.to_owned(), service);
    }
    project
}

fn apply_word(project: &mut Project, service: &mut Service, word: &str) {
    if word == "check" {
        service.healthcheck = Some(Healthcheck::default());
        return;
    }
    let Some((key, value)) = word.split_once('=') else {
        let mut parts = word.split('?');
        let name = parts.next().unwrap();
        let flags: Vec<&str> = parts.collect();
        let condition = if flags.contains(&"healthy") {
            Condition::ServiceHealthy
        } else if flags.contains(&"completed") {
            Condition::ServiceCompletedSuccessfully
        } else {
            Condition::ServiceStarted
        };
        let dependency = Dependency {
            condition,
            restart: flags.contains(&"restart"),
            required: !flags.contains(&"optional"),
        };
        service.depends_on.insert(name.to_owned(), dependency);
        return;
    };
    let volume = |source: Option<&str>, target: &str| Mount {
        kind: MountKind::Volume {
            source: source.map(str::to_owned),
            nocopy: false,
            subpath: None,
            labels: BTreeMap::new(),
        },
        target: target.into(),
        read_only: false,
        consistency: None,
    };
    match key {
        "scale" => service.scale = Some(value.parse().unwrap()),
        "image" => service.image = Some(value.to_owned()),
        "name" => service.container_name = Some(value.to_owned()),
        "share" => service.network_mode = Some(format!("service:{value}")),
        "env" => {
            service
                .environment
                .insert("E".to_owned(), Some(value.to_owned()));
        }
        "net" => {
            let network = Network {
                name: format!("demo_{value}"),
                ..Network::default()
            };
            project.networks.insert(value.to_owned(), network);
            service
                .networks
                .insert(value.to_owned(), Default::default());
        }
        "vol" => {
            let (source, target) = value.split_once(':').unwrap();
            let declared = Volume {
                name: format!("demo_{source}"),
                ..Volume::default()
            };
            project.volumes.insert(source.to_owned(), declared);
            service.volumes.push(volume(Some(source), target));
        }
        "anon" => service.volumes.push(volume(None, value)),
        "port" => {
            let port = value.parse().unwrap();
            service.ports.push(PortBinding {
                host_ip: None,
                published: Some((port, port)),
                target: port,
                protocol: Protocol::Tcp,
                name: None,
                app_protocol: None,
                mode: None,
            });
        }
        _ => panic!("unknown word {word}"),
    }
}

/// A machine with no kernel below it. It refuses what a real engine would refuse.
#[derive(Debug, Default, Clone)]
pub(crate) struct World {
    pub observed: Observed,
    clock: u64,
}

type Answer<T = ()> = Result<T, String>;

impl World {
    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn find(&self, container: &str) -> Option<&ObservedContainer> {
        let mut all = self.observed.containers.iter();
        all.find(|c| c.name == container || c.id == container)
    }

    pub fn get(&mut self, container: &str) -> Answer<&mut ObservedContainer> {
        let mut all = self.observed.containers.iter_mut();
        all.find(|c| c.name == container || c.id == container)
            .ok_or_else(|| format!("no such container: {container}"))
    }

    pub fn ensure_image(&mut self, reference: &str) -> Answer<String> {
        let id = format!("sha256:{reference}");
        let known = &mut self.observed.images;
        Ok(known.entry(reference.to_owned()).or_insert(id).clone())
    }

    /// Whether it was there and nobody uses it.
    pub fn remove_image(&mut self, reference: &str) -> Option<bool> {
        let known = self.observed.images.contains_key(reference);
        let mut containers = self.observed.containers.iter();
        let is_used = containers.any(|container| container.image == reference);
        if known && !is_used {
            self.observed.images.remove(reference);
        }
        known.then_some(!is_used)
    }

    pub fn create_network(&mut self, config: &NetworkConfig) -> Answer {
        if self.observed.networks.iter().any(|n| n.name == config.name) {
            return Err(format!("network {} exists", config.name));
        }
        let id = format!("{:064x}", self.tick());
        self.observed.networks.push(ObservedNetwork {
            id,
            name: config.name.clone(),
            driver: config.driver.clone(),
            labels: config.labels.clone(),
            containers: Vec::new(),
        });
        Ok(())
    }

    pub fn remove_network(&mut self, name: &str) -> Answer {
        let networks = &mut self.observed.networks;
        let at = networks.iter().position(|n| n.name == name);
        let at = at.ok_or_else(|| format!("no such network: {name}"))?;
        if !networks[at].containers.is_empty() {
            return Err(format!("network {name} is in use"));
        }
        networks.remove(at);
        Ok(())
    }

    pub fn create_volume(&mut self, config: &VolumeConfig) -> Answer {
        if self.observed.volumes.iter().any(|v| v.name == config.name) {
            return Err(format!("volume {} exists", config.name));
        }
        self.observed.volumes.push(ObservedVolume {
            name: config.name.clone(),
            driver: config.driver.clone(),
            labels: config.labels.clone(),
            containers: Vec::new(),
        });
        Ok(())
    }

    pub fn remove_volume(&mut self, name: &str) -> Answer {
        let volumes = &mut self.observed.volumes;
        let at = volumes.iter().position(|v| v.name == name);
        let at = at.ok_or_else(|| format!("no such volume: {name}"))?;
        if !volumes[at].containers.is_empty() {
            return Err(format!("volume {name} is in use"));
        }
        volumes.remove(at);
        Ok(())
    }

    pub fn create_container(
        &mut self,
        config: &ContainerConfig,
        inherit: Option<&str>,
    ) -> Answer<String> {
        if self.find(&config.name).is_some() {
            return Err(format!("container {} exists", config.name));
        }
        let image_id = self.observed.images.get(&config.image).cloned();
        let image_id = image_id.ok_or_else(|| format!("no such image: {}", config.image))?;
        let created_at = self.tick();
        let id = format!("{:012x}{:052x}", created_at, 0);
        let mut volumes = Vec::new();
        for mount in &config.mounts {
            let MountSource::Volume { name, .. } = &mount.source else {
                continue;
            };
            let inherited = match inherit {
                Some(old) => self
                    .get(old)?
                    .volumes
                    .iter()
                    .find(|v| v.anonymous && v.target == mount.target)
                    .map(|v| v.volume.clone()),
                None => None,
            };
            let volume = name.clone().or(inherited).unwrap_or_else(|| {
                let anonymous = format!("anon{}", self.tick());
                self.observed.volumes.push(ObservedVolume {
                    name: anonymous.clone(),
                    driver: "local".to_owned(),
                    labels: BTreeMap::new(),
                    containers: Vec::new(),
                });
                anonymous
            });
            let mut known = self.observed.volumes.iter_mut();
            let held = known
                .find(|v| v.name == volume)
                .ok_or_else(|| format!("no such volume: {volume}"))?;
            held.containers.push(config.name.clone());
            volumes.push(ObservedMount {
                anonymous: volume.starts_with("anon"),
                volume,
                target: mount.target.clone(),
            });
        }
        let mut networks = Vec::new();
        match &config.network {
            NetworkMode::Networks(endpoints) => {
                for endpoint in endpoints {
                    let mut known = self.observed.networks.iter_mut();
                    let network = known
                        .find(|n| n.name == endpoint.network)
                        .ok_or_else(|| format!("no such network: {}", endpoint.network))?;
                    network.containers.push(config.name.clone());
                    networks.push(ObservedEndpoint {
                        network: network.name.clone(),
                        network_id: network.id.clone(),
                        ipv4: None,
                        ipv6: None,
                        mac: None,
                    });
                }
            }
            NetworkMode::Container(parent) if self.find(parent).is_none() => {
                return Err(format!("no such container: {parent}"));
            }
            _ => {}
        }
        self.observed.containers.push(ObservedContainer {
            id: id.clone(),
            name: config.name.clone(),
            image: config.image.clone(),
            image_id,
            labels: config.labels.clone(),
            phase: Phase::Created,
            health: config.healthcheck.as_ref().map(|_| Health::Starting),
            exit_code: None,
            oom_killed: false,
            error: String::new(),
            manually_stopped: false,
            restart_count: 0,
            created_at,
            started_at: None,
            finished_at: None,
            pid: None,
            command: String::new(),
            networks,
            volumes,
            ports: config
                .ports
                .iter()
                .map(|p| ObservedPort {
                    host_ip: None,
                    host_port: p.published.map(|(first, _)| first),
                    container_port: p.target,
                    protocol: p.protocol,
                })
                .collect(),
        });
        Ok(id)
    }

    pub fn rename(&mut self, from: &str, to: &str) -> Answer {
        if self.find(to).is_some() {
            return Err(format!("container {to} exists"));
        }
        let old = self.get(from)?.name.clone();
        to.clone_into(&mut self.get(from)?.name);
        let in_networks = self.observed.networks.iter_mut().map(|n| &mut n.containers);
        let in_volumes = self.observed.volumes.iter_mut().map(|v| &mut v.containers);
        for users in in_networks.chain(in_volumes) {
            for user in users.iter_mut().filter(|u| **u == old) {
                to.clone_into(user);
            }
        }
        Ok(())
    }

    pub fn start(&mut self, container: &str) -> Answer {
        let now = self.tick();
        let ports = self.get(container)?.ports.clone();
        let taken = self.observed.containers.iter().any(|c| {
            c.name != container
                && c.phase == Phase::Running
                && c.ports.iter().any(|p| ports.contains(p))
        });
        if taken {
            return Err(format!("a port of {container} is already allocated"));
        }
        let container = self.get(container)?;
        container.phase = Phase::Running;
        container.started_at = Some(now);
        container.health = container.health.map(|_| Health::Starting);
        Ok(())
    }

    pub fn exit(&mut self, container: &str, code: i32) -> Answer {
        let now = self.tick();
        let container = self.get(container)?;
        container.phase = Phase::Exited;
        container.exit_code = Some(code);
        container.finished_at = Some(now);
        Ok(())
    }

    pub fn remove(&mut self, container: &str, volumes: bool, force: bool) -> Answer {
        let found = self.get(container)?.clone();
        if found.phase == Phase::Running && !force {
            return Err(format!("container {container} is running"));
        }
        self.observed.containers.retain(|c| c.id != found.id);
        for network in &mut self.observed.networks {
            network.containers.retain(|c| *c != found.name);
        }
        for volume in &mut self.observed.volumes {
            volume.containers.retain(|c| *c != found.name);
        }
        if volumes {
            let anonymous = |v: &&ObservedMount| v.anonymous;
            for mount in found.volumes.iter().filter(anonymous) {
                let _ = self.remove_volume(&mount.volume);
            }
        }
        Ok(())
    }

    /// Carries a plan out, one step after the other. Conditions come true when they are awaited.
    pub fn apply(&mut self, plan: &Plan) -> Answer {
        self.apply_in(plan, &plan.in_order())
    }

    /// The same in an order of the caller's.
    pub fn apply_in(&mut self, plan: &Plan, order: &[NodeIndex]) -> Answer {
        for node in order.iter().copied() {
            match &plan.graph[node].action {
                Action::EnsureImage { reference, .. } | Action::PullImage { reference, .. } => {
                    self.ensure_image(reference)?;
                }
                Action::PushImage { .. } => {}
                Action::CreateNetwork(config) => self.create_network(config)?,
                Action::RemoveNetwork { name } => self.remove_network(name)?,
                Action::CreateVolume(config) => self.create_volume(config)?,
                Action::RemoveVolume { name } => self.remove_volume(name)?,
                Action::CreateContainer {
                    config,
                    replaces,
                    inherit_volumes,
                    ..
                } => {
                    let inherit = replaces.as_deref().filter(|_| *inherit_volumes);
                    self.create_container(config, inherit)?;
                }
                Action::RenameContainer { from, to, .. } => self.rename(from, to)?,
                Action::StartContainer { container, .. }
                | Action::RestartContainer { container, .. } => self.start(container)?,
                Action::StopContainer { container, .. } => self.exit(container, 0)?,
                Action::KillContainer { container, .. } => self.exit(container, 137)?,
                Action::RemoveContainer {
                    container,
                    volumes,
                    force,
                    ..
                } => self.remove(container, *volumes, *force)?,
                Action::AwaitCondition {
                    containers,
                    condition,
                    ..
                } => {
                    for container in containers {
                        match condition {
                            Condition::ServiceHealthy => {
                                self.get(container)?.health = Some(Health::Healthy);
                            }
                            Condition::ServiceCompletedSuccessfully => self.exit(container, 0)?,
                            Condition::ServiceStarted => {}
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

/// An order that the graph allows, chosen by the numbers given.
pub(crate) fn some_order(plan: &Plan, choices: &[usize]) -> Vec<NodeIndex> {
    let mut open: Vec<NodeIndex> = plan.graph.node_indices().collect();
    let mut order = Vec::with_capacity(open.len());
    let mut choices = choices.iter().cycle();
    while !open.is_empty() {
        let free = |node: &&NodeIndex| plan.before(**node).iter().all(|b| !open.contains(b));
        let free: Vec<NodeIndex> = open.iter().filter(free).copied().collect();
        let next = free[choices.next().map_or(0, |c| c % free.len())];
        open.retain(|node| *node != next);
        order.push(next);
    }
    order
}

/// The steps, one a line: number, what, and after which numbers.
pub(crate) fn steps(plan: &Plan) -> String {
    let order = plan.in_order();
    let number = |node| order.iter().position(|n| *n == node).unwrap() + 1;
    let mut text = String::new();
    for node in &order {
        let action = &plan.graph[*node].action;
        let line = match action {
            Action::EnsureImage { reference, .. } => format!("image {reference}"),
            Action::PullImage {
                reference,
                pull_policy,
                required,
                ..
            } => {
                let optional = if *required { "" } else { " if possible" };
                format!("pull {reference} {pull_policy}{optional}")
            }
            Action::PushImage { reference, .. } => format!("push {reference}"),
            Action::CreateNetwork(c) => format!("network+ {}", c.name),
            Action::RemoveNetwork { name } => format!("network- {name}"),
            Action::CreateVolume(c) => format!("volume+ {}", c.name),
            Action::RemoveVolume { name } => format!("volume- {name}"),
            Action::CreateContainer {
                config,
                replaces: Some(old),
                inherit_volumes,
                ..
            } => format!(
                "create {} for {old}{}",
                config.name,
                if *inherit_volumes { "" } else { " afresh" }
            ),
            Action::CreateContainer { config, .. } => format!("create {}", config.name),
            Action::RenameContainer { from, to, .. } => format!("rename {from} {to}"),
            Action::StartContainer { container, .. } => format!("start {container}"),
            Action::StopContainer { container, .. } => format!("stop {container}"),
            Action::RestartContainer { container, .. } => format!("restart {container}"),
            Action::KillContainer {
                container, signal, ..
            } => format!("kill {container} {signal}"),
            Action::RemoveContainer {
                container, volumes, ..
            } => format!("remove {container}{}", if *volumes { " -v" } else { "" }),
            Action::AwaitCondition {
                service, condition, ..
            } => format!("await {service} {condition:?}"),
        };
        let _ = write!(text, "{} {line}", number(*node));
        let mut before: Vec<usize> = plan.before(*node).into_iter().map(number).collect();
        before.sort_unstable();
        if !before.is_empty() {
            let before: Vec<String> = before.iter().map(usize::to_string).collect();
            let _ = write!(text, " < {}", before.join(" "));
        }
        text.push('\n');
    }
    text
}
