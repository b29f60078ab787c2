//! One canonical service to the typed [`Service`].

use super::super::{
    Build, Condition, CredentialSpec, Dependency, Deploy, DeployRestart, Device, DeviceRequest,
    EnvFile, Healthcheck, Logging, Mount, MountKind, Placement, PortBinding, Protocol, Provider,
    Resources, RestartPolicy, ServiceModel, ServiceNetwork, UpdateConfig, WatchAction, WatchRule,
};
use super::*;

/// Reads a service.
pub fn service(binder: &mut Binder<'_>, name: &str, node: &Node) -> Service {
    let empty = Map::default();
    let map = node.as_map().unwrap_or(&empty);
    let deploy = node.get("deploy").filter(|n| n.as_map().is_some());
    let words = |key: &str| has(map, key).then(|| texts(node, key));
    let mut service = Service {
        image: text(node, "image"),
        platform: text(node, "platform"),
        pull_policy: text(node, "pull_policy"),
        container_name: text(node, "container_name"),
        hostname: text(node, "hostname"),
        domainname: text(node, "domainname"),
        command: words("command"),
        entrypoint: words("entrypoint"),
        environment: variables(node, "environment"),
        labels: texts_by_key(node, "labels"),
        annotations: texts_by_key(node, "annotations"),
        user: text(node, "user"),
        group_add: texts(node, "group_add"),
        working_dir: text(node, "working_dir"),
        tty: flag(node, "tty"),
        stdin_open: flag(node, "stdin_open"),
        init: node.get("init").and_then(Node::as_bool),
        attach: node.get("attach").and_then(Node::as_bool),
        read_only: flag(node, "read_only"),
        privileged: flag(node, "privileged"),
        cap_add: texts(node, "cap_add"),
        cap_drop: texts(node, "cap_drop"),
        security_opt: texts(node, "security_opt"),
        devices: devices(node),
        device_cgroup_rules: texts(node, "device_cgroup_rules"),
        sysctls: texts_by_key(node, "sysctls"),
        ulimits: ulimits(node),
        tmpfs: texts(node, "tmpfs"),
        shm_size: binder.number(node, "shm_size"),
        pid: text(node, "pid"),
        ipc: text(node, "ipc"),
        uts: text(node, "uts"),
        cgroup: text(node, "cgroup"),
        cgroup_parent: text(node, "cgroup_parent"),
        userns_mode: text(node, "userns_mode"),
        runtime: text(node, "runtime"),
        resources: resources(binder, node, deploy),
        ports: ports(binder, node),
        expose: texts(node, "expose"),
        network_mode: text(node, "network_mode"),
        networks: networks(binder, node),
        links: texts(node, "links"),
        external_links: texts(node, "external_links"),
        dns: binder.parsed_list(node, "dns", "dns server address"),
        dns_search: texts(node, "dns_search"),
        dns_opt: texts(node, "dns_opt"),
        extra_hosts: hosts(node, "extra_hosts"),
        mac_address: text(node, "mac_address"),
        volumes: volumes(binder, node),
        volumes_from: texts(node, "volumes_from"),
        secrets: file_mounts(node, "secrets", "/run/secrets/"),
        configs: file_mounts(node, "configs", "/"),
        depends_on: dependencies(node),
        healthcheck: node
            .get("healthcheck")
            .filter(|n| !n.is_null())
            .map(|n| healthcheck(binder, n)),
        restart: restart(binder, node, deploy),
        stop_signal: text(node, "stop_signal"),
        stop_grace_period: duration(node, "stop_grace_period"),
        scale: binder.number_or_zero(node, "scale"),
        profiles: texts(node, "profiles"),
        logging: node
            .get("logging")
            .filter(|n| !n.is_null())
            .map(|n| Logging {
                driver: text(n, "driver"),
                options: texts_by_key(n, "options"),
            }),
        build: node
            .get("build")
            .filter(|n| !n.is_null())
            .map(|n| build(binder, n)),
        develop: node.get("develop").map(watch),
        deploy: deploy.map(|n| self::deploy(binder, n)),
        gpus: requests(node.get("gpus")),
        blkio_config: node.get("blkio_config").filter(|n| !n.is_null()).map(blkio),
        pre_start: hooks(node, "pre_start"),
        post_start: hooks(node, "post_start"),
        pre_stop: hooks(node, "pre_stop"),
        models: entries(node, "models")
            .map(|(name, n)| {
                let model = ServiceModel {
                    endpoint_var: text(n, "endpoint_var"),
                    model_var: text(n, "model_var"),
                };
                (name.clone(), model)
            })
            .collect(),
        provider: node.get("provider").filter(|n| !n.is_null()).map(provider),
        env_file: Vec::new(),
        label_file: texts(node, "label_file")
            .into_iter()
            .map(PathBuf::from)
            .collect(),
        credential_spec: node.get("credential_spec").map(|n| CredentialSpec {
            config: text(n, "config"),
            file: text(n, "file"),
            registry: text(n, "registry"),
        }),
        use_api_socket: flag(node, "use_api_socket"),
        storage_opt: texts_by_key(node, "storage_opt"),
        isolation: text(node, "isolation"),
        cpu_count: binder.number(node, "cpu_count"),
        cpu_percent: float(node, "cpu_percent"),
        extensions: extensions(node),
    };
    if service.scale.is_none() {
        service.scale = deploy.and_then(|d| binder.number_or_zero(d, "replicas"));
    }
    if !binder.env_resolved {
        let files = node.get("env_file").and_then(Node::as_list);
        service.env_file = files
            .into_iter()
            .flatten()
            .filter_map(|item| {
                Some(EnvFile {
                    path: PathBuf::from(item.get_str("path")?),
                    required: flag(item, "required"),
                    format: text(item, "format"),
                })
            })
            .collect();
    }
    for (key, value) in &service.environment {
        let has_nul = key.contains('\0') || value.as_deref().is_some_and(|v| v.contains('\0'));
        if let Some(at) = node.get("environment").and_then(|e| e.get(key))
            && (key.is_empty() || key.contains('=') || has_nul)
        {
            let message = format!("service {name:?}: {key:?} cannot be a variable of a process");
            binder.refuse(at, message);
        }
    }
    service
}

fn devices(node: &Node) -> Vec<Device> {
    let items = node.get("devices").and_then(Node::as_list);
    items
        .into_iter()
        .flatten()
        .filter_map(|item| {
            let source = PathBuf::from(item.get_str("source")?);
            Some(Device {
                target: text(item, "target").map_or_else(|| source.clone(), PathBuf::from),
                permissions: text(item, "permissions").unwrap_or_else(|| "rwm".into()),
                source,
            })
        })
        .collect()
}

/// The service's own keys and `deploy.resources`; where both speak they agree (checked before).
fn resources(binder: &mut Binder<'_>, node: &Node, deploy: Option<&Node>) -> Resources {
    let part = |name: &str| {
        deploy
            .and_then(|d| d.get("resources"))
            .and_then(|r| r.get(name))
    };
    let (limits, reservations) = (part("limits"), part("reservations"));
    let cpus = float(node, "cpus").or_else(|| limits.and_then(|l| float(l, "cpus")));
    let mut either = |own: &str, part: Option<&Node>, key: &str| {
        binder
            .number(node, own)
            .or_else(|| part.and_then(|p| binder.number(p, key)))
    };
    let memory_limit = either("mem_limit", limits, "memory");
    let memory_reservation = either("mem_reservation", reservations, "memory");
    let pids_limit = binder
        .number(node, "pids_limit")
        .or_else(|| limits.and_then(|l| binder.number(l, "pids")));
    Resources {
        memory_limit,
        memory_reservation,
        memswap_limit: binder.number(node, "memswap_limit"),
        mem_swappiness: binder.number(node, "mem_swappiness"),
        oom_kill_disable: node.get("oom_kill_disable").and_then(Node::as_bool),
        oom_score_adj: binder.number(node, "oom_score_adj"),
        nano_cpus: cpus.and_then(units::nano_cpus),
        cpu_shares: binder.number(node, "cpu_shares"),
        cpu_quota: binder.number(node, "cpu_quota"),
        cpu_period: binder.number(node, "cpu_period"),
        cpu_rt_runtime: binder.number(node, "cpu_rt_runtime"),
        cpu_rt_period: binder.number(node, "cpu_rt_period"),
        cpuset: text(node, "cpuset"),
        pids_limit,
        blkio_weight: node
            .get("blkio_config")
            .and_then(|b| binder.number(b, "weight")),
    }
}

fn ports(binder: &mut Binder<'_>, node: &Node) -> Vec<PortBinding> {
    let mut ports = Vec::new();
    for item in node
        .get("ports")
        .and_then(Node::as_list)
        .into_iter()
        .flatten()
    {
        let Some(target) = binder.number(item, "target") else {
            continue;
        };
        let protocol = match item.get_str("protocol").unwrap_or("tcp") {
            "tcp" | "" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            "sctp" => Protocol::Sctp,
            other => {
                binder.refuse(item, format!("Invalid proto: {other}"));
                continue;
            }
        };
        let published = match text(item, "published") {
            None => None,
            Some(range) => match units::parse_port_range(&range) {
                None => {
                    binder.refuse(item, format!("Invalid hostPort: {range}"));
                    continue;
                }
                Some((0, 0)) => None,
                range => range,
            },
        };
        ports.push(PortBinding {
            host_ip: binder.parsed(item.get("host_ip"), "ip address"),
            published,
            target,
            protocol,
            name: text(item, "name"),
            app_protocol: text(item, "app_protocol"),
            mode: text(item, "mode"),
        });
    }
    ports
}

fn networks(binder: &mut Binder<'_>, node: &Node) -> IndexMap<String, ServiceNetwork> {
    let mut networks = IndexMap::new();
    for (name, n) in entries(node, "networks") {
        let network = ServiceNetwork {
            aliases: texts(n, "aliases"),
            ipv4_address: binder.parsed(n.get("ipv4_address"), "ipv4 address"),
            ipv6_address: binder.parsed(n.get("ipv6_address"), "ipv6 address"),
            link_local_ips: binder.parsed_list(n, "link_local_ips", "ip address"),
            mac_address: text(n, "mac_address"),
            interface_name: text(n, "interface_name"),
            gw_priority: int(n, "gw_priority").unwrap_or(0),
            priority: int(n, "priority").unwrap_or(0),
            driver_opts: texts_by_key(n, "driver_opts"),
        };
        networks.insert(name.clone(), network);
    }
    networks
}

fn volumes(binder: &mut Binder<'_>, node: &Node) -> Vec<Mount> {
    let mut mounts = Vec::new();
    for item in node
        .get("volumes")
        .and_then(Node::as_list)
        .into_iter()
        .flatten()
    {
        let source = text(item, "source");
        let option = |group: &str| item.get(group);
        let kind = match item.get_str("type").unwrap_or_default() {
            "bind" => MountKind::Bind {
                source: PathBuf::from(source.unwrap_or_default()),
                propagation: option("bind").and_then(|b| text(b, "propagation")),
                create_host_path: option("bind").is_some_and(|b| flag(b, "create_host_path")),
                recursive: option("bind").and_then(|b| text(b, "recursive")),
                selinux: option("bind").and_then(|b| text(b, "selinux")),
            },
            "volume" => MountKind::Volume {
                source,
                nocopy: option("volume").is_some_and(|v| flag(v, "nocopy")),
                subpath: option("volume")
                    .and_then(|v| text(v, "subpath"))
                    .map(PathBuf::from),
                labels: option("volume")
                    .map(|v| texts_by_key(v, "labels"))
                    .unwrap_or_default(),
            },
            "tmpfs" => MountKind::Tmpfs {
                size_bytes: option("tmpfs").and_then(|t| binder.number(t, "size")),
                mode: option("tmpfs").and_then(|t| octal(t, "mode")),
            },
            "image" => MountKind::Image {
                source: source.unwrap_or_default(),
                subpath: option("image")
                    .and_then(|i| text(i, "subpath"))
                    .map(PathBuf::from),
            },
            other => {
                if item.as_map().is_some() {
                    binder.refuse(
                        item,
                        format!("mounts of type {other:?} need another kind of engine"),
                    );
                }
                continue;
            }
        };
        mounts.push(Mount {
            kind,
            target: PathBuf::from(text(item, "target").unwrap_or_default()),
            read_only: flag(item, "read_only"),
            consistency: text(item, "consistency"),
        });
    }
    mounts
}

fn dependencies(node: &Node) -> BTreeMap<String, Dependency> {
    entries(node, "depends_on")
        .map(|(name, n)| {
            let dependency = Dependency {
                condition: match n.get_str("condition") {
                    Some("service_healthy") => Condition::ServiceHealthy,
                    Some("service_completed_successfully") => {
                        Condition::ServiceCompletedSuccessfully
                    }
                    _ => Condition::ServiceStarted,
                },
                restart: flag(n, "restart"),
                required: n.get("required").and_then(Node::as_bool) != Some(false),
            };
            (name.clone(), dependency)
        })
        .collect()
}

fn healthcheck(binder: &mut Binder<'_>, node: &Node) -> Healthcheck {
    let test = match flag(node, "disable") {
        true => Some(vec!["NONE".to_owned()]),
        false => Some(texts(node, "test")).filter(|t| !t.is_empty()),
    };
    Healthcheck {
        test,
        interval: duration(node, "interval"),
        timeout: duration(node, "timeout"),
        start_period: duration(node, "start_period"),
        start_interval: duration(node, "start_interval"),
        retries: binder.number_or_zero(node, "retries"),
    }
}

/// `deploy.restart_policy` overrides `restart` (Q1).
fn restart(binder: &mut Binder<'_>, node: &Node, deploy: Option<&Node>) -> Option<RestartPolicy> {
    if let Some(policy) = deploy.and_then(|d| d.get("restart_policy")) {
        let attempts = binder.number_or_zero(policy, "max_attempts");
        return match policy.get_str("condition") {
            Some("none") => Some(RestartPolicy::No),
            Some("on-failure") => Some(RestartPolicy::OnFailure(attempts)),
            Some("any" | "") | None => Some(RestartPolicy::Always),
            Some(other) => {
                binder.refuse(policy, format!("invalid restart condition: {other}"));
                None
            }
        };
    }
    let field = node.get("restart")?;
    let text = field.as_str()?;
    match text.split_once(':').unwrap_or((text, "")) {
        ("", _) => None,
        ("no", "") => Some(RestartPolicy::No),
        ("always", "") => Some(RestartPolicy::Always),
        ("unless-stopped", "") => Some(RestartPolicy::UnlessStopped),
        ("on-failure", "") => Some(RestartPolicy::OnFailure(None)),
        ("on-failure", n) if n.parse::<u32>().is_ok() => {
            Some(RestartPolicy::OnFailure(n.parse().ok()))
        }
        _ if binder.strictness.templates => None,
        _ => {
            binder.refuse(field, format!("invalid restart policy: {text}"));
            if let Some(said) = binder.diagnostics.last_mut() {
                let help = "use `no`, `always`, `on-failure[:RETRIES]` or `unless-stopped`";
                said.help.get_or_insert(help.to_owned());
            }
            None
        }
    }
}

fn build(binder: &mut Binder<'_>, node: &Node) -> Build {
    Build {
        context: text(node, "context").unwrap_or_default(),
        dockerfile: text(node, "dockerfile"),
        dockerfile_inline: text(node, "dockerfile_inline"),
        args: texts_by_key(node, "args"),
        ssh: variables(node, "ssh").into_iter().collect(),
        labels: texts_by_key(node, "labels"),
        cache_from: texts(node, "cache_from"),
        cache_to: texts(node, "cache_to"),
        no_cache: flag(node, "no_cache"),
        no_cache_filter: texts(node, "no_cache_filter"),
        additional_contexts: texts_by_key(node, "additional_contexts"),
        pull: flag(node, "pull"),
        extra_hosts: hosts(node, "extra_hosts"),
        isolation: text(node, "isolation"),
        network: text(node, "network"),
        target: text(node, "target"),
        secrets: file_mounts(node, "secrets", "/run/secrets/"),
        shm_size: binder.number(node, "shm_size"),
        tags: texts(node, "tags"),
        ulimits: ulimits(node),
        platforms: texts(node, "platforms"),
        privileged: flag(node, "privileged"),
        entitlements: texts(node, "entitlements"),
        provenance: text(node, "provenance"),
        sbom: text(node, "sbom"),
    }
}

fn watch(node: &Node) -> Vec<WatchRule> {
    let rules = node.get("watch").and_then(Node::as_list);
    rules
        .into_iter()
        .flatten()
        .filter_map(|rule| {
            let action = match rule.get_str("action")? {
                "rebuild" => WatchAction::Rebuild,
                "sync" => WatchAction::Sync,
                "restart" => WatchAction::Restart,
                "sync+restart" => WatchAction::SyncRestart,
                "sync+exec" => WatchAction::SyncExec,
                _ => return None,
            };
            Some(WatchRule {
                path: PathBuf::from(text(rule, "path")?),
                action,
                target: text(rule, "target"),
                exec: rule.get("exec").map(hook),
                include: texts(rule, "include"),
                ignore: texts(rule, "ignore"),
                initial_sync: flag(rule, "initial_sync"),
            })
        })
        .collect()
}

fn hooks(node: &Node, key: &str) -> Vec<Hook> {
    let items = node.get(key).and_then(Node::as_list);
    items.into_iter().flatten().map(hook).collect()
}

fn provider(node: &Node) -> Provider {
    Provider {
        kind: text(node, "type").unwrap_or_default(),
        options: entries(node, "options")
            .map(|(name, value)| {
                let one = std::slice::from_ref(value);
                let values = value.as_list().unwrap_or(one);
                (
                    name.clone(),
                    values.iter().filter_map(Node::scalar_text).collect(),
                )
            })
            .collect(),
    }
}

fn deploy(binder: &mut Binder<'_>, node: &Node) -> Deploy {
    let reservations = node.get("resources").and_then(|r| r.get("reservations"));
    let generic = reservations
        .and_then(|r| r.get("generic_resources"))
        .and_then(Node::as_list);
    let placement = node.get("placement");
    Deploy {
        mode: text(node, "mode"),
        endpoint_mode: text(node, "endpoint_mode"),
        replicas: binder.number_or_zero(node, "replicas"),
        labels: texts_by_key(node, "labels"),
        update_config: node.get("update_config").map(|n| update(binder, n)),
        rollback_config: node.get("rollback_config").map(|n| update(binder, n)),
        restart_policy: node.get("restart_policy").map(|n| DeployRestart {
            condition: text(n, "condition"),
            delay: duration(n, "delay"),
            max_attempts: binder.number_or_zero(n, "max_attempts"),
            window: duration(n, "window"),
        }),
        placement: placement
            .map(|n| Placement {
                constraints: texts(n, "constraints"),
                preferences: n
                    .get("preferences")
                    .and_then(Node::as_list)
                    .into_iter()
                    .flatten()
                    .filter_map(|p| text(p, "spread"))
                    .collect(),
                max_replicas_per_node: binder.number(n, "max_replicas_per_node"),
            })
            .unwrap_or_default(),
        reserved_nano_cpus: reservations
            .and_then(|r| float(r, "cpus"))
            .and_then(units::nano_cpus),
        generic_resources: generic
            .into_iter()
            .flatten()
            .filter_map(|g| g.get("discrete_resource_spec"))
            .filter_map(|g| Some((text(g, "kind")?, int(g, "value")?)))
            .collect(),
        devices: requests(reservations.and_then(|r| r.get("devices"))),
    }
}

fn update(binder: &mut Binder<'_>, node: &Node) -> UpdateConfig {
    UpdateConfig {
        parallelism: binder.number_or_zero(node, "parallelism"),
        delay: duration(node, "delay"),
        failure_action: text(node, "failure_action"),
        monitor: duration(node, "monitor"),
        max_failure_ratio: float(node, "max_failure_ratio"),
        order: text(node, "order"),
    }
}

fn requests(node: Option<&Node>) -> Vec<DeviceRequest> {
    node.and_then(Node::as_list)
        .into_iter()
        .flatten()
        .map(|n| DeviceRequest {
            driver: text(n, "driver"),
            count: int(n, "count"),
            device_ids: texts(n, "device_ids"),
            capabilities: texts(n, "capabilities"),
            options: texts_by_key(n, "options"),
        })
        .collect()
}
