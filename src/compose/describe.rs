//! One sentence for each key of a Compose file, as editors show it.
//!
//! Knows the keys by the name of their object in [`super::schema`] and nothing of their types. A
//! test keeps the table complete.

/// What a key means; `None` for keys that do not exist.
pub fn describe(object: &str, key: &str) -> Option<&'static str> {
    let keys = TABLE.iter().find(|(name, _)| *name == object)?.1;
    keys.iter()
        .find(|(name, _)| *name == key)
        .map(|(_, text)| *text)
}

type Keys = &'static [(&'static str, &'static str)];

const TABLE: &[(&str, Keys)] = &[
    ("PROJECT", PROJECT),
    ("INCLUDE", INCLUDE),
    ("SERVICE", SERVICE),
    (
        "EXTENDS",
        &[
            (
                "file",
                "The file that has the service; this one when absent.",
            ),
            ("service", "The service to start from."),
        ],
    ),
    ("BUILD", BUILD),
    (
        "DEVELOP",
        &[("watch", "Rules for what happens when files change.")],
    ),
    (
        "WATCH",
        &[
            ("path", "The directory or file that is watched."),
            ("action", "What a change leads to."),
            ("target", "Where changed files go in the container."),
            (
                "exec",
                "The command that runs after a sync, for `sync+exec`.",
            ),
            (
                "include",
                "Patterns of the files that count; all when absent.",
            ),
            ("ignore", "Patterns of the files that do not count."),
            (
                "initial_sync",
                "Copies everything once when the watch begins.",
            ),
        ],
    ),
    (
        "HOOK",
        &[
            ("command", "The command to run."),
            (
                "image",
                "The image to run it in, for `pre_start`; the service's own when absent.",
            ),
            ("user", "The user to run it as."),
            ("privileged", "Runs it with all capabilities."),
            ("working_dir", "The directory to run it in."),
            ("environment", "Variables for it."),
            (
                "per_replica",
                "Runs it once for each replica instead of once for the service.",
            ),
        ],
    ),
    (
        "BLKIO",
        &[
            (
                "weight",
                "Share of block I/O against other services, 10 to 1000.",
            ),
            ("weight_device", "Shares for single devices."),
            (
                "device_read_bps",
                "Most bytes a second that are read from a device.",
            ),
            (
                "device_read_iops",
                "Most read operations a second on a device.",
            ),
            (
                "device_write_bps",
                "Most bytes a second that are written to a device.",
            ),
            (
                "device_write_iops",
                "Most write operations a second on a device.",
            ),
        ],
    ),
    (
        "WEIGHT_DEVICE",
        &[
            ("path", "The device, as /dev/sda."),
            ("weight", "Its share, 10 to 1000."),
        ],
    ),
    (
        "RATE_DEVICE",
        &[
            ("path", "The device, as /dev/sda."),
            ("rate", "The limit for each second; bytes may have a unit."),
        ],
    ),
    (
        "CREDENTIAL_SPEC",
        &[
            (
                "config",
                "A config that holds the specification. Windows only.",
            ),
            ("file", "A file that holds the specification. Windows only."),
            (
                "registry",
                "A key of the registry that holds it. Windows only.",
            ),
        ],
    ),
    (
        "DEPENDENCY",
        &[
            ("condition", "What must be true of the other service first."),
            (
                "restart",
                "Restarts this service when the other one is replaced or restarted.",
            ),
            (
                "required",
                "Fails without the other service; else it is only a wish.",
            ),
        ],
    ),
    (
        "DEPLOY",
        &[
            (
                "mode",
                "`replicated` or `global`. For clusters; kept, without effect on one machine.",
            ),
            ("replicas", "How many containers run."),
            ("labels", "Labels of the service, not of its containers."),
            (
                "update_config",
                "How a cluster updates. Kept, without effect on one machine.",
            ),
            (
                "rollback_config",
                "How a cluster rolls back. Kept, without effect on one machine.",
            ),
            ("resources", "Limits and reservations."),
            (
                "restart_policy",
                "When containers start again; used where `restart` is absent.",
            ),
            (
                "placement",
                "Which nodes of a cluster. Kept, without effect on one machine.",
            ),
            (
                "endpoint_mode",
                "`vip` or `dnsrr`. For clusters; kept, without effect on one machine.",
            ),
        ],
    ),
    (
        "UPDATE_CONFIG",
        &[
            ("parallelism", "How many containers at a time."),
            ("delay", "Time between two groups."),
            (
                "failure_action",
                "What follows a failure: `continue`, `rollback` or `pause`.",
            ),
            ("monitor", "How long a new container is observed."),
            (
                "max_failure_ratio",
                "The part of failures that is tolerated.",
            ),
            (
                "order",
                "Whether the old container stops before or after the new one starts.",
            ),
        ],
    ),
    (
        "DEPLOY_RESOURCES",
        &[
            ("limits", "What a container may never exceed."),
            ("reservations", "What a container is promised."),
        ],
    ),
    (
        "DEPLOY_LIMITS",
        &[
            ("cpus", "CPUs, in parts: `0.5` is half of one."),
            ("memory", "Memory in bytes, or with a unit."),
            ("pids", "Processes and threads."),
        ],
    ),
    (
        "DEPLOY_RESERVATIONS",
        &[
            (
                "cpus",
                "CPUs. For clusters; kept, without effect on one machine.",
            ),
            (
                "memory",
                "Memory that is kept for the container under pressure.",
            ),
            ("devices", "Devices such as GPUs, by capability."),
            (
                "generic_resources",
                "Resources that a cluster counts. Kept, without effect on one machine.",
            ),
        ],
    ),
    (
        "GENERIC_RESOURCE",
        &[("discrete_resource_spec", "A resource that is counted.")],
    ),
    (
        "DISCRETE_RESOURCE",
        &[
            ("kind", "The name of the resource."),
            ("value", "How many of it."),
        ],
    ),
    (
        "DEVICE_REQUEST",
        &[
            (
                "capabilities",
                "What the device must be able to do, as `gpu`.",
            ),
            ("driver", "The driver that serves the request, as `nvidia`."),
            (
                "count",
                "How many devices, or `all`. Excludes `device_ids`.",
            ),
            ("device_ids", "Which devices. Excludes `count`."),
            ("options", "Options for the driver."),
        ],
    ),
    (
        "DEPLOY_RESTART",
        &[
            ("condition", "`none`, `on-failure` or `any`."),
            ("delay", "Time between two starts."),
            ("max_attempts", "How often a start is tried again."),
            (
                "window",
                "How long a container must run to count as started.",
            ),
        ],
    ),
    (
        "PLACEMENT",
        &[
            ("constraints", "Conditions on the nodes of a cluster."),
            ("preferences", "Wishes about the nodes of a cluster."),
            ("max_replicas_per_node", "Most containers on one node."),
        ],
    ),
    (
        "PREFERENCE",
        &[(
            "spread",
            "The label over whose values containers are spread.",
        )],
    ),
    (
        "DEVICE",
        &[
            (
                "source",
                "The device on the host, or the name of a CDI device.",
            ),
            ("target", "Its path in the container."),
            (
                "permissions",
                "What is allowed: `r` read, `w` write, `m` mknod.",
            ),
        ],
    ),
    (
        "PROVIDER",
        &[
            ("type", "The program that provides the service."),
            ("options", "What is passed to it."),
        ],
    ),
    (
        "ENV_FILE",
        &[
            ("path", "The file."),
            (
                "required",
                "Fails when the file is absent; true when not said.",
            ),
            (
                "format",
                "`raw` takes the lines as they are: no quotes, no variables.",
            ),
        ],
    ),
    (
        "HEALTHCHECK",
        &[
            (
                "test",
                "The command: a line for the shell, or a list that starts with CMD, CMD-SHELL or NONE.",
            ),
            ("timeout", "How long one run may take."),
            ("interval", "Time between two runs."),
            (
                "retries",
                "Failures in a row that make the container unhealthy.",
            ),
            (
                "start_period",
                "Time after the start in which failures do not count.",
            ),
            (
                "start_interval",
                "Time between two runs while the container starts.",
            ),
            ("disable", "Switches the image's own check off."),
        ],
    ),
    (
        "LOGGING",
        &[
            ("driver", "Where output goes, as `json-file` or `none`."),
            ("options", "Options of the driver, as `max-size`."),
        ],
    ),
    (
        "SERVICE_MODEL",
        &[
            (
                "endpoint_var",
                "The variable that gets the model's address.",
            ),
            ("model_var", "The variable that gets the model's name."),
        ],
    ),
    (
        "SERVICE_NETWORK",
        &[
            ("aliases", "More names of the service on this network."),
            ("driver_opts", "Options for the network's driver."),
            (
                "gw_priority",
                "The network with the highest number has the default route.",
            ),
            ("interface_name", "The interface's name in the container."),
            (
                "ipv4_address",
                "A fixed address out of the network's subnet.",
            ),
            (
                "ipv6_address",
                "A fixed IPv6 address out of the network's subnet.",
            ),
            ("link_local_ips", "Link-local addresses to add."),
            ("mac_address", "The interface's hardware address."),
            (
                "priority",
                "Networks are connected from the highest number down.",
            ),
        ],
    ),
    (
        "PORT",
        &[
            ("name", "A name for people."),
            ("mode", "`ingress` or `host`; the same on one machine."),
            ("host_ip", "The host's address; all when absent."),
            ("target", "The port in the container."),
            (
                "published",
                "The port of the host, or a range to pick one from.",
            ),
            ("protocol", "`tcp` or `udp`."),
            ("app_protocol", "What is spoken on the port; for people."),
        ],
    ),
    (
        "FILE_USE",
        &[
            ("source", "The name of the secret or config."),
            ("target", "Where it appears in the container."),
            ("uid", "The user that owns the file."),
            ("gid", "The group that owns the file."),
            ("mode", "The file's permissions in octal, as \"0440\"."),
        ],
    ),
    (
        "ULIMIT",
        &[
            (
                "soft",
                "The limit that holds, and that the process may raise.",
            ),
            ("hard", "The limit that the process may raise it to."),
        ],
    ),
    (
        "MOUNT",
        &[
            ("type", "What is mounted."),
            (
                "source",
                "A path for `bind`, a name for `volume`, a reference for `image`.",
            ),
            ("target", "The path in the container."),
            ("read_only", "Refuses writes."),
            ("consistency", "Accepted, without effect on Linux."),
            ("bind", "Options of bind mounts."),
            ("volume", "Options of volumes."),
            ("tmpfs", "Options of tmpfs."),
            ("image", "Options of image mounts."),
        ],
    ),
    (
        "MOUNT_BIND",
        &[
            (
                "selinux",
                "Relabels for one container (`Z`) or for several (`z`).",
            ),
            ("propagation", "How mounts below spread, as `rslave`."),
            (
                "create_host_path",
                "Makes a missing directory; true when not said.",
            ),
            ("recursive", "What happens to mounts below the source."),
        ],
    ),
    (
        "MOUNT_VOLUME",
        &[
            ("labels", "Labels of the volume that is made."),
            ("nocopy", "Does not fill a new volume from the image."),
            ("subpath", "The directory of the volume that is mounted."),
        ],
    ),
    (
        "MOUNT_TMPFS",
        &[
            ("size", "Size in bytes, or with a unit."),
            ("mode", "Permissions of the directory, in octal."),
        ],
    ),
    (
        "MOUNT_IMAGE",
        &[("subpath", "The directory of the image that is mounted.")],
    ),
    (
        "EXTERNAL_NAME",
        &[("name", "Deprecated: write `name` beside `external: true`.")],
    ),
    (
        "NETWORK",
        &[
            (
                "name",
                "The name outside of the project; `PROJECT_KEY` when absent.",
            ),
            (
                "driver",
                "`bridge`, `none`, `host`, or what the engine knows.",
            ),
            ("driver_opts", "Options of the driver."),
            ("ipam", "Subnets and addresses."),
            (
                "external",
                "It exists already; it is neither made nor removed.",
            ),
            ("internal", "No way out of the network."),
            (
                "attachable",
                "For clusters; kept, without effect on one machine.",
            ),
            ("labels", "Labels of the network."),
            ("enable_ipv4", "Gives IPv4 addresses; true when not said."),
            ("enable_ipv6", "Gives IPv6 addresses."),
        ],
    ),
    (
        "IPAM",
        &[
            ("driver", "Who gives addresses; `default` when absent."),
            ("config", "The subnets."),
            ("options", "Options of the driver."),
        ],
    ),
    (
        "IPAM_POOL",
        &[
            ("subnet", "The subnet, as 10.5.0.0/24."),
            ("gateway", "The host's own address in it."),
            (
                "ip_range",
                "The part of the subnet that containers get addresses from.",
            ),
            ("aux_addresses", "Addresses that are taken, by name."),
        ],
    ),
    (
        "VOLUME",
        &[
            (
                "name",
                "The name outside of the project; `PROJECT_KEY` when absent.",
            ),
            ("driver", "Who keeps the data; `local` when absent."),
            (
                "driver_opts",
                "Options of the driver, as `type`, `o` and `device`.",
            ),
            (
                "external",
                "It exists already; it is neither made nor removed.",
            ),
            ("labels", "Labels of the volume."),
        ],
    ),
    (
        "SECRET",
        &[
            ("name", "The name outside of the project."),
            ("file", "The file with the content."),
            ("environment", "The variable with the content."),
            ("external", "It exists already. For clusters."),
            ("labels", "Labels of the secret."),
            ("driver", "For clusters; refused."),
            ("driver_opts", "For clusters."),
            ("template_driver", "For clusters; refused."),
        ],
    ),
    (
        "CONFIG",
        &[
            ("name", "The name outside of the project."),
            ("file", "The file with the content."),
            ("environment", "The variable with the content."),
            ("content", "The content itself."),
            ("external", "It exists already. For clusters."),
            ("labels", "Labels of the config."),
            ("template_driver", "For clusters; refused."),
        ],
    ),
    (
        "MODEL",
        &[
            ("name", "A name for it."),
            ("model", "The model, as ai/smollm2."),
            ("context_size", "Tokens of context."),
            ("runtime_flags", "Flags for the program that runs it."),
        ],
    ),
];

const PROJECT: Keys = &[
    ("name", "The project's name; the directory's when absent."),
    ("version", "Obsolete; ignored."),
    (
        "include",
        "Other Compose files, each with a directory and variables of its own.",
    ),
    ("services", "The services by name."),
    ("networks", "The networks that services connect to."),
    ("volumes", "The volumes that services mount by name."),
    ("secrets", "Sensitive files that services mount."),
    ("configs", "Files that services mount."),
    ("models", "Language models that services use."),
];

const INCLUDE: Keys = &[
    (
        "path",
        "The file, or a file and its overrides; a git URL as `repo.git#ref:directory`.",
    ),
    (
        "env_file",
        "Variables for these files; `.env` beside them when absent.",
    ),
    (
        "project_directory",
        "Where relative paths of these files begin.",
    ),
];

const BUILD: Keys = &[
    (
        "context",
        "The directory or URL whose files the build sees.",
    ),
    ("dockerfile", "The Dockerfile, relative to the context."),
    ("dockerfile_inline", "The Dockerfile's text itself."),
    ("entitlements", "Privileges that the build is allowed."),
    ("args", "Values of the Dockerfile's ARG lines."),
    ("provenance", "Adds a provenance attestation."),
    ("sbom", "Adds a list of the software inside."),
    ("ssh", "Agent sockets or keys for RUN --mount=type=ssh."),
    ("labels", "Labels of the image."),
    ("cache_from", "Where cached steps may come from."),
    ("cache_to", "Where cached steps go."),
    ("no_cache", "Builds every step again."),
    ("no_cache_filter", "Stages that are built again."),
    (
        "additional_contexts",
        "More directories, images or services by name, for FROM and COPY --from.",
    ),
    ("pull", "Asks the registry for newer base images."),
    ("extra_hosts", "Names with addresses, during the build."),
    ("isolation", "Windows only."),
    (
        "network",
        "The network of RUN lines: `default`, `none` or `host`.",
    ),
    ("target", "The stage to build."),
    ("secrets", "Secrets for RUN --mount=type=secret."),
    ("shm_size", "Size of /dev/shm during the build."),
    ("tags", "More names of the image."),
    ("ulimits", "Limits of processes during the build."),
    ("platforms", "The platforms to build for."),
    ("privileged", "Runs RUN lines with all capabilities."),
];

const SERVICE: Keys = &[
    (
        "profiles",
        "The service is on only with one of these profiles.",
    ),
    ("annotations", "Annotations of the OCI specification."),
    ("attach", "Shows the output in `up`; true when not said."),
    ("build", "How the image is built."),
    ("develop", "What happens while the sources change."),
    ("blkio_config", "Limits of block I/O."),
    ("cap_add", "Capabilities beyond the default ones."),
    ("cap_drop", "Capabilities that are taken away; ALL for all."),
    ("cgroup_parent", "The cgroup above the container's."),
    (
        "cgroup",
        "The cgroup namespace: the host's or one of its own.",
    ),
    ("cpu_count", "Windows only."),
    ("cpu_percent", "Windows only."),
    ("cpu_period", "The CPU scheduler's period in microseconds."),
    ("cpu_quota", "Microseconds of CPU in each period."),
    (
        "cpu_rt_period",
        "Period of real-time scheduling in microseconds.",
    ),
    (
        "cpu_rt_runtime",
        "Microseconds of real-time scheduling in each period.",
    ),
    ("cpus", "CPUs, in parts: `0.5` is half of one."),
    ("cpuset", "The CPUs it may run on, as 0-3."),
    (
        "cpu_shares",
        "Share of CPU against other containers; 1024 is normal.",
    ),
    (
        "command",
        "Replaces the image's CMD. A line is cut into words, without a shell.",
    ),
    ("configs", "Configs that appear as files."),
    ("container_name", "The container's name; excludes replicas."),
    ("credential_spec", "Windows only."),
    ("depends_on", "Services that start before this one."),
    ("deploy", "Replicas and resources."),
    (
        "device_cgroup_rules",
        "Devices that are allowed, as `c 1:3 mr`.",
    ),
    ("devices", "Devices of the host, as `HOST:CONTAINER:rwm`."),
    ("dns", "Name servers."),
    ("dns_opt", "Options of the resolver."),
    ("dns_search", "Domains that names are looked up in."),
    ("domainname", "The container's domain name."),
    (
        "entrypoint",
        "Replaces the image's ENTRYPOINT, and clears its CMD.",
    ),
    ("provider", "A program outside provides the service."),
    (
        "environment",
        "Variables; one without a value comes from the shell.",
    ),
    (
        "env_file",
        "Files with variables; `environment` wins over them.",
    ),
    ("expose", "Ports that other services use; for people."),
    ("extends", "Another service to start from."),
    (
        "external_links",
        "Containers outside of the project, with names.",
    ),
    ("extra_hosts", "Names with addresses, for /etc/hosts."),
    ("group_add", "More groups of the user."),
    ("gpus", "GPUs, or `all`."),
    ("hostname", "The container's host name."),
    ("healthcheck", "How to tell that the service works."),
    (
        "image",
        "The image: a reference, or `rootfs:DIR`, `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE`.",
    ),
    (
        "init",
        "Runs a small init that reaps processes and passes signals on.",
    ),
    (
        "ipc",
        "The IPC namespace: `shareable`, `private`, `host`, `service:NAME`.",
    ),
    ("isolation", "Windows only."),
    ("labels", "Labels of the containers."),
    ("label_file", "Files with labels; `labels` wins over them."),
    ("links", "Other services, with aliases; they start first."),
    ("logging", "Where output goes."),
    ("mem_limit", "Most memory, in bytes or with a unit."),
    ("mem_reservation", "Memory that is kept under pressure."),
    (
        "memswap_limit",
        "Memory and swap together; -1 for no limit.",
    ),
    ("mem_swappiness", "How readily memory is swapped, 0 to 100."),
    (
        "mac_address",
        "The hardware address of the first interface.",
    ),
    ("models", "Language models that the service uses."),
    (
        "network_mode",
        "`none`, `host`, `service:NAME` or `container:NAME`.",
    ),
    (
        "networks",
        "The networks it connects to; `default` when absent.",
    ),
    (
        "oom_kill_disable",
        "The kernel does not kill its processes when memory is short.",
    ),
    (
        "oom_score_adj",
        "How likely the kernel kills it, -1000 to 1000.",
    ),
    ("pid", "The process namespace: `host` or `service:NAME`."),
    ("pids_limit", "Most processes; -1 for no limit."),
    ("platform", "The platform of the image, as linux/arm64."),
    (
        "ports",
        "Ports of the host that lead here, as `8080:80`. Lists append when files are merged.",
    ),
    ("privileged", "All capabilities and devices of the host."),
    (
        "pull_policy",
        "When the image is pulled: always, never, missing, build, daily, weekly, every_12h.",
    ),
    ("pull_refresh_after", "Kept, without effect."),
    ("read_only", "The container's root cannot be written."),
    (
        "restart",
        "`no`, `always`, `on-failure[:N]` or `unless-stopped`.",
    ),
    ("runtime", "The OCI runtime."),
    ("scale", "How many containers run."),
    (
        "secrets",
        "Secrets that appear as files below /run/secrets.",
    ),
    (
        "security_opt",
        "Security options, as `no-new-privileges:true`.",
    ),
    ("shm_size", "Size of /dev/shm, in bytes or with a unit."),
    ("stdin_open", "Keeps standard input open."),
    (
        "stop_grace_period",
        "Time between the stop signal and the kill; 10s when absent.",
    ),
    (
        "stop_signal",
        "The signal that asks it to stop; SIGTERM when absent.",
    ),
    ("storage_opt", "Options of the storage, as `size`."),
    ("sysctls", "Kernel parameters of its namespaces."),
    ("tmpfs", "Directories in memory, as `/run:size=64m`."),
    ("tty", "Gives it a terminal."),
    ("ulimits", "Limits of its processes, as `nofile`."),
    ("use_api_socket", "Gives it the engine's socket."),
    ("user", "The user, as `1000:1000` or a name of the image."),
    ("userns_mode", "The user namespace: `host` for the host's."),
    ("uts", "The UTS namespace: `host` for the host's."),
    (
        "volumes",
        "Volumes and directories, as `data:/var/lib/data:ro`.",
    ),
    ("volumes_from", "Mounts of other services, as `NAME:ro`."),
    ("working_dir", "The directory the command starts in."),
    (
        "pre_start",
        "Commands that run to their end before it starts.",
    ),
    ("post_start", "Commands that run in it after it starts."),
    ("pre_stop", "Commands that run in it before it stops."),
];
